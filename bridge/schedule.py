"""Which changes go next: batches of one list, in order, never two at once for one contact or one address."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from bridge.changes import Change, Kind
from bridge.store import ListState, MappedList, Store


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Changes of one list that are delivered together. `keys` are its contacts and addresses: nobody else's now."""

    mapped: MappedList
    changes: Sequence[Change]
    keys: Sequence[object]


@dataclass(slots=True)
class _Queue:
    """How far a list has come. All changes up to `cursor` were taken, or set aside until `rewind` is acted on."""

    cursor: int = 0
    in_flight: list[int] = field(default_factory=list)  # how large its batches under way are
    ready: int | None = None  # changes after the cursor, at most; None when not counted
    rewind: bool = False
    blocked: bool = False  # nothing can go before some batch has ended
    added: int = 0  # changes that came since the outbox was last read; that read may have seen some of them


class Schedule:
    """The lists of one account at one provider that have changes waiting.

    A batch that is not full goes when no other of its list is under way, or one that is no larger. So a burst of single
    changes gathers while calls are out, and goes in few; of requests that come together none waits for the first, which
    went alone; a large import uses all places but one. The end of a list goes when no other batch of it is under way.
    """

    def __init__(self, store: Store, provider: str, batch_size: int) -> None:
        self._store = store
        self._provider = provider
        self._batch_size = batch_size
        self._queues: dict[int, _Queue] = {}
        self._busy: set[object] = set()

    def add(self, list_id: int, count: int) -> None:
        """A list has `count` new changes."""
        queue = self._queues.setdefault(list_id, _Queue())
        queue.added += count
        if queue.ready is not None:
            queue.ready += count

    async def next_batch(self, now: float, *, of_idle_list: bool = False) -> Batch | None:
        """The next batch that may go now, of the list that waited longest; None when none may. A list that is being
        moved, or lives elsewhere by now, has none; with `of_idle_list` neither has one with a batch under way. Raises
        StoreError."""
        for list_id in list(self._queues):
            if of_idle_list and self._queues[list_id].in_flight:
                continue
            batch = await self._next_of(list_id, now)
            if batch is not None:
                self._queues[list_id] = self._queues.pop(list_id)  # the others' turn comes first now
                return batch
        return None

    def ended(self, batch: Batch, *, kept: bool = False) -> None:
        """A batch is no longer under way; `kept`: its changes stay and are to be looked at again."""
        self._busy.difference_update(batch.keys)
        queue = self._queues[batch.mapped.id]
        queue.in_flight.remove(len(batch.changes))
        queue.rewind |= kept
        for queue in self._queues.values():
            queue.blocked = False

    async def _next_of(self, list_id: int, now: float) -> Batch | None:
        queue = self._queues[list_id]
        if queue.rewind and not queue.in_flight:
            queue.cursor, queue.ready, queue.rewind = 0, None, False
        least = self._batch_size if len(queue.in_flight) > 1 else sum(queue.in_flight)
        if queue.blocked or (queue.ready is not None and queue.ready < least):
            return None
        queue.added = 0
        taken = await self._store.outbox.due(list_id, queue.cursor, self._batch_size, now)
        if len(taken) < self._batch_size:
            queue.ready = len(taken) + queue.added
            if len(taken) < least:
                return None
        if not taken:
            if not (queue.added or queue.rewind):  # the last batch may have ended during the read
                del self._queues[list_id]
            return None
        mapped = await self._store.lists.by_id(list_id)
        if mapped.state is ListState.MOVING or mapped.provider != self._provider:
            self._leave(list_id, queue)
            return None
        if taken[0].kind is Kind.DROP and queue.in_flight:  # where a list is a tag, they may make it anew
            queue.rewind = queue.blocked = True
            return None
        batch = self._claim(mapped, queue, taken)
        queue.cursor = taken[-1].seq
        queue.ready = None if queue.ready is None else queue.ready - len(taken)
        return batch

    def _leave(self, list_id: int, queue: _Queue) -> None:
        """The list has moved, or is about to: whoever moved it tells where its changes are to go."""
        if queue.in_flight:
            queue.rewind = queue.blocked = True
        else:
            del self._queues[list_id]

    def _claim(self, mapped: MappedList, queue: _Queue, taken: Sequence[Change]) -> Batch | None:
        changes: list[Change] = []
        keys: list[object] = []
        for change in taken:
            own = self._keys(mapped.id, change)
            # Not isdisjoint: of a set that was large once and is empty now, it goes through all that once was.
            if any(key in self._busy for key in own):
                queue.rewind = True
            else:
                changes.append(change)
                keys += own
        if not changes:
            queue.blocked = True
            return None
        batch = Batch(mapped, changes, keys)
        self._busy.update(keys)
        queue.in_flight.append(len(changes))
        return batch

    def _keys(self, list_id: int, change: Change) -> list[object]:
        of = self._store.fingerprints.of
        return [(list_id, change.contact_id), *(of(a) for a in (change.address, *change.old_addresses) if a)]
