"""Making lists exactly once, and ending them."""

import asyncio

import pytest
from msgspec.structs import replace

from bridge.delivery import State
from bridge.lists import NAMES_TRIED, SAME_LIST_WITHIN_S
from bridge.planfix import CreateList, DeleteList, UpdateContact
from bridge.replies import Failure, ListCreated, Outcome, Refusal, Tally, Unavailable
from bridge.store import ListState
from providers.base import AuthFailed, Contact, ProviderError, Reason, Refused, Transient, Unsupported
from tests.bench import Bench, person

DONE = Tally(delivered=1)
REQUEST_AND_COURIER = 2  # who waits while a call is tried again


def names(bench: Bench) -> list[str]:
    return list(bench.esp.names.values())


def creations(bench: Bench) -> int:
    return [operation for operation, _ in bench.esp.calls].count("create_list")


async def ask(bench: Bench, name: str = "Клиенты") -> Outcome:
    return await bench.bridge.handle(bench.account, CreateList(name))


async def open_intents(bench: Bench) -> list[str]:
    summaries = await bench.bridge.store.lists.summaries()
    return [item.mapped.name for item in summaries if item.mapped.state is ListState.CREATING]


def made_by_hand(bench: Bench, name: str) -> str:
    list_id = f"by-hand-{len(bench.esp.names)}"
    bench.esp.names[list_id] = name
    bench.esp.on[list_id] = {"boss@x.test": Contact("", "boss@x.test")}
    return list_id


# One wish, one list


async def test_a_repeated_wish_gets_the_same_list(bench: Bench) -> None:
    first = await bench.create()
    bench.clock.advance(SAME_LIST_WITHIN_S - 1)
    assert await bench.create() == first
    assert names(bench) == ["Клиенты"]


async def test_after_ten_minutes_it_is_another_wish(bench: Bench) -> None:
    first = await bench.create()
    bench.clock.advance(SAME_LIST_WITHIN_S + 1)
    assert await bench.create() != first
    assert names(bench) == ["Клиенты", "Клиенты (2)"]


async def test_once_a_contact_has_come_it_is_another_wish(bench: Bench) -> None:
    first = await bench.create()
    await bench.change(first, "add", person(1))
    await bench.change(first, "delete", person(1))
    assert await bench.create() != first
    assert names(bench) == ["Клиенты", "Клиенты (2)"]


async def test_a_deleted_list_is_not_given_again(bench: Bench) -> None:
    first = await bench.create()
    assert await bench.delete(first) == DONE
    second = await bench.create()
    assert names(bench) == ["Клиенты"]
    assert await bench.change(second, "add", person(1)) == DONE


async def test_wishes_at_one_time_get_one_list(bench: Bench) -> None:
    assert len({await each for each in [asyncio.create_task(bench.create()) for _ in range(5)]}) == 1
    assert creations(bench) == 1


async def test_two_accounts_never_share_a_list(bench: Bench) -> None:
    mine = asyncio.create_task(bench.create())
    theirs = asyncio.create_task(bench.bridge.handle(bench.config.accounts["other"], CreateList("Клиенты")))
    outcome = await theirs
    assert isinstance(outcome, ListCreated)
    assert outcome.list_id != await mine
    assert sorted(names(bench)) == ["Клиенты", "Клиенты (2)"]


# Names


async def test_a_name_too_long_for_the_esp_is_cut_and_numbered(bench: Bench) -> None:
    lists = [await bench.create("A filter with a very long name") for _ in range(2)]
    assert lists[0] == lists[1], "the wish is known by its whole name"
    await bench.create("A filter with a very long name, too")
    bench.clock.advance(SAME_LIST_WITHIN_S + 1)
    await bench.create("A filter with a very long name")
    assert names(bench) == ["A filter with a very", "A filter with a (2)", "A filter with a (3)"]


async def test_a_list_made_by_hand_is_never_taken(bench: Bench) -> None:
    by_hand = [made_by_hand(bench, name) for name in ("Клиенты", "Клиенты (2)")]
    list_id = await bench.create()
    assert bench.esp.names[list_id.removeprefix("memory:")] == "Клиенты (3)"
    await bench.delete(list_id)
    assert list(bench.esp.names) == by_hand


async def test_a_name_that_the_esp_finds_taken_only_while_making_is_numbered(bench: Bench) -> None:
    bench.esp.script = [None, Refused(Reason.NAME_TAKEN)]
    await bench.create()
    assert names(bench)[-1] == "Клиенты (2)"
    assert await open_intents(bench) == []


async def test_too_many_lists_of_one_name_are_told(bench: Bench) -> None:
    for number in range(1, NAMES_TRIED + 1):
        made_by_hand(bench, "Клиенты" if number == 1 else f"Клиенты ({number})")
    assert await ask(bench) == Failure(Reason.NAME_TAKEN)
    assert await open_intents(bench) == []


# Broken off


async def test_a_call_that_broke_off_after_it_had_worked_is_taken_up(bench: Bench) -> None:
    bench.esp.script = [None, Transient("timeout")]  # find_list, create_list
    assert await ask(bench) == Unavailable()
    assert await open_intents(bench) == ["Клиенты"]
    list_id = await bench.create()
    assert (names(bench), creations(bench)) == (["Клиенты"], 1)
    assert await bench.change(list_id, "add", person(1)) == DONE
    assert await open_intents(bench) == []


async def test_a_call_that_broke_off_before_it_had_worked_is_made_again(bench: Bench) -> None:
    bench.esp.script = [None, Transient("timeout")]
    await ask(bench)
    bench.esp.names.clear()
    await bench.create()
    assert names(bench) == ["Клиенты"]
    assert await open_intents(bench) == []


async def test_a_crash_between_the_call_and_the_id_doubles_nothing(bench: Bench) -> None:
    bench.esp.script = [None, Transient("cut off")]
    await ask(bench)
    await bench.stop()
    await bench.start()
    bench.esp.script = [Transient("still away")]  # "I could not look" is not "it is not there"
    assert await ask(bench) == Unavailable()
    list_id = await bench.create()
    assert (names(bench), creations(bench)) == (["Клиенты"], 1)
    assert await bench.create() == list_id


async def test_what_is_taken_up_is_never_a_list_that_has_an_owner(bench: Bench) -> None:
    bench.esp.script = [None, Transient("timeout")]
    await ask(bench)
    bench.esp.names.clear()  # it had not worked, and meanwhile the other account makes one of this name
    theirs = await bench.bridge.handle(bench.config.accounts["other"], CreateList("Клиенты"))
    assert isinstance(theirs, ListCreated)
    assert await bench.create() != theirs.list_id
    assert names(bench) == ["Клиенты", "Клиенты (2)"]
    assert await open_intents(bench) == []


async def test_a_slow_creation_is_answered_in_time_and_its_id_given_to_the_repeated_wish(bench: Bench) -> None:
    await bench.stop()
    bench.config = replace(bench.config, server=replace(bench.config.server, reply_within_s=0.01))
    await bench.start()
    bench.esp.open.clear()
    assert await ask(bench) == Unavailable()
    assert await ask(bench) == Unavailable()
    bench.esp.open.set()
    await bench.bridge.actions.close()  # returns when the list is made
    while (outcome := await ask(bench)) == Unavailable():  # a slow machine needs longer than the answer may take
        pass
    assert isinstance(outcome, ListCreated)
    assert (names(bench), creations(bench)) == (["Клиенты"], 1)


async def test_a_stop_waits_for_a_list_that_is_being_made(bench: Bench) -> None:
    bench.esp.open.clear()
    asking = asyncio.create_task(ask(bench))
    await bench.esp.until_called("find_list")
    await bench.stop()
    outcome = await asking
    await bench.start()
    assert isinstance(outcome, ListCreated)
    assert await bench.change(outcome.list_id, "add", person(1)) == DONE


@pytest.mark.parametrize(
    ("refusal", "failure"),
    [
        (Refused(Reason.LIST_LIMIT, "too many"), Failure(Reason.LIST_LIMIT)),
        (Refused(Reason.REQUEST_REFUSED, "no emoji"), Failure(Reason.REQUEST_REFUSED, "no emoji")),
        (Unsupported("no lists here"), Failure("unsupported", "no lists here")),
    ],
    ids=["limit", "refused", "unsupported"],
)
async def test_what_the_esp_refuses_to_make_leaves_nothing_to_take_up(
    bench: Bench, refusal: ProviderError, failure: Failure
) -> None:
    bench.esp.script = [None, refusal]
    assert await ask(bench) == failure
    assert await open_intents(bench) == []
    bench.esp.names.clear()
    by_hand = made_by_hand(bench, "Клиенты")
    assert await bench.create() != f"memory:{by_hand}"


async def test_a_refused_key_is_told_and_the_wish_can_be_repeated(bench: Bench) -> None:
    bench.esp.script = [AuthFailed("401")]
    assert await ask(bench) == Failure("auth_failed")
    bench.esp.script = [None, AuthFailed("401")]
    assert await ask(bench) == Failure("auth_failed")
    await bench.create()
    assert names(bench) == ["Клиенты"]


# Deleting


async def test_deleting_twice_is_done_both_times_and_calls_once(bench: Bench) -> None:
    list_id = await bench.create()
    assert await bench.delete(list_id) == DONE
    assert await bench.delete(list_id) == Tally()
    assert [operation for operation, _ in bench.esp.calls].count("delete_list") == 1
    assert bench.esp.names == {}


async def test_deleting_at_one_time_is_done_for_all(bench: Bench) -> None:
    list_id = await bench.create()
    outcomes = await asyncio.gather(*(bench.delete(list_id) for _ in range(4)))
    assert all(outcome in (DONE, Tally()) for outcome in outcomes)
    assert bench.esp.names == {}
    assert await bench.pending() == 0


async def test_deleting_drops_what_was_not_delivered_and_answers_who_waits(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.script = [Transient("503")] * 3
    asking = asyncio.create_task(bench.bring(list_id, *(person(number) for number in range(30))))
    await bench.clock.until_waiting(REQUEST_AND_COURIER)
    deleting = asyncio.create_task(bench.delete(list_id))
    await bench.until_pending(1)
    assert await asking == Tally(delivered=30), "nothing is left of them to do"
    bench.clock.advance(await bench.clock.until_waiting(REQUEST_AND_COURIER))
    assert await deleting == DONE
    assert bench.esp.names == {}


async def test_a_list_deleted_while_a_call_is_under_way_ends_deleted(bench: Bench) -> None:
    """Where a list is a tag, the call would make it anew."""
    list_id, other_id = await bench.create(), await bench.create("Other")
    for operation in ("upsert", "delete_list"):
        bench.esp.hold(operation)
    adding = asyncio.create_task(bench.change(list_id, "add", person(1)))
    await bench.esp.until_called("upsert")
    deleting = asyncio.create_task(bench.delete(list_id))
    await bench.until(lambda: _is_deleting(bench, list_id))
    assert await bench.change(other_id, "delete", person(2)) == DONE, "which goes after what came before it"
    assert [operation for operation, _ in bench.esp.calls].count("delete_list") == 0, "calls of one list keep order"
    for operation in ("upsert", "delete_list"):
        bench.esp.release(operation)
    assert await adding == DONE
    assert await deleting == DONE
    assert list(bench.esp.names.values()) == ["Other"]
    assert await bench.pending() == 0


async def _is_deleting(bench: Bench, list_id: str) -> bool:
    mapped = await bench.bridge.store.lists.by_public_id(list_id)
    return mapped is not None and mapped.state is ListState.DELETING


async def test_in_an_outage_deleting_is_pending_and_done_after_it(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.script = [Transient("503")] * 20
    noticing = asyncio.create_task(bench.change(list_id, "add", person(1)))
    bench.clock.advance(await bench.clock.until_waiting(REQUEST_AND_COURIER))
    assert await noticing == Tally(pending=1)
    assert await bench.delete(list_id) == Tally(pending=1)
    assert await bench.delete(list_id) == Tally(pending=1)
    assert await bench.change(list_id, "add", person(2)) == Failure("list_deleted")
    await bench.stop()
    await bench.start()
    bench.esp.script = []
    await bench.until_delivered()
    assert bench.esp.names == {}
    assert await bench.delete(list_id) == Tally()
    [(_, _, health)] = list(bench.bridge.couriers.health())
    assert health.state is State.UP


async def test_contacts_of_other_lists_stay(bench: Bench) -> None:
    gone, stays = await bench.create("gone"), await bench.create("stays")
    await bench.bring(gone, person(1), person(2))
    await bench.bring(stays, person(1), person(3))
    await bench.delete(gone)
    assert await bench.mailable(stays) == {"p1@x.test", "p3@x.test"}
    assert await bench.change(stays, "delete", person(1)) == DONE
    assert await bench.mailable(stays) == {"p3@x.test"}


async def test_who_opted_out_of_a_deleted_list_stays_out(bench: Bench) -> None:
    gone = await bench.create()
    bench.esp.out.add("p1@x.test")
    await bench.bring(gone, person(1))
    await bench.delete(gone)
    bench.esp.out.clear()
    again = await bench.create()
    assert await bench.bring(again, person(1), person(2)) == Tally(delivered=2)
    assert await bench.mailable(again) == {"p2@x.test"}


async def test_a_list_that_the_esp_does_not_let_go_is_told(bench: Bench) -> None:
    list_id = await bench.create()
    bench.esp.script = [Refused(Reason.RIGHTS, "owner only")]
    outcome = await bench.delete(list_id)
    assert isinstance(outcome, Tally)
    assert (outcome.rejected_count, outcome.rejected[0].reason) == (1, Reason.RIGHTS)
    assert await bench.delete(list_id) == DONE, "it may be asked again"
    assert bench.esp.names == {}
    assert await bench.bridge.store.memory.problems() == []


# Whose list is it


async def test_no_account_touches_the_lists_of_another(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1))
    other = bench.config.accounts["other"]
    assert await bench.bridge.handle(other, DeleteList(list_id)) == Tally()
    change = UpdateContact(list_id, "delete", person(1), None)
    assert await bench.bridge.handle(other, change) == Failure("unknown_list")
    assert await bench.mailable(list_id) == {"p1@x.test"}


async def test_a_list_that_the_store_does_not_know_is_read_from_its_id(bench: Bench) -> None:
    by_hand = made_by_hand(bench, "of an earlier store")
    assert await bench.change(f"memory:{by_hand}", "add", person(1)) == DONE
    assert await bench.mailable(f"memory:{by_hand}") == {"boss@x.test", "p1@x.test"}
    outcome = await bench.change("memory:nowhere", "add", person(1))
    assert outcome == Tally(0, 0, (Refusal("1", Reason.LIST_GONE),), 1)


async def test_requests_at_one_time_adopt_a_list_once(bench: Bench) -> None:
    by_hand = made_by_hand(bench, "of an earlier store")
    outcomes = await asyncio.gather(*(bench.change(f"memory:{by_hand}", "add", person(n)) for n in range(5)))
    assert outcomes == [DONE] * 5
    assert len(await bench.bridge.store.lists.summaries()) == 1


async def test_a_list_of_a_provider_that_is_configured_no_more_keeps_its_changes(bench: Bench) -> None:
    list_id = await bench.create()
    await bench.stop()
    was = bench.config
    renamed = replace(was.providers["memory"], name="renamed")
    bench.config = replace(
        was, providers={"renamed": renamed}, accounts={"main": replace(bench.account, provider="renamed")}
    )
    await bench.start()
    outcome = await bench.change(list_id, "add", person(1))
    assert isinstance(outcome, Tally)
    assert outcome.failure == Failure("provider_missing")
    await bench.stop()
    bench.config = was
    await bench.start()
    await bench.until_delivered()
    assert await bench.mailable(list_id) == {"p1@x.test"}


# A list is looked up once


async def test_a_list_that_another_process_ends_takes_no_change_although_it_was_open_a_moment_ago(bench: Bench) -> None:
    list_id = await bench.create()
    assert await bench.change(list_id, "add", person(1)) == DONE
    store = bench.bridge.store
    mapped = await store.lists.by_public_id(list_id)
    assert mapped is not None
    await store.memory.forget_list(mapped.id, 0)
    for _ in range(2):
        assert await bench.change(list_id, "add", person(2)) == Failure("list_deleted")
    assert await bench.pending() == 0


async def test_a_list_that_was_looked_up_for_its_account_is_unknown_to_another(bench: Bench) -> None:
    list_id = await bench.create()
    assert await bench.change(list_id, "add", person(1)) == DONE
    stranger = replace(bench.account, name="stranger")
    for _ in range(2):
        assert await bench.bridge.handle(stranger, UpdateContact(list_id, "add", person(2), None)) == Failure(
            "unknown_list"
        )
