"""Wrong tokens are answered later and later, so that nobody finds a right one by trying.

A wait that only wrong tokens had would help little: whoever tries many at once would hang up as soon as the answer does
not come at once. So a client that was wrong too often waits with a right token too. Then every try costs one of the
connections for all of the wait, however it ends.

Nobody is refused, and nobody waits for another one's wrong tokens:

- a client that was not wrong lately never waits;
- a token does not wait where one of its account was right before. So Planfix does not, when all requests come from one
  address because a proxy is not among `server.trusted_proxies`.
"""

import asyncio
import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

from bridge.clock import Clock

FREE_TRIES: Final = 5
"""So many wrong tokens of a client are answered at once: somebody types."""
BUSY_FROM: Final = 100.0
"""From so many wrong tokens of all clients, not older than some minutes, none of theirs is free."""
DOUBLES_EVERY: Final = 50.0
HALF_LIFE_S: Final = 60.0
FIRST_WAIT_S: Final = 0.5
LONGEST_WAIT_S: Final = 10.0
FORGET_AFTER_S: Final = 15 * 60.0
CLIENTS_KEPT: Final = 10_000


@dataclass(slots=True)
class _Tries:
    """Wrong tokens of one client, and the Unix time of the last one."""

    count: int
    last_at: float


class Throttle:
    """Remembers the clients that were wrong lately, and where tokens were right; `CLIENTS_KEPT` of each."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._tries: OrderedDict[str, _Tries] = OrderedDict()  # the longest ago comes first
        self._right: OrderedDict[tuple[str, str], None] = OrderedDict()
        self._all = 0.0  # wrong tokens of all clients; halves every HALF_LIFE_S
        self._all_at = clock.now()

    async def hold_back(self, client: str, account: str | None, hung_up: asyncio.Event) -> None:
        """Takes note of whose token a client has shown, None for a wrong one, and returns when to answer.

        Returns at once when the client has `hung_up`.
        """
        wait_s = 0.0 if (client, account) in self._right else self._wait_s(client)
        if account is None:
            self._note_wrong(client)
        if wait_s:
            await self._clock.wait(hung_up, wait_s)
        if account is not None:  # only now: the same token sent once more must not tell sooner
            self._right[client, account] = None
            self._right.move_to_end((client, account))
            if len(self._right) > CLIENTS_KEPT:
                self._right.popitem(last=False)

    def _wait_s(self, client: str) -> float:
        tries = self._tries.get(client)
        if tries is None or tries.last_at < self._clock.now() - FORGET_AFTER_S:
            return 0.0
        doublings: float = max(tries.count - FREE_TRIES, (self._lately() - BUSY_FROM) / DOUBLES_EVERY)
        # A small bound on the exponent: a client may go on for long.
        return min(LONGEST_WAIT_S, FIRST_WAIT_S * math.exp2(min(doublings, 10.0))) if doublings >= 0 else 0.0

    def _note_wrong(self, client: str) -> None:
        now = self._clock.now()
        self._all, self._all_at = self._lately() + 1, now
        tries = self._tries.pop(client, None)
        count = tries.count if tries is not None and tries.last_at >= now - FORGET_AFTER_S else 0
        self._tries[client] = _Tries(count + 1, now)
        if len(self._tries) > CLIENTS_KEPT:
            self._tries.popitem(last=False)

    def _lately(self) -> float:
        return self._all * math.exp2((self._all_at - self._clock.now()) / HALF_LIFE_S)
