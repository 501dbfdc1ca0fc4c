"""Acme Mail: every promise of a provider, against the fake; and the bridge finds the provider."""

from collections.abc import AsyncIterator

import pytest
from fake_acme import AcmeHarness, acme
from planfix_bridge_acme import AcmeProvider

from bridge.registry import provider_class
from providers.testing import ProviderConformance


class TestAcme(ProviderConformance):
    @pytest.fixture
    async def esp(self) -> AsyncIterator[AcmeHarness]:
        async with acme() as harness:
            yield harness


def test_the_bridge_finds_it() -> None:
    assert provider_class("acme") is AcmeProvider
