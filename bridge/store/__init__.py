"""What the bridge keeps: a small map of ids, who opted out, and the changes that are not delivered yet."""

from collections.abc import Callable
from dataclasses import dataclass

from bridge.store.database import Connection, Database, StoreError
from bridge.store.fingerprints import Fingerprints
from bridge.store.lists import IN_USE, ListMap, ListState, ListSummary, MappedList
from bridge.store.memory import Known, Memory, Problem, Settled
from bridge.store.moves import Copied, Moves, NotMoving, Result
from bridge.store.outbox import Depth, ListClosed, Outbox, Stored
from bridge.store.removals import Held, Removals
from bridge.store.under_way import UnderWayInStore
from providers.jobs import UnderWay

__all__ = [
    "IN_USE",
    "Connection",
    "Copied",
    "Depth",
    "Fingerprints",
    "Held",
    "Known",
    "ListClosed",
    "ListMap",
    "ListState",
    "ListSummary",
    "MappedList",
    "Memory",
    "Moves",
    "NotMoving",
    "Outbox",
    "Problem",
    "Removals",
    "Result",
    "Settled",
    "Store",
    "StoreError",
    "Stored",
]


@dataclass(frozen=True, slots=True)
class Store:
    """One open store. Close it when done."""

    database: Database
    fingerprints: Fingerprints
    lists: ListMap
    outbox: Outbox
    memory: Memory
    removals: Removals
    moves: Moves

    @classmethod
    async def open(cls, url: str) -> "Store":
        """Opens or makes the store at `sqlite:///file` or `postgresql://…`. Raises StoreError."""
        database = await Database.open(url)
        fingerprints = await Fingerprints.of_store(database)
        outbox = Outbox(database, fingerprints)
        memory = Memory(database, fingerprints, outbox)
        moves = Moves(database, outbox)
        return cls(database, fingerprints, ListMap(database), outbox, memory, Removals(database), moves)

    def under_way(self, provider: str, now: Callable[[], float]) -> UnderWay:
        """What jobs of the provider of this name may yet do; `now` gives the Unix time."""
        return UnderWayInStore(self.database, self.fingerprints, provider, now)

    async def close(self) -> None:
        await self.database.close()
