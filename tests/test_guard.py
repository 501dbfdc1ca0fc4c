"""The guard: a mass removal waits for a person, and nothing else does."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from msgspec.structs import replace

from bridge.cli import main
from bridge.config import ConfigError, Guard, load, sandbox_config
from bridge.planfix import CreateList, ImportContacts, UpdateContact, WireContact
from bridge.replies import Outcome, Tally
from bridge.service import Bridge
from bridge.store import Store
from bridge.store.outbox import RELEASE_SEEN_WITHIN_S
from tests.bench import Bench, person
from tests.clock import DrivenClock
from tests.conftest import new_database
from tests.postbox import install

DELIVERED = Tally(delivered=1)
HELD = Tally(pending=1)
HOUR_S = 3600.0
ACCOUNTS = "accounts: {a: {token: 0123456789abcdef0, provider: sandbox}}\nproviders: {sandbox: {}}\n"


@pytest.fixture
async def bench(
    store_url: str, clock: DrivenClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """A bridge whose guard lets a fifth of a list go, and two in any case, within an hour."""
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    opened = Bench(store_url, clock)
    guarded(opened)
    await opened.start()
    yield opened
    await opened.stop()


def guarded(bench: Bench, share: float = 0.2, free: int = 2) -> None:
    """From the next start on."""
    bench.config = replace(bench.config, guard=Guard(removals_share=share, removals_free=free, within_s=HOUR_S))


def unguarded(bench: Bench) -> None:
    bench.config = replace(bench.config, guard=None)


async def restart(bench: Bench) -> None:
    await bench.stop()
    await bench.start()


async def filled(bench: Bench, count: int) -> str:
    list_id = await bench.create()
    assert await bench.bring(list_id, *(person(number) for number in range(count))) == Tally(delivered=count)
    return list_id


async def remove(bench: Bench, list_id: str, first: int, count: int = 1) -> list[Outcome]:
    return [await bench.change(list_id, "delete", person(number)) for number in range(first, first + count)]


async def release(bench: Bench, list_id: str) -> int:
    """As the command does in a process of its own."""
    store = await Store.open(bench.config.store)
    mapped = await store.lists.by_public_id(list_id)
    assert mapped is not None
    released = await store.removals.release(mapped.id)
    await store.close()
    return released


async def held(bench: Bench) -> list[tuple[str, int]]:
    return [(each.public_id, each.removals) for each in await bench.bridge.store.removals.held()]


# What is held


async def test_a_share_goes_and_further_removals_wait(bench: Bench) -> None:
    list_id = await filled(bench, 20)
    assert await remove(bench, list_id, 0, 6) == [DELIVERED] * 4 + [HELD] * 2
    assert await bench.mailable(list_id) == {f"p{number}@x.test" for number in range(4, 20)}
    assert await held(bench) == [(list_id, 2)]
    assert b'planfix_bridge_outbox_held{account="main"} 2.0' in await bench.bridge.measure()
    assert b'planfix_bridge_outbox_held{account="other"} 0.0' in await bench.bridge.measure()


async def test_additions_and_updates_go_on_while_removals_are_held(bench: Bench) -> None:
    list_id = await filled(bench, 10)
    assert (await remove(bench, list_id, 0, 3))[-1] == HELD
    assert await bench.change(list_id, "add", person(50)) == DELIVERED
    assert await bench.change(list_id, "update", person(5, "new@x.test"), "p5@x.test") == DELIVERED
    assert await bench.bring(list_id, person(51), person(52)) == Tally(delivered=2)
    assert {"p50@x.test", "new@x.test", "p51@x.test", "p52@x.test"} <= await bench.mailable(list_id)
    assert await held(bench) == [(list_id, 1)]


async def test_other_lists_are_judged_by_themselves(bench: Bench) -> None:
    one = await filled(bench, 10)
    other = await bench.create("another")
    await bench.bring(other, person(1), person(2))
    assert (await remove(bench, one, 0, 3))[-1] == HELD
    assert await remove(bench, other, 1, 2) == [DELIVERED] * 2


async def test_removals_at_one_time_are_counted_as_one_after_another(bench: Bench) -> None:
    list_id = await filled(bench, 20)
    outcomes = await asyncio.gather(*(bench.change(list_id, "delete", person(number)) for number in range(20)))
    assert [outcomes.count(DELIVERED), outcomes.count(HELD)] == [4, 16]
    assert len(await bench.mailable(list_id)) == 16


@pytest.mark.parametrize(
    ("share", "free", "size", "let_go"),
    [
        (0.29, 0, 100, 29),  # and not 28, as the product of the floats is
        (0.1, 2, 25, 2),
        (0.1, 2, 30, 3),
        (0.0, 0, 5, 0),
        (0.0, 3, 5, 3),
        (0.99, 0, 5, 4),
    ],
)
async def test_the_share_is_exact_and_so_many_go_from_any_list(
    bench: Bench, share: float, free: int, size: int, let_go: int
) -> None:
    guarded(bench, share, free)
    await restart(bench)
    list_id = await filled(bench, size)
    outcomes = await remove(bench, list_id, 0, min(size, let_go + 2))
    assert outcomes == [DELIVERED] * let_go + [HELD] * (len(outcomes) - let_go)


async def test_the_time_moves_along(bench: Bench) -> None:
    list_id = await filled(bench, 10)
    assert await remove(bench, list_id, 0) == [DELIVERED]
    bench.clock.advance(HOUR_S / 2)
    assert await remove(bench, list_id, 1) == [DELIVERED]
    bench.clock.advance(HOUR_S / 2 + 1)  # the first does not count any more, the second does
    assert await remove(bench, list_id, 2, 2) == [DELIVERED, HELD]


async def test_while_some_are_held_time_alone_lets_none_go(bench: Bench) -> None:
    list_id = await filled(bench, 10)
    assert (await remove(bench, list_id, 0, 3))[-1] == HELD
    bench.clock.advance(2 * HOUR_S)
    assert await remove(bench, list_id, 3) == [HELD]
    assert await held(bench) == [(list_id, 2)]


async def test_a_list_that_the_store_does_not_know_gets_no_share(bench: Bench) -> None:
    """As after the loss of the store: the ESP has contacts, the map has none."""
    bench.esp.on["77"] = {f"p{number}@x.test": None for number in range(50)}  # type: ignore[dict-item]  # never read
    assert await remove(bench, "memory:77", 0, 3) == [DELIVERED, DELIVERED, HELD]


async def test_deleting_a_list_is_not_held(bench: Bench) -> None:
    list_id = await filled(bench, 20)
    assert (await remove(bench, list_id, 0, 5))[-1] == HELD
    assert await bench.delete(list_id) == DELIVERED
    assert await held(bench) == []
    assert bench.esp.on == {}


async def test_without_a_guard_nothing_is_held_or_noted(bench: Bench) -> None:
    unguarded(bench)
    await restart(bench)
    list_id = await filled(bench, 20)
    assert await remove(bench, list_id, 0, 20) == [DELIVERED] * 20
    assert await bench.mailable(list_id) == set()


# How it ends


async def test_a_running_bridge_sees_a_release_within_seconds(bench: Bench) -> None:
    list_id = await filled(bench, 10)
    await remove(bench, list_id, 0, 5)
    assert await bench.clock.until_waiting() <= RELEASE_SEEN_WITHIN_S
    assert await release(bench, list_id) == 3
    await bench.until_delivered()
    assert await bench.mailable(list_id) == {f"p{number}@x.test" for number in range(5, 10)}
    assert await held(bench) == []


async def test_after_a_release_the_count_begins_anew(bench: Bench) -> None:
    list_id = await filled(bench, 20)
    await remove(bench, list_id, 0, 5)
    await release(bench, list_id)
    await bench.until_delivered()
    assert await remove(bench, list_id, 5, 4) == [DELIVERED] * 3 + [HELD]  # of the 15 that are left


async def test_held_removals_outlive_a_restart_and_go_when_released_while_it_is_down(bench: Bench) -> None:
    list_id = await filled(bench, 10)
    await remove(bench, list_id, 0, 3)
    await restart(bench)
    bench.clock.advance(2 * HOUR_S)
    assert await bench.change(list_id, "add", person(50)) == DELIVERED
    assert await remove(bench, list_id, 3) == [HELD]
    await bench.stop()
    await release(bench, list_id)
    await bench.start()
    await bench.until_delivered()
    assert await bench.mailable(list_id) == {f"p{number}@x.test" for number in (*range(4, 10), 50)}


async def test_what_is_held_can_be_released_after_the_guard_was_switched_off(bench: Bench) -> None:
    list_id = await filled(bench, 10)
    await remove(bench, list_id, 0, 3)
    unguarded(bench)
    await restart(bench)
    await bench.clock.until_waiting()
    assert await held(bench) == [(list_id, 1)]
    await release(bench, list_id)
    await bench.until_delivered()
    assert len(await bench.mailable(list_id)) == 7


async def test_who_comes_back_is_not_removed_and_ends_the_hold(bench: Bench) -> None:
    list_id = await filled(bench, 10)
    assert (await remove(bench, list_id, 0, 3))[-1] == HELD
    assert await bench.change(list_id, "add", person(2)) == DELIVERED
    assert await held(bench) == []
    assert "p2@x.test" in await bench.mailable(list_id)
    assert await release(bench, list_id) == 0
    assert "p2@x.test" in await bench.mailable(list_id)


async def test_who_opted_out_while_held_stays_out_when_coming_back(bench: Bench) -> None:
    list_id = await filled(bench, 10)
    await remove(bench, list_id, 0, 3)
    bench.esp.out.add("p2@x.test")
    assert await bench.change(list_id, "update", person(2, "new@x.test"), "p2@x.test") == DELIVERED
    assert not {"p2@x.test", "new@x.test"} & await bench.mailable(list_id)


async def test_a_backlog_of_quiet_days_is_no_mass_removal(bench: Bench) -> None:
    """An outage does not make removals of many hours into those of one."""
    list_id = await filled(bench, 10)
    bench.esp.open.clear()
    asking = []
    for number in range(4):
        asking.append(asyncio.create_task(bench.change(list_id, "delete", person(number))))
        await bench.until_pending(number + 1)
        bench.clock.advance(HOUR_S)
    bench.esp.open.set()
    await asyncio.gather(*asking)
    await bench.until_delivered()
    assert len(await bench.mailable(list_id)) == 6


# Replicas


async def test_replicas_share_one_count_and_see_a_release(
    postgres: str, clock: DrivenClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    url = await new_database(postgres)
    first = Bench(url, clock)
    benches = [first, Bench(url, clock, first.place), Bench(url, clock, first.place)]
    for bench in benches:
        guarded(bench)
        await bench.start()
    list_id = await filled(first, 30)
    outcomes = await asyncio.gather(
        *(benches[number % 3].change(list_id, "delete", person(number)) for number in range(30))
    )
    assert [outcomes.count(DELIVERED), outcomes.count(HELD)] == [6, 24]
    assert await release(benches[1], list_id) == 24
    await first.until_delivered()
    assert await first.mailable(list_id) == set()
    await asyncio.gather(*(bench.stop() for bench in benches))


# Commands and settings


def run(*args: str) -> tuple[int, str]:
    result = CliRunner().invoke(main, args)
    return result.exit_code, result.stdout


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLANFIX_BRIDGE_CONFIG", raising=False)
    return tmp_path


def test_the_commands_show_and_release_what_is_held(folder: Path) -> None:
    config = replace(sandbox_config(), guard=Guard(removals_share=0.2, removals_free=1))
    [account] = config.accounts.values()

    async def work() -> None:
        async with Bridge(config) as bridge:
            await bridge.handle(account, CreateList("A"))
            people = [WireContact(str(number), f"p{number}@x.test", "Ö", None) for number in range(5)]
            await bridge.handle(account, ImportContacts("sandbox:1", list(people)))
            for each in people[:3]:
                await bridge.handle(account, UpdateContact("sandbox:1", "delete", each, None))

    asyncio.run(work())
    _, shown = run("pending")
    assert ["sandbox:1", "2"] in [line.split()[:2] for line in shown.splitlines()]
    assert "Removals held" in shown
    assert json.loads(run("pending", "--json")[1])["held"][0]["removals"] == 2
    assert "Too many removals at once" in run("problems")[1]
    [problem] = json.loads(run("problems", "--json")[1])
    assert (problem["public_id"], problem["reason"], problem["detail"]) == ("sandbox:1", "held", "2 removals")
    assert run("pending", "--release", "sandbox:7")[0] == 1
    assert run("pending", "--release", "sandbox:1") == (0, "sandbox:1: 2 removals go on.\n")
    assert run("pending", "--release", "sandbox") == (0, "Nothing is held there.\n")
    assert run("pending", "--release", "sandbox", "--json") == (0, "[]\n")
    assert run("problems")[1].startswith("No problems")
    with sqlite3.connect("data/bridge.db") as store:
        assert store.execute("SELECT count(*) FROM outbox").fetchone() == (2,)


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("", None),
        ("guard:", None),
        ("guard: {}", Guard()),
        ("guard: {removals_share: 0, removals_free: 0}", Guard(removals_share=0.0, removals_free=0)),
    ],
)
def test_the_guard_is_off_unless_the_settings_have_it(folder: Path, written: str, read: Guard | None) -> None:
    path = folder / "config.yaml"
    path.write_text(f"{written}\n{ACCOUNTS}")
    assert load(path).guard == read


@pytest.mark.parametrize("wrong", ["removals_share: 1", "removals_share: -0.1", "removals_free: -1", "within_s: 0"])
def test_settings_of_the_guard_that_make_no_sense_are_refused(folder: Path, wrong: str) -> None:
    path = folder / "config.yaml"
    path.write_text(f"guard: {{{wrong}}}\n{ACCOUNTS}")
    with pytest.raises(ConfigError, match=wrong.partition(":")[0]):
        load(path)
