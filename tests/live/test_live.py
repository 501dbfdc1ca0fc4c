"""The kit's promises on live accounts and servers, for those who have one: docs/testing.md."""

import os
from collections.abc import AsyncIterator

import pytest

from providers.testing.live import LiveConformance, LiveHarness
from tests.live.runs import VARIABLE, Run, read_runs

RUNS = read_runs(os.environ)
if not RUNS:
    pytest.skip(f"{VARIABLE}<NAME>=<file of settings> tries a provider on a live account", allow_module_level=True)


@pytest.fixture(autouse=True)
def quick_services() -> None:
    """Live services have limits and need their time: the fixture of this name, which hurries the fakes, is not used."""


@pytest.fixture(scope="module", params=RUNS, ids=str)
def run(request: pytest.FixtureRequest) -> Run:
    """Its notice stands before anything is made."""
    asked: Run = request.param
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        request.config.get_terminal_writer().line(f"\n{asked.notice()}")
    return asked


class TestLive(LiveConformance):
    @pytest.fixture
    async def esp(self, run: Run) -> AsyncIterator[LiveHarness]:
        provider = run.provider(run.settings)
        async with LiveHarness.opened(provider, run.own.test_domain, run.own.test_refused_address) as harness:
            yield harness
