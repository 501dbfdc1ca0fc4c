"""The providers of the settings: one instance of each, lent to whoever makes calls, replaced while the bridge runs."""

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Mapping
from contextlib import asynccontextmanager
from typing import Any, TypeAlias

import structlog

from bridge.config import ProviderConfig
from bridge.metrics import Metrics
from bridge.registry import provider_class
from providers.base import Provider
from providers.jobs import UnderWay

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class ProviderMissing(Exception):
    """A list lives at a provider that the configuration does not have. Its changes are kept."""


class _Instance:
    """One provider object and who uses it. `before` ends when the instance that it replaces is closed."""

    def __init__(self, config: ProviderConfig, provider: Provider[Any]) -> None:
        self.config = config
        self.provider = provider
        self.before: asyncio.Task[None] | None = None
        self.users = 0
        self.free = asyncio.Event()
        self.free.set()


Prepared: TypeAlias = Mapping[str, _Instance]


class ProviderPool:
    """One provider for each name, shared by all accounts, so that its limit on parallel calls holds for all of them.

    A provider whose settings changed is replaced when its calls under way have ended; calls that come meanwhile wait
    for the new one. So the limit holds then too, and no two calls about one contact overtake each other.
    """

    def __init__(
        self, configs: Mapping[str, ProviderConfig], metrics: Metrics, under_way: Callable[[str], UnderWay]
    ) -> None:
        """`under_way` gives what a provider keeps its jobs in, by its name."""
        self._metrics = metrics
        self._under_way = under_way
        self._instances = {name: self._make(config) for name, config in configs.items()}
        self._retiring: dict[str, asyncio.Task[None]] = {}

    def __contains__(self, name: object) -> bool:
        return name in self._instances

    def get(self, name: str) -> Provider[Any]:
        """The provider of this name, to be asked what it is; for calls there is `using`. Raises ProviderMissing."""
        return self._instance(name).provider

    @asynccontextmanager
    async def using(self, name: str) -> AsyncIterator[Provider[Any]]:
        """Lends the provider of this name: it stays open while the block runs. Raises ProviderMissing."""
        while True:
            instance = self._instance(name)
            if instance.before is None or instance.before.done():
                break
            await asyncio.wait({instance.before})
        instance.users += 1
        instance.free.clear()
        try:
            yield instance.provider
        finally:
            instance.users -= 1
            if not instance.users:
                instance.free.set()

    async def prepare(self, configs: Mapping[str, ProviderConfig]) -> Prepared:
        """Makes the providers that are new or changed; nothing uses them yet. Passes on what their making raises."""
        made: dict[str, _Instance] = {}
        try:
            for name, config in configs.items():
                if name not in self._instances or self._instances[name].config != config:
                    made[name] = self._make(config)
        except BaseException:
            await asyncio.gather(*(instance.provider.close() for instance in made.values()))
            raise
        return made

    def take_over(self, names: Collection[str], prepared: Prepared) -> None:
        """From now on there are the providers `names`; those that were prepared take the place of older ones."""
        for name in list(self._instances):
            if name not in names or name in prepared:
                self._retire(name, self._instances.pop(name))
        for name, instance in prepared.items():
            instance.before = self._retiring.get(name)
            self._instances[name] = instance

    async def close(self) -> None:
        """Closes all, when their calls under way have ended."""
        self.take_over((), {})
        await asyncio.gather(*self._retiring.values())

    def _instance(self, name: str) -> _Instance:
        try:
            return self._instances[name]
        except KeyError:
            raise ProviderMissing(name) from None

    def _make(self, config: ProviderConfig) -> _Instance:
        provider = provider_class(config.type)(config.settings)
        provider.observe = lambda operation, ended, seconds: self._metrics.calls.labels(
            config.name, operation, ended
        ).observe(seconds)
        provider.under_way = self._under_way(config.name)
        return _Instance(config, provider)

    def _retire(self, name: str, instance: _Instance) -> None:
        self._retiring[name] = asyncio.create_task(self._close(name, instance), name=f"closing {name}")

    async def _close(self, name: str, instance: _Instance) -> None:
        if instance.before is not None:
            await instance.before
        await instance.free.wait()
        try:
            await instance.provider.close()
        except Exception:
            log.exception("provider_not_closed", provider=name)
        if self._retiring[name] is asyncio.current_task():
            del self._retiring[name]
