"""A clock that stands still until a test moves it."""

import asyncio

from bridge.clock import Clock


class DrivenClock(Clock):
    """Waits end by their event, or when `advance` passes their end. `waits` tells how long somebody waits now."""

    def __init__(self) -> None:
        self._now = 1_800_000_000.0
        self._waiting: dict[asyncio.Event, float] = {}
        self._changed = asyncio.Event()

    def now(self) -> float:
        return self._now

    async def wait(self, event: asyncio.Event, timeout_s: float | None) -> None:
        if timeout_s is None:
            await event.wait()
            return
        over = asyncio.Event()
        self._waiting[over] = self._now + timeout_s
        self._changed.set()
        tasks = [asyncio.create_task(event.wait()), asyncio.create_task(over.wait())]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            del self._waiting[over]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def until_waiting(self, waits: int = 1) -> float:
        """Returns when so many wait for time to pass: how many seconds the shortest wait still has."""
        while len(self._ends()) < waits:
            self._changed.clear()
            await self._changed.wait()
        return min(self._ends()) - self._now

    def advance(self, seconds: float) -> None:
        """Lets time pass."""
        self._now += seconds
        for over, ends_at in self._waiting.items():
            if ends_at <= self._now:
                over.set()

    def skip(self) -> None:
        """Lets the shortest wait end now, if somebody waits."""
        if self._ends():
            self.advance(min(self._ends()) - self._now)

    def _ends(self) -> list[float]:
        return [ends_at for over, ends_at in self._waiting.items() if not over.is_set()]
