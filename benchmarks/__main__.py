"""python -m benchmarks [--quick] [CASE …]: measures and writes benchmarks/RESULTS.md; `make bench` runs all of it."""

import argparse
import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import asyncpg
import pgserver

from benchmarks import report
from benchmarks.cases import ceiling, drain, growth, idle, imports, single
from benchmarks.machine import described, pin_outside
from benchmarks.results import Case


async def new_database(maintenance_url: str) -> str:
    name = f"bench{uuid4().hex}"
    connection = await asyncpg.connect(maintenance_url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return maintenance_url.replace("/postgres?", f"/{name}?")


async def run(wanted: list[str], quick: bool) -> list[Case]:
    with TemporaryDirectory() as folder, pgserver.get_server(folder, cleanup_mode="stop") as server:
        cases: dict[str, Callable[[], Awaitable[Case]]] = {
            "ceiling": ceiling.run,
            "single": lambda: single.run(lambda: new_database(server.get_uri()), quick),
            "imports": lambda: imports.run(quick),
            "drain": drain.run,
            "idle": idle.run,
            "growth": lambda: growth.run(quick),
        }
        found = []
        for name, measure in cases.items():
            if not wanted or name in wanted:
                gc.collect()
                started_s = time.perf_counter()
                found.append(await measure())
                sys.stdout.write(f"{name}: {time.perf_counter() - started_s:.0f} s\n")
                sys.stdout.flush()
        return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", metavar="CASE", help="ceiling, single, imports, drain, idle, growth")
    parser.add_argument("--quick", action="store_true", help="one run of each, without the largest sizes")
    options = parser.parse_args()
    pin_outside()
    gc.disable()  # a million people at a fake made it stop for four seconds in the middle of a case
    started_s = time.perf_counter()
    cases = asyncio.run(run(options.cases, options.quick))
    folder = Path(__file__).parent
    if options.cases:
        folder = folder.parent / "build" / "benchmarks"
    folder.mkdir(parents=True, exist_ok=True)
    report.write(folder, described(), cases, (time.perf_counter() - started_s) / 60)
    sys.stdout.write(f"{folder / 'RESULTS.md'}\n")


if __name__ == "__main__":
    main()
