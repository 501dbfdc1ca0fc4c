"""Time, so that tests can drive it."""

import asyncio
import time
from contextlib import suppress


class Clock:
    """The machine's time."""

    def now(self) -> float:
        """Unix time in seconds."""
        return time.time()

    async def wait(self, event: asyncio.Event, timeout_s: float | None) -> None:
        """Returns when the event is set, or after `timeout_s`; None waits without end."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                await event.wait()
