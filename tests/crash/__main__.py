"""The long form of the crash suite, `make crash`: hundreds of kills over stores and ESPs, as a table.

    python -m tests.crash --kills 204 --seed 7

Ends with 1 when anything was not as answered.
"""

import argparse
import asyncio
import secrets
import sys
import tempfile
import warnings
from collections.abc import Awaitable, Callable
from itertools import count, cycle, islice
from pathlib import Path

from rich.console import Console
from rich.table import Table

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of a package below pgserver, about a folder that is not used
    import pgserver

from tests.conftest import new_database
from tests.crash.replicas import Takeovers, play_replicas
from tests.crash.run import MOMENTS, Result, play

PROVIDERS = ("sandbox", "mailchimp tag", "sendgrid")
COMBINATIONS = [(store, provider) for provider in PROVIDERS for store in ("sqlite", "postgresql")]
AT_ONE_TIME = 2
REPLICAS = (2, 4)


async def main(kills: int, seed: str, replica_kills: int, console: Console) -> bool:
    """Whether all was as answered."""
    each = -(-kills // len(COMBINATIONS))
    with tempfile.TemporaryDirectory() as name, pgserver.get_server(Path(name) / "pg", cleanup_mode="stop") as server:
        folder = Path(name)
        slots = asyncio.Semaphore(AT_ONE_TIME)

        async def one(store: str, provider: str) -> Result:
            async with slots:
                place = folder / f"{store} {provider}"
                place.mkdir()
                new_store = _stores(store, place, server.get_uri())
                moments = list(islice(cycle(MOMENTS), each))
                return await play(provider, place, new_store, moments, f"{seed} {store} {provider}")

        results = await asyncio.gather(*(one(*combination) for combination in COMBINATIONS))
        console.print(_table(results))
        takeovers = []
        for number in REPLICAS:
            place = folder / f"{number} replicas"
            place.mkdir()
            store_url = await new_database(server.get_uri())
            takeovers.append(await play_replicas(number, place, store_url, replica_kills, f"{seed} {number}"))
        console.print(_replica_table(takeovers))
    differences = [f"{r.store}, {r.provider}: {d}" for r in results for d in r.differences]
    differences += [f"{t.replicas} replicas: {d}" for t in takeovers for d in t.differences]
    for difference in differences[:50]:
        console.print(difference, style="red", markup=False)
    return not differences


def _stores(kind: str, folder: Path, maintenance_url: str) -> Callable[[], Awaitable[str]]:
    numbers = count()

    async def new_store() -> str:
        if kind == "sqlite":
            return f"sqlite:///{folder / f'bridge{next(numbers)}.db'}"
        return await new_database(maintenance_url)

    return new_store


def _table(results: list[Result]) -> Table:
    table = Table(title="One bridge, killed and started again")
    for heading in ("store", "ESP"):
        table.add_column(heading)
    numbers = ("kills", "missed", "answered", "no answer", "lists", "expected", "either way", "found", "opted out", "s")
    for heading in (*numbers, "differences"):
        table.add_column(heading, justify="right")
    for r in results:
        requests = (sum(r.kills.values()), len(r.missed), r.answered, r.unanswered, r.lists)
        contacts = (r.expected, r.unsure, r.found, r.opted_out)
        table.add_row(r.store, r.provider, *map(str, (*requests, *contacts, round(r.duration_s), len(r.differences))))
    return table


def _replica_table(takeovers: list[Takeovers]) -> Table:
    table = Table(title="Several bridges on one PostgreSQL, one of them killed")
    headings = ("replicas", "kills", "of the leader", "answered", "no answer", "expected", "either way", "found")
    for heading in (*headings, "most calls", "takeover s, median", "slowest", "differences"):
        table.add_column(heading, justify="right")
    for t in takeovers:
        times = sorted(t.takeovers_s)
        median, slowest = (f"{times[len(times) // 2]:.2f}", f"{times[-1]:.2f}") if times else ("", "")
        figures = (t.replicas, t.kills, len(times), t.answered, t.unanswered, t.expected, t.unsure, t.found)
        table.add_row(*map(str, (*figures, t.max_parallel, median, slowest, len(t.differences))))
    return table


if __name__ == "__main__":
    parser = argparse.ArgumentParser()
    parser.add_argument("--kills", type=int, default=204)
    parser.add_argument("--replica-kills", type=int, default=8)
    parser.add_argument("--seed", default=secrets.token_hex(4))
    options = parser.parse_args()
    out = Console()
    out.print(f"--seed {options.seed}")
    sys.exit(0 if asyncio.run(main(options.kills, options.seed, options.replica_kills, out)) else 1)
