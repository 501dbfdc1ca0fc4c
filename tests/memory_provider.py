"""A provider in memory whose calls a test can hold back, fail and count."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import TypeVar

from providers.base import (
    Capabilities,
    Contact,
    Delivered,
    Finding,
    Limits,
    Member,
    MemberState,
    Message,
    OptedOut,
    Outcome,
    Provider,
    ProviderError,
    Reason,
    Refused,
    Settings,
)

R = TypeVar("R")


class Killed(BaseException):
    """The caller's process is gone."""


@dataclass(frozen=True)
class ActsFirst:
    """A call that works for its first `contacts` contacts, for all when None, and then ends in `error`."""

    error: ProviderError
    contacts: int | None = None


class MemoryEsp:
    """What outlives a restart of the bridge: lists, people, and how the next calls end.

    `script` says how the next calls end: an error to raise without or after acting, or None. `open` holds calls back
    while it is cleared, `hold` those of one kind; `dies_at` kills the caller at the call of a kind that has this number
    from now on, before or after the ESP has acted. `calls` logs (operation, contact ids). `special` gives the outcome
    of an upsert by address, `refused_removals` that of a removal. With `renames` a free new address replaces the old
    one on all lists, opt-out included, as where contacts have ids.
    `findings` are what a check finds.
    """

    def __init__(self) -> None:
        self.renames = False
        self.findings = [Finding(True, Message("in memory"))]
        self.list_ids = count(1)
        self.names: dict[str, str] = {}
        self.on: dict[str, dict[str, Contact]] = {}
        self.out: set[str] = set()
        self.how: dict[str, str] = {}  # of some who are out
        self.unconfirmed: set[str] = set()
        self.special: dict[str, Outcome | ProviderError] = {}
        self.refused_removals: dict[str, Outcome] = {}
        self.script: list[ProviderError | ActsFirst | None] = []
        self.calls: list[tuple[str, list[str]]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.open = asyncio.Event()
        self.open.set()
        self.dies_at: tuple[str, int, bool] | None = None
        self._held: dict[str, asyncio.Event] = {}
        self._called = asyncio.Event()

    def mailable(self, list_id: str) -> set[str]:
        return set(self.on[list_id]) - self.out

    def hold(self, operation: str) -> None:
        """Calls of one kind wait from now on."""
        self._held[operation] = asyncio.Event()

    def release(self, operation: str) -> None:
        """They go on."""
        self._held.pop(operation).set()

    async def until_called(self, operation: str, times: int = 1) -> None:
        """Returns when that many calls of the operation have reached the ESP."""
        while [name for name, _ in self.calls].count(operation) < times:
            self._called.clear()
            await self._called.wait()

    async def call(self, operation: str, ids: list[str], act: Callable[[int | None], R]) -> R:
        """One call; `act` is told for how many contacts it works, None for all."""
        self.calls.append((operation, ids))
        self._called.set()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.open.wait()
            if operation in self._held:
                await self._held[operation].wait()
        finally:
            self.under_way -= 1
        if self.dies_at is not None and self.dies_at[0] == operation:
            _, times, acted = self.dies_at
            self.dies_at = (operation, times - 1, acted) if times > 1 else None
            if times == 1:
                if acted:
                    act(None)
                raise Killed
        ending = self.script.pop(0) if self.script else None
        if isinstance(ending, ProviderError):
            raise ending
        result = act(ending.contacts if ending else None)
        if ending is not None:
            raise ending.error
        return result

    def rename(self, old: str, new: str) -> None:
        """Gives a contact another address, which nobody must have."""
        for members in self.on.values():
            if old in members:
                members[new] = members.pop(old)
        if old in self.out:
            self.out.remove(old)
            self.out.add(new)


ESPS: dict[str | None, MemoryEsp] = {}
"""The ESPs in memory by `base_url`."""


class MemoryProvider(Provider[Settings]):
    name = "memory"
    title = "Memory"
    settings_type = Settings
    capabilities = Capabilities(list_is="a dict", renames_address=False, tells_opt_outs=True, equal_names=False)
    limits = Limits(batch_size=10, parallel_calls=3, list_name_chars=20)

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self.esp = ESPS.setdefault(settings.base_url, MemoryEsp())
        self.closed = False

    async def close(self) -> None:
        self.closed = True

    async def check(self) -> list[Finding]:
        return await self.esp.call("check", [], lambda _: list(self.esp.findings))

    async def find_list(self, name: str) -> str | None:
        names = self.esp.names
        return await self.esp.call("find_list", [], lambda _: next((i for i in names if names[i] == name), None))

    async def create_list(self, name: str) -> str:
        if name in self.esp.names.values():
            raise Refused(Reason.NAME_TAKEN)
        list_id = str(next(self.esp.list_ids))
        self.esp.names[list_id] = name
        self.esp.on[list_id] = {}
        return await self.esp.call("create_list", [], lambda _: list_id)  # it fails after it has worked

    async def delete_list(self, list_id: str) -> None:
        def act(_: int | None) -> None:
            self.esp.names.pop(list_id, None)
            self.esp.on.pop(list_id, None)

        await self.esp.call("delete_list", [], act)

    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        def act(count: int | None) -> list[Outcome]:
            if list_id not in self.esp.on:
                raise Refused(Reason.LIST_GONE)
            return [self._upsert(self.esp.on[list_id], contact) for contact in contacts[:count]]

        return await self.esp.call("upsert", [contact.id for contact in contacts], act)

    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        def act(count: int | None) -> list[Outcome]:
            return [self._remove(self.esp.on.get(list_id, {}), contact) for contact in contacts[:count]]

        return await self.esp.call("remove", [contact.id for contact in contacts], act)

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        if not self.capabilities.takes_opt_outs:
            await super().keep_out(list_id, contacts)
        addresses = {contact.address.lower() for contact in contacts}
        await self.esp.call("keep_out", [c.id for c in contacts], lambda _: self.esp.out.update(addresses))

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        def page(_: int | None) -> list[tuple[str, Contact]]:
            if list_id not in self.esp.on:
                raise Refused(Reason.LIST_GONE)
            return list(self.esp.on[list_id].items())

        for address, contact in await self.esp.call("members", [], page):
            subscribed = MemberState.PENDING if address in self.esp.unconfirmed else MemberState.SUBSCRIBED
            yield Member(
                address,
                MemberState.OPTED_OUT if address in self.esp.out else subscribed,
                contact.first_name or "",
                contact.last_name or "",
                id=contact.id or None,
                provider_contact_id=address,
                how=self.esp.how.get(address, "unsubscribed"),
            )

    def _remove(self, members: dict[str, Contact], contact: Contact) -> Outcome:
        key = (contact.address or contact.provider_contact_id or "").lower()
        if key in self.esp.refused_removals:
            return self.esp.refused_removals[key]
        members.pop(key, None)
        return OptedOut() if key in self.esp.out else Delivered()

    def _upsert(self, members: dict[str, Contact], contact: Contact) -> Outcome:
        address = contact.address.lower()
        special = self.esp.special.get(address)
        if isinstance(special, ProviderError):
            raise special
        if special is not None and not isinstance(special, OptedOut):
            return special
        stale = {contact.old_address, contact.provider_contact_id} - {None}
        for old in sorted(each.lower() for each in stale if each and each.lower() != address):
            if old in self.esp.out:
                self.esp.out.add(address)
            if not contact.keep_old:
                if self.esp.renames and not self._knows(address):
                    self.esp.rename(old, address)
                members.pop(old, None)
        if special is not None:
            members.pop(address, None)
            return special
        if address in self.esp.out:
            return OptedOut(provider_contact_id=address)
        members[address] = contact
        return Delivered(address)

    def _knows(self, address: str) -> bool:
        return any(address in members for members in self.esp.on.values())
