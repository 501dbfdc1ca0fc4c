"""Bodies are read within limits of size, time and memory."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from types import SimpleNamespace
from typing import cast

import pytest
from aiohttp import web

from bridge.bodies import LARGE_AT_ONCE, LARGE_BYTES, Bodies

LARGE = b" " * (LARGE_BYTES + 1)
MAX_BYTES = 10 * LARGE_BYTES


class Sender:
    """A client: what it sends arrives at once, its body ends with an empty piece."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces: asyncio.Queue[bytes | Exception] = asyncio.Queue()
        self.send(*pieces)

    def send(self, *pieces: bytes | Exception) -> None:
        for piece in pieces:
            self._pieces.put_nowait(piece)

    async def readany(self) -> bytes:
        piece = await self._pieces.get()
        if isinstance(piece, Exception):
            raise piece
        return piece

    @property
    def request(self) -> web.Request:
        return cast("web.Request", SimpleNamespace(content=self))


async def read(bodies: Bodies, sender: Sender, within_s: float = 60.0) -> int:
    async with bodies.of(sender.request, MAX_BYTES, within_s) as body:
        return len(body)


async def passes() -> None:
    """Lets everybody go on as far as they can."""
    for _ in range(10):
        await asyncio.sleep(0)


@pytest.fixture
async def full() -> AsyncIterator[tuple[Bodies, list[Sender], list["asyncio.Task[int]"]]]:
    """As many large bodies as may be are under way."""
    bodies = Bodies()
    senders = [Sender(LARGE) for _ in range(LARGE_AT_ONCE)]
    reading = [asyncio.create_task(read(bodies, sender)) for sender in senders]
    await passes()
    yield bodies, senders, reading
    for task in reading:
        task.cancel()
    await asyncio.gather(*reading, return_exceptions=True)


Full = tuple[Bodies, list[Sender], list["asyncio.Task[int]"]]


async def test_a_body_is_read_in_pieces() -> None:
    bodies = Bodies()
    async with bodies.of(Sender(b"{", b'"a":', b"1}", b"").request, MAX_BYTES, 60.0) as body:
        assert body == b'{"a":1}'


async def test_one_large_body_too_many_waits_and_small_ones_do_not(full: Full) -> None:
    bodies, senders, reading = full
    late = asyncio.create_task(read(bodies, Sender(LARGE, b"")))
    await passes()
    assert not late.done()
    assert await read(bodies, Sender(b" " * LARGE_BYTES, b"")) == LARGE_BYTES
    senders[0].send(b"")
    assert await late == await reading[0] == len(LARGE)


@pytest.mark.parametrize("how", ["broken", "too large", "gone"])
async def test_whoever_fails_makes_room(full: Full, how: str) -> None:
    bodies, senders, reading = full
    late = asyncio.create_task(read(bodies, Sender(LARGE, b"")))
    match how:
        case "broken":
            senders[0].send(web.RequestPayloadError())
        case "too large":
            senders[0].send(b" " * MAX_BYTES)
        case "gone":
            reading[0].cancel()
    assert await late == len(LARGE)
    with pytest.raises((web.RequestPayloadError, web.HTTPRequestEntityTooLarge, asyncio.CancelledError)):
        await reading[0]


async def test_time_runs_while_a_body_comes_and_while_it_waits(full: Full) -> None:
    bodies, _, _ = full
    for sender in (Sender(b"{"), Sender(LARGE, b"")):
        with pytest.raises(web.HTTPRequestTimeout):
            await read(bodies, sender, within_s=0.01)


async def test_the_room_is_kept_while_the_body_is_in_use() -> None:
    bodies = Bodies()
    async with AsyncExitStack() as stack:
        for _ in range(LARGE_AT_ONCE):
            await stack.enter_async_context(bodies.of(Sender(LARGE, b"").request, MAX_BYTES, 60.0))
        late = asyncio.create_task(read(bodies, Sender(LARGE, b"")))
        await passes()
        assert not late.done()
    assert await late == len(LARGE)
