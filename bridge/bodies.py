"""Bodies of requests, read within limits of size, time and memory: who sends one need not have a token."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aiohttp import web

LARGE_BYTES: Final = 64 * 1024
"""A larger body is an import, or nonsense."""
LARGE_AT_ONCE: Final = 4


class Bodies:
    """All bodies that are being read. Only so many large ones are in memory at one time; others wait to be read."""

    def __init__(self) -> None:
        self._room = asyncio.Semaphore(LARGE_AT_ONCE)

    @asynccontextmanager
    async def of(self, request: web.Request, max_bytes: int, within_s: float) -> AsyncIterator[bytes]:
        """The body of a request, unpacked; its room in memory is taken while the block runs.

        Raises HTTPRequestEntityTooLarge, HTTPRequestTimeout, RequestPayloadError for a broken one, or ConnectionError.
        """
        async with AsyncExitStack() as room:
            try:
                async with asyncio.timeout(within_s):
                    body = await self._read(request, max_bytes, room)
            except TimeoutError as error:
                raise web.HTTPRequestTimeout from error
            yield body

    async def _read(self, request: web.Request, max_bytes: int, room: AsyncExitStack) -> bytes:
        pieces: list[bytes] = []
        size_bytes = 0
        large = False
        while piece := await request.content.readany():
            pieces.append(piece)
            size_bytes += len(piece)
            if size_bytes > max_bytes:
                raise web.HTTPRequestEntityTooLarge(max_size=max_bytes, actual_size=size_bytes)
            if size_bytes > LARGE_BYTES and not large:
                large = True
                await room.enter_async_context(self._room)
        return b"".join(pieces)
