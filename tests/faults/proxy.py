"""A small HTTP proxy that spoils the way between a provider and its fake service."""

import asyncio
import enum
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import urlsplit, urlunsplit

LATENCY_S = 0.1
DRIP_S = 0.05


class Spoil(enum.Enum):
    """What becomes of one request. Where it says "acts" the service has done its work before anything goes wrong."""

    LATENCY = "each way takes its time"
    RESET_IN_REQUEST = "the connection is reset before the service has seen all of the request"
    RESET_IN_ANSWER = "acts; the connection is reset in the middle of the answer"
    HALF_OPEN = "accepted, never answered"
    SLOW_BODY = "acts; the answer's body comes byte by byte and never ends"
    CUT_JSON = "acts; half of the answer's JSON, with a length that fits"
    GARBAGE = "bytes that are no HTTP"
    STORM = "429 without a hint"
    STORM_WITH_HINT = "429 with Retry-After"


_TOO_MANY = b"HTTP/1.1 429 Too Many Requests\r\n%sContent-Length: 2\r\nConnection: close\r\n\r\n{}"
_CANNED = {
    Spoil.GARBAGE: bytes(range(256)) * 4,
    Spoil.STORM: _TOO_MANY % b"",
    Spoil.STORM_WITH_HINT: _TOO_MANY % b"Retry-After: 7\r\n",
}


class FaultProxy:
    """Stands at `url` before the service at `target_url`; use it as an async context manager.

    `spoil` spoils the next requests; the others pass. One connection carries one request, so no fault hits another.
    """

    def __init__(self, target_url: str) -> None:
        self._target = urlsplit(target_url)
        self._coming: list[Spoil] = []
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._port = 0
        self.spoiled = 0

    @property
    def url(self) -> str:
        return urlunsplit(self._target._replace(netloc=f"127.0.0.1:{self._port}"))

    @property
    def coming(self) -> int:
        """How many faults have not come up yet."""
        return len(self._coming)

    def spoil(self, how: Spoil, times: int = 1) -> None:
        self._coming += [how] * times

    async def __aenter__(self) -> "FaultProxy":
        await self._listen()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._close()

    @asynccontextmanager
    async def refusing(self) -> AsyncIterator[None]:
        """Nobody listens while the block runs."""
        await self._close()
        try:
            yield
        finally:
            await self._listen()

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", self._port)
        self._port = self._server.sockets[0].getsockname()[1]

    async def _close(self) -> None:
        if self._server is not None:
            self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            await self._serve(reader, writer)
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            writer.transport.abort()  # the client, the service or the test has gone away
        finally:
            writer.close()
            self._connections.discard(task)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        how = self._coming.pop(0) if self._coming else None
        self.spoiled += how is not None
        if how is Spoil.RESET_IN_REQUEST:
            writer.transport.abort()
            return
        body = await reader.readexactly(_length(head))
        if how is Spoil.HALF_OPEN:
            await reader.read()  # until the client gives up
            return
        if how in _CANNED:
            writer.write(_CANNED[how])
            await writer.drain()
            return
        if how is Spoil.LATENCY:
            await asyncio.sleep(LATENCY_S)
        status, answer = await self._ask(head, body)
        if how is Spoil.LATENCY:
            await asyncio.sleep(LATENCY_S)
        await self._answer(how, status, answer, writer)

    async def _ask(self, head: bytes, body: bytes) -> tuple[bytes, bytes]:
        """Hands a request on: the answer's head and body."""
        reader, writer = await asyncio.open_connection(self._target.hostname, self._target.port)
        try:
            writer.write(_one_shot(head) + body)
            answer = await reader.readuntil(b"\r\n\r\n")
            return answer, await reader.readexactly(_length(answer))
        finally:
            writer.close()

    async def _answer(self, how: Spoil | None, head: bytes, body: bytes, writer: asyncio.StreamWriter) -> None:
        match how:
            case Spoil.RESET_IN_ANSWER:
                whole = head + body
                writer.write(whole[: len(whole) // 2])
                await writer.drain()
                writer.transport.abort()
            case Spoil.SLOW_BODY:
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 1000000\r\n\r\n")
                while True:
                    writer.write(b" ")
                    await writer.drain()
                    await asyncio.sleep(DRIP_S)
            case Spoil.CUT_JSON:
                cut = body[: max(1, len(body) // 2)] or b'{"cut": "he'
                start = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close\r\n"
                writer.write(start + b"Content-Length: %d\r\n\r\n" % len(cut) + cut)
                await writer.drain()
            case _:
                writer.write(_one_shot(head) + body)
                await writer.drain()


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _one_shot(head: bytes) -> bytes:
    lines = [line for line in head.split(b"\r\n") if line and not line.lower().startswith(b"connection:")]
    return b"\r\n".join([*lines, b"Connection: close", b"", b""])
