"""Which changes go next: none is forgotten, whatever happens while the outbox is being read."""

import asyncio
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st

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


class Line:
    """One list: changes come, batches of at most 10 go, and end."""

    def __init__(self) -> None:
        self.rows = Rows(l1=[])
        self.schedule = scheduled(self.rows, 10)
        self.under_way: list[Batch] = []
        self._seq = 0

    def store(self, count: int) -> None:
        """`count` changes are there for whoever reads; the schedule is told of them by `schedule.add`."""
        first, self._seq = self._seq + 1, self._seq + count
        self.rows.rows[1] += [Change(str(n), Kind.PRESENT, f"{n}@x.test", seq=n) for n in range(first, first + count)]

    def come(self, count: int) -> None:
        self.store(count)
        self.schedule.add(1, count)

    async def go(self) -> list[int]:
        """Sizes of the batches that go."""
        gone = []
        while batch := await self.schedule.next_batch(0.0):
            gone.append(batch)
        self.under_way += gone
        return [len(batch.changes) for batch in gone]

    def end(self, size: int | None = None) -> None:
        """The oldest batch under way, of this size, ends with its changes delivered."""
        batch = next(batch for batch in self.under_way if size is None or len(batch.changes) == size)
        self.under_way.remove(batch)
        self.schedule.ended(batch)
        done = {change.seq for change in batch.changes}
        self.rows.rows[1] = [row for row in self.rows.rows[1] if row.seq not in done]


async def test_a_batch_that_is_not_full_goes_beside_one_that_is_no_larger() -> None:
    line = Line()

    async def go(*, more: int = 0, ended: int | None = None) -> list[int]:
        """Sizes of the batches that go when changes have come, and one of the batches under way has ended."""
        line.come(more)
        if ended is not None:
            line.end(ended)
        return await line.go()

    assert await go(more=1) == [1]
    assert await go(more=2) == [2], "no smaller than the one under way"
    assert await go(more=3) == [], "two are under way"
    assert await go(ended=1) == [3]
    assert await go(more=9) == []
    assert await go(more=1) == [10], "a full one goes in any case"
    assert await go(more=4, ended=2) == []
    assert await go(ended=3) == [], "smaller than the one under way"
    assert await go(ended=10) == [4]


async def test_changes_that_come_while_the_outbox_is_read_go_too() -> None:
    line = Line()
    line.come(5)
    line.rows.meanwhile[1] = lambda: line.come(20)  # the read does not see them
    assert await line.go() == [5, 10, 10]


@given(
    steps=st.lists(
        st.tuples(
            st.integers(0, 15),
            st.sampled_from(["told", "told during the read", "come during the read"]),
            st.integers(0, 2),
        )
    )
)
def test_nothing_is_left_when_all_has_ended(steps: list[tuple[int, str, int]]) -> None:
    async def play() -> None:
        line = Line()
        for count, how, ended in steps:
            for _ in range(min(ended, len(line.under_way))):
                line.end()
            if how == "told":
                line.come(count)
            elif how == "come during the read":
                line.rows.meanwhile[1] = lambda count=count: line.come(count)
            else:
                line.store(count)
                line.rows.meanwhile[1] = lambda count=count: line.schedule.add(1, count)
            await line.go()
            line.rows.meanwhile.pop(1, lambda: None)()  # if there was no reason to read
            await line.go()  # who delivers looks again when it is told of changes
        while line.under_way:
            line.end()
            await line.go()
        assert line.rows.rows == {1: []}

    asyncio.run(play())
