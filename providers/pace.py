"""Keeping to the number of calls that a service allows in a time, by the numbers that the provider declares."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from aiolimiter import AsyncLimiter


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `calls` in `in_s` seconds."""

    calls: float
    in_s: float = 1.0


class Pace:
    """Lets calls go by bucket; all rates of a bucket hold, and those of the bucket "" hold for every call."""

    def __init__(self, rates: Mapping[str, Sequence[Rate]]) -> None:
        self._limiters = {
            bucket: [AsyncLimiter(rate.calls, rate.in_s) for rate in some] for bucket, some in rates.items()
        }

    async def turn(self, bucket: str = "") -> None:
        """Returns when a call may go."""
        for name in {"", bucket}:
            for limiter in self._limiters.get(name, ()):
                await limiter.acquire()
