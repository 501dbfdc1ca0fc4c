"""Imports: wall time against the physical limit of the call plan, CPU and memory, and what a script would need."""

import asyncio
import sqlite3
import time
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from mailchimp_marketing import Client

from benchmarks.esps import Esp, esp
from benchmarks.load import Planfix, some_people
from benchmarks.machine import Cost, Running, bridge
from benchmarks.results import Case, Curve, Target

KINDS = ("mailchimp tag", "sendgrid", "brevo")
SIZES = (1_000, 10_000, 100_000)
LARGEST = 1_000_000
LATENCY_S = 0.2
SCRIPT_CONTACTS = 10_000  # of the script with one batch after the other; its time grows evenly
SINGLE_CONTACTS = 100  # of the script with one contact a call


async def drained(store: Path) -> None:
    """Returns when the outbox is empty."""

    def waiting() -> int:
        with sqlite3.connect(store) as connection:
            return int(connection.execute("SELECT count(*) FROM (SELECT 1 FROM outbox LIMIT 1)").fetchone()[0])

    while await asyncio.to_thread(waiting):  # noqa: ASYNC110 - the store tells nobody
        await asyncio.sleep(0.02)


async def import_into(running: Running, service: Esp, store: Path, count: int) -> tuple[Cost, int]:
    """One import from its request until all is delivered; what it cost, and how many calls it took."""
    async with Planfix(running.url) as planfix:
        list_id = await planfix.create_list(f"Импорт {count}")
        body = planfix.import_body(list_id, some_people(count))
        calls = service.calls
        async with running.meter() as meter:
            await planfix.send(body)
            await drained(store)
        return meter.cost, service.calls - calls


async def run(quick: bool) -> Case:
    case = Case(
        "Imports",
        "One importContacts request, until every contact is at the service. The limit is the calls of the plan ÷ the calls at "
        "one time × their latency; where the ESP has no latency there is none.",
        ("provider", "ESP ms", "contacts", "wall s", "÷ limit", "CPU s", "CPU µs/contact", "memory +MB", "calls"),
    )
    per_contact: dict[str, list[tuple[float, float]]] = {}
    at_100k: dict[tuple[str, float], Cost] = {}
    for kind in KINDS:
        for latency_s in (0.0, LATENCY_S):
            async with esp(kind, latency_s) as service:
                with TemporaryDirectory() as name:
                    store = Path(name) / "bridge.db"
                    providers = {service.name: service.settings}
                    async with bridge(Path(name), f"sqlite:///{store}", providers, main=service.name) as running:
                        await import_into(running, service, store, 100)  # what is asked only once
                        sizes = [*SIZES, LARGEST] if kind == KINDS[0] and not latency_s and not quick else SIZES
                        for count in sizes:
                            cost, calls = await import_into(running, service, store, count)
                            limit_s = calls / service.harness.provider.parallel_calls * latency_s
                            ratio = cost.wall_s / limit_s if limit_s else None
                            used_us = cost.cpu_s / count * 1e6
                            case.row(
                                service.name, round(latency_s * 1000), f"{count:,}", round(cost.wall_s, 2),
                                "" if ratio is None else round(ratio, 2), round(cost.cpu_s, 2), round(used_us, 1),
                                round(cost.peak_mb - cost.before_mb), calls,
                            )  # fmt: skip
                            per_contact.setdefault(f"{service.name}, ESP {latency_s * 1000:.0f} ms", []).append(
                                (count, used_us)
                            )
                            if count == 100_000:
                                at_100k[service.name, latency_s] = cost
                                if service.name == "mailchimp" and ratio is not None:
                                    case.targets.append(
                                        Target("Mailchimp, 100,000 at 200 ms: wall time ÷ limit", round(ratio, 2), 1.15)
                                    )
                            if count == LARGEST:
                                case.targets.append(
                                    Target(
                                        "memory of 1,000,000 contacts, MB over idle",
                                        round(cost.peak_mb - cost.before_mb),
                                        600,
                                    )
                                )
                                first = per_contact[f"{service.name}, ESP 0 ms"][1][1]
                                case.targets.append(
                                    Target(
                                        "CPU a contact at 1,000,000 ÷ that at 10,000", round(used_us / first, 2), 1.2
                                    )
                                )
    memory = at_100k["mailchimp", 0.0]
    case.targets.append(
        Target("memory of 100,000 contacts, MB over idle", round(memory.peak_mb - memory.before_mb), 120)
    )
    rest = at_100k["brevo", 0.0].cpu_s / 100_000 * 1e6
    case.targets.append(Target("a REST provider's CPU a contact, µs (Brevo, 100,000)", round(rest, 1), 40))
    await _scripts(case, at_100k["mailchimp", LATENCY_S].wall_s)
    await _beside(case)
    case.curves.append(Curve("CPU a contact", "contacts", "µs", per_contact))
    return case


async def _scripts(case: Case, bridge_s: float) -> None:
    """What a person would write with the vendor's package alone, against the same fake."""
    async with esp("mailchimp audience", LATENCY_S) as service:
        list_id = await service.harness.make_list("Everybody")
        client = Client()
        client.set_config({"api_key": str(service.settings["api_key"])})
        client.api_client.host = str(service.settings["base_url"])
        people = [
            {"email_address": one["email"], "status_if_new": "subscribed", "status": "subscribed",
             "merge_fields": {"FNAME": one["firstName"], "LNAME": one["lastName"]}}
            for one in some_people(SCRIPT_CONTACTS)
        ]  # fmt: skip

        def in_batches() -> float:
            started_s = time.perf_counter()
            for start in range(0, SCRIPT_CONTACTS, 500):
                client.lists.batch_list_members(
                    list_id, {"members": people[start : start + 500], "update_existing": True}
                )
            return (time.perf_counter() - started_s) / SCRIPT_CONTACTS

        def one_by_one() -> float:
            started_s = time.perf_counter()
            for person in people[:SINGLE_CONTACTS]:
                body = {key: person[key] for key in ("email_address", "status", "merge_fields")}
                client.lists.add_list_member(list_id, body | {"email_address": "single." + str(body["email_address"])})
            return (time.perf_counter() - started_s) / SINGLE_CONTACTS

        batches_s = await asyncio.to_thread(in_batches) * 100_000
        single_s = await asyncio.to_thread(one_by_one) * 100_000
    case.notes.append(
        f"A script with the SDK alone, 500 a call, one call after the other: {batches_s:.0f} s for 100,000 (from {SCRIPT_CONTACTS:,}); "
        f"one contact a call: {single_s / 3600:.1f} h (from {SINGLE_CONTACTS}). The bridge: {bridge_s:.1f} s, names and tags included."
    )
    case.targets += [
        Target(
            "times faster than the sequential script, 100,000 at 200 ms",
            round(batches_s / bridge_s, 1),
            9,
            at_most=False,
        ),
        Target("times faster than one contact a call", round(single_s / bridge_s), 1000, at_most=False),
    ]


async def _beside(case: Case) -> None:
    """Single updates to another list while an import of 100,000 runs."""
    async with esp("mailchimp tag", LATENCY_S) as service:
        with TemporaryDirectory() as name:
            store = Path(name) / "bridge.db"
            async with bridge(
                Path(name), f"sqlite:///{store}", {"mailchimp": service.settings}, main="mailchimp"
            ) as running:
                async with Planfix(running.url) as importing, Planfix(running.url) as single:
                    lists = [await single.create_list(name) for name in ("Импорт", "Другой")]
                    body = importing.import_body(lists[0], some_people(100_000))
                    alone = await single.burst(list(islice(single.updates(lists[1], 1), 20)))
                    sending = asyncio.create_task(importing.send(body))
                    bodies = islice(single.updates(lists[1], 1_000_000), 2000)
                    seconds: list[float] = []
                    while not sending.done():
                        seconds += (await single.burst([next(bodies)])).seconds
                    await sending
                    seconds.sort()
                    p99_ms = seconds[int(len(seconds) * 0.99)] * 1000
                    case.notes.append(
                        f"While the import's request ran, {len(seconds)} single updates to another list were answered one after the other: "
                        f"p99 {p99_ms:.0f} ms, {alone.p50_ms:.0f} ms without an import."
                    )
                    case.targets.append(
                        Target("p99 added to single updates beside an import, ms", round(p99_ms - alone.p50_ms, 1), 20)
                    )
