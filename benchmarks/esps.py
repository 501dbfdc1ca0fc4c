"""Fakes that the benchmarks deliver to, in this process, and the settings that lead the bridge there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.machine import Running, bridge
from providers.base import Secret
from providers.testing import EspHarness
from tests.end_to_end import esp_of

# Brevo looks at its jobs 30 s later at the earliest: all are to be waited for at one time.
SETTINGS: dict[str, dict[str, Any]] = {"brevo": {"parallel_calls": 20}}


@dataclass(frozen=True, slots=True)
class Esp:
    """A running fake. `settings` are those of its provider, for the bridge's YAML."""

    name: str
    harness: EspHarness
    settings: dict[str, Any]

    @property
    def calls(self) -> int:
        return self.harness.calls()


@asynccontextmanager
async def esp(kind: str, latency_s: float) -> AsyncIterator[Esp]:
    """The fake of one provider. Requests are not held against the spec, nor their bodies kept: both cost time."""
    with TemporaryDirectory() as folder:
        knobs = {"latency_s": latency_s}
        async with esp_of(kind, Path(folder), spec=False, **knobs) as harness:
            given = harness.provider.settings
            settings = {
                name: value.reveal() if isinstance(value, Secret) else value
                for name in given.__struct_fields__
                if (value := getattr(given, name)) is not None
            }
            name = harness.provider.name
            yield Esp(name, harness, {"type": name, **settings})


@asynccontextmanager
async def bridge_to(service: Esp) -> AsyncIterator[tuple[Running, Path]]:
    """A bridge on a new SQLite file that delivers to the service."""
    with TemporaryDirectory() as name:
        store = Path(name) / "bridge.db"
        providers = {service.name: service.settings | SETTINGS.get(service.name, {})}
        async with bridge(Path(name), f"sqlite:///{store}", providers, main=service.name) as running:
            yield running, store
