"""HTTP by hand: one connection on which a test writes what it likes."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from tests.http_bench import Answer, HttpBench, assert_one_shape


class Wire:
    """One connection on which a test writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def send(self, *pieces: bytes) -> None:
        for piece in pieces:
            self.writer.write(piece)
            await self.writer.drain()

    async def head(self) -> list[str]:
        """The lines before the next body."""
        return (await self._reader.readuntil(b"\r\n\r\n")).decode("latin-1").rstrip().split("\r\n")

    async def answer(self, *, of_head: bool = False) -> Answer:
        """The next answer. Raises IncompleteReadError when there is none."""
        status_line, *lines = await self.head()
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        status = int(status_line.split()[1])
        assert headers["server"] == "planfix-bridge"
        content = b"" if of_head else await self._reader.readexactly(int(headers["content-length"]))
        answer = Answer(status, headers["content-type"], content)
        if not of_head:
            assert_one_shape(answer)
        return answer

    async def rest(self) -> bytes:
        """What comes until the server hangs up."""
        return await self._reader.read()


@asynccontextmanager
async def connected(http: HttpBench) -> AsyncIterator[Wire]:
    reader, writer = await asyncio.open_connection("127.0.0.1", http.port)
    try:
        yield Wire(reader, writer)
    finally:
        writer.transport.abort()


async def sent(http: HttpBench, *pieces: bytes) -> Answer:
    async with connected(http) as wire_:
        await wire_.send(*pieces)
        return await wire_.answer()


def post(body: bytes, *headers: str, path: str = "/planfix", length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", "Host: bridge", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


def create(http: HttpBench, name: str = "A") -> bytes:
    return http.body("createList", listName=name)
