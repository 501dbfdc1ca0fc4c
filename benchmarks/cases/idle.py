"""Idle and start: memory, CPU and start-up time with nothing to do; with many accounts and lists."""

import asyncio
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cases.growth import fill
from benchmarks.esps import esp
from benchmarks.machine import bridge
from benchmarks.results import Case

IDLE_S = 10.0


async def run() -> Case:
    case = Case(
        "Idle and start",
        "A bridge with one REST provider (Brevo) and nothing to do; then one with 1,000 accounts and 10,000 lists.",
        ("bridge", "ready s", "memory MB", "CPU % when idle"),
    )
    for title, accounts, lists in (("one account", 1, 0), ("1,000 accounts, 10,000 lists", 1000, 10_000)):
        with TemporaryDirectory() as name:
            store = Path(name) / "bridge.db"
            await asyncio.to_thread(partial(fill, store, "brevo", contacts=lists, lists=lists, accounts=accounts))
            names = {f"a{number}": "brevo" for number in range(accounts)}
            async with (
                esp("brevo", 0.0) as service,
                bridge(Path(name), f"sqlite:///{store}", {"brevo": service.settings}, **names) as running,
            ):
                await asyncio.sleep(1)
                async with running.meter() as meter:
                    await asyncio.sleep(IDLE_S)
        memory_mb, busy = round(meter.cost.peak_mb), round(meter.cost.cpu_s / meter.cost.wall_s * 100, 2)
        ready_s = round(running.ready_s, 2)
        case.row(title, ready_s, memory_mb, busy)
        if accounts == 1:
            case.target("memory when idle, MB", memory_mb, 90)
            case.target("CPU when idle, %", busy, 1)
            case.target("seconds until ready", ready_s, 1)
    for module in ("bridge.server", "providers.brevo", "providers.mailchimp", "providers.sendgrid"):
        started_s = time.perf_counter()
        await (await asyncio.create_subprocess_exec(sys.executable, "-c", f"import {module}")).wait()
        case.notes.append(f"`import {module}` in a fresh Python: {time.perf_counter() - started_s:.2f} s")
    return case
