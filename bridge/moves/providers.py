"""The providers of the settings, opened as they are needed by a command that runs beside a bridge."""

from contextlib import AsyncExitStack
from types import TracebackType
from typing import Any, Final, Self

import msgspec

from bridge.clock import Clock
from bridge.config import Config
from bridge.registry import provider_class
from bridge.store import Store
from providers.base import Provider

SHARE_OF_CALLS: Final = 4
"""A bridge may be calling the same service meanwhile: a command takes a quarter of the calls at one time on top."""


class OpenProviders:
    """Use it as an async context manager. `name in providers` tells whether the settings have one of this name."""

    def __init__(self, config: Config, store: Store, clock: Clock) -> None:
        self._configs = config.providers
        self._store = store
        self._clock = clock
        self._open: dict[str, Provider[Any]] = {}
        self._stack = AsyncExitStack()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    def __contains__(self, name: str) -> bool:
        return name in self._configs

    async def get(self, name: str) -> Provider[Any]:
        """The provider of this name, which the settings must have."""
        if name not in self._open:
            config = self._configs[name]
            cls = provider_class(config.type)
            calls = (config.settings.parallel_calls or cls.limits.parallel_calls) // SHARE_OF_CALLS
            settings = msgspec.structs.replace(config.settings, parallel_calls=max(1, calls))
            provider = self._open[name] = await self._stack.enter_async_context(cls(settings))
            provider.under_way = self._store.under_way(name, self._clock.now)
        return self._open[name]
