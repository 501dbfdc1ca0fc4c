"""All couriers of a running bridge, and the providers they share."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, Final

import structlog

from bridge.clock import Clock
from bridge.config import ProviderConfig
from bridge.delivery import Courier, Health
from bridge.metrics import Metrics
from bridge.registry import provider_class
from bridge.replicas import Replicas
from bridge.store import MappedList, Store, StoreError
from bridge.tickets import Tickets
from providers.base import Provider

REVISION_SEEN_WITHIN_S: Final = 2.0
"""How often a bridge looks whether a command has changed what is to be delivered."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ProviderMissing(Exception):
    """A list lives at a provider that the configuration does not have. Its changes are kept."""


class Couriers:
    """One courier for every account and provider that has, or had, something to deliver.

    Accounts that name the same provider share its one instance, and so its limit on parallel calls.
    """

    def __init__(
        self,
        configs: Mapping[str, ProviderConfig],
        *,
        store: Store,
        tickets: Tickets,
        metrics: Metrics,
        clock: Clock,
        replicas: Replicas,
        guarded: bool,
    ) -> None:
        self._configs = configs
        self._store = store
        self._tickets = tickets
        self._metrics = metrics
        self._clock = clock
        self._replicas = replicas
        self._guarded = guarded
        self._providers: dict[str, Provider[Any]] = {}
        self._couriers: dict[tuple[str, str], Courier] = {}
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
        """The provider of this name in the configuration. Raises ProviderMissing."""
        if name not in self._providers:
            config = self._configs.get(name)
            if config is None:
                raise ProviderMissing(name)
            provider = self._providers[name] = provider_class(config.type)(config.settings)
            provider.observe = lambda operation, ended, seconds: self._metrics.calls.labels(
                name, operation, ended
            ).observe(seconds)
        return self._providers[name]

    def of(self, account: str, provider_name: str) -> Courier:
        """The courier of an account to a provider, made at the first call. Raises ProviderMissing."""
        key = (account, provider_name)
        if key not in self._couriers:
            self._couriers[key] = Courier(
                account,
                provider_name,
                self.provider(provider_name),
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
        await asyncio.gather(*(courier.stop(grace_s) for courier in self._couriers.values()))
        await asyncio.gather(*(provider.close() for provider in self._providers.values()))
