"""The way to a live account, tried where nobody needs one: on a fake service that knows nothing of the tests."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from bridge.yaml_reader import ConfigError
from providers.brevo import BrevoSettings
from providers.testing.live import MARKER, LiveConformance, LiveHarness
from tests.fakes.brevo import BrevoHarness, brevo
from tests.live.runs import VARIABLE, RunSettings, read_runs

DOMAIN = "test.example.com"
BY_HAND = ["Clients", "Клиенты", f"{MARKER} of somebody else"]


@pytest.fixture
async def account() -> AsyncIterator[BrevoHarness]:
    """An account that is in use."""
    async with brevo() as harness:
        for name in BY_HAND:
            await harness.make_list(name)
        yield harness


class TestLive(LiveConformance):
    @pytest.fixture
    async def esp(self, account: BrevoHarness) -> AsyncIterator[LiveHarness]:
        provider = type(account.provider)(account.provider.settings)
        async with LiveHarness.opened(provider, DOMAIN, account.refused_address()) as harness:
            yield harness
            made = [name for name in account.fake.lists.values() if name not in BY_HAND]
            assert [name for name in made if not name.startswith(MARKER)] == []
        assert list(account.fake.lists.values()) == BY_HAND
        assert [address for address in account.fake.people if not address.endswith(f".{DOMAIN}")] == []


def test_a_run_is_read_from_one_file(tmp_path: Path) -> None:
    file = tmp_path / "brevo.yaml"
    file.write_text("api_key: ${KEY}\nfolder: Tests\ntest_domain: test.example.com\n")
    (run,) = read_runs({f"{VARIABLE}BREVO": str(file), "KEY": "xkeysib-1", "PATH": "/bin"})
    assert isinstance(run.settings, BrevoSettings)
    assert (run.settings.api_key.reveal(), run.settings.folder) == ("xkeysib-1", "Tests")
    assert run.own == RunSettings(test_domain=DOMAIN)
    assert "begin with 'bridgetest'" in run.notice()
    assert "under subdomains of test.example.com" in run.notice()


def test_all_that_is_wrong_with_the_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "brevo.yaml"
    file.write_text("api_kee: secret\n")
    with pytest.raises(ConfigError) as wrong:
        read_runs({f"{VARIABLE}BREVO": str(file)})
    for text in ('did you mean "api_key"', "`api_key` is missing", "`test_domain` is missing"):
        assert text in str(wrong.value)


@pytest.mark.parametrize("name", ["NOBODY", "SANDBOX"])
def test_a_variable_of_no_provider_is_told(name: str) -> None:
    with pytest.raises(LookupError, match=f"{VARIABLE}{name}: no REST provider"):
        read_runs({VARIABLE + name: "any.yaml"})


def test_nothing_is_tried_live_unless_asked() -> None:
    assert read_runs({"PATH": "/bin"}) == []
