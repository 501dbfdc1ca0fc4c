"""Growth: the cost of a request with ten thousand, one million and ten million mapped contacts in the store."""

import asyncio
import os
import sqlite3
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.esps import esp
from benchmarks.load import Planfix
from benchmarks.machine import bridge
from benchmarks.results import Case, Curve, median
from bridge.store import Store

SIZES = (10_000, 1_000_000, 10_000_000)
REQUESTS = 1500
CLIENTS = 64
RUNS = 3
ROWS_AT_ONCE = 100_000


async def _make(store: Path) -> None:
    await (await Store.open(f"sqlite:///{store}")).close()


def fill(store: Path, provider: str, *, contacts: int, lists: int = 100, accounts: int = 1) -> None:
    """Puts made-up contacts into a store, evenly over lists and accounts, as if they had been delivered. Call it from
    a thread without an event loop."""
    asyncio.run(_make(store))
    with sqlite3.connect(store) as db:
        db.execute("PRAGMA synchronous = OFF")
        db.executemany(
            "INSERT INTO lists (id, account, public_id, provider, provider_list_id, name, provider_name, state,"
            " last_seq, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, 'open', 0, 0)",
            (
                (n, f"a{n % accounts}" if accounts > 1 else "main", f"{provider}:{10**6 + n}", provider,
                 str(10**6 + n), f"L{n}", f"L{n}")
                for n in range(1, lists + 1)
            ),
        )  # fmt: skip
        for start in range(0, contacts, ROWS_AT_ONCE):
            rows = range(start, min(start + ROWS_AT_ONCE, contacts))
            noise = os.urandom(16 * len(rows))
            db.executemany(
                "INSERT INTO contacts (list_id, contact_id, provider_contact_id, fingerprint) VALUES (?, ?, ?, ?)",
                ((1 + n % lists, f"c{n}", f"p{n}", noise[16 * i : 16 * i + 16]) for i, n in enumerate(rows)),
            )


async def measure(size: int) -> tuple[float, float, float, float]:
    """The store's MB, CPU ms of a request, p50 and p99 in ms; medians of several runs."""
    with TemporaryDirectory() as name:
        store = Path(name) / "bridge.db"
        await asyncio.to_thread(partial(fill, store, "mailchimp", contacts=size))
        async with (
            esp("mailchimp tag", 0.05) as service,
            bridge(Path(name), f"sqlite:///{store}", {"mailchimp": service.settings}, main="mailchimp") as running,
            Planfix(running.url, clients=CLIENTS) as planfix,
        ):
            list_id = await planfix.create_list("Клиенты")
            runs: list[tuple[float, float, float]] = []
            for number in range(RUNS + 1):
                bodies = list(islice(planfix.updates(list_id, 10**8 + number * REQUESTS), REQUESTS))
                async with running.meter() as meter:
                    told = await planfix.burst(bodies)
                runs.append((meter.cost.cpu_s / REQUESTS * 1000, told.p50_ms, told.p99_ms))
            cpu_ms, p50_ms, p99_ms = (median(values) for values in zip(*runs[1:], strict=True))  # the first warms up
            return store.stat().st_size / 1e6, cpu_ms, p50_ms, p99_ms


async def run(quick: bool) -> Case:
    case = Case(
        "Growth", (__doc__ or "").strip(), ("mapped contacts", "store MB", "CPU ms/request", "p50 ms", "p99 ms")
    )
    found: list[tuple[float, float]] = []
    for size in SIZES[: 2 if quick else 3]:
        store_mb, cpu_ms, p50_ms, p99_ms = await measure(size)
        found.append((size, cpu_ms))
        case.row(f"{size:,}", round(store_mb), round(cpu_ms, 3), round(p50_ms, 1), round(p99_ms, 1))
    largest, smallest = found[-1], found[0]
    case.target(f"CPU of a request with {largest[0]:,} ÷ that with 10,000", round(largest[1] / smallest[1], 2), 1.3)
    case.curves.append(Curve("CPU of a request over mapped contacts", "mapped contacts", "ms", {"SQLite": found}))
    return case
