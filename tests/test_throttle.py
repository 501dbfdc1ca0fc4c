"""Guessing tokens takes for ever, and a right token never suffers from another one's wrong tokens."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from msgspec.structs import replace

from bridge.texts import text
from bridge.throttle import BUSY_FROM, CLIENTS_KEPT, FORGET_AFTER_S, FREE_TRIES, LONGEST_WAIT_S, Throttle
from tests.clock import DrivenClock
from tests.http_bench import Answer, HttpBench
from tests.postbox import install

HERE = asyncio.Event()  # a client that does not hang up


async def waits(throttle: Throttle, clock: DrivenClock, client: str, account: str | None = None) -> float:
    """How long an answer is held back."""
    holding = asyncio.create_task(throttle.hold_back(client, account, HERE))
    waiting = asyncio.create_task(clock.until_waiting())
    await asyncio.wait({holding, waiting}, return_when=asyncio.FIRST_COMPLETED)
    if holding.done():
        waiting.cancel()
        return 0.0
    wait_s = await waiting
    clock.advance(wait_s)
    await holding
    return wait_s


@pytest.fixture
def throttle(clock: DrivenClock) -> Throttle:
    return Throttle(clock)


async def test_wrong_tokens_of_one_client_wait_longer_and_longer(throttle: Throttle, clock: DrivenClock) -> None:
    waited = [await waits(throttle, clock, "a") for _ in range(20)]
    assert waited[:FREE_TRIES] == [0.0] * FREE_TRIES
    assert waited[FREE_TRIES : FREE_TRIES + 5] == [0.5, 1, 2, 4, 8]
    assert set(waited[FREE_TRIES + 5 :]) == {LONGEST_WAIT_S}


async def test_others_do_not_wait(throttle: Throttle, clock: DrivenClock) -> None:
    for _ in range(20):
        await waits(throttle, clock, "a")
    assert await waits(throttle, clock, "b", "main") == 0
    assert await waits(throttle, clock, "b") == 0


async def test_a_right_token_waits_like_a_wrong_one_so_that_haste_tells_nothing(
    throttle: Throttle, clock: DrivenClock
) -> None:
    for _ in range(FREE_TRIES + 2):
        await waits(throttle, clock, "a")
    twice = [asyncio.create_task(throttle.hold_back("a", "main", HERE)) for _ in range(2)]
    assert await clock.until_waiting(2) == 2, "the same token sent twice at once tells no sooner"
    clock.advance(2)
    await asyncio.gather(*twice)
    assert await waits(throttle, clock, "a", "main") == 0, "it was right, which its sender knows now"


async def test_a_token_does_not_wait_where_one_of_its_account_was_right(throttle: Throttle, clock: DrivenClock) -> None:
    assert await waits(throttle, clock, "proxy", "main") == 0
    for _ in range(20):
        await waits(throttle, clock, "proxy")
    assert await waits(throttle, clock, "proxy", "main") == 0
    assert await waits(throttle, clock, "proxy", "other") == LONGEST_WAIT_S, "who has one token may not try others"


async def test_the_wrong_tokens_of_all_leave_no_free_tries(throttle: Throttle, clock: DrivenClock) -> None:
    for number in range(int(BUSY_FROM)):
        assert await waits(throttle, clock, f"client {number}") == 0
    assert await waits(throttle, clock, "client 0") == 0.5
    for number in range(500):
        await waits(throttle, clock, f"another {number}")
    assert await waits(throttle, clock, "another 0") == LONGEST_WAIT_S
    assert await waits(throttle, clock, "never wrong", "main") == 0
    clock.advance(FORGET_AFTER_S / 2)
    assert await waits(throttle, clock, "another 1") == 0, "the storm is over"


async def test_what_is_long_ago_is_forgotten(throttle: Throttle, clock: DrivenClock) -> None:
    for _ in range(20):
        await waits(throttle, clock, "a")
    clock.advance(FORGET_AFTER_S + 1)
    assert await waits(throttle, clock, "a") == 0


async def test_it_remembers_a_bounded_number_of_clients(throttle: Throttle, clock: DrivenClock) -> None:
    for number in range(CLIENTS_KEPT + 100):
        await throttle.hold_back(f"client {number}", f"account {number}", HERE)
        await throttle.hold_back(f"client {number}", None, HERE)
        clock.advance(60)
    assert len(throttle._tries) == len(throttle._right) == CLIENTS_KEPT


async def test_who_hangs_up_is_waited_for_no_longer(throttle: Throttle, clock: DrivenClock) -> None:
    for _ in range(FREE_TRIES):
        await waits(throttle, clock, "a")
    hung_up = asyncio.Event()
    holding = asyncio.create_task(throttle.hold_back("a", None, hung_up))
    await clock.until_waiting()
    hung_up.set()
    await holding


# Through the endpoint


@pytest.fixture
async def http(tmp_path: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[HttpBench]:
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    bench = HttpBench(f"sqlite:///{tmp_path / 'bridge.db'}", clock, trusted_proxies=("127.0.0.1",))
    await bench.start()
    yield bench
    await bench.stop()


def guess(http: HttpBench, number: int, **headers: str) -> "asyncio.Task[Answer]":
    return asyncio.create_task(http.post(http.body("createList", f"guess number {number}", listName="A"), **headers))


async def guesses(http: HttpBench, **headers: str) -> None:
    for number in range(FREE_TRIES):
        assert (await guess(http, number, **headers)).status == 401


async def test_a_guess_is_answered_late_with_401(http: HttpBench) -> None:
    await guesses(http)
    late = guess(http, 10)
    assert await http.clock.until_waiting() == 0.5
    assert not late.done()
    http.clock.advance(0.5)
    assert ((await late).status, (await late).body) == (401, {"error": text("unauthorized", "en")})


async def test_a_missing_token_is_no_guess(http: HttpBench) -> None:
    for _ in range(FREE_TRIES + 5):
        assert (await http.ask("createList", "", listName="A")).status == 401


async def test_planfix_does_not_notice_that_somebody_guesses_behind_the_same_proxy(http: HttpBench) -> None:
    theirs = {"X-Forwarded-For": "198.51.100.9"}
    await guesses(http, **theirs)
    held = [guess(http, number, **theirs) for number in range(20)]
    await http.clock.until_waiting(20)
    body = http.body("createList", listName="A")
    assert (await http.post(body, **{"X-Forwarded-For": "203.0.113.1"})).status == 200
    http.clock.advance(LONGEST_WAIT_S)
    assert {answer.status for answer in await asyncio.gather(*held)} == {401}


async def test_a_right_token_is_never_refused_though_all_come_from_one_address(http: HttpBench) -> None:
    """A proxy that nobody has declared, and an account that was not right yet since the start."""
    await http.stop()
    server = replace(http.config.server, trusted_proxies=())
    http.config = replace(http.config, server=server)
    await http.start()
    await guesses(http)
    held = [guess(http, number) for number in range(50)]
    await http.clock.until_waiting(50)
    right = asyncio.create_task(http.ask("createList", listName="A"))
    await http.clock.until_waiting(51)
    http.clock.advance(LONGEST_WAIT_S)
    assert (await right).status == 200
    assert (await http.ask("createList", listName="A")).status == 200, "from now on at once"
    assert {answer.status for answer in await asyncio.gather(*held)} == {401}


async def test_who_guesses_large_is_not_kept_in_memory_meanwhile(http: HttpBench) -> None:
    """More than may be read at one time: none of them waits for another's wait."""
    await guesses(http)
    large = json.dumps({"authToken": "guess", "data": "x" * 100_000}).encode()
    held = [asyncio.create_task(http.post(large)) for _ in range(10)]
    await http.clock.until_waiting(10)
    http.clock.advance(LONGEST_WAIT_S)
    assert {answer.status for answer in await asyncio.gather(*held)} == {401}


async def test_a_stop_answers_who_is_held_back(http: HttpBench) -> None:
    await guesses(http)
    async with aiohttp.ClientSession() as session:  # one that the stop of the bench does not close
        held = asyncio.ensure_future(session.post(http.url, data=http.body("createList", "a guess", listName="A")))
        await http.clock.until_waiting()
        await http.stop()
        async with await held as response:
            assert response.status == 401
    await http.start()
