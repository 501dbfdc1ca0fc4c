"""Keeping to the number of calls that a service allows in a time, by the numbers that the provider declares."""

import asyncio
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `calls` in any `in_s` seconds."""

    calls: int
    in_s: float = 1.0


class Pace:
    """Lets calls go by bucket; all rates of a bucket hold, and those of the bucket "" hold for every call.

    A rate holds in every window of its length. A leaky bucket, as the libraries have it, lets nearly twice as many go.
    """

    def __init__(self, rates: Mapping[str, Sequence[Rate]]) -> None:
        self._windows = {bucket: [_Window(rate) for rate in some] for bucket, some in rates.items()}

    async def turn(self, bucket: str = "") -> None:
        """Returns when a call may go."""
        windows = [window for name in {"", bucket} for window in self._windows.get(name, ())]
        now_s = asyncio.get_running_loop().time
        while (  # noqa: ASYNC110 - what is waited for is the time, which has no event
            free_at_s := max((window.free_at_s() for window in windows), default=0.0)
        ) > now_s():
            await asyncio.sleep(free_at_s - now_s())
        for window in windows:
            window.went_s.append(now_s())


class _Window:
    """When the last calls of one rate went, the oldest first."""

    def __init__(self, rate: Rate) -> None:
        self.went_s: deque[float] = deque(maxlen=rate.calls)
        self._in_s = rate.in_s

    def free_at_s(self) -> float:
        """When another call may go, by the clock of the loop; 0 when it may at once."""
        return self.went_s[0] + self._in_s if len(self.went_s) == self.went_s.maxlen else 0.0
