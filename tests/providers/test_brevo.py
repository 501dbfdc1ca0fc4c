"""Brevo: the kit's promises, and what is its own."""

from collections.abc import AsyncIterator

import pytest

from providers.testing import ProviderConformance
from tests.fakes.brevo import BrevoHarness, brevo


@pytest.fixture
async def esp() -> AsyncIterator[BrevoHarness]:
    async with brevo() as harness:
        yield harness


class TestBrevo(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: BrevoHarness) -> BrevoHarness:
        return esp
