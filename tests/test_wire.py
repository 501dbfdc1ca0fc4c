"""Clients that are slow, many, or write HTTP in their own way: each is answered in JSON, and none holds others up."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from bridge.protocol import HEADERS_MAX
from bridge.texts import text
from bridge.throttle import FREE_TRIES
from tests.clock import DrivenClock
from tests.http_bench import HttpBench
from tests.postbox import install
from tests.raw_http import connected, create, post, sent

Opener = Callable[..., Awaitable[HttpBench]]
SHORT_S = 0.3
TOO_SLOW = {"error": text("too_slow", "en")}


@pytest.fixture
async def open_http(tmp_path: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opener]:
    """Starts a bridge with these settings of `server`; it still works when the test is over."""
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    opened: list[HttpBench] = []

    async def start(**server: Any) -> HttpBench:
        bench = HttpBench(f"sqlite:///{tmp_path / 'bridge.db'}", clock, **server)
        await bench.start()
        opened.append(bench)
        return bench

    yield start
    for bench in opened:
        assert (await bench.ask("createList", listName="it lives")).status == 200
        await bench.stop()


@pytest.fixture
async def http(open_http: Opener) -> HttpBench:
    return await open_http()


# Slow clients


@pytest.mark.parametrize(
    "begun",
    [b"P", b"POST /planfix HTTP/1.1\r\n", b"POST /planfix HTTP/1.1\r\nHost: bridge\r\nX-Slow: a", b"\r\n"],
)
async def test_a_head_that_does_not_end_is_told_and_hung_up_on(open_http: Opener, begun: bytes) -> None:
    http = await open_http(receive_within_s=SHORT_S)
    async with connected(http) as wire:
        await wire.send(begun)
        answer = await wire.answer()
        assert (answer.status, answer.body) == (408, TOO_SLOW)
        assert await wire.rest() == b""


async def test_a_head_that_comes_in_drops_has_no_more_time(open_http: Opener) -> None:
    http = await open_http(receive_within_s=SHORT_S)
    async with connected(http) as wire:
        answering = asyncio.create_task(wire.answer())
        await wire.send(b"POST /planfix HTTP/1.1\r\n")
        while not answering.done():
            await wire.send(b"X: y\r\n")
            await asyncio.wait({answering}, timeout=SHORT_S / 10)
        assert (await answering).status == 408


@pytest.mark.parametrize("length", [True, False], ids=["with a length", "in chunks"])
async def test_a_body_that_does_not_end_is_told_and_hung_up_on(open_http: Opener, length: bool) -> None:
    http = await open_http(receive_within_s=SHORT_S)
    whole = post(create(http)) if length else post(b"", "Transfer-Encoding: chunked", length=False) + b"5\r\n{    \r\n"
    async with connected(http) as wire:
        await wire.send(whole[:-1])
        answer = await wire.answer()
        assert (answer.status, answer.body) == (408, TOO_SLOW)
        assert await wire.rest() == b""
    assert http.esp.calls == []


async def test_a_body_that_comes_in_drops_has_no_more_time(open_http: Opener) -> None:
    http = await open_http(receive_within_s=SHORT_S)
    async with connected(http) as wire:
        answering = asyncio.create_task(wire.answer())
        await wire.send(post(b" " * 1000)[:-1000])
        while not answering.done():
            await wire.send(b" ")
            await asyncio.wait({answering}, timeout=SHORT_S / 10)
        assert (await answering).status == 408


async def test_the_time_to_arrive_is_not_the_time_to_answer(open_http: Opener) -> None:
    """A request that waits for the email service longer than it may take to arrive."""
    http = await open_http(receive_within_s=SHORT_S)
    http.esp.open.clear()
    async with connected(http) as wire:
        body = create(http)
        await wire.send(post(body)[: -len(body)], body)
        await http.esp.until_called("find_list")
        async with connected(http) as slow:  # whose time is over later than that of the first one
            await slow.send(b"POST")
            assert (await slow.answer()).status == 408
        http.esp.open.set()
        assert (await wire.answer()).status == 200
        await wire.send(post(create(http)))
        assert (await wire.answer()).status == 200, "and the connection goes on"


async def test_who_says_nothing_is_hung_up_on(open_http: Opener) -> None:
    http = await open_http(idle_s=SHORT_S)
    async with connected(http) as silent:
        assert await silent.rest() == b""
    async with connected(http) as done:
        await done.send(post(create(http)))
        assert (await done.answer()).status == 200
        assert await done.rest() == b""


# Many clients


async def test_one_connection_too_many_is_told_and_the_next_one_after_a_goodbye_is_taken(open_http: Opener) -> None:
    http = await open_http(max_connections=3)
    async with AsyncExitStack() as stack:
        wires = [await stack.enter_async_context(connected(http)) for _ in range(3)]
        for wire in wires:
            await wire.send(post(create(http)))
            assert (await wire.answer()).status == 200
        async with connected(http) as wire:
            answer = await wire.answer()
            assert (answer.status, answer.body) == (503, {"error": text("busy", "en")})
            assert await wire.rest() == b""
        wires[0].writer.close()
        while await status_or_none(http) != 200:
            """The server tells nobody when it has noticed."""


async def status_or_none(http: HttpBench) -> int | None:
    """None: hung up on before the answer was read."""
    try:
        return (await sent(http, post(create(http)))).status
    except (ConnectionError, asyncio.IncompleteReadError):
        return None


async def test_large_bodies_of_strangers_leave_their_room_to_the_next(http: HttpBench) -> None:
    assert (await sent(http, post(create(http)))).status == 200  # from now on a right token never waits
    stranger = post(json.dumps({"authToken": "a guess", "data": [[]] * 100_000}).encode())
    answers = await asyncio.gather(*(sent(http, stranger) for _ in range(FREE_TRIES)))
    assert {answer.status for answer in answers} == {401}
    assert (await sent(http, post(create(http) + b" " * 1_000_000))).status == 200


# HTTP in other ways


async def test_headers_are_counted(http: HttpBench) -> None:
    few = [f"X-{number}: y" for number in range(HEADERS_MAX // 2)]
    assert (await sent(http, post(create(http), *few))).status == 200
    assert (await sent(http, post(create(http), *few * 3))).status == 400


@pytest.mark.parametrize(
    ("head", "statuses"),
    [
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\n{}", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nContent-Length: +2\r\n\r\n{}", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nContent-Length: 0x2\r\n\r\n{}", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nContent-Length: 2, 2\r\n\r\n{}", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nContent-Length : 2\r\n\r\n{}", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nContent-Length: 99999999999999999999\r\n\r\n{}", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n\r\n", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n" + b"f" * 20 + b"\r\n", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}x\r\n0\r\n\r\n", {400}),
        (b"POST /plan\x00fix HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}", {400}),
        (b"POST /planfix\x01 HTTP/1.1\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nX\x00: y\r\nContent-Length: 2\r\n\r\n{}", {400}),
        (b"POST /planfix HTTP/1.1\r\nHost: a\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}", {400}),
        (b"POST /planfix HTTP/2.0\r\nHost: b\r\nContent-Length: 2\r\n\r\n{}", {400, 401}),
        (b"GET /planfix\r\n\r\n", {400, 405}),  # HTTP/0.9
        (b"POST /planfix HTTP/1.1\nHost: b\nContent-Length: 2\n\n{}", {400, 401}),  # lines without CR
        (b"POST /planfix HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", {400}),
        (b"GET /planfix HTTP/1.1\r\nHost: b\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n", {400, 405}),
    ],
    ids=lambda value: ascii(value[:90].decode("latin-1")) if isinstance(value, bytes) else "",
)
async def test_what_proxies_might_read_otherwise_is_refused(http: HttpBench, head: bytes, statuses: set[int]) -> None:
    assert (await sent(http, head)).status in statuses
    assert http.esp.calls == []


@pytest.mark.parametrize(
    "front",
    [
        b"POST /planfix HTTP/1.1\r\nHost: b\r\nContent-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\nContent-Length: %d\r\n\r\n0\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nHost: b\r\nContent-Length: 0\r\nContent-Length: %d\r\n\r\n",
        b"POST /planfix HTTP/1.1\r\nHost: b\r\nTransfer-Encoding: chunked\r\nTransfer-Encoding: x%d\r\n\r\n0\r\n\r\n",
    ],
)
async def test_a_request_hidden_behind_another_one_is_never_carried_out(http: HttpBench, front: bytes) -> None:
    hidden = post(create(http, "smuggled"))
    async with connected(http) as wire:
        await wire.send(front % len(hidden) + hidden)
        assert (await wire.answer()).status == 400
        assert await wire.rest() == b""
    assert http.esp.names == {}


async def test_a_request_inside_a_body_is_only_a_body(http: HttpBench) -> None:
    async with connected(http) as wire:
        await wire.send(post(post(create(http, "inside"))) + post(create(http, "after")))
        assert [(await wire.answer()).status for _ in range(2)] == [400, 200]
    assert list(http.esp.names.values()) == ["after"]


async def test_a_hundred_requests_at_once_on_one_connection_are_answered_in_order(http: HttpBench) -> None:
    async with connected(http) as wire:
        await wire.send(b"".join(post(http.body("deleteList", listId=f"x:{n}") if n % 2 else b"{") for n in range(100)))
        assert [(await wire.answer()).status for _ in range(100)] == [400, 200] * 50


async def test_http_1_0_is_answered_and_hung_up_on(http: HttpBench) -> None:
    body = create(http)
    async with connected(http) as wire:
        await wire.send(b"POST /planfix HTTP/1.0\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        assert (await wire.answer()).body == {"success": True, "listId": "memory:1"}
        assert await wire.rest() == b""
    async with connected(http) as wire:
        await wire.send(b"POST /planfix HTTP/1.0\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\n{}")
        assert (await wire.answer()).status == 401
        await wire.send(post(body))
        assert (await wire.answer()).status == 200


@pytest.mark.parametrize("target", ["http://bridge/planfix", "http://other.example:80/planfix?x=y", "/planfix/?%00#"])
async def test_a_whole_url_is_as_good_as_a_path(http: HttpBench, target: str) -> None:
    assert (await sent(http, post(create(http), path=target))).status == 200


async def test_whoever_closes_their_side_is_taken_for_gone_and_the_request_is_carried_out(http: HttpBench) -> None:
    async with connected(http) as wire:
        await wire.send(post(create(http)))
        wire.writer.write_eof()
        assert await wire.rest() == b""
        await http.esp.until_called("create_list")


async def test_chunks_may_have_extensions_and_trailers(http: HttpBench) -> None:
    body = create(http)
    chunks = b'%x;a="b"\r\n%s\r\n0\r\nX-Trailer: y\r\n\r\n' % (len(body), body)
    async with connected(http) as wire:
        await wire.send(post(b"", "Transfer-Encoding: chunked", length=False) + chunks + post(body))
        assert [(await wire.answer()).status for _ in range(2)] == [200, 200]


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"\x00", "malformed"),
        (b'{"data": "\x00"}', "malformed"),
        (b"\xff\xfe\x00\x00", "not_utf8"),
        (b'{"a": 1e999999999, "data": ' + b"9" * 100_000 + b"}", "unauthorized"),
        (b'{"authToken": "' + b"a" * 1_000_000 + b'"}', "unauthorized"),
        (b"{" * 1_000_000, "malformed"),
        (b'{"a":' * 300_000, "too_deep"),
        (b"[" * 1_000_000, "malformed"),
        (b"&" * 1_000_000, "malformed"),
        (b"%" * 1_000_000, "malformed"),
        (b"a=" + b"%C0%AF" * 1000, "not_utf8"),
    ],
    ids=lambda value: ascii(value[:20].decode("latin-1")) if isinstance(value, bytes) else value,
)
async def test_odd_bodies_of_strangers(http: HttpBench, body: bytes, code: str) -> None:
    answer = await sent(http, post(body))
    assert answer.body == {"error": text(code, "en")}


async def test_what_is_packed_twice_or_in_pieces_is_refused(http: HttpBench) -> None:
    packed = gzip.compress(create(http))
    for headers, body in (
        (["Content-Encoding: gzip, gzip"], gzip.compress(packed)),
        (["Content-Encoding: gzip"], packed[: len(packed) // 2]),
        (["Content-Encoding: gzip"], b""),
    ):
        assert 400 <= (await sent(http, post(body, *headers))).status < 500
    assert http.esp.calls == []
