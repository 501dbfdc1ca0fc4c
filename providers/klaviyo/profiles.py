"""Profiles as Klaviyo writes them in JSON:API, and what they say of opt-outs."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

from providers.base import BOUNCED, Contact, Delivered, Member, MemberState, OptedOut, Outcome, Transient
from providers.http import json_body
from providers.names import name_fields
from providers.plan import Found

PLANFIX_ID: Final = "planfix_id"
_OF_ADDRESS: Final = frozenset({"HARD_BOUNCE", "INVALID_EMAIL"})


def data_of(kind: str, attributes: Mapping[str, Any], its_id: str | None = None) -> dict[str, Any]:
    """A body with one resource, as JSON:API has it."""
    return {"data": {"type": kind, "attributes": attributes} | ({} if its_id is None else {"id": its_id})}


def profile_of(contact: Contact) -> dict[str, Any]:
    """Only with the address as an identifier: with several, Klaviyo refuses who differs in one."""
    attributes = {"email": contact.address, "properties": {PLANFIX_ID: contact.id}}
    return {"type": "profile", "attributes": attributes | name_fields(contact, "first_name", "last_name")}


def weight_bytes(contact: Contact) -> int:
    """What the contact's profile adds to the body of an import."""
    return len(json_body(profile_of(contact))) + 1


def record_of(profile: Mapping[str, Any]) -> Found:
    """A profile of which nobody asked whether it may be mailed."""
    return Found(profile["id"], profile["attributes"].get("email") or "")


def found_in(list_id: str | None, profile: Mapping[str, Any]) -> Found:
    """A profile that was asked for with its subscriptions. It is kept out by what holds for all mail and by what holds
    for this list, if any. Raises Transient when the subscriptions, which may be null, are not told."""
    told = profile["attributes"]
    if "subscriptions" not in told:
        raise Transient("a profile without its subscriptions: nobody knows whether it may be mailed")
    marketing = ((told.get("subscriptions") or {}).get("email") or {}).get("marketing") or {}
    reasons = {one["reason"] for one in marketing.get("suppression") or ()}
    reasons |= {one["reason"] for one in marketing.get("list_suppressions") or () if one["list_id"] == list_id}
    if marketing.get("consent") == "UNSUBSCRIBED":
        reasons.add("UNSUBSCRIBE")
    if not reasons and marketing.get("can_receive_email_marketing") is False:
        reasons.add("unknown")
    how = BOUNCED if reasons <= _OF_ADDRESS else "complained" if "SPAM_COMPLAINT" in reasons else "unsubscribed"
    return replace(record_of(profile), opted_out=how if reasons else None)


def member_of(list_id: str | None, profile: Mapping[str, Any]) -> Member:
    """A profile with an address, as `found_in` judges it."""
    told, record = profile["attributes"], found_in(list_id, profile)
    return Member(
        address=record.address.lower(),
        state=MemberState.OPTED_OUT if record.opted_out else MemberState.SUBSCRIBED,
        first_name=told.get("first_name") or "",
        last_name=told.get("last_name") or "",
        id=(told.get("properties") or {}).get(PLANFIX_ID),
        provider_contact_id=record.address.lower(),
        how=record.opted_out or "unsubscribed",
    )


def outcome_of(contact: Contact, record: Found) -> Outcome:
    """What became of a contact whose profile was written."""
    address = contact.address.lower()
    return OptedOut(record.opted_out, address) if record.opted_out else Delivered(address)
