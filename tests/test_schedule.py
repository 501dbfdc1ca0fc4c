"""Which changes go next: none is forgotten, whatever happens while the outbox is being read."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from bridge.changes import Change, Kind
from bridge.schedule import Batch, Schedule
from bridge.store import ListState, Store


class Rows:
    """An outbox of rows by list; `meanwhile` is done once, while the next read of that list is under way."""

    def __init__(self, **addresses: list[str]) -> None:
        self.rows = {
            int(name[1:]): [
                Change(str(seq), Kind.PRESENT, address, seq=seq) for seq, address in enumerate(of_list, start=1)
            ]
            for name, of_list in addresses.items()
        }
        self.meanwhile: dict[int, Callable[[], None]] = {}

    async def due(self, list_id: int, after: int, limit: int, _: float) -> list[Change]:
        taken = [change for change in self.rows[list_id] if change.seq > after][:limit]
        self.meanwhile.pop(list_id, lambda: None)()
        return taken

    async def by_id(self, list_id: int) -> Any:
        return SimpleNamespace(id=list_id, state=ListState.OPEN, provider="memory")


def scheduled(rows: Rows, batch_size: int) -> Schedule:
    store = SimpleNamespace(outbox=rows, lists=rows, fingerprints=SimpleNamespace(of=str.lower))
    schedule = Schedule(cast("Store", store), "memory", batch_size)
    for list_id, changes in rows.rows.items():
        schedule.add(list_id, len(changes))
    return schedule


async def test_changes_set_aside_go_though_the_last_batch_of_their_list_ends_during_a_read() -> None:
    rows = Rows(l1=["a@x.test"], l2=["a@x.test", "b@x.test"])
    schedule = scheduled(rows, 2)
    delivered: list[tuple[int, str]] = []

    def end(batch: Batch) -> None:
        schedule.ended(batch)
        done = {change.seq for change in batch.changes}
        delivered.extend((batch.mapped.id, change.address) for change in batch.changes)
        rows.rows[batch.mapped.id] = [row for row in rows.rows[batch.mapped.id] if row.seq not in done]

    first = await schedule.next_batch(0.0)
    second = await schedule.next_batch(0.0)  # without the address that the first one holds
    assert first is not None
    assert second is not None
    assert [change.address for change in second.changes] == ["b@x.test"]
    end(first)
    rows.meanwhile[2] = lambda: end(second)
    assert await schedule.next_batch(0.0) is None
    assert not rows.meanwhile
    last = await schedule.next_batch(0.0)  # who delivers looks again when a batch has ended
    assert last is not None
    end(last)
    assert delivered == [(1, "a@x.test"), (2, "b@x.test"), (2, "a@x.test")]


async def test_a_batch_that_is_not_full_goes_beside_one_that_is_no_larger() -> None:
    rows = Rows(l1=["a@x.test"])
    schedule = scheduled(rows, 10)
    under_way: list[Batch] = []

    async def go(*, more: int = 0, ended: int | None = None) -> list[int]:
        """Sizes of the batches that go when changes have come, and one of the batches under way has ended."""
        first = len(rows.rows[1]) + 1
        rows.rows[1] += [Change(str(n), Kind.PRESENT, f"{n}@x.test", seq=n) for n in range(first, first + more)]
        schedule.add(1, more)
        if ended is not None:
            schedule.ended(next(batch for batch in under_way if len(batch.changes) == ended))
        gone = []
        while batch := await schedule.next_batch(0.0):
            gone.append(batch)
        under_way.extend(gone)
        return [len(batch.changes) for batch in gone]

    assert await go() == [1]
    assert await go(more=2) == [2], "no smaller than the one under way"
    assert await go(more=3) == [], "two are under way"
    assert await go(ended=1) == [3]
    assert await go(more=9) == []
    assert await go(more=1) == [10], "a full one goes in any case"
    assert await go(more=4, ended=2) == []
    assert await go(ended=3) == [], "smaller than the one under way"
    assert await go(ended=10) == [4]
