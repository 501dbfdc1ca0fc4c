"""Outage drain: 100,000 changes that were accepted while the service was away, delivered when it is back."""

import time
from contextlib import suppress

from benchmarks.cases.imports import drained
from benchmarks.esps import bridge_to, esp
from benchmarks.load import Planfix, some_people
from benchmarks.results import Case
from providers.testing import Fault

CONTACTS = 100_000


async def run() -> Case:
    case = Case(
        "Outage drain", (__doc__ or "").strip(), ("provider", "accepted in s", "delivered in s", "calls", "CPU s")
    )
    async with (
        esp("mailchimp tag", 0.2) as service,
        bridge_to(service) as (running, store),
        Planfix(running.url) as planfix,
    ):
        list_id = await planfix.create_list("Клиенты")
        service.harness.fail(Fault.EMPTY_503, times=1_000_000)
        started_s = time.perf_counter()
        told = await planfix.send(planfix.import_body(list_id, some_people(CONTACTS)))
        accepted_s = time.perf_counter() - started_s
        if told.get("pending") != CONTACTS:
            raise RuntimeError(f"an outage was not told: {told}")
        service.harness.heal()
        calls = service.calls
        async with running.meter() as meter:
            with suppress(
                RuntimeError
            ):  # not while the outage is known; but somebody waits: the next try comes at once
                await planfix.create_list("Another")
            await drained(store)
        cost = meter.cost
        case.row("mailchimp", round(accepted_s, 2), round(cost.wall_s, 2), service.calls - calls, round(cost.cpu_s, 2))
    return case
