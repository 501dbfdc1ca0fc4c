"""All couriers of a running bridge."""

import asyncio
from collections.abc import Collection, Iterator
from typing import Any, Final

import structlog

from bridge.clock import Clock
from bridge.delivery import Courier, Health
from bridge.metrics import Metrics
from bridge.provider_pool import Prepared, ProviderMissing, ProviderPool
from bridge.replicas import Replicas
from bridge.store import MappedList, Store, StoreError
from bridge.tickets import Tickets
from providers.base import Provider

REVISION_SEEN_WITHIN_S: Final = 2.0
"""How often a bridge looks whether a command has changed what is to be delivered."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Couriers:
    """One courier for every account and provider that has, or had, something to deliver."""

    def __init__(
        self,
        providers: ProviderPool,
        *,
        store: Store,
        tickets: Tickets,
        metrics: Metrics,
        clock: Clock,
        replicas: Replicas,
        guarded: bool,
    ) -> None:
        self._providers = providers
        self._store = store
        self._tickets = tickets
        self._metrics = metrics
        self._clock = clock
        self._replicas = replicas
        self._guarded = guarded
        self._couriers: dict[tuple[str, str], Courier] = {}
        self._without_provider: set[tuple[str, str]] = set()  # may have changes that wait for their provider's return
        self._leaving: dict[Courier, asyncio.Task[None]] = {}
        self._revision: bytes | None = None
        self._watching: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Takes up what an earlier run left in the outbox, and from then on what commands have put there."""
        self._revision = await self._store.outbox.revision()
        await self._take_up()
        self._watching = asyncio.create_task(self._watch(), name="outbox revision")

    async def _take_up(self) -> None:
        """Whatever waits in the outbox is known to its courier."""
        for account, name in await self._store.lists.couriers():
            try:
                courier = self.of(account, name)
            except ProviderMissing:
                log.warning("provider_missing", account=account, provider=name)
                continue
            for list_id, count in (await self._store.lists.with_pending(account, name)).items():
                courier.add(list_id, count)

    async def _watch(self) -> None:
        """Looks whether a list has turned to another provider, or a command has left changes: another process tells
        no other way on SQLite, and this one costs next to nothing."""
        while True:
            await asyncio.sleep(REVISION_SEEN_WITHIN_S)
            try:
                revision = await self._store.outbox.revision()
                if revision != self._revision:
                    await self._take_up()
                    self._revision = revision
            except StoreError as error:
                log.warning("revision_not_read", detail=str(error))

    def provider(self, name: str) -> Provider[Any]:
        """The provider of this name in the configuration, to be asked what it is. Raises ProviderMissing."""
        return self._providers.get(name)

    def of(self, account: str, provider_name: str) -> Courier:
        """The courier of an account to a provider, made at the first call. Raises ProviderMissing."""
        key = (account, provider_name)
        if provider_name not in self._providers:
            self._without_provider.add(key)
            raise ProviderMissing(provider_name)
        if key not in self._couriers:
            self._couriers[key] = Courier(
                account,
                provider_name,
                self._providers,
                store=self._store,
                tickets=self._tickets,
                metrics=self._metrics,
                clock=self._clock,
                replicas=self._replicas,
                guarded=self._guarded,
            )
        return self._couriers[key]

    def stored(self, mapped: MappedList, count: int) -> None:
        """A list has new changes in the outbox."""
        try:
            self.of(mapped.account, mapped.provider).add(mapped.id, count)
        except ProviderMissing:
            self._tickets.release([mapped.id])

    def take_over(self, names: Collection[str], prepared: Prepared, *, guarded: bool) -> None:
        """Goes on with other providers: `names` are all that there are, those that were prepared are new or changed.

        Nobody goes on waiting for a provider that was away or refused its key. Changes of a provider that is gone
        stay in the outbox, and are taken up when it comes back.
        """
        self._providers.take_over(names, prepared)
        self._guarded |= guarded  # without a guard now, there may still be what it held
        for key, courier in list(self._couriers.items()):
            courier.guarded = self._guarded
            if key[1] not in names:
                log.warning("provider_missing", account=key[0], provider=key[1])
                self._without_provider.add(key)
                del self._couriers[key]
                courier.finish()
                self._leaving[courier] = asyncio.create_task(self._leave(*key, courier))
            elif key[1] in prepared:
                courier.renew()
            else:
                courier.nudge()
        back = {key for key in self._without_provider if key[1] in names}
        self._without_provider -= back
        for key in back:
            self.of(*key)

    def health(self) -> Iterator[tuple[str, str, Health]]:
        """Account, provider and what is known of it, for each courier."""
        for (account, provider_name), courier in self._couriers.items():
            yield account, provider_name, courier.health

    def nudge(self, provider_name: str) -> None:
        """The provider was seen to work: nobody needs to wait for the next try."""
        for (_, name), courier in self._couriers.items():
            if name == provider_name:
                courier.nudge()

    async def stop(self, grace_s: float) -> None:
        """Lets calls under way end within `grace_s`, then gives everything back."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await asyncio.gather(*(courier.stop(grace_s) for courier in (*self._couriers.values(), *self._leaving)))
        await asyncio.gather(*self._leaving.values())
        await self._providers.close()

    async def _leave(self, account: str, provider_name: str, courier: Courier) -> None:
        """Ends a courier whose provider is gone, when its calls under way have ended."""
        await courier.stop(None)
        del self._leaving[courier]
        if (account, provider_name) not in self._couriers:  # it is not back meanwhile
            self._metrics.provider_up.remove(account, provider_name)
        if not any(courier.provider_name == provider_name for courier in (*self._couriers.values(), *self._leaving)):
            await self._replicas.leave(provider_name)
