"""What UniSender tells of a contact: in an answer, and in the file of an export."""

import csv
import gzip
import io
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from providers.base import BOUNCED, Transient
from providers.plan import Found

# States of an address, in the account or on a list, that get no mail, and which an import does not change.
OUT: Final = {
    "unsubscribed": "unsubscribed",
    "blocked": "complained",
    "inactive": "disabled",
    "spam_folder": "complained",
    "unreachable": BOUNCED,
}
UNCONFIRMED: Final = frozenset({"invited", "activation_requested"})
_GETS_MAIL: Final = frozenset({"active", "new"}) | UNCONFIRMED
NO_LIST: Final = ""  # an id that no list has
EXPORTED: Final = ("email", "email_status", "email_availability", "email_list_ids", "email_unsubscribed_list_ids")


def found(address: str, status: str | None, availability: str | None, list_status: str | None) -> Found:
    """`raw` is the state on the list, None for who is not on it. A state that nobody documents counts as out."""
    # The person's own word first: a bounce holds for the address alone.
    odd = [state for state in (status, list_status) if state is not None and state not in _GETS_MAIL]
    how = next((OUT.get(state, "unsubscribed") for state in (*odd, availability) if state in OUT or state in odd), None)
    return Found(address, address, how, list_status is not None, list_status)


def record_of(row: Mapping[str, str], list_id: str) -> Found:
    """A row of an export with the columns `EXPORTED`, as `found` gives it."""
    on, left = (set(re.findall(r"\d+", row[column])) for column in ("email_list_ids", "email_unsubscribed_list_ids"))
    state = "unsubscribed" if list_id in left else "active" if list_id in on else None
    return found(row["email"].lower(), row["email_status"], row["email_availability"], state)


def rows_of(file: bytes, columns: Sequence[str]) -> Iterator[dict[str, str]]:
    """The rows of an exported file, which may be packed. The separator is the one that its header has most of.

    Raises Transient when one of the columns is not there, in the header or in a row, and when the file breaks off: an
    opt-out could stand in what is missing.
    """
    try:
        text = (gzip.decompress(file) if file.startswith(b"\x1f\x8b") else file).decode("utf-8-sig")
        separator = max(",;\t", key=text.partition("\n")[0].count)
        reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=separator, strict=True)
        if missing := set(columns) - set(reader.fieldnames or ()):
            raise Transient(f"an export of UniSender without {', '.join(sorted(missing))}")
        for row in reader:
            if None in row or None in row.values():
                raise Transient("an export of UniSender with a row that is not whole")
            yield row
    except (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error) as error:
        raise Transient(f"an export of UniSender that cannot be read: {type(error).__name__}") from error
