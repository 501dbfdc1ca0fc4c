"""What the parts of the kit share: made-up people, and the way that the bridge upserts."""

# ruff: noqa: S101 - a test kit asserts

from collections.abc import AsyncIterator, Sequence
from typing import Any

import pytest

from providers.base import Contact, ContactRefused, Outcome, Provider, Rejected
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


def listed(*contacts: Contact) -> dict[str, tuple[str, str]]:
    """`contacts` as `EspHarness.mailable` shows them."""
    return {c.address.lower(): (c.first_name or "", c.last_name or "") for c in contacts}


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


class Promises:
    """A part of the kit. After every test the ESP must have nothing to complain of."""

    @pytest.fixture(autouse=True)
    async def obeys_the_esp(self, esp: EspHarness) -> AsyncIterator[None]:
        yield
        assert esp.violations() == []

    @pytest.fixture
    async def list_id(self, esp: EspHarness) -> str:
        return await esp.provider.create_list("Клиенты")
