"""A bridge over the ESP in memory, driven as Planfix would, without HTTP."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any
from uuid import uuid4

from bridge.config import Account, Config, ProviderConfig, Server
from bridge.planfix import ChangeAction, CreateList, DeleteList, ImportContacts, UpdateContact, WireContact
from bridge.replies import ListCreated, Outcome
from bridge.service import Bridge
from providers.base import Reason, Secret, Settings
from tests.clock import DrivenClock
from tests.memory_provider import ESPS, MemoryEsp


def person(contact_id: int | str, address: str | None = None, first: str | None = "Маша") -> WireContact:
    address = f"p{contact_id}@x.test" if address is None else address
    return WireContact(str(contact_id), address, first, None, None if address else Reason.NO_ADDRESS)


class Bench:
    """`stop` and `start` are a restart: the ESP and the store stay as they are."""

    def __init__(self, store_url: str, clock: DrivenClock, place: str | None = None, **server: Any) -> None:
        self.clock = clock
        self.place = place = place or uuid4().hex  # of the ESP: benches at one place share it
        self.esp = ESPS.setdefault(place, MemoryEsp())
        self.config = Config(
            server=Server(**({"grace_s": 0.0} | server)),
            store=store_url,
            accounts={
                name: Account(name=name, tokens=(Secret(f"token of {name}, long enough"),), provider="memory")
                for name in ("main", "other")
            },
            providers={"memory": ProviderConfig(name="memory", type="memory", settings=Settings(base_url=place))},
        )
        self.account = self.config.accounts["main"]
        self.bridge: Bridge

    async def start(self) -> None:
        self.bridge = Bridge(self.config, self.clock)
        await self.bridge.__aenter__()

    async def stop(self) -> None:
        self.esp.open.set()
        await self.bridge.__aexit__()

    async def create(self, name: str = "Клиенты") -> str:
        """The id that Planfix gets for a list of this name."""
        outcome = await self.bridge.handle(self.account, CreateList(name))
        assert isinstance(outcome, ListCreated), outcome
        return outcome.list_id

    async def delete(self, list_id: str) -> Outcome:
        return await self.bridge.handle(self.account, DeleteList(list_id))

    async def bring(self, list_id: str, *people: WireContact) -> Outcome:
        """importContacts."""
        refused = [(each.id, each.problem) for each in people if each.problem]
        well = [each for each in people if not each.problem]
        return await self.bridge.handle(self.account, ImportContacts(list_id, well, refused))

    async def change(
        self, list_id: str, change: ChangeAction, contact: WireContact, old_address: str | None = None
    ) -> Outcome:
        """updateContact."""
        return await self.bridge.handle(self.account, UpdateContact(list_id, change, contact, old_address))

    async def mailable(self, list_id: str) -> set[str]:
        return self.esp.mailable(list_id.removeprefix("memory:"))

    async def pending(self) -> int:
        return sum(depth.pending for depth in await self.bridge.store.outbox.depths())

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Returns when something holds of the store, which tells nobody of its changes."""
        while not await holds():  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0)

    async def until_pending(self, count: int) -> None:
        """Returns when that many changes are stored and not delivered."""

        async def holds() -> bool:
            return await self.pending() == count

        await self.until(holds)

    async def until_delivered(self) -> None:
        """Returns when nothing is pending; the clock goes on whenever a courier waits for it."""

        async def holds() -> bool:
            self.clock.skip()
            return not await self.pending()

        await self.until(holds)
