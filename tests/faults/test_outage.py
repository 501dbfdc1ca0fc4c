"""Six hours without the ESP: every change is taken at once, kept, and delivered in the fewest calls."""

import asyncio
import re
from math import ceil

import pytest

from bridge.delivery import BACKOFF_MAX_S
from bridge.planfix import WireContact
from bridge.replies import Tally
from providers.base import Transient
from tests.bench import Bench, person
from tests.memory_provider import MemoryProvider
from tests.test_delivery import REQUEST_AND_COURIER

HOURS_S = 6 * 3600.0
CONTACTS = 4000
PER_IMPORT = 2000
SINGLES_AT_ONCE = 250
TOLD = ("outbox_changes", "outbox_oldest_seconds", "provider_up")


async def measured(bench: Bench) -> dict[str, float]:
    text = (await bench.bridge.measure()).decode()
    found = re.findall(r'^planfix_bridge_(\w+)\{account="main".*\} (\S+)$', text, re.MULTILINE)
    return {name: float(value) for name, value in found if name in TOLD}


def contact(number: int, version: int) -> WireContact:
    return person(number, first=f"Маша {version}")


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
async def test_an_outage_of_six_hours_with_ten_thousand_changes(bench: Bench) -> None:
    list_id = await bench.create()
    assert await bench.change(list_id, "add", person(0)) == Tally(delivered=1)
    bench.esp.script = [Transient("503")] * 10_000
    asking = asyncio.create_task(bench.change(list_id, "update", person(0)))
    bench.clock.advance(await bench.clock.until_waiting(REQUEST_AND_COURIER))
    assert await asking == Tally(pending=1)
    began = bench.clock.now()
    versions: dict[int, int] = {}
    changes = 0

    async def quarter_of_an_hour() -> None:
        bench.clock.advance(BACKOFF_MAX_S)  # the longest that a courier waits: the ESP is asked again
        await bench.clock.until_waiting()

    # The clock stands still while requests are answered: one that waited for it would never come back.
    for version, first in enumerate((1, 1001, 2001, 1)):
        numbers = range(first, first + PER_IMPORT)
        versions |= dict.fromkeys(numbers, version)
        changes += PER_IMPORT
        told = await bench.bring(list_id, *(contact(number, version) for number in numbers))
        assert told == Tally(pending=PER_IMPORT)
        await quarter_of_an_hour()
    for first in range(1, PER_IMPORT, SINGLES_AT_ONCE):
        numbers = range(first, first + SINGLES_AT_ONCE)
        versions |= dict.fromkeys(numbers, 9)
        changes += SINGLES_AT_ONCE
        singles = [bench.change(list_id, "update", contact(number, 9)) for number in numbers]
        assert set(await asyncio.gather(*singles)) == {Tally(pending=1)}
        await quarter_of_an_hour()
    assert changes == 10_000
    while bench.clock.now() < began + HOURS_S:
        await quarter_of_an_hour()

    waiting = CONTACTS + 1
    told = await measured(bench)
    assert told["outbox_changes"] == waiting == await bench.pending()
    assert told["outbox_oldest_seconds"] == pytest.approx(HOURS_S, abs=2 * BACKOFF_MAX_S)
    assert told["provider_up"] == 0

    bench.esp.script = []
    calls = len(bench.esp.calls)
    await bench.until_delivered()
    assert len(bench.esp.calls) - calls == ceil(waiting / MemoryProvider.limits.batch_size)
    on_list = bench.esp.on[list_id.removeprefix("memory:")]
    assert {address: each.first_name for address, each in on_list.items()} == {
        "p0@x.test": "Маша",
        **{f"p{number}@x.test": f"Маша {version}" for number, version in versions.items()},
    }
    assert await bench.change(list_id, "update", person(0)) == Tally(delivered=1)
    assert await measured(bench) == {"outbox_changes": 0, "outbox_oldest_seconds": 0, "provider_up": 1}
