"""Outage drain: 100,000 changes that were accepted while the service was away, delivered when it is back."""

import asyncio
from pathlib import Path
from tempfile import TemporaryDirectory

from benchmarks.cases.imports import drained
from benchmarks.esps import esp
from benchmarks.load import Planfix, some_people
from benchmarks.machine import bridge
from benchmarks.results import Case
from providers.testing import Fault

CONTACTS = 100_000


async def run() -> Case:
    case = Case(
        "Outage drain", (__doc__ or "").strip(), ("provider", "accepted in s", "delivered in s", "calls", "CPU s")
    )
    async with esp("mailchimp tag", 0.2) as service:
        with TemporaryDirectory() as name:
            store = Path(name) / "bridge.db"
            providers = {"mailchimp": service.settings}
            async with bridge(Path(name), f"sqlite:///{store}", providers, main="mailchimp") as running:
                async with Planfix(running.url) as planfix:
                    list_id = await planfix.create_list("Клиенты")
                    service.harness.fail(Fault.EMPTY_503, times=1_000_000)
                    loop = asyncio.get_running_loop()
                    started_s = loop.time()
                    told = await planfix.send(planfix.import_body(list_id, some_people(CONTACTS)))
                    accepted_s = loop.time() - started_s
                    if told.get("pending") != CONTACTS:
                        raise RuntimeError(f"an outage was not told: {told}")
                    service.harness.heal()
                    calls = service.calls
                    await planfix.create_list("Another")  # somebody waits: the next try comes at once
                    async with running.meter() as meter:
                        await drained(store)
                    case.row(
                        "mailchimp", round(accepted_s, 2), round(meter.cost.wall_s, 2), service.calls - calls,
                        round(meter.cost.cpu_s, 2),
                    )  # fmt: skip
    return case
