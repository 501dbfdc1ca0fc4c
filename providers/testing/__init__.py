"""The conformance kit: what every provider promises, as a pytest class that runs against the provider's fake.

A provider's test module gives an `esp` fixture, an `EspHarness` whose provider is open, and subclasses
`ProviderConformance`. Capabilities and limits switch what is expected; nothing is skipped.

    class TestMailchimpTag(ProviderConformance):
        @pytest.fixture
        async def esp(self):
            async with ... as harness:
                yield harness

It needs pytest with pytest-asyncio or pytest-aiohttp in the mode "auto".
"""

import pytest

_PARTS = ("addresses", "base", "contacts", "faults", "lists", "opt_outs")
pytest.register_assert_rewrite(*(f"{__name__}.{part}" for part in _PARTS))

# ruff: noqa: E402 - the rewriting of asserts must be asked for before the import
from providers.testing.addresses import AddressPromises
from providers.testing.contacts import ContactPromises
from providers.testing.fake import without_waits
from providers.testing.faults import FaultPromises
from providers.testing.harness import EspHarness, Fault
from providers.testing.lists import ListPromises
from providers.testing.opt_outs import OptOutPromises

__all__ = ["EspHarness", "Fault", "ProviderConformance"]


class ProviderConformance(ListPromises, ContactPromises, AddressPromises, OptOutPromises, FaultPromises):
    """All promises of a provider, each a test. `limits` count, `rates` and the pauses of `polling` do not."""

    @pytest.fixture(autouse=True)
    def quick_service(self, monkeypatch: pytest.MonkeyPatch) -> None:
        without_waits(monkeypatch)
