"""Imports: wall time against the physical limit of the call plan, CPU and memory, and what a script would need."""

import asyncio
import hashlib
import sqlite3
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from mailchimp_marketing import Client

from benchmarks.esps import Esp, bridge_to, esp
from benchmarks.load import Planfix, some_people
from benchmarks.machine import Cost, Running
from benchmarks.results import Case, Curve

SIZES = (1_000, 10_000, 100_000)
LARGEST = 1_000_000
LATENCY_S = 0.2
SCRIPT_CONTACTS = 10_000  # of the script with one batch after the other; its time grows evenly
SINGLE_CONTACTS = 100  # of the script with one contact a call


@dataclass(frozen=True, slots=True)
class Imported:
    """What one import cost, from its request until all was delivered."""

    contacts: int
    cost: Cost
    calls: int

    @property
    def cpu_us(self) -> float:
        """Of one contact."""
        return self.cost.cpu_s / self.contacts * 1e6

    @property
    def grown_mb(self) -> float:
        return self.cost.peak_mb - self.cost.before_mb


async def drained(store: Path) -> None:
    """Returns when the outbox is empty."""

    def waiting() -> int:
        with sqlite3.connect(store) as connection:
            return int(connection.execute("SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT 1)").fetchone()[0])

    while await asyncio.to_thread(waiting):  # noqa: ASYNC110 - the store tells nobody
        await asyncio.sleep(0.02)


async def import_into(running: Running, service: Esp, store: Path, count: int) -> Imported:
    async with Planfix(running.url) as planfix:
        list_id = await planfix.create_list(f"Импорт {count}")
        body = planfix.import_body(list_id, some_people(count))
        calls = service.calls
        async with running.meter() as meter:
            await planfix.send(body)
            await drained(store)
        return Imported(count, meter.cost, service.calls - calls)


async def imports_to(case: Case, kind: str, latency_s: float, sizes: tuple[int, ...]) -> dict[int, Imported]:
    """One import of each size; their rows go into the case."""
    found: dict[int, Imported] = {}
    async with esp(kind, latency_s) as service, bridge_to(service) as (running, store):
        await import_into(running, service, store, 100)  # what is asked only once
        for count in sizes:
            one = found[count] = await import_into(running, service, store, count)
            ratio = wall_over_limit(service, one, latency_s)
            case.row(
                service.name,
                round(latency_s * 1000),
                f"{count:,}",
                round(one.cost.wall_s, 2),
                "" if ratio is None else round(ratio, 2),
                round(one.cost.cpu_s, 2),
                round(one.cpu_us, 1),
                round(one.grown_mb),
                one.calls,
            )
            if ratio is not None and (kind, count) == ("mailchimp tag", 100_000):
                case.target("Mailchimp, 100,000 at 200 ms: wall time ÷ limit", round(ratio, 2), 1.15)
    return found


def wall_over_limit(service: Esp, one: Imported, latency_s: float) -> float | None:
    """None where the service has no latency, or works jobs off in its own time."""
    provider = service.harness.provider
    if not latency_s or provider.capabilities.asynchronous:
        return None
    return one.cost.wall_s / (one.calls / provider.parallel_calls * latency_s)


async def run(quick: bool) -> Case:
    case = Case(
        "Imports",
        "One importContacts request, until every contact is at the service. The limit is the calls of the plan ÷ the "
        "calls at one time × their latency. SendGrid and Brevo work jobs off in their own time: they have none.",
        ("provider", "ESP ms", "contacts", "wall s", "÷ limit", "CPU s", "CPU µs/contact", "memory +MB", "calls"),
    )
    mailchimp = await imports_to(case, "mailchimp tag", 0.0, SIZES if quick else (*SIZES, LARGEST))
    at_latency = await imports_to(case, "mailchimp tag", LATENCY_S, SIZES)
    sendgrid = await imports_to(case, "sendgrid", 0.0, SIZES)
    await imports_to(case, "sendgrid", LATENCY_S, SIZES)
    brevo = await imports_to(case, "brevo", 0.0, SIZES[1:])
    case.target("memory of 100,000 contacts, MB over idle", round(mailchimp[100_000].grown_mb), 120)
    if largest := mailchimp.get(LARGEST):
        case.target("memory of 1,000,000 contacts, MB over idle", round(largest.grown_mb), 600)
        growth = largest.cpu_us / mailchimp[10_000].cpu_us
        case.target("CPU of a contact at 1,000,000 ÷ that at 10,000", round(growth, 2), 1.2)
    case.target("a REST provider's CPU of a contact, µs (Brevo, 100,000)", round(brevo[100_000].cpu_us, 1), 40)
    await _scripts(case, at_latency[100_000].cost.wall_s)
    await _beside(case)
    lines = {"Mailchimp": mailchimp, "SendGrid": sendgrid, "Brevo": brevo}
    points = {name: [(count, one.cpu_us) for count, one in found.items()] for name, found in lines.items()}
    case.curves.append(Curve("CPU of a contact", "contacts", "µs", points))
    return case


async def _scripts(case: Case, bridge_s: float) -> None:
    """What a person would write with the vendor's package alone, against the same fake."""
    async with esp("mailchimp audience", LATENCY_S) as service:
        list_id = await service.harness.make_list("Everybody")
        client = Client()
        client.set_config({"api_key": str(service.settings["api_key"])})
        client.api_client.host = str(service.settings["base_url"])
        people = [_member(one) for one in some_people(SCRIPT_CONTACTS)]

        def in_batches() -> float:
            started_s = time.perf_counter()
            for start in range(0, SCRIPT_CONTACTS, 500):
                body = {"members": people[start : start + 500], "update_existing": True}
                client.lists.batch_list_members(list_id, body)
            return (time.perf_counter() - started_s) / SCRIPT_CONTACTS

        def one_by_one() -> float:
            started_s = time.perf_counter()
            for one in people[:SINGLE_CONTACTS]:
                address = f"single.{one['email_address']}"
                its_hash = hashlib.md5(address.lower().encode(), usedforsecurity=False).hexdigest()
                client.lists.set_list_member(
                    list_id, its_hash, one | {"email_address": address, "status_if_new": "subscribed"}
                )
            return (time.perf_counter() - started_s) / SINGLE_CONTACTS

        batches_s = await asyncio.to_thread(in_batches) * 100_000
        single_s = await asyncio.to_thread(one_by_one) * 100_000
    case.notes.append(
        f"A script with the SDK alone, 500 a call, one call after the other: {batches_s:.0f} s for 100,000 (from "
        f"{SCRIPT_CONTACTS:,}); one contact a call: {single_s / 3600:.1f} h (from {SINGLE_CONTACTS}). The bridge: "
        f"{bridge_s:.1f} s, names and tags included."
    )
    faster = round(batches_s / bridge_s, 1)
    case.target("times faster than the sequential script, 100,000 at 200 ms", faster, 9, at_most=False)
    case.target("times faster than one contact a call", round(single_s / bridge_s), 1000, at_most=False)


def _member(contact: dict[str, Any]) -> dict[str, Any]:
    names = {"FNAME": contact["firstName"], "LNAME": contact["lastName"]}
    return {"email_address": contact["email"], "status": "subscribed", "merge_fields": names}


async def _beside(case: Case) -> None:
    """Single updates to another list while an import of 100,000 runs."""
    async with (
        esp("mailchimp tag", LATENCY_S) as service,
        bridge_to(service) as (running, _),
        Planfix(running.url) as importing,
        Planfix(running.url) as single,
    ):
        lists = [await single.create_list(name) for name in ("Импорт", "Другой")]
        body = importing.import_body(lists[0], some_people(100_000))
        alone = await single.burst(list(islice(single.updates(lists[1], 1), 20)))
        bodies = single.updates(lists[1], 1_000_000)
        seconds: list[float] = []
        sending = asyncio.create_task(importing.send(body))
        while not sending.done():
            seconds += (await single.burst([next(bodies)])).seconds
        await sending
    p99_ms = sorted(seconds)[int(len(seconds) * 0.99)] * 1000
    case.notes.append(
        f"While the import's request ran, {len(seconds)} single updates to another list were answered one after the "
        f"other: p99 {p99_ms:.0f} ms, {alone.p50_ms:.0f} ms without an import."
    )
    case.target("p99 added to single updates beside an import, ms", round(p99_ms - alone.p50_ms, 1), 20)
