"""`verify`: what differs between the map and the provider, and what a repair puts right."""

import pytest

from bridge.changes import Change, Kind
from bridge.replies import Tally
from providers.base import Contact, Transient
from tests.bench import person
from tests.clock import DrivenClock
from tests.moves.bench import MovingBench, running

pytestmark = pytest.mark.usefixtures("types")

DELIVERED = Tally(delivered=1)


async def list_with(bench: MovingBench, count: int) -> str:
    list_id = await bench.create()
    await bench.bring(list_id, *(person(number) for number in range(1, count + 1)))
    return list_id


async def test_a_list_as_it_should_be_is_well(bench: MovingBench) -> None:
    await list_with(bench, 25)
    bench.esp.out.add("p1@x.test")
    await bench.change("memory:1", "update", person(1))
    found = await bench.verify()
    assert found.is_well
    assert (found.members, found.renamed, found.by_hand) == (25, False, 0)


async def test_every_difference_is_told_and_nothing_is_changed(bench: MovingBench) -> None:
    await list_with(bench, 5)
    people = bench.esp.on["1"]
    del people["p1@x.test"]
    people["p77@x.test"] = Contact("77", "p77@x.test")
    people["form@x.test"] = Contact("", "form@x.test")
    bench.esp.out.add("p2@x.test")
    bench.esp.names["1"] = "Renamed"
    before = dict(people)
    found = await bench.verify()
    assert not found.is_well
    assert (found.missing, found.extra, found.by_hand, found.opted_out) == (["1"], ["77"], 1, 1)
    assert (found.renamed, found.gone, found.repaired) == (True, False, 0)
    assert bench.esp.on["1"] == before
    assert await bench.pending() == 0
    assert await bench.bridge.store.memory.opt_out_count("main") == 0


async def test_a_repair_records_opt_outs_and_removes_whom_planfix_does_not_have(bench: MovingBench) -> None:
    list_id = await list_with(bench, 3)
    bench.esp.on["1"]["p77@x.test"] = Contact("77", "p77@x.test")
    bench.esp.on["1"]["form@x.test"] = Contact("", "form@x.test")
    bench.esp.out.add("p2@x.test")
    assert (await bench.verify(repair=True)).repaired == 2
    await bench.until_delivered()
    assert set(bench.esp.on["1"]) == {"p1@x.test", "p2@x.test", "p3@x.test", "form@x.test"}
    bench.esp.out.clear()  # from here on only the bridge remembers
    await bench.change(list_id, "add", person(2))
    assert await bench.mailable(list_id) == {"p1@x.test", "p3@x.test", "form@x.test"}
    assert (await bench.verify()).missing == []


async def test_who_is_missing_is_found_on_an_old_list_that_was_kept(bench: MovingBench) -> None:
    list_id = await list_with(bench, 5)
    await bench.move()
    await bench.change(list_id, "update", person(3, "moved@x.test"), "p3@x.test")
    there = bench.there.on["101"]
    for address in ("p1@x.test", "p2@x.test", "moved@x.test"):
        del there[address]
    bench.esp.out.add("p2@x.test")  # in an old mail
    found = await bench.verify(repair=True)
    assert sorted(found.missing) == ["1", "3"]
    assert (found.brought_back, found.late) == (["1"], 1)
    await bench.until_delivered()
    assert await bench.mailable(list_id) == {"p1@x.test", "p4@x.test", "p5@x.test"}
    assert there["p1@x.test"].first_name == "Маша"
    again = await bench.verify()
    assert again.missing == ["3"]  # its address is nowhere: Planfix must send it
    await bench.change(list_id, "update", person(3, "moved@x.test"))
    assert (await bench.verify()).is_well


@pytest.mark.parametrize("new", ["memory", "taking"])
async def test_opt_outs_at_an_old_place_are_told_and_carried_by_a_repair(
    store_url: str, clock: DrivenClock, new: str
) -> None:
    async with running(MovingBench(store_url, clock, new=new)) as bench:
        list_id = await list_with(bench, 3)
        await bench.move()
        bench.esp.out.add("p2@x.test")
        found = await bench.verify()
        assert (found.late, found.is_well, found.repaired) == (1, False, 0)
        assert await bench.mailable(list_id) == {"p1@x.test", "p2@x.test", "p3@x.test"}
        found = await bench.verify(repair=True)
        assert (found.late, found.repaired) == (1, 1)
        await bench.until_delivered()
        assert await bench.mailable(list_id) == {"p1@x.test", "p3@x.test"}
        assert (await bench.verify()).is_well


async def test_who_left_a_service_that_forgets_is_recorded_as_opted_out(store_url: str, clock: DrivenClock) -> None:
    async with running(MovingBench(store_url, clock, old="forgetting")) as bench:
        list_id = await list_with(bench, 3)
        del bench.esp.on["1"]["p1@x.test"]
        found = await bench.verify(repair=True)
        assert (found.opted_out, found.missing) == (1, [])
        await bench.change(list_id, "add", person(1))
        assert await bench.mailable(list_id) == {"p2@x.test", "p3@x.test"}


async def test_changes_that_wait_are_no_differences(bench: MovingBench) -> None:
    list_id = await list_with(bench, 3)
    await bench.stop()
    people = bench.esp.on["1"]
    bench.esp.script = [Transient("503", retry_after_s=600.0)]
    await bench.start()
    for request in (
        bench.change(list_id, "add", person(4)),
        bench.change(list_id, "delete", person(1)),
        bench.change(list_id, "update", person(2, "new@x.test"), "p2@x.test"),
    ):
        assert await request == Tally(pending=1)
    del people["p1@x.test"]  # as after a crash between a call and its record
    people["new@x.test"] = people.pop("p2@x.test")
    people["p4@x.test"] = Contact("4", "p4@x.test")
    found = await bench.verify(repair=True)
    assert (found.missing, found.extra, found.repaired) == ([], [], 0)


async def test_who_is_subscribed_there_and_kept_out_here_is_told_and_left_alone(bench: MovingBench) -> None:
    await list_with(bench, 2)
    bench.esp.out.add("p1@x.test")
    await bench.change("memory:1", "update", person(1))
    bench.esp.out.clear()  # the person signed up again, by a form of the service
    found = await bench.verify(repair=True)
    assert (found.subscribed_there, found.repaired, found.is_well) == (1, 0, True)


async def test_a_list_that_is_gone_or_being_moved_or_cannot_be_read_is_told(bench: MovingBench) -> None:
    await list_with(bench, 2)
    bench.esp.script = [Transient("503")]
    assert (await bench.verify()).detail == "Transient: 503"
    assert await bench.killed_switch("upsert", 1, acted=False)
    assert (await bench.verify()).detail == "it is being moved"
    await bench.switch(None)
    bench.esp.on.clear()
    found = await bench.verify()
    assert (found.gone, found.is_well) == (True, False)


async def test_a_repair_never_counts_for_more_than_what_planfix_wants_meanwhile(bench: MovingBench) -> None:
    list_id = await list_with(bench, 2)
    bench.esp.on["1"]["p77@x.test"] = Contact("77", "p77@x.test")
    async with bench.command() as (store, _):
        mapped = await bench.list_of(list_id)
        bench.esp.script = [Transient("503", retry_after_s=600.0)]
        await bench.change(list_id, "add", person(77))
        await store.moves.queue(mapped.id, [Change("77", Kind.ABSENT, "p77@x.test")])
    await bench.until_delivered()
    assert await bench.mailable(list_id) == {"p1@x.test", "p2@x.test", "p77@x.test"}
