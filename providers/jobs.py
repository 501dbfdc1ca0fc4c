"""Work that a service does after its answer: following it to its end, and knowing what may still be under way."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from providers.contact import Postponed
from providers.errors import AuthFailed, Reason, Refused, Transient

WAIT_UNDER_WAY_S = 60.0

R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Polling:
    """When a job is looked at: first after `first_s`, then after twice the wait before up to `longest_s`, as long as
    `budget_s` lasts."""

    first_s: float
    longest_s: float
    budget_s: float


class Overdue(Transient):
    """A job did not end within its budget."""


async def pause(seconds: float) -> None:
    """Waits between two looks at a job."""
    await asyncio.sleep(seconds)


async def follow(look: Callable[[], Awaitable[R]], has_ended: Callable[[R], bool], polling: Polling) -> R:
    """What `look` sees when the job has ended; raises Overdue when that is not within the budget."""
    waited_s = 0.0
    wait_s = polling.first_s
    while waited_s + wait_s <= polling.budget_s:
        await pause(wait_s)
        waited_s += wait_s
        seen = await look()
        if has_ended(seen):
            return seen
        wait_s = min(2 * wait_s, polling.longest_s)
    raise Overdue(f"a job of the service was not done after {polling.budget_s:g} s")


class UnderWay:
    """Addresses that a job whose end was not seen may yet put on a list. Who removes one of them now would remove
    nobody, and the job would bring the person back."""

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s  # after which no job is believed to be still running
        self._until_s: dict[tuple[str, str], float] = {}

    @asynccontextmanager
    async def job(self, list_id: str, addresses: Iterable[str]) -> AsyncIterator[None]:
        """Counts the addresses as under way until the block ends well, or ends in a refusal: the service has not
        begun then."""
        keys = [(list_id, address.lower()) for address in addresses]
        now_s = time.monotonic()
        still = {key: until_s for key, until_s in self._until_s.items() if until_s > now_s}
        self._until_s = still | dict.fromkeys(keys, now_s + self._longest_s)
        try:
            yield
        except (AuthFailed, Refused):
            self._ended(keys)
            raise
        self._ended(keys)

    def waiting(self, list_id: str, addresses: Iterable[str]) -> Postponed | None:
        """The outcome of a change that must wait for a job with one of these addresses; None when there is none."""
        now_s = time.monotonic()
        until_s = max((self._until_s.get((list_id, a.lower()), now_s) for a in addresses), default=now_s)
        if until_s <= now_s:
            return None
        wait_s = min(until_s - now_s, WAIT_UNDER_WAY_S)
        return Postponed(wait_s, Reason.CONTACT_REFUSED, "an earlier upsert may still be under way at the service")

    def _ended(self, keys: Iterable[tuple[str, str]]) -> None:
        for key in keys:
            self._until_s.pop(key, None)
