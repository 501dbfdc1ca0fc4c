"""Subscribers as listmonk has them, and what they mean for one list."""

from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias

from providers.base import Contact, Member, MemberState
from providers.names import joined, name_fields
from providers.plan import Found

PLANFIX_ID: Final = "planfix_id"
NAME_CHARS: Final = 500  # of a list or a person; listmonk takes 2,000 bytes
NO_LIST: Final = ""  # an id that no list has

Record: TypeAlias = Mapping[str, Any]


def found_in(record: Record, list_id: str) -> Found:
    """A block holds for all lists, an unsubscription for its own."""
    subscription = _subscription(record, list_id)
    how = None if record["status"] == "enabled" else str(record["status"])
    if how is None and subscription.get("subscription_status") == "unsubscribed":
        how = "unsubscribed"
    return Found(str(record["id"]), record["email"], how, on_list=bool(subscription), raw=record)


def member_of(record: Record, list_id: str) -> Member:
    attributes = attributes_of(record)
    subscription = _subscription(record, list_id)
    how = found_in(record, list_id).opted_out
    state = MemberState.SUBSCRIBED
    if how is not None:
        state = MemberState.OPTED_OUT
    elif subscription.get("optin") == "double" and subscription.get("subscription_status") == "unconfirmed":
        state = MemberState.PENDING
    return Member(
        address=record["email"],
        state=state,
        first_name=str(attributes.get("first_name") or ""),
        last_name=str(attributes.get("last_name") or ""),
        id=attributes.get(PLANFIX_ID),
        provider_contact_id=str(record["id"]),
        how=how or "unsubscribed",
    )


def attributes_of(record: Record) -> Record:
    return record.get("attribs") or {}


def _subscription(record: Record, list_id: str) -> Record:
    """What the subscriber is on the list; empty for who is not on it."""
    subscriptions: Iterable[Record] = record.get("lists") or ()
    return next((one for one in subscriptions if str(one["id"]) == list_id), {})


def new_subscriber(contact: Contact) -> dict[str, Any]:
    """What is told of somebody new. listmonk knows one name, and makes it of the address where none is told: first and
    last name are attributes too."""
    names = name_fields(contact, "first_name", "last_name")
    return {
        "email": contact.address,
        "name": joined(contact.first_name, contact.last_name, NAME_CHARS),
        "attribs": names | {PLANFIX_ID: contact.id},
    }


def changed_names(record: Record, contact: Contact) -> dict[str, Any] | None:
    """What a subscriber must be told of names that differ; None when none does. Attributes that are not named stay."""
    names, attributes = name_fields(contact, "first_name", "last_name"), attributes_of(record)
    if all(attributes.get(key, "") == name for key, name in names.items()):
        return None
    shown = {**attributes, **names}
    return {
        "name": joined(shown.get("first_name"), shown.get("last_name"), NAME_CHARS),
        "attribs": names | {PLANFIX_ID: contact.id},
    }
