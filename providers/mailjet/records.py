"""What Mailjet tells: its errors, contacts and jobs, as values without any call."""

import re
from collections.abc import Iterator
from typing import Any, Final

from providers.answers import Answer, ErrorTable
from providers.base import Contact, ContactRefused, Reason
from providers.names import joined, name_fields

PLANFIX_ID: Final = "planfix_id"

UNSUBSCRIBED: Final = "unsubscribed"  # from one list: the mark is the membership's and goes with it
EXCLUDED: Final = "excluded"  # from all campaigns of the account
COMPLAINED: Final = "complained"
_COMPLETED: Final = "completed"
_ENDED: Final = frozenset({_COMPLETED, "error", "abort"})
_CODE: Final = re.compile(r"\bMJ\d\d\b")
_PLAN_LIMIT: Final = "exceeds maximum allowed"


def _codes(body: Any) -> Iterator[object]:
    said = " ".join(str(value) for value in body.values())
    if _PLAN_LIMIT in said:
        yield _PLAN_LIMIT
    yield from _CODE.findall(said)
    if _CODE.search(said) or "Internal error" in said:
        yield "internal"


ERRORS: Final = ErrorTable(
    codes=_codes,  # they stand in the texts
    by_code={
        _PLAN_LIMIT: Reason.PLAN_LIMIT,
        "MJ18": Reason.NAME_TAKEN,
        "internal": Reason.REQUEST_REFUSED,  # has come as 401; the 401 of a wrong key says nothing of the kind
    },
    marks=frozenset({"ErrorMessage", "StatusCode"}),
)


def row_of(contact: Contact, first_name: str, last_name: str) -> dict[str, Any]:
    """A contact with the names that are told, under the properties of these names; null clears a property. Mailjet's
    own name is set only where both are told: half of it would stand for the whole."""
    names = name_fields(contact, first_name, last_name)
    properties = {key: name or None for key, name in names.items()} | {PLANFIX_ID: contact.id}
    whole = joined(contact.first_name, contact.last_name) if len(names) == 2 else ""
    return {"Email": contact.address, "Properties": properties} | ({"Name": whole} if whole else {})


def first(answer: Answer) -> Any:
    """The one object of an answer: each comes in a list."""
    return answer.json()["Data"][0]


def id_of(contact: Any) -> str:
    """A contact's number, which is a number or a text."""
    return str(contact["ID"])


def yes(value: object) -> bool:
    """A truth as Mailjet writes it: `true`, in some examples "true"."""
    return str(value).lower() == "true"


def kept_out(contact: Any, unsubscribed: bool) -> str | None:
    """How a contact is kept out of mail, None when it is not. The mark of the list first: a removal would lose that."""
    if unsubscribed:
        return UNSUBSCRIBED
    if yes(contact.get("IsExcludedFromCampaigns")):
        return EXCLUDED
    return COMPLAINED if yes(contact.get("IsSpamComplaining")) else None


def has_ended(job: Any) -> bool:
    """Whether a job is over, well or not."""
    return str(job["Status"]).lower() in _ENDED


def did_something(job: Any) -> bool:
    """Whether a job got through, be it that its report names some whom it refused."""
    return str(job["Status"]).lower() == _COMPLETED


def failure_of(job: Any) -> ContactRefused | None:
    """What a job that has ended could not do, None when it did all."""
    said = str(job.get("Error") or job.get("ErrorFile") or "")
    if did_something(job) and not said:
        return None
    reason = Reason.PLAN_LIMIT if _PLAN_LIMIT in said else Reason.CONTACT_REFUSED
    return ContactRefused(reason, f"a job of Mailjet ended as {job['Status']}: {said}")
