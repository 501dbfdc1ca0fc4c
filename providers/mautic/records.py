"""What Mautic tells of contacts and is told of them, as values without any call."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from providers.base import (
    BOUNCED,
    Contact,
    Delivered,
    Member,
    MemberState,
    Outcome,
    Reason,
    Rejected,
    Transient,
    redact,
)
from providers.names import name_fields
from providers.plan import Found

PLANFIX_ID: Final = "planfix_id"
NAME_CHARS: Final = 64
UNSUBSCRIBED: Final = 1  # reasons of "do not contact"; the third is "by hand"
_BOUNCED: Final = 2


def by_index(told: Any) -> dict[int, Any]:
    """A PHP array by its numbers: as JSON it is an object, or a list where no number is left out."""
    pairs = told.items() if isinstance(told, dict) else enumerate(told or ())
    return {int(index): value for index, value in pairs}


def field_of(raw: Mapping[str, Any], alias: str) -> str:
    """The value of a contact's field, empty where there is none."""
    return str((raw["fields"].get("all") or {}).get(alias) or "")


def opted_out(copies: Sequence[Mapping[str, Any]]) -> str | None:
    """How contacts of one address are kept out; what one of them said counts for all."""
    marks = [mark for raw in copies for mark in raw.get("doNotContact") or ()]
    reasons = {int(mark["reason"]) for mark in marks if mark.get("channel") == "email"}
    return None if not reasons else BOUNCED if reasons == {_BOUNCED} else "unsubscribed"


def found_in(copies: Sequence[Mapping[str, Any]] | None) -> Found | None:
    """The contacts of one address as one record, None where there are none."""
    if not copies:
        return None
    return Found(str(copies[0]["id"]), field_of(copies[0], "email"), opted_out(copies), raw=copies)


def member_of(raw: Mapping[str, Any]) -> Member:
    how = opted_out([raw])
    return Member(
        address=field_of(raw, "email").lower(),
        state=MemberState.OPTED_OUT if how else MemberState.SUBSCRIBED,
        first_name=field_of(raw, "firstname"),
        last_name=field_of(raw, "lastname"),
        id=field_of(raw, PLANFIX_ID) or None,
        provider_contact_id=str(raw["id"]),
        how=how or "unsubscribed",
    )


def row_of(contact: Contact, known: Found | None) -> dict[str, Any]:
    """Never with `doNotContact`: it could lift a mark. Empty names are written only where there is one to clear."""
    names = {key: name[:NAME_CHARS] for key, name in name_fields(contact, "firstname", "lastname").items()}
    row: dict[str, Any] = {"email": contact.address, PLANFIX_ID: contact.id, **names}
    if known and any(not name and field_of(raw, key) for key, name in names.items() for raw in known.raw):
        row["overwriteWithBlank"] = True
    return row


def outcome_of(written: Mapping[str, Any] | None, error: Mapping[str, Any] | None) -> Outcome:
    """What became of one row of a batch: what was written of it, and its error, if any."""
    if written is not None and error is None:
        return Delivered(str(written["id"]))
    if error is None:
        raise Transient("upsert: nothing was said of one of the contacts")
    detail = redact(f"{error.get('code')} {error.get('message')}")
    if error.get("code") == 403:
        return Rejected(Reason.RIGHTS, detail)
    of_address = "email" in (error.get("details") or {})
    return Rejected(Reason.INVALID_ADDRESS if of_address else Reason.CONTACT_REFUSED, detail)
