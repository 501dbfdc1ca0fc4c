"""A provider in memory whose calls a test can hold back, fail and count."""

import asyncio
from collections.abc import AsyncIterator, Sequence

from providers.base import (
    Capabilities,
    Contact,
    Delivered,
    Finding,
    Limits,
    Member,
    MemberState,
    OptedOut,
    Outcome,
    Provider,
    ProviderError,
    Reason,
    Refused,
    Settings,
)


class MemoryEsp:
    """What outlives a restart of the bridge: lists, people, and how the next calls end.

    `script` says how the next calls end: an error to raise, or None. `open` holds calls back while it is cleared.
    `calls` logs (operation, contact ids). `special` gives a contact's outcome by address.
    """

    def __init__(self) -> None:
        self.names: dict[str, str] = {}
        self.on: dict[str, dict[str, Contact]] = {}
        self.out: set[str] = set()
        self.special: dict[str, Outcome | ProviderError] = {}
        self.script: list[ProviderError | None] = []
        self.calls: list[tuple[str, list[str]]] = []
        self.under_way = 0
        self.most_under_way = 0
        self.open = asyncio.Event()
        self.open.set()
        self._called = asyncio.Event()

    def mailable(self, list_id: str) -> set[str]:
        return set(self.on[list_id]) - self.out

    async def until_called(self, operation: str, times: int = 1) -> None:
        """Returns when that many calls of the operation have reached the ESP."""
        while [name for name, _ in self.calls].count(operation) < times:
            self._called.clear()
            await self._called.wait()

    async def call(self, operation: str, ids: list[str]) -> None:
        self.calls.append((operation, ids))
        self._called.set()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await self.open.wait()
        finally:
            self.under_way -= 1
        error = self.script.pop(0) if self.script else None
        if error is not None:
            raise error


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

    async def check(self) -> list[Finding]:
        return [Finding(True, "in memory")]

    async def find_list(self, name: str) -> str | None:
        await self.esp.call("find_list", [])
        return next((list_id for list_id, known in self.esp.names.items() if known == name), None)

    async def create_list(self, name: str) -> str:
        if name in self.esp.names.values():
            raise Refused(Reason.NAME_TAKEN)
        list_id = str(len(self.esp.names) + 1)
        self.esp.names[list_id] = name
        self.esp.on[list_id] = {}
        await self.esp.call("create_list", [])  # it fails after it has worked
        return list_id

    async def delete_list(self, list_id: str) -> None:
        await self.esp.call("delete_list", [])
        self.esp.names.pop(list_id, None)
        self.esp.on.pop(list_id, None)

    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        await self.esp.call("upsert", [contact.id for contact in contacts])
        if list_id not in self.esp.on:
            raise Refused(Reason.LIST_GONE)
        return [self._upsert(self.esp.on[list_id], contact) for contact in contacts]

    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        await self.esp.call("remove", [contact.id for contact in contacts])
        outcomes: list[Outcome] = []
        for contact in contacts:
            key = (contact.address or contact.provider_contact_id or "").lower()
            self.esp.on.get(list_id, {}).pop(key, None)
            outcomes.append(OptedOut() if key in self.esp.out else Delivered())
        return outcomes

    async def members(self, list_id: str) -> AsyncIterator[Member]:
        for address in self.esp.on[list_id]:
            yield Member(address, MemberState.OPTED_OUT if address in self.esp.out else MemberState.SUBSCRIBED)

    def _upsert(self, members: dict[str, Contact], contact: Contact) -> Outcome:
        address = contact.address.lower()
        special = self.esp.special.get(address)
        if isinstance(special, ProviderError):
            raise special
        if special is not None:
            return special
        stale = {contact.old_address, contact.provider_contact_id} - {None}
        for old in (each.lower() for each in stale if each and each.lower() != address):
            if old in self.esp.out:
                self.esp.out.add(address)
            if not contact.keep_old:
                members.pop(old, None)
        if address in self.esp.out:
            return OptedOut(provider_contact_id=address)
        members[address] = contact
        return Delivered(address)
