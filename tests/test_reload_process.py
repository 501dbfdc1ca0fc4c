"""A real `planfix-bridge serve` that takes over its settings, told by `planfix-bridge reload` or by SIGHUP."""

import json
import signal
import subprocess
import sys
import urllib.error
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.leaks import leaks_in
from tests.test_cli import post, run, serving

OLD, NEW = "the old token of account main", "the new token of account main"


class Running:
    """A bridge with the sandbox, and its settings file. `file` changes the file."""

    def __init__(self, folder: Path, port: int, admin_port: int) -> None:
        self.path = folder / "config.yaml"
        self.url = f"http://127.0.0.1:{port}/planfix"
        self._settings: dict[str, Any] = {
            "server": {"port": port},
            "admin": {"port": admin_port},
            "store": f"sqlite:///{folder / 'bridge.db'}",
            "accounts": {"main": {"token": OLD, "provider": "sandbox"}},
            "providers": {"sandbox": {"path": str(folder / "sandbox.db")}},
        }
        self.file()
        self.process: subprocess.Popen[str]
        self.read_to: Callable[[str], str]

    def file(self, **sections: Any) -> None:
        self._settings |= sections
        self.path.write_text(json.dumps(self._settings))

    def sandbox(self, **knobs: Any) -> dict[str, Any]:
        return {"sandbox": self._settings["providers"]["sandbox"] | knobs}

    def reload(self) -> tuple[int, str, str]:
        """What the command ends with and prints."""
        done = run("reload", "-c", str(self.path), PLANFIX_TOKEN=None)  # it needs to know no secrets
        return done.exit_code, done.stdout, done.stderr

    def ask(self, action: str, token: str = OLD, /, **data: Any) -> dict[str, Any]:
        try:
            return post(self.url, json.dumps({"action": action, "authToken": token, "data": data}).encode())
        except urllib.error.HTTPError as error:
            with error:
                return {"status": error.code}


@pytest.fixture
def running(
    tmp_path: Path, unused_tcp_port_factory: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Running]:
    bridge = Running(tmp_path, unused_tcp_port_factory(), unused_tcp_port_factory())
    monkeypatch.setenv("PLANFIX_TOKEN", NEW)
    with serving("-c", str(bridge.path)) as (bridge.process, bridge.read_to):
        bridge.read_to("Status")
        yield bridge
        bridge.process.send_signal(signal.SIGTERM)
        _, errors = bridge.process.communicate()
        assert bridge.process.returncode == 0
        assert "Traceback" not in errors
        assert leaks_in(errors, also=(OLD, NEW)) == []


def test_the_command_takes_over_a_good_file_and_tells_what_changed(running: Running) -> None:
    assert running.reload() == (0, "", "The settings are the same. Services that were away are tried at once.\n")
    running.file(accounts={"main": {"token": "${PLANFIX_TOKEN}", "provider": "sandbox"}})
    assert running.reload() == (0, "accounts.main.token\n", "The settings were taken over.\n")
    assert running.ask("createList", OLD, listName="A") == {"status": 401}
    assert running.ask("createList", NEW, listName="A") == {"success": True, "listId": "sandbox:1"}


def test_the_command_tells_every_fault_and_nothing_changes(running: Running) -> None:
    running.file(accounts={"main": {"token": "short", "provider": "sandbax"}}, server={"prot": 1})
    code, printed, errors = running.reload()
    assert (code, printed) == (1, "")
    assert 'unknown key; did you mean "port"?' in errors
    assert "`token` is too short" in errors
    assert "no such name under `providers`" in errors
    assert "Nothing was changed" in errors
    running.read_to("reload_refused")
    command = [sys.executable, "-m", "bridge", "reload", "-c", str(running.path)]
    assert subprocess.run(command, capture_output=True, text=True, check=False).returncode == 1
    running.path.write_text("server: [")
    code, _, errors = running.reload()
    assert (code, "not valid YAML" in errors, "Nothing was changed" in errors) == (1, True, True)
    running.path.unlink()
    code, _, errors = running.reload()
    assert (code, "cannot be read" in errors, "Nothing was changed" in errors) == (1, True, True)
    assert running.ask("createList", OLD, listName="A") == {"success": True, "listId": "sandbox:1"}


def test_what_needs_a_restart_is_told(running: Running, unused_tcp_port: int) -> None:
    running.file(server={"port": unused_tcp_port})
    code, _, errors = running.reload()
    assert (code, "`server.port` cannot change without a restart" in errors) == (1, True)
    running.file(admin={"port": unused_tcp_port})
    code, _, errors = running.reload()
    assert (code, "No bridge answers" in errors) == (1, True)


def test_a_signal_does_the_same_and_the_log_tells_why_not(running: Running) -> None:
    running.file(accounts={"main": {"token": NEW, "provider": "sandbox"}})
    running.process.send_signal(signal.SIGHUP)
    assert '"changes":["accounts.main.token"]' in running.read_to('"reloaded"')
    assert running.ask("createList", NEW, listName="A") == {"success": True, "listId": "sandbox:1"}
    running.path.unlink()
    running.process.send_signal(signal.SIGHUP)
    assert "cannot be read: No such file" in running.read_to("reload_refused")
    assert running.ask("createList", NEW, listName="A") == {"success": True, "listId": "sandbox:1"}


def test_a_key_that_is_mended_lets_everything_go_at_once(running: Running) -> None:
    list_id = running.ask("createList", listName="A")["listId"]
    running.file(providers=running.sandbox(key_refused=True))
    assert running.reload()[:2] == (0, "providers.sandbox.key_refused\n")
    contact = {"id": 1, "email": "anna@x.test"}
    assert "error" in running.ask("updateContact", listId=list_id, action="add", contact=contact)
    running.file(providers=running.sandbox(key_refused=False))
    assert running.reload()[0] == 0
    running.read_to("provider_back")
    second = {"id": 2, "email": "boris@x.test"}
    assert running.ask("updateContact", listId=list_id, action="add", contact=second) == {"success": True}


def test_without_a_settings_file_the_signal_ends_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sandbox that somebody tries goes with its terminal."""
    monkeypatch.chdir(tmp_path)
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)  # under nohup the suite ignores it, and all that it starts
    with serving("--sandbox") as (process, read_to):
        signal.signal(signal.SIGHUP, before)
        try:
            read_to("simulate --contacts")
        except EOFError:
            pytest.skip("port 8080 or 8081 is taken on this machine")
        process.send_signal(signal.SIGHUP)
        process.communicate()
        assert process.returncode == -signal.SIGHUP
