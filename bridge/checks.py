"""Checks of providers: does the key work, and is everything there that a provider needs."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridge.clock import Clock
from bridge.couriers import Couriers
from bridge.provider_pool import ProviderPool
from providers.base import Finding, Message, Provider, ProviderError


async def findings_of(provider: Provider[Any]) -> list[Finding]:
    """What the provider's own check finds; a service that does not answer is a finding too."""
    try:
        return await provider.check()
    except ProviderError as error:
        text = Message("does not answer: %(detail)s", detail=error.detail)
        return [Finding(False, text, Message("try again; look at `base_url` and the network"))]


@dataclass(frozen=True, slots=True)
class Checked:
    """What a check found, and when (Unix time)."""

    at: float
    findings: Sequence[Finding]

    @property
    def ok(self) -> bool:
        return all(finding.ok for finding in self.findings)


class Checks:
    """Runs checks in a running bridge, one at a time for each provider, and keeps the last result of each."""

    def __init__(self, providers: ProviderPool, couriers: Couriers, clock: Clock) -> None:
        self._providers = providers
        self._couriers = couriers
        self._clock = clock
        self._running: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._last: dict[str, tuple[Provider[Any], Checked]] = {}

    async def run(self, name: str) -> None:
        """Checks a provider of the settings, or waits for the check of it that is under way. After a check that found
        nothing wrong its couriers try again at once. Raises ProviderMissing."""
        under_way = self._running[name].locked()
        async with self._running[name], self._providers.using(name) as provider:
            if under_way:
                return
            checked = Checked(self._clock.now(), await findings_of(provider))
            self._last[name] = (provider, checked)
        if checked.ok:
            self._couriers.nudge(name)

    def last(self, name: str) -> Checked | None:
        """The last result, None when there is none with the settings that the provider has now."""
        provider, checked = self._last.get(name, (None, None))
        return checked if name in self._providers and self._providers.get(name) is provider else None
