"""Delivery: takes what is due from the outbox, has it carried to the provider, and tries again what failed.

Providers only say what kind an error is; what follows from it is decided here and nowhere else.
"""

import asyncio
import contextvars
import enum
from dataclasses import dataclass
from typing import Any

import structlog
from tenacity import AsyncRetrying, RetryCallState, wait_random_exponential

from bridge.carrier import Carrier
from bridge.clock import Clock
from bridge.metrics import Metrics
from bridge.provider_pool import ProviderPool
from bridge.replicas import ProviderSeen, Replicas
from bridge.schedule import Batch, Schedule
from bridge.store import Store
from bridge.tickets import Tickets
from providers.base import (
    AuthFailed,
    Provider,
    ProviderError,
    Transient,
)

BACKOFF_MIN_S = 0.3
BACKOFF_MAX_S = 15 * 60.0
AUTH_RETRY_S = 15 * 60.0
KEEPS_A_PLACE_FROM = 4
"""Of so many calls at one time one is never a further call of a list: single changes to others go beside an import."""

NOTICED_AFTER_S = 5.0
"""A wait longer than this is an outage at once; a shorter one becomes an outage when the next try fails too."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class State(enum.StrEnum):
    """How a courier saw its provider last."""

    UP = "up"
    DOWN = "down"
    KEY_REFUSED = "key_refused"


@dataclass(frozen=True, slots=True)
class Health:
    """`since` is a Unix time; `detail` is for the people who run the bridge, and safe."""

    state: State
    since: float
    detail: str = ""


class Courier:
    """Delivers the changes of one account to one provider until it is stopped.

    A change leaves the outbox only when its outcome is recorded. While the provider is away or refuses the key,
    `health` says so and nobody is left waiting for an outcome.
    """

    def __init__(
        self,
        account: str,
        provider_name: str,
        providers: ProviderPool,
        *,
        store: Store,
        tickets: Tickets,
        metrics: Metrics,
        clock: Clock,
        replicas: Replicas,
        guarded: bool,
    ) -> None:
        self._account = account
        self.provider_name = provider_name
        self._providers = providers
        self._store = store
        self._tickets = tickets
        self._metrics = metrics
        self._clock = clock
        self._replicas = replicas
        self._log = log.bind(account=account, provider=provider_name)
        self._carrier = Carrier(
            store=store,
            tickets=tickets,
            metrics=metrics,
            clock=clock,
            replicas=replicas,
            log=self._log,
            recorded=self._recorded,
        )
        self.guarded = guarded  # changes may come in that are held
        self._leading = False
        self._schedule: Schedule | None = None  # read from the outbox at the start and after every failure
        self._lists: set[int] = set()
        self._due_at: float | None = None  # when the outbox is read again for changes that were postponed or held
        self._work = asyncio.Event()
        self._work.set()
        self._nudged = asyncio.Event()
        self._stopping = False
        self._renewing = False  # the provider was replaced: the one in use is done when its calls under way have ended
        self._got_through = False
        self._backoff = wait_random_exponential(multiplier=1, min=BACKOFF_MIN_S, max=BACKOFF_MAX_S)
        self.health = Health(State.UP, clock.now())
        # A context of its own: the one of the request that happens to come first is not for its log lines.
        self._task = asyncio.create_task(
            replicas.lead(provider_name, self._run),
            name=f"courier {account} {provider_name}",
            context=contextvars.Context(),
        )

    @property
    def is_leading(self) -> bool:
        """Whether this process delivers; otherwise another replica does."""
        return self._leading

    def add(self, list_id: int, count: int) -> None:
        """A list has `count` new changes in the outbox."""
        self._lists.add(list_id)
        if self._schedule is not None:
            self._schedule.add(list_id, count)
        self._work.set()

    def nudge(self) -> None:
        """Something suggests that the provider is back: do not wait for the next try."""
        self._nudged.set()

    def renew(self) -> None:
        """The provider was replaced: goes on with the new one when the calls under way have ended, without a wait."""
        self._renewing = True
        self._schedule = None
        self._got_through = True  # earlier failures say nothing of the new one
        self._work.set()
        self._nudged.set()

    def finish(self) -> None:
        """Takes nothing new from now on."""
        self._stopping = True
        self._work.set()
        self._nudged.set()

    async def stop(self, grace_s: float | None) -> None:
        """Lets calls under way end within `grace_s`, None: however long they take. What is left stays in the outbox,
        and nobody waits for it."""
        self.finish()
        _, late = await asyncio.wait({self._task}, timeout=grace_s if self._leading else 0)
        for task in late:
            task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
        self._tickets.release(self._lists)

    def told(self, health: Health) -> None:
        """The leading replica says how it sees the provider."""
        if not self._leading:
            self.health = health
            self._release_tickets()

    async def _run(self) -> None:
        """What the leading replica does."""
        self._leading = True
        self._schedule = None  # others may have delivered since this was read
        try:
            await self._deliver_on()
        finally:
            self._leading = False

    async def _deliver_on(self) -> None:
        retrying = AsyncRetrying(
            wait=self._wait_s, before_sleep=self._failed, sleep=self._pause, stop=lambda _: self._stopping
        )
        while not self._stopping:
            if self._due_at is not None and self._due_at <= self._clock.now():
                self._schedule = None
            await retrying(self._drain)
            await self._seen(State.UP)
            wait_s = None if self._due_at is None else max(0.0, self._due_at - self._clock.now())
            if not self._stopping:  # whose wake-up a drain may have taken for its own
                await self._clock.wait(self._work, wait_s)

    async def _drain(self) -> None:
        """Delivers until nothing is due. Raises what kept a change from being delivered; such changes stay."""
        self._renewing = True
        while self._renewing:
            self._renewing = False
            self._nudged.clear()
            async with self._providers.using(self.provider_name) as provider:
                await self._drain_to(provider)

    async def _drain_to(self, provider: Provider[Any]) -> None:
        """Delivers until nothing is due, or the provider is replaced. Raises as `_drain`."""
        schedule = self._schedule or await self._load(provider.limits.batch_size)
        running: set[asyncio.Task[None]] = set()
        failure: BaseException | None = None
        try:
            while True:
                self._work.clear()
                while (
                    failure is None
                    and not self._stopping
                    and not self._renewing
                    and len(running) < provider.parallel_calls
                ):
                    is_last = (
                        provider.parallel_calls - len(running) == 1 and provider.parallel_calls >= KEEPS_A_PLACE_FROM
                    )
                    batch = await schedule.next_batch(self._clock.now(), of_idle_list=is_last)
                    if batch is None:
                        break
                    running.add(asyncio.create_task(self._deliver(provider, schedule, batch)))
                if not running:
                    break
                for task in await self._first_done(running):
                    running.discard(task)
                    error = task.exception()  # asked of every task: Python complains of errors that nobody looked at
                    failure = failure or error
        except BaseException:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)
            self._schedule = None
            raise
        if self._renewing:
            return  # what failed with the old provider says nothing of the new one
        if failure is not None:
            self._schedule = None
            raise failure
        if self.guarded:
            look_at = await self._store.outbox.next_due_at(self._account, self.provider_name, self._clock.now())
            if look_at is not None:
                self._due_at = min(self._due_at or look_at, look_at)

    async def _load(self, batch_size: int) -> Schedule:
        """Reads what waits. What is stored meanwhile comes in by `add`, which must find the schedule."""
        schedule = self._schedule = Schedule(self._store, self.provider_name, batch_size)
        try:
            waiting = await self._store.lists.with_pending(self._account, self.provider_name)
            now = self._clock.now()
            self._due_at = await self._store.outbox.next_due_at(self._account, self.provider_name, now)
        except BaseException:
            self._schedule = None
            raise
        for list_id, count in waiting.items():
            schedule.add(list_id, count)
        self._lists |= waiting.keys()
        return schedule

    async def _first_done(self, running: set[asyncio.Task[None]]) -> set[asyncio.Task[None]]:
        """Waits until a batch has ended or work has come in; the batches that have ended."""
        woken = asyncio.create_task(self._work.wait())
        try:
            done, _ = await asyncio.wait({*running, woken}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            woken.cancel()
        return running & done

    async def _deliver(self, provider: Provider[Any], schedule: Schedule, batch: Batch) -> None:
        kept = False
        try:
            kept = not await self._carrier.carry(provider, batch.mapped, batch.changes)
        finally:
            schedule.ended(batch, kept=kept)

    async def _recorded(self, postponed_to: float | None) -> None:
        """Outcomes were recorded: the provider is there."""
        self._got_through = True
        if postponed_to is not None:
            self._due_at = min(self._due_at or postponed_to, postponed_to)
        await self._seen(State.UP)

    def _wait_s(self, state: RetryCallState) -> float:
        if self._got_through:  # some changes went: the provider is not away, only this call was unlucky
            state.attempt_number, self._got_through = 1, False
        error = _error_of(state)
        backoff_s = self._backoff(state)
        if isinstance(error, AuthFailed):
            return AUTH_RETRY_S
        if isinstance(error, Transient) and error.retry_after_s is not None:
            return min(error.retry_after_s + BACKOFF_MIN_S, max(BACKOFF_MAX_S, error.retry_after_s))
        return backoff_s

    async def _failed(self, state: RetryCallState) -> None:
        error = _error_of(state)
        wait_s = state.upcoming_sleep
        detail = error.detail if isinstance(error, ProviderError) else type(error).__name__
        if not isinstance(error, ProviderError):
            self._log.error("delivery_broke_off", wait_s=round(wait_s, 1), exc_info=error)
        if isinstance(error, AuthFailed):
            await self._seen(State.KEY_REFUSED, detail)
        elif state.attempt_number > 1 or wait_s > NOTICED_AFTER_S:
            await self._seen(State.DOWN, detail)

    async def _seen(self, state: State, detail: str = "") -> None:
        """Takes note of the provider's state. Says it once when it changes; other replicas are told again and again
        while it is away, for one that has just started does not know."""
        self._metrics.provider_up.labels(self._account, self.provider_name).set(state is State.UP)
        if state is not self.health.state:
            self.health = Health(state, self._clock.now(), detail)
            if state is State.UP:
                self._log.info("provider_back")
            else:
                self._log.warning("provider_away", state=state.value, detail=detail)
        elif state is State.UP:
            return
        self._release_tickets()
        await self._replicas.tell(
            ProviderSeen(self._account, self.provider_name, state, self.health.since, self.health.detail)
        )

    def _release_tickets(self) -> None:
        """While the provider is away nobody needs to wait for it."""
        if self.health.state is not State.UP:
            self._tickets.release(self._lists, key_refused=self.health.state is State.KEY_REFUSED)

    async def _pause(self, wait_s: float) -> None:
        await self._clock.wait(self._nudged, wait_s)


def _error_of(state: RetryCallState) -> BaseException | None:
    return state.outcome.exception() if state.outcome is not None else None
