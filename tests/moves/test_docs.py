"""docs/switching.md shows a real run: this repeats it, command by command."""

import contextlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from click.testing import CliRunner

from bridge.cli import main

PAGE = Path(__file__).parents[2] / "docs" / "switching.md"


@dataclass(frozen=True)
class Told:
    """A command of the page and what the page says that it prints."""

    command: str
    output: str


def told(page: str) -> list[Told]:
    """All of them, in order."""
    found = []
    for block in re.findall(r"^```console\n(.*?)^```$", page, re.DOTALL | re.MULTILINE):
        for each in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, output = each.partition("\n")
            if "<<'END'" in command:
                text, end, output = output.partition("\nEND\n")
                command = f"{command}\n{text}{end.rstrip()}"
            found.append(Told(command, output))
    return found


def plain(output: str) -> str:
    """`output` without what differs from run to run: seconds, and the spaces that follow from their width."""
    return re.sub(r" +", " ", re.sub(r"\d+\.\d+ s", "0.00 s", output)).replace(" \n", "\n")


@contextlib.contextmanager
def serving(folder: Path) -> Iterator[None]:
    """`planfix-bridge serve` on the settings of the page, at ports that are free here."""
    ports = []
    for _ in range(2):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            ports.append(free.getsockname()[1])
    with (folder / "config.yaml").open("a") as settings:
        settings.write(f"server: {{port: {ports[0]}}}\nadmin: {{port: {ports[1]}}}\n")
    with (folder / "serve.log").open("w") as log:
        process = subprocess.Popen(["planfix-bridge", "serve"], cwd=folder, stderr=log)
        try:
            deadline_s = time.monotonic() + 60  # only ends a test that would hang
            while time.monotonic() < deadline_s:
                with contextlib.suppress(OSError), urllib.request.urlopen(f"http://127.0.0.1:{ports[0]}/healthz"):
                    break
                time.sleep(0.02)
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait()


def test_the_walk_through_prints_what_the_page_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLANFIX_BRIDGE_CONFIG", raising=False)
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("bridge.logs.set_up", lambda level: None)
    settings, *commands = told(PAGE.read_text())
    assert run(settings.command) == settings.output == ""
    with serving(tmp_path):
        printed = [(each.command, plain(run(each.command))) for each in commands]
    assert printed == [(each.command, plain(each.output)) for each in commands]


def run(command: str) -> str:
    """What a command prints. Those of the bridge run here, which is quicker, where no shell is needed."""
    name, *arguments = shlex.split(command) if "<<" not in command else ("sh",)
    if name == "planfix-bridge" and not {"|", "&&"} & set(arguments):
        return CliRunner().invoke(main, arguments).output
    done = subprocess.run(["sh", "-c", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    return done.stdout.decode()
