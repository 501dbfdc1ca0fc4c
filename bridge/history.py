"""What happened lately, counted by the minute for one day: in memory, for the charts of the status page."""

from collections import Counter
from typing import Final

from bridge.clock import Clock

MINUTE_S: Final = 60
DAY_MINUTES: Final = 24 * 60


class History:
    """Counts by name for each minute of the last day. They begin with this process and take no more room than a day."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self.began_at = clock.now()
        # The minute that each count is of; one that is not of the last day is as good as none.
        self._counts: list[tuple[int, Counter[str]]] = [(-DAY_MINUTES, Counter())] * DAY_MINUTES

    def count(self, name: str, times: int = 1) -> None:
        """It happened so many times, now."""
        minute = self._minute()
        place = minute % DAY_MINUTES
        if self._counts[place][0] != minute:
            self._counts[place] = (minute, Counter())
        self._counts[place][1][name] += times

    def spans(self, minutes: int, count: int) -> list[Counter[str]]:
        """What happened in the last `minutes`, in `count` equal spans, the oldest first. The present minute, which has
        not ended yet, is the last of them."""
        first = self._minute() - minutes + 1
        summed: list[Counter[str]] = [Counter() for _ in range(count)]
        for minute, counts in self._counts:
            if first <= minute < first + minutes:
                summed[(minute - first) * count // minutes].update(counts)
        return summed

    def _minute(self) -> int:
        return int(self._clock.now() // MINUTE_S)
