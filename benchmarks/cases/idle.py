"""Idle and start: memory, CPU and start-up time with nothing to do; with many accounts and lists."""

import asyncio
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

import psutil

from benchmarks.cases.growth import fill
from benchmarks.esps import esp
from benchmarks.machine import MB, bridge
from benchmarks.results import Case, Target

IDLE_S = 10.0


async def run() -> Case:
    case = Case(
        "Idle and start",
        "A bridge with one REST provider (Brevo) that has nothing to do; then one with 1,000 accounts and 10,000 lists.",
        ("bridge", "ready s", "memory MB", "CPU % when idle"),
    )
    for title, accounts, lists in (("one account", 1, 0), ("1,000 accounts, 10,000 lists", 1000, 10_000)):
        async with esp("brevo", 0.0) as service:
            with TemporaryDirectory() as name:
                store = Path(name) / "bridge.db"
                if lists:
                    await asyncio.to_thread(
                        partial(fill, store, "brevo", contacts=lists, lists=lists, accounts=accounts)
                    )
                names = {f"a{number}": "brevo" for number in range(accounts)}
                async with bridge(Path(name), f"sqlite:///{store}", {"brevo": service.settings}, **names) as running:
                    await asyncio.sleep(1)
                    async with running.meter() as meter:
                        await asyncio.sleep(IDLE_S)
                    rss_mb = psutil.Process(running.pid).memory_info().rss / MB
                    busy = meter.cost.cpu_s / meter.cost.wall_s * 100
                    case.row(title, round(running.ready_s, 2), round(rss_mb), round(busy, 2))
                    if accounts == 1:
                        case.targets += [
                            Target("memory when idle, MB", round(rss_mb), 90),
                            Target("CPU when idle, %", round(busy, 2), 1),
                            Target("seconds until ready", round(running.ready_s, 2), 1),
                        ]
    for module in ("bridge.server", "providers.brevo", "providers.mailchimp", "providers.sendgrid"):
        started_s = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)  # noqa: S603 - our own modules
        case.notes.append(f"`import {module}` in a fresh Python: {time.perf_counter() - started_s:.2f} s")
    return case
