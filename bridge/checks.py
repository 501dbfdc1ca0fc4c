"""Checks of providers: does the key work, and is everything there that a provider needs."""

import asyncio
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bridge.clock import Clock
from bridge.couriers import Couriers
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

    def __init__(self, couriers: Couriers, clock: Clock) -> None:
        self._couriers = couriers
        self._clock = clock
        self._running: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._last: dict[str, Checked] = {}

    async def run(self, name: str) -> None:
        """Checks a provider of the settings, or waits for the check of it that is under way. After a check that found
        nothing wrong its couriers try again at once. Raises ProviderMissing."""
        provider = self._couriers.provider(name)
        under_way = self._running[name].locked()
        async with self._running[name]:
            if under_way:
                return
            checked = self._last[name] = Checked(self._clock.now(), await findings_of(provider))
        if checked.ok:
            self._couriers.nudge(name)

    def last(self, name: str) -> Checked | None:
        return self._last.get(name)
