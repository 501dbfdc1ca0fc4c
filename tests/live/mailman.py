"""A real Mailman core as a process: its REST server alone, with SQLite, on loopback."""

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import requests

ENVIRONMENT = Path(__file__).parents[2] / ".mailman"
READY = ENVIRONMENT / ".ready"  # make .mailman/.ready makes the environment, and this when it is whole
DOMAIN = "lists.test"
USER = "restadmin"
PASSWORD = "made-up password of the tests"

CONFIG = """\
[mailman]
layout: tests
[paths.tests]
var_dir: {folder}/var
[webservice]
hostname: 127.0.0.1
port: {port}
admin_user: {user}
admin_pass: {password}
[mta]
# The default tells Postfix of every new list.
incoming: mailman.mta.null.NullMTA
"""


@dataclass(frozen=True)
class Core:
    base_url: str

    def ask(self, method: str, path: str, **body: object) -> requests.Response:
        """One call as Postorius makes it."""
        return requests.request(
            method, f"{self.base_url}/3.1/{path}", json=body or None, auth=(USER, PASSWORD), timeout=30
        )


@contextmanager
def running_core(folder: Path) -> Iterator[Core]:
    """A core with an empty database in `folder` and one mail domain."""
    config = folder / "mailman.cfg"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config.write_text(CONFIG.format(folder=folder, port=port, user=USER, password=PASSWORD))
    with (
        (folder / "output").open("wb") as output,
        subprocess.Popen(
            [ENVIRONMENT / "bin" / "runner", "-C", config, "-r", "rest"],
            cwd=folder,
            env={"HOME": str(folder)},
            stdout=output,
            stderr=output,
        ) as process,
    ):
        try:
            core = Core(f"http://127.0.0.1:{port}")
            while True:
                try:
                    core.ask("POST", "domains", mail_host=DOMAIN).raise_for_status()
                    break
                except requests.ConnectionError:
                    if process.poll() is not None:
                        raise RuntimeError((folder / "output").read_text()) from None
                    time.sleep(0.05)  # it tells nobody when it listens
            yield core
        finally:
            process.terminate()
