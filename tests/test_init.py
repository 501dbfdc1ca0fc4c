"""`planfix-bridge init`: questions at a terminal, options without one, a file that works and is for its owner only."""

import asyncio
import os
import pty
import re
import stat
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from bridge.cli import main
from bridge.config import load
from providers.base import Secret
from tests.fakes.brevo import KEY, BrevoHarness, brevo


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def init(*options: str) -> Result:
    return CliRunner().invoke(main, ["init", *options])


class Terminal:
    """The command at a real terminal."""

    def __init__(self, *options: str) -> None:
        self._ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "bridge", "init", *options]
        env = os.environ | {"TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"}
        self.process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=env)
        os.close(theirs)
        self.shown = ""
        self._read_to = 0

    def until(self, text: str) -> None:
        """Reads on until the text is shown."""
        start = self._read_to
        while text not in self.shown[start:]:
            try:
                read = os.read(self._ours, 4096)
            except OSError:  # Linux says so at the end
                read = b""
            assert read, f"{text!r} was not shown: {self.shown[start:]}"
            self.shown += read.decode()
        self._read_to = self.shown.index(text, start) + len(text)

    def type(self, line: str) -> None:
        os.write(self._ours, line.encode() + b"\n")

    def end(self) -> int:
        code = self.process.wait()
        os.close(self._ours)
        return code


@pytest.fixture
async def service() -> AsyncIterator[BrevoHarness]:
    async with brevo() as running:
        yield running


def test_a_provider_that_needs_nothing_is_ready_at_once(here: Path) -> None:
    result = init("--provider", "sandbox", "--language", "ru", "--url", "https://bridge.example.org/")
    assert result.exit_code == 0, result.output
    config = load(here / "config.yaml")
    token = config.accounts["main"].tokens[0].reveal()
    assert "https://bridge.example.org/planfix" in result.output
    assert token in result.output
    assert (config.accounts["main"].provider, config.accounts["main"].language) == ("sandbox", "ru")
    assert stat.S_IMODE((here / "config.yaml").stat().st_mode) == 0o600


def test_every_run_makes_a_token_of_its_own(here: Path) -> None:
    for name in ("a.yaml", "b.yaml"):
        assert init("--provider", "sandbox", "-c", name).exit_code == 0
    assert load(here / "a.yaml").accounts["main"].tokens != load(here / "b.yaml").accounts["main"].tokens


def test_secrets_go_into_an_environment_file(here: Path) -> None:
    odd = 'it\'s $HOME "quoted"'
    result = init("--provider", "brevo", "--set", f"api_key={odd}", "--env-file", "bridge.env", "--no-check")
    assert result.exit_code == 0, result.output
    assert odd not in (here / "config.yaml").read_text()
    assert stat.S_IMODE((here / "bridge.env").stat().st_mode) == 0o600
    read = subprocess.run(
        ["sh", "-c", "set -a; . ./bridge.env; env -0"], capture_output=True, check=True, env={}
    ).stdout.decode()
    env = dict(line.partition("=")[::2] for line in read.split("\0") if line)
    config = load(here / "config.yaml", env)
    assert config.providers["brevo"].settings.api_key == Secret(odd)  # type: ignore[attr-defined]
    assert config.accounts["main"].tokens == (Secret(env["PLANFIX_TOKEN"]),)


def test_a_reference_stays_a_reference(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "the key")
    assert init("--provider", "brevo", "--set", "api_key=${MY_KEY}", "--no-check").exit_code == 0
    assert "api_key: ${MY_KEY}" in (here / "config.yaml").read_text()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ([], "Give --provider TYPE, one of"),
        (["--provider", "bravo"], 'did you mean "brevo"'),
        (["--provider", "brevo"], "Missing: --set api_key"),
        (["--provider", "brevo", "--set", "api_key"], "--set api_key has no value"),
        (["--provider", "brevo", "--set", "api_key=k", "--set", "folded=x"], 'did you mean "folder"'),
        (["--provider", "sandbox", "--set", "latency_s=-1"], "`latency_s` must be a number from 0"),
        (["--provider", "brevo", "--set", "api_key=${NOT_SET_ANYWHERE}"], "NOT_SET_ANYWHERE"),
        (["--provider", "sandbox", "--set", "key_refused=true"], "Nothing was written"),
        (["--provider", "sandbox", "-c", "no/such/folder/config.yaml"], "no/such/folder"),
    ],
)
def test_what_cannot_work_is_told_and_nothing_is_written(here: Path, options: list[str], told: str) -> None:
    result = init(*options)
    assert result.exit_code == 1
    assert told in " ".join(result.output.split())
    assert not list(here.glob("*.yaml"))


def test_a_file_that_is_there_is_replaced_only_when_asked(here: Path) -> None:
    (here / "config.yaml").write_text("mine")
    (here / "config.yaml").chmod(0o644)
    result = init("--provider", "sandbox")
    assert result.exit_code == 1
    assert "--force" in result.output
    assert (here / "config.yaml").read_text() == "mine"
    assert init("--provider", "sandbox", "--force").exit_code == 0
    assert stat.S_IMODE((here / "config.yaml").stat().st_mode) == 0o600


async def test_at_a_terminal_it_asks_tries_the_key_and_offers_what_the_account_has(
    here: Path, service: BrevoHarness
) -> None:
    service.fake.folders = {1: "Newsletters", 2: "Клиенты"}

    def talk() -> Terminal:
        terminal = Terminal("--set", f"base_url={service.fake.base_url}/v3")
        terminal.until("Which email service")
        numbers = dict(reversed(pair) for pair in re.findall(r"(\d+) (\w+)", terminal.shown))
        terminal.type(numbers["Brevo"])
        terminal.until("api_key")
        terminal.type("a wrong key")
        terminal.until("refuses the key")
        terminal.until("Enter the settings again")
        terminal.type("y")
        terminal.until("api_key")
        terminal.type(KEY)
        terminal.until("2 Клиенты")
        terminal.until("Which folder")
        terminal.type("2")
        terminal.until("the API key works")
        terminal.until("API Key")
        terminal.until("planfix-bridge serve")
        return terminal

    terminal = await asyncio.to_thread(talk)
    assert terminal.end() == 0
    assert KEY not in terminal.shown
    config = load(here / "config.yaml")
    settings = config.providers["brevo"].settings
    assert (settings.api_key, settings.folder) == (Secret(KEY), "Клиенты")  # type: ignore[attr-defined]


def test_giving_up_writes_nothing(here: Path) -> None:
    terminal = Terminal("--provider", "sandbox", "--set", "key_refused=true")
    terminal.until("Enter the settings again")
    terminal.type("n")
    terminal.until("Nothing was written")
    assert terminal.end() == 1
    assert not list(here.glob("*.yaml"))
