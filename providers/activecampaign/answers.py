"""What ActiveCampaign's answers mean: its errors, a contact's status on a list, and a page of contacts. What it is told
of a contact by an import."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from providers.answers import Answer, ErrorTable
from providers.base import BOUNCED, Contact, ContactRefused, Member, MemberState, Reason, Transient
from providers.names import name_fields

# A contact's status on a list. "91" and others that nobody documents count as opted out.
UNCONFIRMED: Final = "0"
ACTIVE: Final = "1"
UNSUBSCRIBED: Final = "2"
_BOUNCED: Final = "3"


def kept_out(status: str | None) -> str | None:
    """How a contact of this status is kept out of mail; None when it is not."""
    if status in (None, UNCONFIRMED, ACTIVE):
        return None
    return BOUNCED if status == _BOUNCED else "unsubscribed"


def _codes(body: Any) -> Iterable[object]:
    """The codes in the three shapes of errors; where there is none, a word of ours for what the text says."""
    if not isinstance(body, dict):
        return
    for error in body.get("errors") or ():
        if isinstance(error, dict):
            if str((error.get("source") or {}).get("pointer")).endswith("/email"):
                yield "email"
            yield error.get("code")
    if str(body.get("error")).startswith("Duplicate entry"):
        yield "name taken"
    if str(body.get("message")).startswith("Rate limit exceeded"):
        yield "rate limit"
    if any(isinstance(reason, dict) for reason in body.get("failureReasons") or ()):
        yield "bad rows"


ERRORS: Final = ErrorTable(
    codes=_codes,
    by_code={
        "email": Reason.INVALID_ADDRESS,
        "name taken": Reason.NAME_TAKEN,
        "rate limit": Transient,
        "bad rows": ContactRefused,  # it numbers them, but nobody documents from where
    },
    by_status={404: Transient, 422: Reason.CONTACT_REFUSED},  # 404: gone meanwhile, or a wrong URL
)


def is_gone(answer: Answer) -> bool:
    """Whether ActiveCampaign itself says that something is not there: a wrong URL answers 404 too, without JSON."""
    return answer.status == 404 and answer.json() is not None


def members_on(page: Any, list_id: str, field_id: str | None) -> Iterator[Member]:
    """The contacts of a page that have any status on the list. A field holds their Planfix ids.

    Raises Transient for a page without statuses: nobody may be taken for subscribed who is not.
    """
    if page["contacts"] and "contactLists" not in page:
        raise Transient("a page of contacts without their lists: nobody knows who has unsubscribed")
    statuses = {str(c["contact"]): str(c["status"]) for c in page.get("contactLists", ()) if str(c["list"]) == list_id}
    ids = {str(v["contact"]): v["value"] for v in page.get("fieldValues", ()) if str(v["field"]) == field_id}
    for person in page["contacts"]:
        status = statuses.get(str(person["id"]))
        if status is not None:
            how = kept_out(status)
            subscribed = MemberState.PENDING if status == UNCONFIRMED else MemberState.SUBSCRIBED
            yield Member(
                address=person["email"].lower(),
                state=MemberState.OPTED_OUT if how else subscribed,
                first_name=person.get("firstName") or "",
                last_name=person.get("lastName") or "",
                id=ids.get(str(person["id"])),
                provider_contact_id=person["email"].lower(),
                how=how or "unsubscribed",
            )


def row_of(contact: Contact, tag_name: str, field_id: str, list_id: str) -> dict[str, Any]:
    """A contact as an import takes it, where names are called otherwise than by all other calls."""
    row = {
        "email": contact.address,
        "fields": [{"id": int(field_id), "value": contact.id}],
        "tags": [tag_name],
        "subscribe": [{"listid": int(list_id)}],
    }
    return row | name_fields(contact, "first_name", "last_name")
