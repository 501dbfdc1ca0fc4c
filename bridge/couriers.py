"""All couriers of a running bridge, and the providers they share."""

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any

import structlog

from bridge.clock import Clock
from bridge.config import ProviderConfig
from bridge.delivery import Courier, Health
from bridge.metrics import Metrics
from bridge.registry import provider_class
from bridge.replicas import Replicas
from bridge.store import MappedList, Store
from bridge.tickets import Tickets
from providers.base import Provider

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

    async def start(self) -> None:
        """Takes up what an earlier run left in the outbox."""
        for account, name in await self._store.lists.couriers():
            try:
                self.of(account, name)
            except ProviderMissing:
                log.warning("provider_missing", account=account, provider=name)

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
        await asyncio.gather(*(courier.stop(grace_s) for courier in self._couriers.values()))
        await asyncio.gather(*(provider.close() for provider in self._providers.values()))
