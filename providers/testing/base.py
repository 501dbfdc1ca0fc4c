"""What the parts of the kit share: made-up people, and the way that the bridge upserts."""

# ruff: noqa: S101 - a test kit asserts

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from providers.base import Contact, ContactRefused, OptedOut, Outcome, Provider, Rejected
from providers.testing.harness import EspHarness

DOMAIN = "post.test"


def person(number: int, **fields: Any) -> Contact:
    """A made-up contact; `fields` replace what is made up."""
    made_up = {
        "id": str(1000 + number),
        "address": f"person{number}@{DOMAIN}",
        "first_name": f"Имя{number}",
        "last_name": f"Фамилия{number}",
    }
    return Contact(**made_up | fields)


def people(count: int, first: int = 1) -> list[Contact]:
    return [person(number) for number in range(first, first + count)]


async def new_list(esp: EspHarness, name: str) -> str:
    """The id of a list that is made now under `name`, as the ESP can hold it."""
    return await esp.provider.create_list(esp.provider.list_name(name))


def id_of(outcome: Outcome) -> str | None:
    """The `provider_contact_id` that an outcome tells."""
    return getattr(outcome, "provider_contact_id", None)


async def upsert(provider: Provider[Any], list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
    """`provider.upsert` as the bridge calls it: a batch with a bad contact that nobody names is halved."""
    try:
        return await provider.upsert(list_id, contacts)
    except ContactRefused as refused:
        if len(contacts) == 1:
            return [Rejected(refused.reason, refused.detail)]
        middle = len(contacts) // 2
        return [
            *await upsert(provider, list_id, contacts[:middle]),
            *await upsert(provider, list_id, contacts[middle:]),
        ]


class BridgeSide:
    """Calls of a provider as the bridge makes them, with its memory of ids and opt-outs.

    Only an ESP that forgets opt-outs gets the help of that memory; any other one must do without it.
    """

    def __init__(self, esp: EspHarness) -> None:
        self._esp = esp
        self._ids: dict[tuple[str, str], tuple[str, str | None]] = {}  # (list, Planfix id or address) → address, id
        self._out: set[str] = set()

    async def upsert(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        if not self._esp.provider.capabilities.forgets_opt_outs:
            return await self._esp.provider.upsert(list_id, contacts)
        outcomes: dict[int, Outcome] = {}
        asked: dict[int, Contact] = {}
        for index, contact in enumerate(contacts):
            address, known_id = self._known(list_id, contact)
            addresses = {contact.address.lower(), (contact.old_address or contact.address).lower(), address}
            if addresses & self._out:
                self._out |= addresses
                outcomes[index] = OptedOut()
            else:
                asked[index] = replace(
                    contact,
                    provider_contact_id=known_id or contact.provider_contact_id,
                    id_is_old=address != contact.address.lower(),
                )
        told = await self._esp.provider.upsert(list_id, list(asked.values()))
        for (index, contact), outcome in zip(asked.items(), told, strict=True):
            outcomes[index] = outcome
            self._remember(list_id, contact, outcome)
        return [outcomes[index] for index in range(len(contacts))]

    async def remove(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        if not self._esp.provider.capabilities.forgets_opt_outs:
            return await self._esp.provider.remove(list_id, contacts)
        asked = [replace(contact, provider_contact_id=self._known(list_id, contact)[1]) for contact in contacts]
        told = await self._esp.provider.remove(list_id, asked)
        for contact, outcome in zip(asked, told, strict=True):
            self._remember(list_id, contact, outcome)
            for key in (contact.id, contact.address.lower()):
                self._ids.pop((list_id, key), None)
        return told

    def _known(self, list_id: str, contact: Contact) -> tuple[str, str | None]:
        """The address that the contact was last delivered with, and the ESP's id of it then."""
        address = contact.address.lower()
        by_address = self._ids.get((list_id, address), (address, None))
        return self._ids.get((list_id, contact.id), by_address)

    def _remember(self, list_id: str, contact: Contact, outcome: Outcome) -> None:
        address = contact.address.lower()
        if isinstance(outcome, OptedOut):
            self._out |= {address, (contact.old_address or address).lower(), self._known(list_id, contact)[0]}
        self._ids[list_id, contact.id] = self._ids[list_id, address] = address, id_of(outcome)


class Promises:
    """A part of the kit. After every test the ESP must have nothing to complain of."""

    @pytest.fixture(autouse=True)
    async def obeys_the_esp(self, esp: EspHarness) -> AsyncIterator[None]:
        yield
        assert esp.violations() == []

    @pytest.fixture
    def bridge(self, esp: EspHarness) -> BridgeSide:
        return BridgeSide(esp)

    @pytest.fixture
    async def list_id(self, esp: EspHarness) -> str:
        return await new_list(esp, "Клиенты")
