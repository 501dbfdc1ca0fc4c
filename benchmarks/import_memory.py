"""How much memory an import costs the bridge: its process grows by how many MB, with fake ESPs in other processes.

Run it from the repository: `python -m benchmarks.import_memory --contacts 100000`.
"""

import argparse
import asyncio
import json
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import IO, Any

import psutil
import structlog

from bridge.config import Account, Admin, Config, ProviderConfig, Server
from bridge.registry import provider_class
from bridge.sample_contacts import made_up
from bridge.server import serve_until_stopped
from bridge.simulator import Planfix
from providers.base import Contact, Secret

TOKEN = "a token for measuring memory"  # noqa: S105 - guards nothing
MB = 1024 * 1024
SAMPLE_S = 0.02


@contextmanager
def process(*arguments: str) -> Iterator[tuple[int, dict[str, Any]]]:
    """A Python process that says in its first line, as JSON, where it is reached; it ends with the block."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603 - our own modules
        try:
            output: IO[str] = running.stdout  # type: ignore[assignment]  # it is a pipe
            yield running.pid, json.loads(output.readline())
        finally:
            running.terminate()


async def serve(provider: str, base_url: str, key: str, store: str) -> None:
    """Runs the bridge, as this process."""
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))  # the other stream says where it is
    settings = provider_class(provider).settings_type(api_key=Secret(key), base_url=base_url)  # type: ignore[call-arg]
    config = Config(
        server=Server(port=0, max_body_mb=256),
        admin=Admin(port=0),
        store=store,
        accounts={"main": Account(name="main", tokens=(Secret(TOKEN),), provider=provider)},
        providers={provider: ProviderConfig(name=provider, type=provider, settings=settings)},
    )
    started = asyncio.get_running_loop().create_future()
    serving = asyncio.create_task(serve_until_stopped(config, started))
    await asyncio.wait({serving, started}, return_when=asyncio.FIRST_COMPLETED)
    if not started.done():
        await serving
    running = started.result()
    sys.stdout.write(json.dumps({"url": running.url, "admin_url": running.admin_url}) + "\n")
    sys.stdout.flush()
    await serving


async def measure(provider: str, contacts: list[Contact], bridge: int, url: str, store: Path) -> None:
    resident = psutil.Process(bridge).memory_info
    before = peak = resident().rss
    started_s = time.monotonic()

    async def sample() -> None:
        nonlocal peak
        while True:
            peak = max(peak, resident().rss)
            await asyncio.sleep(SAMPLE_S)

    async with Planfix(url, TOKEN) as planfix:
        assert await planfix.create_list("Everybody"), planfix.steps  # noqa: S101 - a script for developers
        sampling = asyncio.create_task(sample())
        await planfix.import_contacts(contacts)
        while await asyncio.to_thread(_waiting, store):  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.1)
        sampling.cancel()
    sys.stdout.write(
        f"{provider}: {len(contacts)} contacts, {time.monotonic() - started_s:.1f} s, "
        f"{before / MB:.0f} MB before, {peak / MB:.0f} MB at most, grown by {(peak - before) / MB:.0f} MB\n"
    )


def _waiting(store: Path) -> int:
    with sqlite3.connect(store) as connection:
        return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--contacts", type=int, default=100_000)
    parser.add_argument("--provider", choices=("mailchimp", "sendgrid"), action="append")
    parser.add_argument("--serve", nargs=4, metavar=("PROVIDER", "BASE_URL", "KEY", "STORE"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        asyncio.run(serve(*options.serve))
        return
    contacts = list(islice(made_up(1, "post.test"), options.contacts))
    for provider in options.provider or ("mailchimp", "sendgrid"):
        with tempfile.TemporaryDirectory() as folder, process(f"tests.fakes.{provider}") as (_, esp):
            store = Path(folder) / "bridge.db"
            served = (
                "benchmarks.import_memory",
                "--serve",
                provider,
                esp["base_url"],
                esp["key"],
                f"sqlite:///{store}",
            )
            with process(*served) as (bridge, told):
                asyncio.run(measure(provider, contacts, bridge, told["url"], store))


if __name__ == "__main__":
    main()
