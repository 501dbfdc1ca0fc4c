"""Order and repeats: whatever is under way, the latest request is what the list shows in the end, and only once."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path
from typing import Literal

import pytest
from sqlalchemy import select

from bridge.planfix import ChangeAction, WireContact
from bridge.replies import Outcome, Tally
from bridge.store.tables import lists
from providers.base import Transient
from tests.bench import Bench, person
from tests.clock import DrivenClock
from tests.memory_provider import ActsFirst
from tests.postbox import install

REPLY_S = 20.0


@dataclass(frozen=True)
class Wish:
    """One updateContact of contact 1, and whom it leaves on the list."""

    action: ChangeAction
    address: str
    old_address: str | None
    leaves: frozenset[str]


ADD = Wish("add", "a@x.test", None, frozenset({"a@x.test"}))
DELETE = Wish("delete", "a@x.test", None, frozenset())
MOVE = Wish("update", "b@x.test", "a@x.test", frozenset({"b@x.test"}))

Meanwhile = Literal["held", "goes", "lost"]
"""What becomes, after a request has arrived, of the calls: they hang, they work, or they work and nobody hears it."""


@pytest.fixture
async def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Bench]:
    """A bench on SQLite alone: the databases differ in nothing that matters here, and there are many cases."""
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    bench = Bench(f"sqlite:///{tmp_path / 'bridge.db'}", DrivenClock())
    await bench.start()
    yield bench
    await bench.stop()


async def arrived(bench: Bench, list_id: str) -> int:
    """How many changes of a list were stored so far."""
    async with bench.bridge.store.database.read() as connection:
        found = await connection.scalar(select(lists.c.last_seq).where(lists.c.public_id == list_id))
    return int(found or 0)


async def stored(bench: Bench, list_id: str, count: int) -> None:
    async def holds() -> bool:
        return await arrived(bench, list_id) == count

    await bench.until(holds)


async def pass_by(bench: Bench, meanwhile: Meanwhile) -> None:
    if meanwhile == "held":
        return
    if meanwhile == "lost":
        bench.esp.script = [ActsFirst(Transient("the answer was lost"))]
    bench.esp.open.set()
    await bench.until_delivered()
    bench.esp.open.clear()


@pytest.mark.parametrize("wishes", list(permutations((ADD, DELETE, MOVE))), ids=lambda w: "-".join(x.action for x in w))
async def test_of_changes_at_once_the_last_to_arrive_wins(quick: Bench, wishes: tuple[Wish, ...]) -> None:
    for number, schedule in enumerate(product(("held", "goes", "lost"), repeat=len(wishes) - 1)):
        list_id = await quick.create(f"list {number}")
        quick.esp.open.clear()
        asking: list[asyncio.Task[Outcome]] = []
        for count, (wish, meanwhile) in enumerate(zip(wishes, (*schedule, "held"), strict=True), start=1):
            change = quick.change(list_id, wish.action, person(1, wish.address), wish.old_address)
            asking.append(asyncio.create_task(change))
            await stored(quick, list_id, count)
            await pass_by(quick, meanwhile)
        quick.esp.open.set()
        await quick.until_delivered()
        for outcome in await asyncio.gather(*asking):
            assert isinstance(outcome, Tally)
            assert (outcome.failure, outcome.rejected_count) == (None, 0)
        assert await quick.mailable(list_id) == wishes[-1].leaves, schedule
        quick.esp.script = []


async def slow(bench: Bench, list_id: str, *contacts: WireContact) -> asyncio.Task[Outcome]:
    """An import whose first calls hang at the ESP."""
    bench.esp.open.clear()
    calls = [name for name, _ in bench.esp.calls].count("upsert")
    before = await arrived(bench, list_id)
    asking = asyncio.create_task(bench.bring(list_id, *contacts))
    await stored(bench, list_id, before + len(contacts))
    await bench.esp.until_called("upsert", calls + 1)
    return asking


async def test_a_request_repeated_after_a_slow_answer_is_one_wish(bench: Bench) -> None:
    list_id = await bench.create()
    first = await slow(bench, list_id, person(1))
    await bench.clock.until_waiting()
    bench.clock.advance(REPLY_S)
    assert await first == Tally(pending=1)
    again = asyncio.create_task(bench.bring(list_id, person(1)))
    await stored(bench, list_id, 2)
    assert await bench.pending() == 1
    bench.esp.open.set()
    assert await again == Tally(delivered=1)
    assert await bench.mailable(list_id) == {"p1@x.test"}


async def test_the_same_import_twice_at_once_is_one_wish(bench: Bench) -> None:
    list_id = await bench.create()
    people = [person(number) for number in range(1, 96)]
    asking = [await slow(bench, list_id, *people)]
    asking += [asyncio.create_task(bench.bring(list_id, *people)) for _ in range(2)]
    await stored(bench, list_id, 3 * len(people))
    assert await bench.pending() == len(people)
    bench.esp.open.set()
    assert await asyncio.gather(*asking) == [Tally(delivered=95)] * 3
    assert await bench.mailable(list_id) == {contact.address for contact in people}
    sent = [contact_id for name, ids in bench.esp.calls if name == "upsert" for contact_id in ids]
    # Sent again is only what was on its way when the repeat arrived: three calls of ten.
    assert len(sent) <= len(people) + 30


@pytest.mark.parametrize("number", [1, 95], ids=["on its way", "not yet on its way"])
async def test_an_update_during_an_import_wins(bench: Bench, number: int) -> None:
    list_id = await bench.create()
    people = [person(each) for each in range(1, 96)]
    importing = await slow(bench, list_id, *people)
    new = person(number, "new@x.test", "Новое")
    updating = asyncio.create_task(bench.change(list_id, "update", new, f"p{number}@x.test"))
    await stored(bench, list_id, 96)
    bench.esp.open.set()
    assert await asyncio.gather(importing, updating) == [Tally(delivered=95), Tally(delivered=1)]
    expected = {contact.address for contact in people} - {f"p{number}@x.test"} | {"new@x.test"}
    assert await bench.mailable(list_id) == expected
    assert bench.esp.on[list_id.removeprefix("memory:")]["new@x.test"].first_name == "Новое"


async def test_an_import_after_an_update_wins(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1))
    bench.esp.open.clear()
    upserts = [name for name, _ in bench.esp.calls].count("upsert")
    updating = asyncio.create_task(bench.change(list_id, "update", person(1, "new@x.test"), ""))
    await bench.until_pending(1)
    importing = asyncio.create_task(bench.bring(list_id, person(1), person(2)))
    await stored(bench, list_id, 4)
    bench.esp.open.set()
    assert await asyncio.gather(updating, importing) == [Tally(delivered=1), Tally(delivered=2)]
    assert [name for name, _ in bench.esp.calls].count("upsert") > upserts
    assert await bench.mailable(list_id) == {"p1@x.test", "p2@x.test"}
