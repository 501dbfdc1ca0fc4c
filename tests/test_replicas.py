"""Several bridges on one store: one delivers, any answers, and a lost one is replaced."""

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge.delivery import State
from bridge.planfix import CreateList
from bridge.postgres_replicas import PostgresReplicas
from bridge.replies import Failure, ListCreated, Refusal, Tally
from bridge.store import StoreError
from providers.base import AuthFailed, Reason, Rejected, Transient
from tests.bench import Bench, person
from tests.clock import DrivenClock
from tests.conftest import new_database
from tests.postbox import install

DELIVERED = Tally(delivered=1)


@pytest.fixture
async def replicas(
    postgres: str, clock: DrivenClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[list[Bench]]:
    """Three bridges on one database and one ESP; the first one leads."""
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    url = await new_database(postgres)
    first = Bench(url, clock)
    benches = [first, Bench(url, clock, first.place), Bench(url, clock, first.place)]
    for bench in benches:
        await bench.start()
    list_id = await first.create("of the first")
    await first.change(list_id, "add", person(1))
    yield benches
    await asyncio.gather(*(bench.stop() for bench in benches))


def is_leading(bench: Bench) -> bool:
    return bench.bridge.couriers.of("main", "memory").is_leading


async def sees(bench: Bench, state: State) -> bool:
    """Whether word of the provider's state has come to this replica."""
    return bench.bridge.couriers.of("main", "memory").health.state is state


def connection_of(bench: Bench) -> Any:
    courier = bench.bridge.couriers.of("main", "memory")
    assert isinstance(courier._replicas, PostgresReplicas)
    return courier._replicas._connection


async def test_one_delivers_and_all_answer_with_the_outcome(replicas: list[Bench]) -> None:
    list_id = await replicas[1].create()
    for number, bench in enumerate(replicas, start=10):
        assert await bench.change(list_id, "add", person(number)) == DELIVERED
    assert [is_leading(bench) for bench in replicas] == [True, False, False]
    assert await replicas[0].mailable(list_id) == {"p10@x.test", "p11@x.test", "p12@x.test"}


async def test_an_import_through_another_replica_tells_the_same_as_here(replicas: list[Bench]) -> None:
    list_id = await replicas[2].create()
    replicas[0].esp.special["p7@x.test"] = Rejected(Reason.INVALID_ADDRESS)
    outcome = await replicas[2].bring(list_id, *(person(number) for number in range(45)))
    assert outcome == Tally(44, 0, (Refusal("7", Reason.INVALID_ADDRESS),), 1)


async def test_the_limit_on_calls_holds_over_all(replicas: list[Bench]) -> None:
    lists = [await replicas[0].create(f"list {number}") for number in range(6)]
    imports = [
        replicas[number % 3].bring(list_id, *(person(each) for each in range(40)))
        for number, list_id in enumerate(lists)
    ]
    assert set(await asyncio.gather(*imports)) == {Tally(delivered=40)}
    assert replicas[0].esp.most_under_way <= 3


async def test_the_later_change_wins_wherever_it_arrives(replicas: list[Bench]) -> None:
    list_id = await replicas[0].create()
    esp = replicas[0].esp
    esp.open.clear()
    add = asyncio.create_task(replicas[1].change(list_id, "add", person(5)))
    await esp.until_called("upsert", 2)
    remove = asyncio.create_task(replicas[2].change(list_id, "delete", person(5)))
    await replicas[0].until(lambda: _wants_absent(replicas[0], list_id))
    esp.open.set()
    assert await asyncio.gather(add, remove) == [DELIVERED, DELIVERED]
    assert await replicas[0].mailable(list_id) == set()


async def _wants_absent(bench: Bench, list_id: str) -> bool:
    mapped = await bench.bridge.store.lists.by_public_id(list_id)
    assert mapped is not None
    return await bench.bridge.store.outbox.wanted_fingerprints(mapped.id, ["5"]) == {"5": None}


async def test_two_that_make_the_same_list_at_once_make_one(replicas: list[Bench]) -> None:
    made = await asyncio.gather(*(bench.create("Клиенты") for bench in replicas))
    assert len(set(made)) == 1


async def test_many_lists_made_at_once_do_not_use_up_the_connections(replicas: list[Bench]) -> None:
    bench = replicas[0]
    accounts = [msgspec.structs.replace(bench.account, name=f"account {number}") for number in range(40)]
    made = await asyncio.gather(*(bench.bridge.handle(account, CreateList("Клиенты")) for account in accounts))
    assert all(isinstance(outcome, ListCreated) for outcome in made)


async def test_when_the_leader_stops_another_one_goes_on(replicas: list[Bench]) -> None:
    list_id = await replicas[0].create()
    await replicas[0].stop()
    assert await replicas[1].change(list_id, "add", person(5)) == DELIVERED
    assert is_leading(replicas[1]) or is_leading(replicas[2])
    await replicas[0].start()
    assert await replicas[0].change(list_id, "add", person(6)) == DELIVERED
    assert not is_leading(replicas[0])


async def test_a_leader_that_loses_its_connection_delivers_no_more_until_it_leads_again(replicas: list[Bench]) -> None:
    list_id = await replicas[0].create()
    esp = replicas[0].esp
    esp.open.clear()
    asking = asyncio.create_task(replicas[1].change(list_id, "add", person(5)))
    await esp.until_called("upsert", 2)
    connection_of(replicas[0]).terminate()
    await esp.until_called("upsert", 3)  # by whoever leads now
    esp.open.set()
    assert await asking == DELIVERED
    assert sum(is_leading(bench) for bench in replicas) == 1
    assert await replicas[0].mailable(list_id) == {"p5@x.test"}


async def test_changes_that_nobody_was_told_of_are_found_by_the_next_leader(replicas: list[Bench]) -> None:
    list_id = await replicas[0].create()
    for bench in replicas:
        bench.esp.script = []
    replicas[0].esp.script = [Transient("503")] * 3
    asking = asyncio.create_task(replicas[0].change(list_id, "add", person(5)))
    await replicas[0].esp.until_called("upsert", 2)
    replicas[0].bridge.tickets.release_all()
    assert await asking == Tally(pending=1)
    await replicas[0].bridge.__aexit__()
    await replicas[1].until_delivered()
    assert await replicas[1].mailable(list_id) == {"p5@x.test"}
    await replicas[0].start()


async def test_an_outage_seen_by_the_leader_is_known_to_all(replicas: list[Bench]) -> None:
    list_id = await replicas[0].create()
    replicas[0].esp.script = [Transient("503", retry_after_s=60.0)]
    assert await replicas[1].change(list_id, "add", person(5)) == Tally(pending=1)
    for bench in replicas:
        await bench.until(partial(sees, bench, State.DOWN))
        assert await bench.change(list_id, "add", person(6)) == Tally(pending=1)
    await replicas[0].until_delivered()
    await replicas[2].until(partial(sees, replicas[2], State.UP))
    assert await replicas[2].change(list_id, "add", person(7)) == DELIVERED


async def test_a_refused_key_is_told_by_all(replicas: list[Bench]) -> None:
    list_id = await replicas[0].create()
    replicas[0].esp.script = [AuthFailed("401")]
    for bench in (replicas[1], replicas[2], replicas[0]):
        outcome = await bench.change(list_id, "add", person(5))
        assert isinstance(outcome, Tally)
        assert outcome.failure == Failure("auth_failed")


async def test_a_second_bridge_on_a_sqlite_file_is_refused(
    tmp_path: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    url = f"sqlite:///{tmp_path / 'bridge.db'}"
    first = Bench(url, clock)
    await first.start()
    with pytest.raises(StoreError, match="another bridge runs"):
        await Bench(url, clock).start()
    await first.stop()
    await first.start()
    await first.stop()
