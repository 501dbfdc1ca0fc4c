"""Fakes that the benchmarks deliver to, in this process, and the settings that lead the bridge there."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from providers.base import Secret
from providers.testing import EspHarness
from tests.end_to_end import esp_of


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
