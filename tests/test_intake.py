"""The way into the outbox: changes that arrive together are committed together, all or none of a request."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, Engine, event, text

from bridge.changes import DROP_CONTACT_ID, Change, Kind
from bridge.intake import Intake
from bridge.replicas import Replicas, open_replicas
from bridge.store import ListClosed, ListState, MappedList, Store, StoreError
from bridge.tickets import Ticket, Tickets

NOW = 1_800_000_000.0
DROP = Change(DROP_CONTACT_ID, Kind.DROP, created_at=NOW)


def present(contact_id: int) -> Change:
    return Change(str(contact_id), Kind.PRESENT, f"p{contact_id}@x.test", created_at=NOW)


class Inlet:
    """An intake over a store; `woken` are the lists and counts that delivery heard of."""

    def __init__(self, store: Store, replicas: Replicas) -> None:
        self.store = store
        self.replicas = replicas
        self.tickets = Tickets()
        self.woken: list[tuple[int, int]] = []
        self.intake = Intake(store, self.tickets, replicas, lambda mapped, count: self.woken.append((mapped.id, count)))

    @classmethod
    async def open(cls, store_url: str) -> "Inlet":
        store = await Store.open(store_url)
        return cls(store, await open_replicas(store_url, lambda _: None))

    async def close(self) -> None:
        await self.replicas.close()
        await self.store.close()

    async def new_list(self, name: str = "A") -> MappedList:
        list_id = await self.store.lists.begin("main", "memory", name, name, NOW)
        await self.store.lists.finish(list_id, f"memory:{list_id}", str(list_id), NOW)
        return await self.store.lists.by_id(list_id)

    async def put_all(self, *wishes: tuple[MappedList, Sequence[Change]]) -> list[Ticket | BaseException]:
        """All at once; what each one got."""
        tasks = [self.intake.put(mapped, changes) for mapped, changes in wishes]
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def stored(self, mapped: MappedList) -> list[tuple[int, str]]:
        """Number and contact id of what waits."""
        return [(change.seq, change.contact_id) for change in await self.store.outbox.due(mapped.id, 0, 10_000, NOW)]


@pytest.fixture
async def inlet(store_url: str) -> AsyncIterator[Inlet]:
    opened = await Inlet.open(store_url)
    yield opened
    await opened.close()


@asynccontextmanager
async def counted_commits() -> AsyncIterator[Callable[[], int]]:
    """How many transactions have been committed meanwhile."""
    count = 0

    def committed(_: Connection) -> None:  # PostgreSQL
        nonlocal count
        count += 1

    def executed(*told: Any) -> None:  # SQLite
        nonlocal count
        count += told[2] == "COMMIT"

    event.listen(Engine, "commit", committed)
    event.listen(Engine, "before_cursor_execute", executed)
    try:
        yield lambda: count
    finally:
        event.remove(Engine, "commit", committed)
        event.remove(Engine, "before_cursor_execute", executed)


def numbers(tickets: Sequence[Ticket | BaseException]) -> list[tuple[int, int]]:
    assert all(isinstance(each, Ticket) for each in tickets), tickets
    return [(each.first_seq, each.last_seq) for each in tickets if isinstance(each, Ticket)]


async def test_what_arrives_together_is_committed_together_in_order_of_arrival(inlet: Inlet) -> None:
    mapped = await inlet.new_list()
    async with counted_commits() as commits:
        tickets = await inlet.put_all(*((mapped, [present(number)]) for number in range(1, 201)))
        assert commits() == 1
    assert numbers(tickets) == [(number, number) for number in range(1, 201)]
    assert await inlet.stored(mapped) == [(number, str(number)) for number in range(1, 201)]
    assert sum(count for _, count in inlet.woken) == 200


async def test_what_arrives_during_a_commit_goes_with_the_next_one(inlet: Inlet) -> None:
    mapped = await inlet.new_list()
    async with counted_commits() as commits:
        first = asyncio.create_task(inlet.intake.put(mapped, [present(1)]))
        await asyncio.sleep(0)  # lets the commit begin
        await asyncio.sleep(0)
        later = await inlet.put_all(*((mapped, [present(number)]) for number in range(2, 102)))
        assert (await first).first_seq == 1
        assert numbers(later) == [(number, number) for number in range(2, 102)]
        assert commits() == 2


async def test_what_is_committed_one_after_the_other_may_go_in_one_call(inlet: Inlet) -> None:
    """Delivery hears of the first only with the second: and of each, although what comes after it breaks off."""
    mapped = await inlet.new_list()
    first = asyncio.create_task(inlet.intake.put(mapped, [present(1)]))
    await asyncio.sleep(0)  # lets the commit begin
    await asyncio.sleep(0)
    second = asyncio.create_task(inlet.intake.put(mapped, [present(2)]))
    assert (await first).first_seq == 1
    assert inlet.woken == []
    assert (await second).first_seq == 2
    assert inlet.woken == [(mapped.id, 1), (mapped.id, 1)]


async def test_requests_keep_their_changes_together(inlet: Inlet) -> None:
    one, two = await inlet.new_list("one"), await inlet.new_list("two")
    tickets = await inlet.put_all(
        (two, [present(1), present(2)]), (one, [present(3)]), (two, [present(4), present(5), present(6)])
    )
    assert numbers(tickets) == [(1, 2), (1, 1), (3, 5)]
    assert [(t.list_id, t.pending) for t in tickets if isinstance(t, Ticket)] == [(two.id, 2), (one.id, 1), (two.id, 3)]
    assert await inlet.stored(two) == [(1, "1"), (2, "2"), (3, "4"), (4, "5"), (5, "6")]
    assert await inlet.stored(one) == [(1, "3")]


async def test_a_newer_wish_answers_who_waited_for_the_older(inlet: Inlet) -> None:
    mapped = await inlet.new_list()
    older, newer = await inlet.put_all((mapped, [present(1)]), (mapped, [present(1), present(2)]))
    assert isinstance(older, Ticket)
    assert isinstance(newer, Ticket)
    assert (older.delivered, older.ended.is_set()) == (1, True)
    assert (newer.pending, newer.ended.is_set()) == (2, False)
    assert await inlet.stored(mapped) == [(2, "1"), (3, "2")]


async def test_the_end_of_a_list_stands_for_all_before_it_and_closes_it_for_all_after_it(inlet: Inlet) -> None:
    mapped, other = await inlet.new_list("gone"), await inlet.new_list("other")
    before, drop, after, elsewhere, again = await inlet.put_all(
        (mapped, [present(1), present(2)]),
        (mapped, [DROP]),
        (mapped, [present(3)]),
        (other, [present(4)]),
        (mapped, [DROP]),
    )
    assert isinstance(before, Ticket)
    assert (before.delivered, before.ended.is_set()) == (2, True)
    assert isinstance(drop, Ticket)
    assert drop.ended.is_set(), "the newer DROP stands for it"
    assert isinstance(again, Ticket)
    assert not again.ended.is_set()
    assert isinstance(after, ListClosed)
    assert isinstance(elsewhere, Ticket)
    assert await inlet.stored(mapped) == [(again.first_seq, DROP_CONTACT_ID)]
    assert await inlet.stored(other) == [(1, "4")]
    assert (await inlet.store.lists.by_id(mapped.id)).state is ListState.DELETING


async def test_a_store_that_fails_fails_all_and_keeps_nothing_and_the_next_ones_go_on(inlet: Inlet) -> None:
    one, two = await inlet.new_list("one"), await inlet.new_list("two")
    async with inlet.store.database.write() as connection:
        await connection.execute(text("alter table outbox rename to away"))
    outcomes = await inlet.put_all((one, [present(1)]), (two, [DROP]), (one, [present(2)]))
    assert [type(outcome) for outcome in outcomes] == [StoreError] * 3
    assert inlet.woken == []
    async with inlet.store.database.write() as connection:
        await connection.execute(text("alter table away rename to outbox"))
    assert await inlet.stored(one) == []
    assert (await inlet.store.lists.by_id(two.id)).state is ListState.OPEN
    [ticket] = await inlet.put_all((one, [present(3)]))
    assert numbers([ticket]) == [(1, 1)], "numbers that were not stored are free again"
    inlet.tickets.done(one.id, [1])
    assert isinstance(ticket, Ticket)
    assert ticket.ended.is_set(), "no ticket of the failed ones is in its way"


async def test_who_hung_up_meanwhile_is_stored_all_the_same_and_delays_nobody(inlet: Inlet) -> None:
    mapped = await inlet.new_list()
    gone, stays = (asyncio.create_task(inlet.intake.put(mapped, [present(number)])) for number in (1, 2))
    await asyncio.sleep(0)
    gone.cancel()
    assert (await stays).first_seq == 2
    assert gone.cancelled()
    assert await inlet.stored(mapped) == [(1, "1"), (2, "2")]
    assert sum(count for _, count in inlet.woken) == 2


WISHES = st.lists(
    st.tuples(st.integers(0, 2), st.lists(st.integers(1, 5), min_size=1, max_size=4, unique=True)), max_size=12
)


def test_any_arrival_ends_as_if_the_requests_had_come_one_by_one(tmp_path: Path) -> None:
    with asyncio.Runner() as runner:
        together, one_by_one = (
            runner.run(Inlet.open(f"sqlite:///{tmp_path / name}")) for name in ("together.db", "one_by_one.db")
        )

        @given(groups=st.lists(WISHES, min_size=1, max_size=3), drops=st.sets(st.integers(0, 11), max_size=2))
        @settings(max_examples=30, deadline=None)
        def compare(groups: list[list[tuple[int, list[int]]]], drops: set[int]) -> None:
            ends = [runner.run(end(inlet, groups, drops, inlet is together)) for inlet in (together, one_by_one)]
            assert ends[0] == ends[1]

        try:
            compare()
        finally:
            for inlet in (together, one_by_one):
                runner.run(inlet.close())


async def end(
    inlet: Inlet, groups: list[list[tuple[int, list[int]]]], drops: set[int], at_once: bool
) -> tuple[object, object]:
    """What all requests got, and what waits in the end."""
    lists = [await inlet.new_list(name) for name in "abc"]
    outcomes: list[Ticket | BaseException] = []
    for group in groups:
        wishes = [
            (lists[which], [DROP] if index in drops else [present(number) for number in contacts])
            for index, (which, contacts) in enumerate(group)
        ]
        for some in [wishes] if at_once else [[wish] for wish in wishes]:
            outcomes += await inlet.put_all(*some)
    known = [
        (each.first_seq, each.last_seq, each.delivered, each.ended.is_set()) if isinstance(each, Ticket) else type(each)
        for each in outcomes
    ]
    return known, [await inlet.stored(mapped) for mapped in lists]
