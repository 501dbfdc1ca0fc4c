"""Work that a service does after its answer: following it to its end, and knowing what may still be under way."""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import TypeAlias, TypeVar
from uuid import uuid4

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


@dataclass(frozen=True, slots=True)
class Job:
    """A job that may yet put people on a list, at most for `left_s`. `job_id` is the service's, None when that was not
    told; `holds` says whether an address, in small letters, is among the people."""

    key: str
    job_id: str | None
    left_s: float
    holds: Callable[[str], bool]


KnownAs: TypeAlias = Callable[[str], Awaitable[None]]
"""To be told the service's id of a job that has started."""


class UnderWay(ABC):
    """Jobs whose end was not seen, by the addresses that they may yet put on a list. Who removes one of them now would
    remove nobody, and the job would bring the person back.

    Where they are kept is the subclass's: in memory, or where they outlive the process.
    """

    def __init__(self) -> None:
        self._followed: set[str] = set()

    @asynccontextmanager
    async def job(self, list_id: str, addresses: Iterable[str], longest_s: float) -> AsyncIterator[KnownAs]:
        """Counts the addresses as under way, at most for `longest_s`, until the block ends well or in an error which
        means that the service has not begun."""
        key, asked = uuid4().hex, [address.lower() for address in addresses]
        await self.begin(key, list_id, asked, longest_s)
        self._followed.add(key)
        try:
            yield partial(self.known_as, key)
            await self._forget_lost(list_id, asked)
            await self.end(key)
        except (Refused, AuthFailed, RateLimited) as error:
            if not error.job_goes_on:
                await self.end(key)
            raise
        finally:
            self._followed.remove(key)

    async def waiting(
        self, list_id: str, people: Sequence[Sequence[str]], has_ended: Callable[[str], Awaitable[bool]]
    ) -> list[Postponed | None]:
        """One outcome for each of `people`, who are lists of addresses: that of a change which must wait for a job with
        one of them; None when there is none. The service is asked by `has_ended`, with the job's id, for one that
        nobody here follows: the bridge that started it is gone, or gave it up."""
        wanted = [[address.lower() for address in addresses] for addresses in people]
        jobs = [job for job in await self.of_list(list_id) if any(map(job.holds, chain.from_iterable(wanted)))]
        jobs = [job for job in jobs if not await self._is_over(job, has_ended)]
        return [
            _postponed(max((job.left_s for job in jobs if any(map(job.holds, addresses))), default=0.0))
            for addresses in wanted
        ]

    async def _is_over(self, job: Job, has_ended: Callable[[str], Awaitable[bool]]) -> bool:
        if job.job_id is None or job.key in self._followed:
            return False
        try:
            is_over = await has_ended(job.job_id)
        except Refused:  # the service may forget jobs; the change that waits is not to be refused for it
            return False
        if is_over:
            await self.end(job.key)
        return is_over

    async def _forget_lost(self, list_id: str, addresses: Collection[str]) -> None:
        """Where no answer told the job's id, the repeat stands for it: its end is the end of both."""
        for job in await self.of_list(list_id):
            if job.job_id is None and job.key not in self._followed and any(map(job.holds, addresses)):
                await self.leave_out(job.key, addresses)

    @abstractmethod
    async def begin(self, key: str, list_id: str, addresses: Sequence[str], longest_s: float) -> None:
        """From now on, for `longest_s`, there is this job with these addresses, which are in small letters."""

    @abstractmethod
    async def known_as(self, key: str, job_id: str) -> None:
        """The service calls the job so."""

    @abstractmethod
    async def end(self, key: str) -> None:
        """The job is over."""

    @abstractmethod
    async def leave_out(self, key: str, addresses: Collection[str]) -> None:
        """These addresses are none of the job's any more."""

    @abstractmethod
    async def of_list(self, list_id: str) -> Sequence[Job]:
        """The jobs that are not over."""


def _postponed(left_s: float) -> Postponed | None:
    if left_s <= 0:
        return None
    detail = "an earlier upsert may still be under way at the service"
    return Postponed(min(left_s, WAIT_UNDER_WAY_S), Reason.CONTACT_REFUSED, detail)


class UnderWayInMemory(UnderWay):
    """Forgets all when the process ends."""

    def __init__(self) -> None:
        super().__init__()
        self._jobs: dict[str, tuple[str, float, set[str]]] = {}  # by key: list, until when, addresses
        self._ids: dict[str, str] = {}

    async def begin(self, key: str, list_id: str, addresses: Sequence[str], longest_s: float) -> None:
        now_s = time.monotonic()
        self._jobs = {key: job for key, job in self._jobs.items() if job[1] > now_s}
        self._jobs[key] = list_id, now_s + longest_s, set(addresses)

    async def known_as(self, key: str, job_id: str) -> None:
        self._ids[key] = job_id

    async def end(self, key: str) -> None:
        self._jobs.pop(key, None)
        self._ids.pop(key, None)

    async def leave_out(self, key: str, addresses: Collection[str]) -> None:
        self._jobs[key][2].difference_update(addresses)

    async def of_list(self, list_id: str) -> Sequence[Job]:
        now_s = time.monotonic()
        return [
            Job(key, self._ids.get(key), until_s - now_s, addresses.__contains__)
            for key, (of, until_s, addresses) in self._jobs.items()
            if of == list_id and until_s > now_s
        ]
