"""What HubSpot tells of contacts, as values without any call."""

from collections.abc import Iterable, Iterator
from typing import Any, Final

from providers.base import Member, MemberState, Reason

PLANFIX_ID: Final = "planfix_id"


def reason_of(said: str) -> Reason:
    """Why a contact was refused, by the text of the refusal."""
    return Reason.INVALID_ADDRESS if "INVALID_EMAIL" in said else Reason.CONTACT_REFUSED


def members_in(records: Iterable[Any], opt_outs: Iterable[str]) -> Iterator[Member]:
    """The contacts of a page that have an address. `opt_outs` are the properties that tell opt-outs."""
    for record in records:
        told = record["properties"]
        if told.get("email"):
            out = any(told.get(name) == "true" for name in opt_outs)
            yield Member(
                address=told["email"].lower(),
                state=MemberState.OPTED_OUT if out else MemberState.SUBSCRIBED,
                first_name=told.get("firstname") or "",
                last_name=told.get("lastname") or "",
                id=told.get(PLANFIX_ID),
                provider_contact_id=str(record["id"]),
            )
