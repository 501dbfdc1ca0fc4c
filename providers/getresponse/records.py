"""What GetResponse tells and wants to be told: errors, people who left, searches, names. Values without any call."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from providers.answers import Answer, ErrorTable
from providers.base import BOUNCED, AuthFailed, Contact, Reason, Secret, Transient
from providers.concurrency import chunks
from providers.http import Auth, HttpClient, Outgoing
from providers.names import joined, without, without_emoji

NAME_CHARS: Final = 128
LIST_NAME_CHARS: Final = 64
SEARCHED_AT_ONCE: Final = 64  # a search has at most 8 sections of 8 conditions
BLOCKED: Final = "blocked"
KNOWN_ALREADY: Final = 1008
FORBIDDEN: Final = 1002  # blocked, or no address that takes mail

ERRORS: Final = ErrorTable(
    codes=lambda body: [body["code"]],
    by_code={
        KNOWN_ALREADY: Reason.NAME_TAKEN,
        1014: AuthFailed,  # 401 by the API description, 403 by the documentation
        1015: Transient,
        1016: AuthFailed,  # the API is blocked for the account, for a time or for good, or for this address
        1017: AuthFailed,
        1018: AuthFailed,
        1019: Transient,
        1021: AuthFailed,  # wrong headers, no domain: of a MAX account
        1023: AuthFailed,
        1024: AuthFailed,
        1027: Reason.PLAN_LIMIT,
    },
    retry_headers=("retry-after", "x-ratelimit-reset"),
    retry_in_body=("context", "timeToReset"),
    marks=frozenset({"code"}),
)


@dataclass(frozen=True, slots=True)
class KeyAndDomain(Auth):
    """The key behind its literal prefix, and for MAX accounts their domain."""

    key: Secret
    domain: str | None

    async def sign(self, request: Outgoing, client: HttpClient) -> None:
        request.headers["X-Auth-Token"] = f"api-key {self.key.reveal()}"
        if self.domain:
            request.headers["X-Domain"] = self.domain


def search_of(kind: str, lists: Sequence[str], addresses: Iterable[str] = ()) -> dict[str, Any]:
    """A search of the people of one `kind` on some lists; of these addresses, at most `SEARCHED_AT_ONCE`, if any."""
    conditions = [
        {"conditionType": "email", "operatorType": "string_operator", "operator": "is", "value": address}
        for address in addresses
    ]
    section = {
        "campaignIdsList": list(lists),
        "logicOperator": "or",
        "subscriberCycle": ["receiving_autoresponder", "not_receiving_autoresponder"],
        "subscriptionDate": "all_time",
    }
    return {
        "subscribersType": [kind],
        "sectionLogicOperator": "or",
        "section": [section | {"conditions": some} for some in chunks(conditions, 8) or [[]]],
    }


def who_left(removed: Iterable[Mapping[str, Any]]) -> dict[str, str | None]:
    """How people left, by address in small letters; None for who was only ever removed through the API, as we do it.

    Whatever else it was counts as the person's wish. That goes before a bounce, which is the address's alone.
    """
    left: dict[str, str | None] = {}
    for one in removed:
        address = one["email"].lower()
        how = _HOW.get(one.get("reason"), "unsubscribed")
        if left.get(address) in (None, BOUNCED) and (how is not None or address not in left):
            left[address] = how
    return left


_HOW: Final[Mapping[Any, str | None]] = {
    "api": None,
    "bounce": BOUNCED,
    "cleaner": BOUNCED,
    "complaint": "complained",
    "blacklisted": BLOCKED,
}


def masks_in(answer: Answer) -> set[str]:
    """The addresses and domains of a blocklist, in small letters."""
    return {mask.lower() for mask in answer.json()["masks"]}


def is_blocked(address: str, masks: Collection[str]) -> bool:
    """Whether a blocklist holds an address or its domain; `masks` in small letters."""
    address = address.lower()
    return address in masks or address[address.find("@") :] in masks


def name_of(contact: Contact) -> str:
    """Both names in GetResponse's one field; empty where none is told, for it takes no empty name."""
    return joined(contact.first_name, contact.last_name, NAME_CHARS)


def list_name(name: str, number: int) -> str:
    """`name` without what GetResponse forbids in names of lists, at least three characters of it."""
    suffix = f" ({number})" if number > 1 else ""
    name = without(without_emoji(name), "/\\@[]") or "Planfix"
    return (name[: LIST_NAME_CHARS - len(suffix)].rstrip() + suffix).ljust(3, "_")


def retired_name(list_id: str, name: str) -> str:
    """The name that a list has when it should be deleted."""
    return f"deleted-{list_id} {name}"[:LIST_NAME_CHARS].rstrip()


def is_retired(list_id: str, name: str) -> bool:
    return name.startswith(f"deleted-{list_id}")
