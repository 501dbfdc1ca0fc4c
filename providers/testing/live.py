"""The kit on a live account or a real server, through nothing but the provider.

What a run makes there is told from all else: its lists have names that begin with `MARKER`, its contacts live under a
domain that the caller names, every test's under a subdomain of its own, so that no opt-out reaches another test.
"""

from abc import ABC
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, Final, NoReturn, Self
from uuid import uuid4

import pytest

from providers.base import Contact, Finding, Member, MemberState, Outcome, Provider, Unsupported
from providers.rest import RestProvider
from providers.testing.addresses import AddressPromises
from providers.testing.base import DOMAIN
from providers.testing.contacts import ContactPromises
from providers.testing.harness import EspHarness, Fault
from providers.testing.lists import ListPromises
from providers.testing.opt_outs import OptOutPromises

MARKER: Final = "bridgetest"  # letters alone: some services take nothing else in a name, or not at its beginning


class LiveConformance(ListPromises, ContactPromises, AddressPromises, OptOutPromises):
    """The promises that need no faults, in sizes that a live service bears."""

    MANY = 120
    MEMBER_PAGE = 30


class _Marked(Provider[Any], ABC):
    """A live provider as the kit sees it: lists without the marker, contacts at the kit's own domain."""

    def __init__(self, inner: RestProvider[Any], marker: str, domain: str) -> None:
        super().__init__(inner.settings)
        self.inner = inner
        self._marker = marker
        self._domain = domain

    @classmethod
    def around(cls, inner: RestProvider[Any], marker: str, domain: str) -> Self:
        facts = {name: getattr(inner, name) for name in ("name", "title", "settings_type", "capabilities")}
        limits = replace(inner.limits, list_name_chars=inner.limits.list_name_chars - len(marker))
        marked: type[Self] = type(f"Marked{type(inner).__name__}", (cls,), facts | {"limits": limits})
        return marked(inner, marker, domain)

    async def close(self) -> None:
        await self.inner.close()

    async def check(self) -> list[Finding]:
        return await self.inner.check()

    # Lists

    def list_name(self, name: str, number: int = 1) -> str:
        return self.inner.list_name(self._marker + name, number).removeprefix(self._marker)

    async def lists(self) -> dict[str, str]:
        named = {list_id: name async for list_id, name in self.inner.lists()}
        return {id_: name.removeprefix(self._marker) for id_, name in named.items() if name.startswith(self._marker)}

    async def find_list(self, name: str) -> str | None:
        return await self.inner.find_list(self._marker + name)

    async def create_list(self, name: str) -> str:
        return await self.inner.create_list(self._marker + name)

    async def delete_list(self, list_id: str) -> None:
        await self.inner.delete_list(list_id)

    # Contacts

    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        return await self.inner.upsert_batch(list_id, self.there(contacts))

    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        return await self.inner.remove_batch(list_id, self.there(contacts))

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        await self.inner.keep_out(list_id, self.there(contacts))

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        async for member in self.inner.members(list_id):
            yield self._here(member)

    async def kept_out(self) -> AsyncIterator[Member]:
        """Those of the kit; the account keeps out others too, who are no business of this run."""
        async for member in self.inner.kept_out():
            if member.address.lower().endswith(self._domain):
                yield self._here(member)

    def _here(self, member: Member) -> Member:
        local_part, _, domain = member.address.rpartition("@")
        if domain.lower().endswith(self._domain):
            domain = domain[: -len(self._domain)] + DOMAIN
        return replace(member, address=f"{local_part}@{domain}")

    def there(self, contacts: Sequence[Contact]) -> list[Contact]:
        """The kit's contacts at the live domain. Their ids come from the service and are its own already."""
        return [
            replace(
                contact,
                address=self.address_there(contact.address),
                old_address=contact.old_address and self.address_there(contact.old_address),
            )
            for contact in contacts
        ]

    def address_there(self, address: str) -> str:
        local_part, at, domain = address.rpartition("@")
        if domain.lower().endswith(DOMAIN):
            live = self._domain.upper() if domain.isupper() else self._domain
            domain = domain[: -len(DOMAIN)] + live
        return local_part + at + domain


class LiveHarness(EspHarness):
    """An open provider on a live service, for one test. Who is mailable is known by `members`, people opt out by
    `keep_out`, and what is done by hand is done by the provider; a test that needs more than the provider has is
    skipped with the reason.
    """

    def __init__(self, provider: RestProvider[Any], domain: str, refused_address: str | None = None) -> None:
        """`domain` is where the contacts live; `refused_address` one that the service refuses, if any is known."""
        token = uuid4().hex[:6]
        self._domain = f"{token}.{domain.lower()}"
        self._marker = MARKER + token
        self._refused_address = refused_address
        self.provider = self._live = _Marked.around(provider, self._marker, self._domain)

    @classmethod
    @asynccontextmanager
    async def opened(cls, provider: RestProvider[Any], *args: Any) -> AsyncIterator[Self]:
        """A harness of an open provider; its lists are deleted and the provider is closed at the end."""
        harness = cls(provider, *args)
        try:
            yield harness
        finally:
            for list_id in await harness.lists():
                await harness.drop_list(list_id)
            await harness.provider.close()

    def address_there(self, address: str) -> str:
        """Where one of the kit's addresses is on the live service."""
        return self._live.address_there(address)

    async def lists(self) -> dict[str, str]:
        return await self._live.lists()

    async def mailable(self, list_id: str) -> dict[str, tuple[str, str]]:
        try:
            members = [member async for member in self.provider.members(list_id)]
        except Unsupported as error:
            pytest.skip(f"{self.provider.title} does not tell who is on a list: {error.detail}")
        return {m.address.lower(): (m.first_name, m.last_name) for m in members if m.state is MemberState.SUBSCRIBED}

    async def opt_out(self, address: str) -> None:
        if not self.provider.capabilities.takes_opt_outs:
            pytest.skip(f"{self.provider.title} has no call that opts somebody out")
        for list_id in await self.lists():
            await self.provider.keep_out(list_id, [Contact("", address)])

    async def make_list(self, name: str) -> str:
        return await self.provider.create_list(name)

    async def drop_list(self, list_id: str) -> None:
        await self.provider.delete_list(list_id)

    def refused_address(self) -> str:
        if self._refused_address is None:
            pytest.skip(f"the settings name no address that {self.provider.title} refuses")
        return self._refused_address

    def violations(self) -> list[str]:
        return []

    async def restart(self, timeout_s: float | None = None) -> None:
        inner = self._live.inner
        await inner.close()
        self.provider = self._live = _Marked.around(type(inner)(inner.settings), self._marker, self._domain)

    # A live service fails when it likes: LiveConformance leaves out all that needs these.

    def fail(self, fault: Fault, times: int = 1, after: int = 0) -> NoReturn:
        raise NotImplementedError("a live service cannot be told to fail")

    def heal(self) -> NoReturn:
        raise NotImplementedError("a live service cannot be told to fail")

    def calls(self) -> NoReturn:
        raise NotImplementedError("a live service does not count its calls")
