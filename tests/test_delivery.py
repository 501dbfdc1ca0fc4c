"""Delivery: batches, order, faults, restarts. Nothing answered is lost, nobody opted out comes back."""

import asyncio
from dataclasses import replace
from functools import partial

import pytest

from bridge.delivery import AUTH_RETRY_S, BACKOFF_MAX_S, State
from bridge.planfix import WireContact
from bridge.replies import Failure, Outcome, Refusal, Tally
from providers.base import (
    BOUNCED,
    AuthFailed,
    Contact,
    ContactRefused,
    OptedOut,
    Postponed,
    Reason,
    Refused,
    Rejected,
    Transient,
)
from tests.bench import Bench, person
from tests.memory_provider import MemoryProvider

DELIVERED = Tally(delivered=1)
REQUEST_AND_COURIER = 2  # who waits while a call is tried again: the request for its outcome, the courier for its time


def people(count: int, first: int = 1) -> list[WireContact]:
    return [person(number) for number in range(first, first + count)]


def addresses(count: int, first: int = 1) -> set[str]:
    return {contact.address for contact in people(count, first)}


def upserts(bench: Bench) -> list[list[str]]:
    return [contact_ids for operation, contact_ids in bench.esp.calls if operation == "upsert"]


def state(bench: Bench) -> State:
    [(_, _, health)] = list(bench.bridge.couriers.health())
    return health.state


# Batches


async def test_an_import_takes_the_fewest_calls_and_no_more_at_once_than_allowed(bench: Bench) -> None:
    list_id = await bench.create()
    assert await bench.bring(list_id, *people(95)) == Tally(delivered=95)
    assert sorted(map(len, upserts(bench))) == [5] + [10] * 9
    assert bench.esp.most_under_way <= 3
    assert await bench.mailable(list_id) == addresses(95)


async def test_one_call_is_kept_for_other_lists_while_an_import_takes_all_that_it_can(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(MemoryProvider, "limits", replace(MemoryProvider.limits, parallel_calls=4))
    imported, other = await bench.create("A"), await bench.create("B")
    bench.esp.hold("upsert")
    importing = asyncio.create_task(bench.bring(imported, *people(95)))
    await bench.esp.until_called("upsert", 3)
    changing = asyncio.create_task(bench.change(other, "add", person(100)))
    await bench.esp.until_called("upsert", 4)
    assert upserts(bench)[3] == ["100"]
    bench.esp.release("upsert")
    assert await changing == Tally(delivered=1)
    assert await importing == Tally(delivered=95)
    assert bench.esp.most_under_way == 4


async def test_a_burst_of_single_changes_gathers_while_a_call_is_out(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.open.clear()
    first = asyncio.create_task(bench.change(list_id, "add", person(1)))
    await bench.esp.until_called("upsert")
    burst = [asyncio.create_task(bench.change(list_id, "add", each)) for each in people(25, first=2)]
    await bench.until_pending(26)
    bench.esp.open.set()
    assert await asyncio.gather(first, *burst) == [DELIVERED] * 26
    assert len(upserts(bench)) <= 5  # of 25 changes: 1 + at least 3 batches of 10
    assert await bench.mailable(list_id) == addresses(26)


async def test_several_lists_go_at_one_time(bench: Bench) -> None:
    lists = [await bench.create(name) for name in ("A", "B", "C")]
    bench.esp.open.clear()
    requests = [asyncio.create_task(bench.change(each, "add", person(n))) for n, each in enumerate(lists)]
    await bench.esp.until_called("upsert", 3)
    assert bench.esp.under_way == 3
    bench.esp.open.set()
    assert await asyncio.gather(*requests) == [DELIVERED] * 3


# Order and repeats


async def test_a_later_change_of_a_contact_in_flight_waits_and_wins(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.open.clear()
    add = asyncio.create_task(bench.change(list_id, "add", person(1)))
    await bench.esp.until_called("upsert")
    remove = asyncio.create_task(bench.change(list_id, "delete", person(1)))
    await bench.until(lambda: _is_absent_wanted(bench))
    assert [operation for operation, _ in bench.esp.calls if operation in ("upsert", "remove")] == ["upsert"]
    bench.esp.open.set()
    assert await asyncio.gather(add, remove) == [DELIVERED, DELIVERED]
    assert await bench.mailable(list_id) == set()


async def _is_absent_wanted(bench: Bench) -> bool:
    [summary] = await bench.bridge.store.lists.summaries()
    return await bench.bridge.store.outbox.wanted_fingerprints(summary.mapped.id, ["1"]) == {"1": None}


async def test_the_same_import_twice_at_once_doubles_nothing(bench: Bench) -> None:
    list_id = await bench.create()
    both = await asyncio.gather(bench.bring(list_id, *people(30)), bench.bring(list_id, *people(30)))
    assert both == [Tally(delivered=30)] * 2
    assert await bench.mailable(list_id) == addresses(30)
    assert await bench.pending() == 0


async def test_an_address_that_two_contacts_share_stays_until_both_have_left(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1, "shared@x.test"), person(2, "Shared@x.test"), person(3))
    assert await bench.change(list_id, "delete", person(1, "shared@x.test")) == DELIVERED
    assert await bench.mailable(list_id) == {"shared@x.test", "p3@x.test"}
    await bench.change(list_id, "delete", person(2, "shared@x.test"))
    assert await bench.mailable(list_id) == {"p3@x.test"}


async def test_a_contact_that_leaves_a_shared_address_takes_it_from_nobody(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1, "shared@x.test"), person(2, "shared@x.test"))
    await bench.change(list_id, "update", person(1, "own@x.test"), "shared@x.test")
    assert await bench.mailable(list_id) == {"shared@x.test", "own@x.test"}


async def test_the_id_of_an_address_is_told_whichever_contact_has_it(bench: Bench) -> None:
    """Where the ESP forgets opt-outs, only the id tells that the person left."""
    here, there = await bench.create("here"), await bench.create("there")
    await bench.bring(here, person(1, "shared@x.test"), person(3, "c@x.test"))
    for list_id, told in ((here, "shared@x.test"), (there, None)):
        await bench.bring(list_id, person(2, "Shared@x.test"))
        delivered = bench.esp.on[list_id.removeprefix("memory:")]["shared@x.test"]
        assert (delivered.id, delivered.provider_contact_id, delivered.id_is_old) == ("2", told, False)
    await bench.change(here, "update", person(3, "shared@x.test"), "c@x.test")  # an id of its own
    delivered = bench.esp.on[here.removeprefix("memory:")]["shared@x.test"]
    assert (delivered.provider_contact_id, delivered.id_is_old) == ("c@x.test", True)


async def test_an_address_shared_with_another_list_leaves_only_this_one(bench: Bench) -> None:
    here, there = await bench.create("here"), await bench.create("there")
    await bench.bring(here, person(1, "shared@x.test"))
    await bench.bring(there, person(2, "shared@x.test"))
    await bench.change(here, "update", person(1, "own@x.test"), "shared@x.test")
    assert await bench.mailable(here) == {"own@x.test"}
    assert await bench.mailable(there) == {"shared@x.test"}


async def test_an_address_that_waits_for_another_list_is_not_renamed_away_from_it(bench: Bench) -> None:
    """An ESP renames for all lists at once. What was not recorded there may be at the ESP all the same."""
    bench.esp.renames = True
    here, there = await bench.create("here"), await bench.create("there")
    await bench.bring(here, person(1, "shared@x.test"))
    bench.esp.special["shared@x.test"] = Postponed(3600.0, Reason.TOO_OFTEN)
    await bench.bring(there, person(2, "shared@x.test"))
    bench.esp.special.clear()
    bench.esp.on[there.removeprefix("memory:")]["shared@x.test"] = Contact("2", "shared@x.test")  # it got through
    await bench.change(here, "update", person(1, "own@x.test"), "shared@x.test")
    await bench.until_delivered()
    assert await bench.mailable(here) == {"own@x.test"}
    assert await bench.mailable(there) == {"shared@x.test"}


async def test_two_contacts_that_swap_addresses_keep_both(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1, "a@x.test"), person(2, "b@x.test"))
    await asyncio.gather(
        bench.change(list_id, "update", person(1, "b@x.test"), "a@x.test"),
        bench.change(list_id, "update", person(2, "a@x.test"), "b@x.test"),
    )
    assert await bench.mailable(list_id) == {"a@x.test", "b@x.test"}


async def test_a_change_of_address_without_the_old_one_still_takes_it_off(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1, "a@x.test"))
    await bench.bring(list_id, person(1, "b@x.test"))
    assert await bench.mailable(list_id) == {"b@x.test"}


async def test_addresses_changed_twice_during_an_outage_leave_only_the_last(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1, "a@x.test"))
    bench.esp.script = [Transient("outage")] * 3
    for number, (new, old) in enumerate([("b", "a"), ("c", "b"), ("d", "c")]):
        asking = asyncio.create_task(bench.change(list_id, "update", person(1, f"{new}@x.test"), f"{old}@x.test"))
        if number == 0:
            await bench.clock.until_waiting(REQUEST_AND_COURIER)
        await bench.until(partial(_is_newest, bench, f"{new}@x.test"))
    await bench.until_delivered()
    await asking
    assert await bench.mailable(list_id) == {"d@x.test"}


async def _is_newest(bench: Bench, address: str) -> bool:
    [summary] = await bench.bridge.store.lists.summaries()
    waiting = await bench.bridge.store.outbox.due(summary.mapped.id, 0, 10, bench.clock.now())
    return [change.address for change in waiting] == [address]


async def test_an_update_and_a_removal_of_somebody_unknown_succeed(bench: Bench) -> None:
    list_id = await bench.create()
    assert await bench.change(list_id, "update", person(1), "never@x.test") == DELIVERED
    assert await bench.change(list_id, "delete", person(2)) == DELIVERED
    assert await bench.mailable(list_id) == {"p1@x.test"}


async def test_a_removal_without_an_address_goes_by_the_map(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    assert await bench.change(list_id, "delete", person(1, "")) == DELIVERED
    assert await bench.mailable(list_id) == {"p2@x.test"}


async def test_an_address_emptied_in_planfix_leaves_the_list(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    assert await bench.change(list_id, "update", person(1, ""), "p1@x.test") == DELIVERED
    assert await bench.mailable(list_id) == {"p2@x.test"}


# Opt-outs


@pytest.mark.parametrize("restart", [False, True])
async def test_who_opted_out_is_never_subscribed_again_by_any_path(bench: Bench, restart: bool) -> None:
    list_id, second = await bench.create(), await bench.create("second")
    await bench.bring(list_id, person(1), person(2))
    bench.esp.out.add("p1@x.test")
    assert await bench.change(list_id, "update", person(1)) == DELIVERED  # here the bridge learns of it
    bench.esp.out.clear()  # an ESP that forgets: from here on only our own memory protects
    bench.esp.on[list_id.removeprefix("memory:")].pop("p1@x.test", None)
    if restart:
        await bench.stop()
        await bench.start()
    paths = [
        bench.bring(list_id, person(1)),
        bench.change(list_id, "add", person(1)),
        bench.change(list_id, "update", person(1)),
        bench.change(list_id, "update", person(1, "fresh@x.test"), "p1@x.test"),
        bench.bring(list_id, person(1, "fresher@x.test")),
        bench.change(list_id, "delete", person(1, "fresher@x.test")),
        bench.change(list_id, "add", person(1, "fresher@x.test")),
        bench.change(list_id, "add", person(77, "P1@x.test")),  # as another contact
        bench.bring(second, person(1)),
    ]
    for path in paths:
        assert await path == DELIVERED
        assert await bench.mailable(list_id) == {"p2@x.test"}
        assert await bench.mailable(second) == set()


async def test_an_opt_out_told_by_a_removal_holds(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1))
    bench.esp.out.add("p1@x.test")
    await bench.change(list_id, "delete", person(1))
    bench.esp.out.clear()
    await bench.change(list_id, "add", person(1))
    assert await bench.mailable(list_id) == set()


async def test_an_opt_out_told_by_a_removal_holds_even_when_the_upsert_after_it_breaks_off(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.out.add("b@x.test")
    bench.esp.script = [Transient("outage")] * 2
    first = asyncio.create_task(bench.change(list_id, "update", person(1, "b@x.test"), "a@x.test"))
    await bench.clock.until_waiting(REQUEST_AND_COURIER)
    asking = asyncio.create_task(bench.change(list_id, "update", person(1, "c@x.test"), "b@x.test"))
    other = asyncio.create_task(bench.change(list_id, "add", person(2)))
    await bench.until_pending(2)
    bench.esp.script = [None, Transient("again")]  # the removal of b works, the upsert of the batch does not
    await bench.until_delivered()
    await asyncio.gather(first, asking, other)
    assert await bench.mailable(list_id) == {"p2@x.test"}


async def test_who_turns_out_to_be_out_elsewhere_leaves_the_lists_that_they_are_on(bench: Bench) -> None:
    here, there = await bench.create("here"), await bench.create("there")
    for list_id in (here, there):
        await bench.bring(list_id, person(1), person(2))
    bench.esp.special["p1@x.test"] = OptedOut()
    await bench.change(here, "update", person(1))
    bench.esp.special.clear()
    assert await bench.mailable(there) == {"p1@x.test", "p2@x.test"}
    calls = len(bench.esp.calls)
    for _ in range(2):
        assert await bench.change(there, "update", person(1)) == DELIVERED
        assert await bench.mailable(there) == {"p2@x.test"}
    assert bench.esp.calls[calls:] == [("remove", ["1"])]  # once they are off it, nothing is to be done


async def test_a_removal_of_somebody_who_is_out_is_tried_again_until_it_works(bench: Bench) -> None:
    here, there = await bench.create("here"), await bench.create("there")
    for list_id in (here, there):
        await bench.bring(list_id, person(1))
    bench.esp.special["p1@x.test"] = OptedOut()
    await bench.change(here, "update", person(1))
    bench.esp.special.clear()
    bench.esp.refused_removals["p1@x.test"] = Postponed(60.0, Reason.CONTACT_REFUSED)
    assert await bench.change(there, "update", person(1)) == Tally(pending=1)
    bench.esp.refused_removals.clear()
    await bench.until_delivered()
    assert await bench.mailable(there) == set()


async def test_a_removal_that_must_wait_is_not_settled_by_that_of_another_address(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1, "a@x.test"))
    bench.esp.refused_removals["b@x.test"] = Postponed(60.0, Reason.CONTACT_REFUSED)
    assert await bench.change(list_id, "delete", person(1, "b@x.test")) == Tally(pending=1)
    bench.esp.refused_removals.clear()
    await bench.until_delivered()
    assert bench.esp.calls[-1][0] == "remove"
    assert await bench.mailable(list_id) == set()


async def test_an_address_that_is_out_is_nobodys_on_a_list_where_its_person_arrives(bench: Bench) -> None:
    here, there = await bench.create("here"), await bench.create("there")
    await bench.bring(here, person(1, "a@x.test"), person(2, "b@x.test"))
    await bench.bring(there, person(3, "b@x.test"), person(4, "c@x.test"))
    bench.esp.special["c@x.test"] = OptedOut()
    await bench.change(there, "update", person(4, "c@x.test"))
    await bench.change(there, "update", person(3, "c@x.test"), "b@x.test")  # so b is out too
    await bench.change(here, "update", person(1, "b@x.test"), "a@x.test")
    assert await bench.mailable(here) == set()


async def test_an_address_that_is_out_is_kept_on_the_list_for_nobody(bench: Bench) -> None:
    list_id, other = await bench.create(), await bench.create("other")
    await bench.bring(list_id, person(1, "a@x.test"), person(2, "a@x.test"))
    await bench.bring(other, person(3, "a@x.test"))
    bench.esp.special["a@x.test"] = OptedOut()
    await bench.change(other, "update", person(3, "a@x.test"))  # here the bridge learns of it
    await bench.change(list_id, "update", person(1, "b@x.test"), "a@x.test")
    assert await bench.mailable(list_id) == set()


async def test_our_own_removal_is_no_opt_out(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1))
    await bench.change(list_id, "delete", person(1))
    await bench.change(list_id, "add", person(1))
    assert await bench.mailable(list_id) == {"p1@x.test"}


async def test_a_good_contact_that_takes_an_opted_out_address_leaves_its_own(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    bench.esp.out.add("p1@x.test")
    await bench.change(list_id, "update", person(1))
    await bench.change(list_id, "update", person(2, "p1@x.test"), "p2@x.test")
    assert await bench.mailable(list_id) == set()


# Refusals


async def test_a_refused_contact_never_stops_the_good_ones(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.special["p3@x.test"] = Rejected(Reason.INVALID_ADDRESS, "looks fake")
    outcome = await bench.bring(list_id, *people(5))
    assert outcome == Tally(4, 0, (Refusal("3", Reason.INVALID_ADDRESS),), 1)
    [problem] = await bench.bridge.store.memory.problems()
    assert (problem.contact_id, problem.detail) == ("3", "looks fake")
    assert await bench.pending() == 0


async def test_a_bad_contact_that_nobody_names_is_found_by_halving(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.special["p7@x.test"] = ContactRefused(detail="somebody")
    outcome = await bench.bring(list_id, *people(10))
    assert outcome == Tally(9, 0, (Refusal("7", Reason.CONTACT_REFUSED),), 1)
    assert await bench.mailable(list_id) == addresses(10) - {"p7@x.test"}


async def test_a_refused_request_is_told_and_becomes_problems(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.script = [Refused(Reason.PLAN_LIMIT, "too many")]
    outcome = await bench.bring(list_id, *people(3))
    assert isinstance(outcome, Tally)
    assert (outcome.rejected_count, outcome.rejected[0].reason) == (3, Reason.PLAN_LIMIT)
    assert len(await bench.bridge.store.memory.problems()) == 3
    assert await bench.bring(list_id, *people(3)) == Tally(delivered=3)
    assert await bench.bridge.store.memory.problems() == []


async def test_a_list_deleted_at_the_esp_is_told(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.on.clear()
    outcome = await bench.change(list_id, "add", person(1))
    assert outcome == Tally(0, 0, (Refusal("1", Reason.LIST_GONE),), 1)


async def test_a_postponed_contact_is_pending_and_tried_again_alone(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.special["p1@x.test"] = Postponed(3600.0, Reason.TOO_OFTEN)
    assert await bench.bring(list_id, person(1), person(2)) == Tally(delivered=1, pending=1)
    bench.esp.special.clear()
    assert await bench.clock.until_waiting() == pytest.approx(3600)
    await bench.until_delivered()
    assert upserts(bench) == [["1", "2"], ["1"]]


# Outages


async def outage(bench: Bench, list_id: str) -> Outcome:
    """The ESP goes away; the answer to the request that notices it."""
    bench.esp.script = [Transient("503")] * 50
    asking = asyncio.create_task(bench.change(list_id, "add", person(100)))
    bench.clock.advance(await bench.clock.until_waiting(REQUEST_AND_COURIER))
    return await asking


async def test_one_unlucky_call_is_no_outage(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.script = [Transient("500")]
    asking = asyncio.create_task(bench.change(list_id, "add", person(1)))
    bench.clock.advance(await bench.clock.until_waiting(REQUEST_AND_COURIER))
    assert await asking == DELIVERED
    assert state(bench) is State.UP


async def test_in_an_outage_every_request_is_answered_at_once_and_all_is_delivered_after_it(bench: Bench) -> None:
    list_id = await bench.create()
    assert await outage(bench, list_id) == Tally(pending=1)
    assert state(bench) is State.DOWN
    calls = len(bench.esp.calls)
    for each in people(40):
        assert await bench.change(list_id, "add", each) == Tally(pending=1)
    assert len(bench.esp.calls) == calls
    bench.esp.script = []
    await bench.until_delivered()
    assert await bench.mailable(list_id) == addresses(40) | {"p100@x.test"}
    assert len(bench.esp.calls) - calls == 5  # 41 contacts in batches of 10
    assert await bench.change(list_id, "delete", person(100)) == DELIVERED
    assert state(bench) is State.UP


async def test_waits_grow_up_to_a_quarter_of_an_hour(bench: Bench) -> None:
    list_id = await bench.create()
    await outage(bench, list_id)
    longest = 0.0
    for _ in range(40):
        wait_s = await bench.clock.until_waiting()
        longest = max(longest, wait_s)
        calls = len(bench.esp.calls)
        bench.clock.advance(wait_s)
        await bench.esp.until_called("upsert", sum(1 for name, _ in bench.esp.calls[:calls] if name == "upsert") + 1)
    assert 60 < longest <= BACKOFF_MAX_S


async def test_retry_after_is_obeyed_and_is_an_outage_when_long(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.script = [Transient("429", retry_after_s=120.0)]
    assert await bench.change(list_id, "add", person(1)) == Tally(pending=1)
    assert 120 <= await bench.clock.until_waiting() < 121
    await bench.until_delivered()
    assert await bench.mailable(list_id) == {"p1@x.test"}


async def test_a_refused_key_is_told_and_keeps_every_change(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.script = [AuthFailed("401")]
    failed = await bench.change(list_id, "add", person(1))
    assert isinstance(failed, Tally)
    assert failed.failure == Failure("auth_failed")
    assert state(bench) is State.KEY_REFUSED
    again = await bench.change(list_id, "add", person(2))
    assert isinstance(again, Tally)
    assert again.failure == Failure("auth_failed")
    assert await bench.clock.until_waiting() == AUTH_RETRY_S
    await bench.until_delivered()
    assert await bench.mailable(list_id) == {"p1@x.test", "p2@x.test"}


async def test_a_fault_of_our_own_loses_nothing(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.script = [ValueError("a bug")] * 2  # type: ignore[list-item]  # not an error that providers raise
    asking = asyncio.create_task(bench.change(list_id, "add", person(1)))
    await bench.until_pending(1)
    await bench.until_delivered()
    assert await asking == Tally(pending=1)
    assert await bench.mailable(list_id) == {"p1@x.test"}


# Restarts


async def test_a_restart_delivers_what_was_left(bench: Bench) -> None:
    list_id = await bench.create()
    await outage(bench, list_id)
    for each in people(15):
        await bench.change(list_id, "add", each)
    await bench.stop()
    bench.esp.script = []
    await bench.start()
    await bench.until_delivered()
    assert await bench.mailable(list_id) == addresses(15) | {"p100@x.test"}


async def test_a_stop_in_the_middle_of_a_call_keeps_the_change(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.open.clear()
    asking = asyncio.create_task(bench.change(list_id, "add", person(1)))
    await bench.esp.until_called("upsert")
    bench.bridge.tickets.release_all()
    assert await asking == Tally(pending=1)
    await bench.bridge.__aexit__()  # no grace: the call is cut off
    bench.esp.open.set()
    await bench.start()
    await bench.until_delivered()
    assert await bench.mailable(list_id) == {"p1@x.test"}


async def test_a_stop_lets_a_call_under_way_end(bench: Bench) -> None:
    await bench.stop()
    patient = Bench(bench.config.store, bench.clock, grace_s=600.0)
    await patient.start()
    list_id = await patient.create()
    patient.esp.open.clear()
    asking = asyncio.create_task(patient.change(list_id, "add", person(1)))
    await patient.esp.until_called("upsert")
    stopping = asyncio.create_task(patient.bridge.__aexit__())
    patient.esp.open.set()
    await stopping
    assert await asking == DELIVERED
    assert await patient.mailable(list_id) == {"p1@x.test"}
    await bench.start()


async def test_a_person_whose_address_bounced_is_reached_under_a_new_one(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.special["p1@x.test"] = OptedOut(BOUNCED)
    await bench.bring(list_id, person(1))
    bench.esp.special.clear()
    await bench.change(list_id, "add", person(1))
    assert await bench.mailable(list_id) == set()
    await bench.change(list_id, "update", person(1, "new@x.test"), "p1@x.test")
    assert await bench.mailable(list_id) == {"new@x.test"}


async def test_opt_outs_learnt_before_a_restart_hold_for_a_new_address(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.special["p1@x.test"] = OptedOut()
    await bench.change(list_id, "add", person(1))
    bench.esp.special.clear()
    await bench.stop()
    await bench.start()
    assert await bench.change(list_id, "update", person(1, "new@x.test"), "p1@x.test") == DELIVERED
    assert await bench.mailable(list_id) == set()
