"""Single updates: one updateContact a request, as Planfix sends them, over clients, latency of the ESP, and store."""

import math
from collections.abc import Awaitable, Callable
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from benchmarks.esps import bridge_to, esp
from benchmarks.load import Planfix
from benchmarks.machine import bridge
from benchmarks.results import Case, Curve, median

CLIENTS = (1, 16, 64, 256)
LATENCIES_S = (0.0, 0.05, 0.2)
PER_CELL_S = 1.5  # so long a cell should take, at what the ESP lets through
RUNS_OF_HEADLINE = 3
BURST = 10_000
NODE_RED_CPU_MS = 1.0  # measured before, on a machine of two cores: issue of the project


class Single(NamedTuple):
    """What single updates came to."""

    requests_per_s: float
    cpu_ms: float  # of a request
    p50_ms: float
    p99_ms: float
    calls: float  # of the ESP, for a request


async def one(store: str, latency_s: float, clients: int, requests: int, folder: Path) -> Single:
    async with (
        esp("mailchimp tag", latency_s) as service,
        bridge(folder, store, {"mailchimp": service.settings}, main="mailchimp") as running,
        Planfix(running.url, clients=clients) as planfix,
    ):
        list_id = await planfix.create_list("Клиенты")
        await planfix.burst(list(islice(planfix.updates(list_id, 10_000_000), 5 + 2 * clients)))  # warm
        bodies = list(islice(planfix.updates(list_id, 1), requests))
        calls = service.calls
        async with running.meter() as meter:
            told = await planfix.burst(bodies)
        return Single(
            requests / meter.cost.wall_s,
            meter.cost.cpu_s / requests * 1000,
            told.p50_ms,
            told.p99_ms,
            (service.calls - calls) / requests,
        )


async def run(new_database: Callable[[], Awaitable[str]], quick: bool) -> Case:
    case = Case(
        "Single updates",
        "One contact a request to one Mailchimp list (tag mode). Every request is durable before it is answered, and "
        "is answered when the contact is at Mailchimp. The added latency is the p99 less one call of the ESP; what a "
        "trivial endpoint's p99 is with as many clients, which send in turn from one core, is under Ceiling.",
        ("store", "ESP ms", "clients", "requests/s", "CPU ms/request", "p50 ms", "p99 ms", "calls/request"),
    )
    throughput: dict[str, list[tuple[float, float]]] = {}
    cpu: dict[str, list[tuple[float, float]]] = {}
    for kind in ("SQLite", "PostgreSQL"):
        for latency_s in LATENCIES_S:
            for clients in CLIENTS:
                requests = min(4000, max(20, math.ceil(clients * PER_CELL_S / max(latency_s, 0.002))))
                headline = (kind, latency_s, clients) == ("SQLite", 0.05, 64)
                runs = []
                for _ in range(RUNS_OF_HEADLINE if headline and not quick else 1):
                    with TemporaryDirectory() as name:
                        store = f"sqlite:///{name}/bridge.db" if kind == "SQLite" else await new_database()
                        runs.append(await one(store, latency_s, clients, requests, Path(name)))
                found = Single(*(median(values) for values in zip(*runs, strict=True)))
                line = f"{kind}, ESP {latency_s * 1000:.0f} ms"
                throughput.setdefault(line, []).append((clients, found.requests_per_s))
                cpu.setdefault(line, []).append((clients, found.cpu_ms))
                case.row(
                    kind,
                    round(latency_s * 1000),
                    clients,
                    round(found.requests_per_s),
                    round(found.cpu_ms, 3),
                    round(found.p50_ms, 1),
                    round(found.p99_ms, 1),
                    round(found.calls, 3),
                )
                if headline:
                    cpu_ms = found.cpu_ms
                    case.target("CPU of a request, ms (64 clients, ESP 50 ms, SQLite)", round(cpu_ms, 3), 0.35)
                    times = round(NODE_RED_CPU_MS / cpu_ms, 2)
                    case.target("a Node-RED flow's CPU (1 ms) over the bridge's", times, 3, at_most=False)
                    case.target("latency added at p99, ms", round(found.p99_ms - latency_s * 1000, 1), 10)
    case.curves += [
        Curve("Requests a second", "clients", "requests/s", throughput),
        Curve("CPU of a request", "clients", "ms", cpu),
    ]
    await _burst(case)
    return case


async def _burst(case: Case) -> None:
    """A burst of single updates to one list: how many calls they become, where a batch is one call (an audience)."""
    async with (
        esp("mailchimp audience", 0.2) as service,
        bridge_to(service) as (running, _),
        Planfix(running.url, clients=BURST) as planfix,
    ):
        list_id = await planfix.create_list("Клиенты")
        bodies = list(islice(planfix.updates(list_id, 1), BURST))
        calls = service.calls
        await planfix.burst(bodies)
        needed = math.ceil(BURST / 500) + 20
        case.target(f"calls for a burst of {BURST:,} single updates", service.calls - calls, needed)
