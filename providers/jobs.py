"""Work that a service does after its answer: following it to its end, and knowing what may still be under way."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TypeVar

from providers.contact import Postponed
from providers.errors import AuthFailed, ProviderError, RateLimited, Reason, Refused, Transient

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
        try:
            seen = await look()
        except ProviderError as error:
            error.job_goes_on = True
            raise
        if has_ended(seen):
            return seen
        wait_s = min(2 * wait_s, polling.longest_s)
    raise Overdue(f"a job of the service was not done after {polling.budget_s:g} s")


class UnderWay(ABC):
    """Addresses that a job whose end was not seen may yet put on a list. Who removes one of them now would remove
    nobody, and the job would bring the person back.

    Where they are kept is the subclass's: in memory, or where they outlive the process.
    """

    @asynccontextmanager
    async def job(self, list_id: str, addresses: Iterable[str], longest_s: float) -> AsyncIterator[None]:
        """Counts the addresses as under way, at most for `longest_s`, until the block ends well or in an error which
        means that the service has not begun."""
        asked = list(addresses)
        await self.begin(list_id, asked, longest_s)
        try:
            yield
        except (Refused, AuthFailed, RateLimited) as error:
            if not error.job_goes_on:
                await self.end(list_id, asked)
            raise
        await self.end(list_id, asked)

    async def waiting(self, list_id: str, people: Sequence[Sequence[str]]) -> list[Postponed | None]:
        """One outcome for each of `people`, who are lists of addresses: that of a change which must wait for a job with
        one of them; None when there is none."""
        left_s = await self.left_s(list_id, [address for addresses in people for address in addresses])
        return [_postponed(max((left_s.get(a.lower(), 0.0) for a in addresses), default=0.0)) for addresses in people]

    @abstractmethod
    async def begin(self, list_id: str, addresses: Sequence[str], longest_s: float) -> None:
        """From now on, for `longest_s`, these are under way."""

    @abstractmethod
    async def end(self, list_id: str, addresses: Sequence[str]) -> None:
        """These are not under way any more."""

    @abstractmethod
    async def left_s(self, list_id: str, addresses: Sequence[str]) -> dict[str, float]:
        """For how long those of the addresses that are under way may still be so, by address in small letters."""


def _postponed(left_s: float) -> Postponed | None:
    if left_s <= 0:
        return None
    detail = "an earlier upsert may still be under way at the service"
    return Postponed(min(left_s, WAIT_UNDER_WAY_S), Reason.CONTACT_REFUSED, detail)


class UnderWayInMemory(UnderWay):
    """Forgets all when the process ends."""

    def __init__(self) -> None:
        self._until_s: dict[tuple[str, str], float] = {}

    async def begin(self, list_id: str, addresses: Sequence[str], longest_s: float) -> None:
        now_s = time.monotonic()
        still = {key: until_s for key, until_s in self._until_s.items() if until_s > now_s}
        self._until_s = still | {(list_id, address.lower()): now_s + longest_s for address in addresses}

    async def end(self, list_id: str, addresses: Sequence[str]) -> None:
        for address in addresses:
            self._until_s.pop((list_id, address.lower()), None)

    async def left_s(self, list_id: str, addresses: Sequence[str]) -> dict[str, float]:
        now_s = time.monotonic()
        keys = {(list_id, address.lower()) for address in addresses}
        return {key[1]: self._until_s[key] - now_s for key in keys & self._until_s.keys()}
