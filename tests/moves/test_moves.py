"""Lists move to another provider: nobody is lost, nobody who opted out comes back, whatever happens meanwhile."""

import asyncio
from pathlib import Path
from typing import Any, TypeVar

import pytest
from sqlalchemy import text

from bridge.moves.switch import State
from bridge.planfix import ChangeAction
from bridge.replies import Failure, Tally
from bridge.store import ListState, Memory, Moves, Result
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
from tests.bench import person
from tests.clock import DrivenClock
from tests.memory_provider import Killed
from tests.moves.bench import Mortal, MovingBench, Taking, running

pytestmark = pytest.mark.usefixtures("types")

T = TypeVar("T")

DELIVERED = Tally(delivered=1)
PENDING = Tally(pending=1)


async def patiently(bench: MovingBench, switching: "asyncio.Task[T]") -> T:
    """What a switch tells that waits now and then before it tries again."""
    while not switching.done():
        bench.clock.skip()
        await asyncio.sleep(0)
    return await switching


@pytest.fixture
def lists(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path / 'lists.db'}"


# The whole of it


async def test_contacts_names_and_opt_outs_arrive_and_the_id_stays(bench: MovingBench) -> None:
    lists = [await bench.create(name) for name in ("A", "B")]
    for list_id in lists:
        await bench.bring(list_id, *(person(number) for number in range(25)))
    bench.esp.out |= {"p3@x.test", "p4@x.test"}
    moved = await bench.switch()
    assert [each.state for each in moved] == [State.MOVED] * 2
    assert [each.counts for each in moved] == [{Result.MOVED: 23, Result.OPTED_OUT: 2}] * 2
    for list_id in lists:
        assert (await bench.list_of(list_id)).provider == "there"
        assert await bench.mailable(list_id) == {f"p{n}@x.test" for n in range(25)} - {"p3@x.test", "p4@x.test"}
        there = bench.there.on[str((await bench.list_of(list_id)).provider_list_id)]
        assert {(c.id, c.first_name) for c in there.values()} == {
            (str(n), "Маша") for n in range(25) if n not in (3, 4)
        }
    assert sorted(bench.there.names.values()) == ["A", "B"]
    assert await bench.bridge.store.memory.opt_out_count("main") == 2
    [summary, _] = await bench.bridge.store.lists.summaries()
    assert summary.contacts == 25


async def test_changes_go_to_the_new_place_from_the_turn_on(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2), person(3))
    await bench.move()
    calls = len(bench.esp.calls)
    assert await bench.change(list_id, "add", person(4)) == DELIVERED
    assert await bench.change(list_id, "update", person(1, "new@x.test"), "p1@x.test") == DELIVERED
    assert await bench.change(list_id, "delete", person(2)) == DELIVERED
    assert await bench.bring(list_id, person(3, first="Аня")) == DELIVERED
    assert await bench.mailable(list_id) == {"new@x.test", "p3@x.test", "p4@x.test"}
    assert len(bench.esp.calls) == calls
    assert bench.esp.mailable("1") == {"p1@x.test", "p2@x.test", "p3@x.test"}  # kept as it was


async def test_who_opted_out_at_the_old_place_stays_out_by_every_path(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    bench.esp.out.add("p1@x.test")
    await bench.move()
    for request in (
        bench.change(list_id, "add", person(1)),
        bench.bring(list_id, person(1)),
        bench.bring(list_id, person(1, "other@x.test")),
        bench.change(list_id, "update", person(1, "third@x.test"), "other@x.test"),
        bench.change(list_id, "add", person(9, "P1@x.test")),
    ):
        assert await request == DELIVERED
        assert await bench.mailable(list_id) == {"p2@x.test"}


# While it moves


async def test_changes_are_taken_at_once_and_wait_for_the_turn(bench: MovingBench) -> None:
    list_id, other = await bench.create("A"), await bench.create("B")
    await bench.bring(list_id, person(1), person(2))
    bench.there.hold("upsert")  # the new provider takes its time
    switching = asyncio.create_task(bench.switch())
    await bench.there.until_called("upsert")
    assert (await bench.list_of(list_id)).state is ListState.MOVING
    assert await bench.change(list_id, "add", person(3)) == PENDING
    assert await bench.change(list_id, "delete", person(1)) == PENDING
    assert await bench.bring(list_id, person(4), person(5)) == Tally(pending=2)
    assert await bench.change(other, "add", person(6)) == DELIVERED  # its turn comes later
    bench.there.release("upsert")
    await switching
    await bench.until_delivered()
    assert await bench.mailable(list_id) == {f"p{n}@x.test" for n in (2, 3, 4, 5)}
    assert await bench.mailable(other) == {"p6@x.test"}


@pytest.mark.parametrize(("change", "call"), [("add", "upsert"), ("delete", "remove")])
async def test_a_batch_under_way_when_the_move_begins_is_not_lost(
    bench: MovingBench, change: ChangeAction, call: str
) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    bench.esp.hold(call)
    calls = [name for name, _ in bench.esp.calls].count(call)
    number = 3 if change == "add" else 1
    asking = asyncio.create_task(bench.change(list_id, change, person(number)))
    await bench.esp.until_called(call, calls + 1)
    bench.there.hold("upsert")
    switching = asyncio.create_task(bench.switch())
    await bench.there.until_called("upsert")
    bench.esp.release(call)
    assert await asking == PENDING
    bench.there.release("upsert")
    await switching
    await bench.until_delivered()
    expected = {"p1@x.test", "p2@x.test", "p3@x.test"} if change == "add" else {"p2@x.test"}
    assert await bench.mailable(list_id) == expected


async def test_a_batch_under_way_when_a_move_begins_that_is_given_up_goes_again(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1))
    bench.esp.hold("upsert")
    asking = asyncio.create_task(bench.change(list_id, "add", person(2)))
    await bench.esp.until_called("upsert", 2)
    assert await bench.killed_switch("upsert", 1, acted=False)
    bench.esp.release("upsert")
    assert await asking == PENDING
    assert await bench.switch(None) == []
    await bench.until_delivered()
    assert await bench.mailable(list_id) == {"p1@x.test", "p2@x.test"}


@pytest.mark.parametrize("told", [None, OptedOut()], ids=["delivered", "opted out"])
async def test_a_batch_that_comes_back_after_the_turn_is_sent_again_to_the_new_place(
    bench: MovingBench, told: OptedOut | None
) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    if told is not None:
        bench.esp.special["p1@x.test"] = told
    bench.esp.hold("upsert")
    rename = asyncio.create_task(bench.change(list_id, "update", person(1, first="Аня")))
    await bench.esp.until_called("upsert", 2)
    await bench.move()
    bench.esp.release("upsert")
    assert await rename in (PENDING, DELIVERED)  # the new place may have been quicker than the old one

    async def is_heard() -> bool:
        return await bench.bridge.store.memory.opt_out_count("main") == (told is not None)

    await bench.until(is_heard)
    await bench.until_delivered()
    there = bench.there.on[str((await bench.list_of(list_id)).provider_list_id)]
    expected = {"2": "Маша"} | ({"1": "Аня"} if told is None else {})
    assert {c.id: c.first_name for c in there.values()} == expected


async def test_somebody_who_opts_out_while_the_list_is_copied_is_out(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    bench.there.hold("upsert")
    switching = asyncio.create_task(bench.switch())
    await bench.there.until_called("upsert")
    bench.esp.out.add("p1@x.test")
    bench.there.release("upsert")
    await switching
    assert await bench.mailable(list_id) == {"p2@x.test"}
    assert await bench.change(list_id, "add", person(1)) == DELIVERED
    assert await bench.mailable(list_id) == {"p2@x.test"}


@pytest.mark.parametrize("new", ["memory", "taking"])
async def test_somebody_who_opts_out_in_the_moment_of_the_turn_is_out(
    store_url: str, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch, new: str
) -> None:
    async with running(MovingBench(store_url, clock, new=new)) as bench:
        list_id = await bench.create()
        await bench.bring(list_id, person(1), person(2))
        turn = Moves.turn

        async def late(*arguments: Any) -> None:
            bench.esp.out.add("p1@x.test")
            await turn(*arguments)

        monkeypatch.setattr(Moves, "turn", late)
        await bench.move()
        await bench.until_delivered()
        assert await bench.mailable(list_id) == {"p2@x.test"}


@pytest.mark.parametrize(
    ("new", "room", "step"),
    [
        ("memory", Moves, "turn"),
        ("memory", Memory, "remember"),
        ("memory", Moves, "look_again"),
        ("taking", Moves, "turn"),
        ("taking", Memory, "remember"),
        ("taking", Taking, "keep_out"),
    ],
)
async def test_last_opt_outs_are_heard_by_the_next_switch_when_one_is_killed_before_it_has_heard_them(
    store_url: str, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch, new: str, room: type, step: str
) -> None:
    async with running(MovingBench(store_url, clock, new=new)) as bench:
        list_id = await bench.create()
        await bench.bring(list_id, person(1), person(2))
        do, turn = getattr(room, step), Moves.turn

        async def dies(*arguments: Any) -> None:
            await do(*arguments)
            raise Killed

        async def late(*arguments: Any) -> None:
            bench.esp.out.add("p1@x.test")
            patch.setattr(room, step, dies)
            await (dies if step == "turn" else turn)(*arguments)

        with monkeypatch.context() as patch:
            patch.setattr(Moves, "turn", late)
            with pytest.raises(Killed):
                await bench.switch(kind=Mortal)
        assert await bench.switch() == []
        await bench.until_delivered()
        assert await bench.mailable(list_id) == {"p2@x.test"}
        assert await bench.change(list_id, "add", person(1)) == DELIVERED
        assert await bench.mailable(list_id) == {"p2@x.test"}


async def test_last_opt_outs_that_cannot_be_heard_are_told(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1))
    bench.esp.script = [None, None, None, None, Transient("503")]  # check, members for the plan and twice for the move
    [moved] = await bench.switch()
    assert moved.state is State.MOVED
    assert "--repair" in moved.detail
    assert bench.report[-1] == [list_id, "", "moved", moved.detail, ""]


@pytest.mark.parametrize("when", ["before", "while"])
async def test_a_list_that_planfix_deletes_while_it_moves_is_gone_at_both(bench: MovingBench, when: str) -> None:
    list_id, other = await bench.create("A"), await bench.create("B")
    for each in (list_id, other):
        await bench.bring(each, person(1), person(2))
    held = "create_list" if when == "before" else "upsert"
    bench.there.hold(held)
    switching = asyncio.create_task(bench.switch())
    await bench.there.until_called(held)
    assert await bench.delete(list_id) == DELIVERED
    assert await bench.change(list_id, "add", person(3)) == Failure("list_deleted")
    bench.there.release(held)
    assert [moved.state for moved in await switching] == [State.DELETED, State.MOVED]
    assert list(bench.esp.names.values()) == ["B"]
    assert list(bench.there.names.values()) == ["B"]
    assert await bench.mailable(other) == {"p1@x.test", "p2@x.test"}


async def test_a_list_that_planfix_deletes_after_a_kill_is_gone_at_both_when_the_switch_is_repeated(
    bench: MovingBench,
) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1))
    assert await bench.killed_switch("upsert", 1, acted=True)
    assert await bench.delete(list_id) == DELIVERED
    assert await bench.switch() == []
    assert bench.esp.names == bench.there.names == {}


async def test_a_new_list_of_the_same_name_at_the_new_provider_is_another_one(bench: MovingBench) -> None:
    list_id = await bench.create("A")
    await bench.bring(list_id, person(1))
    assert await bench.killed_switch("create_list", 1, acted=True)
    moved_account = bench.config.accounts["main"]
    bench.config.accounts["main"] = type(moved_account)(name="main", tokens=moved_account.tokens, provider="there")
    bench.account = bench.config.accounts["main"]
    new = await bench.create("A")
    await bench.bring(new, person(2))
    await bench.move()
    assert await bench.mailable(list_id) == {"p1@x.test"}
    assert await bench.mailable(new) == {"p2@x.test"}
    assert len({(await bench.list_of(each)).provider_list_id for each in (list_id, new)}) == 2


# Killed


KILLS = [
    (operation, times, acted)
    for operation, most in (("find_list", 2), ("create_list", 2), ("upsert", 4), ("keep_out", 2))
    for times in range(1, most + 1)
    for acted in (False, True)
]


@pytest.mark.parametrize(("operation", "times", "acted"), KILLS)
async def test_a_switch_that_is_killed_goes_on_where_it_was(
    lists: str, clock: DrivenClock, operation: str, times: int, acted: bool
) -> None:
    async with running(MovingBench(lists, clock, new="taking")) as bench:
        ids = [await bench.create(name) for name in ("A", "B")]
        for list_id in ids:
            await bench.bring(list_id, *(person(number) for number in range(15)))
        bench.esp.out |= {"p3@x.test"}
        assert await bench.killed_switch(operation, times, acted=acted)
        for list_id in ids:
            await bench.change(list_id, "add", person(50))
            await bench.change(list_id, "delete", person(1))
        bench.esp.out |= {"p4@x.test"}
        await bench.move()
        await bench.until_delivered()
        expected = {f"p{n}@x.test" for n in (*range(15), 50)} - {"p1@x.test", "p3@x.test", "p4@x.test"}
        for list_id in ids:
            assert await bench.mailable(list_id) == expected
        assert sorted(bench.there.names.values()) == ["A", "B"]
        upserted = [i for name, each in bench.there.calls if name == "upsert" for i in each]
        assert len(upserted) <= 2 * 15 + 15 + 2, "what had arrived is not written again"


async def test_a_switch_that_was_killed_can_be_taken_back(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    assert await bench.killed_switch("upsert", 1, acted=True)
    assert await bench.change(list_id, "delete", person(1)) == PENDING
    assert await bench.switch(None) == []
    await bench.until_delivered()
    assert (await bench.list_of(list_id)).provider == "memory"
    assert await bench.mailable(list_id) == {"p2@x.test"}
    await bench.move()  # what was filled then is used; who has left since is not on it
    assert await bench.mailable(list_id) == {"p2@x.test"}
    assert len(bench.there.names) == 1


async def test_a_killed_way_back_goes_on(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    await bench.move()
    await bench.change(list_id, "delete", person(1))
    assert await bench.killed_switch("upsert", 1, acted=True, to=None)
    assert await bench.change(list_id, "add", person(3)) == PENDING
    await bench.move(None)
    await bench.until_delivered()
    assert (await bench.list_of(list_id)).provider == "memory"
    assert await bench.mailable(list_id) == {"p2@x.test", "p3@x.test"}


# What the new provider will not take


async def test_whom_the_new_provider_refuses_is_a_problem_and_a_line_of_the_report(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, *(person(number) for number in range(1, 13)))
    bench.there.special["p2@x.test"] = Rejected(Reason.INVALID_ADDRESS, "no@good.test is fake")
    bench.there.special["p5@x.test"] = ContactRefused(detail="somebody")
    [moved] = await bench.switch()
    assert moved.counts == {Result.MOVED: 10, Result.REFUSED: 2}
    refused = {p.contact_id: (p.reason, p.public_id) for p in await bench.bridge.store.memory.problems()}
    assert refused == {"2": ("invalid_address", list_id), "5": ("contact_refused", list_id)}
    lines = {line[1]: line[2:] for line in bench.report if line[2] == "refused"}
    assert lines == {
        "2": ["refused", "invalid_address", "n***@g*** is fake"],
        "5": ["refused", "contact_refused", "somebody"],
    }
    assert "x.test" not in str(bench.report)
    bench.there.special.clear()
    await bench.change(list_id, "update", person(2))
    assert {p.contact_id for p in await bench.bridge.store.memory.problems()} == {"5"}


async def test_whom_the_new_provider_takes_later_comes_later(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2, first="Аня"))
    bench.there.special["p2@x.test"] = Postponed(3600.0, Reason.TOO_OFTEN)
    [moved] = await bench.switch()
    assert moved.counts == {Result.MOVED: 1, Result.LATER: 1}
    bench.there.special.clear()
    await bench.until_delivered()
    there = bench.there.on[str((await bench.list_of(list_id)).provider_list_id)]
    assert {c.id: c.first_name for c in there.values()} == {"1": "Маша", "2": "Аня"}


async def test_what_planfix_wants_now_counts_for_more_than_what_is_taken_later(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1))
    bench.there.special["p1@x.test"] = Postponed(3600.0, Reason.TOO_OFTEN)
    bench.there.hold("upsert")
    switching = asyncio.create_task(bench.switch())
    await bench.there.until_called("upsert")
    assert await bench.change(list_id, "delete", person(1)) == PENDING
    bench.there.release("upsert")
    await switching
    bench.there.special.clear()
    await bench.until_delivered()
    assert await bench.mailable(list_id) == set()


async def test_whom_the_new_provider_keeps_out_stays_out(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    bench.there.out.add("p1@x.test")
    [moved] = await bench.switch()
    assert moved.counts == {Result.MOVED: 1, Result.OPTED_OUT: 1}
    bench.there.out.clear()
    await bench.change(list_id, "add", person(1))
    assert await bench.mailable(list_id) == {"p2@x.test"}


async def test_who_has_not_confirmed_is_not_subscribed_by_the_move(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    bench.esp.unconfirmed.add("p1@x.test")
    [moved] = await bench.switch()
    assert moved.counts == {Result.MOVED: 1, Result.REFUSED: 1}
    [problem] = await bench.bridge.store.memory.problems()
    assert (problem.contact_id, problem.reason) == ("1", "unconfirmed")


@pytest.mark.parametrize(
    "error", [Refused(Reason.PLAN_LIMIT, "full"), AuthFailed("401"), Transient("gone", retry_after_s=7200.0)]
)
async def test_a_move_that_cannot_work_leaves_the_list_where_it_was(bench: MovingBench, error: Exception) -> None:
    lists = [await bench.create(name) for name in ("A", "B")]
    for list_id in lists:
        await bench.bring(list_id, person(1), person(2))
    bench.there.script = [None, None, None, error]  # type: ignore[list-item]  # the fourth call is the first upsert
    [moved] = await bench.switch()  # the second list is not tried
    assert moved.state is State.STAYED
    assert type(error).__name__ in moved.detail
    for list_id in lists:
        assert (await bench.list_of(list_id)).state is ListState.OPEN
        assert await bench.change(list_id, "add", person(3)) == DELIVERED
        assert await bench.mailable(list_id) == {"p1@x.test", "p2@x.test", "p3@x.test"}
    await bench.move()
    assert sorted(bench.there.names.values()) == ["A", "B"]
    for list_id in lists:
        assert await bench.mailable(list_id) == {"p1@x.test", "p2@x.test", "p3@x.test"}


async def test_a_provider_that_stumbles_is_tried_again(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, *(person(number) for number in range(12)))
    bench.there.script = [None, None, None, Transient("503"), None, Transient("503")]
    switching = asyncio.create_task(bench.switch())
    assert [moved.state for moved in await patiently(bench, switching)] == [State.MOVED]
    assert await bench.mailable(list_id) == {f"p{n}@x.test" for n in range(12)}


async def test_a_list_that_is_gone_at_the_old_provider_stops_no_other(bench: MovingBench) -> None:
    gone, there = await bench.create("A"), await bench.create("B")
    await bench.bring(there, person(1))
    del bench.esp.on["1"], bench.esp.names["1"]
    first, second = await bench.switch()
    assert (first.mapped.public_id, first.state, second.state) == (gone, State.STAYED, State.MOVED)
    assert "gone at the old provider" in first.detail


async def test_a_list_that_somebody_deletes_while_it_is_filled_is_made_anew(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    bench.there.hold("upsert")
    switching = asyncio.create_task(bench.switch())
    await bench.there.until_called("upsert")
    bench.there.on.clear()
    bench.there.names.clear()
    bench.there.release("upsert")
    assert [moved.state for moved in await patiently(bench, switching)] == [State.MOVED]
    assert await bench.mailable(list_id) == {"p1@x.test", "p2@x.test"}


# Who is on the list


async def test_members_that_planfix_does_not_know_come_along(bench: MovingBench) -> None:
    list_id, other = await bench.create("A"), await bench.create("B")
    await bench.bring(list_id, person(1))
    await bench.bring(other, person(2))
    for by_hand in ("form@x.test", "p2@x.test", "out@x.test"):
        bench.esp.on["1"][by_hand] = Contact("", by_hand, "Own", "Name")
    bench.esp.out.add("out@x.test")
    await bench.move()
    there = bench.there.on[str((await bench.list_of(list_id)).provider_list_id)]
    assert {(c.id, c.address, c.first_name) for c in there.values()} == {
        ("1", "p1@x.test", "Маша"),
        ("", "form@x.test", "Own"),
        ("2", "p2@x.test", "Own"),  # a contact of Planfix, on another list
    }
    assert await bench.bridge.store.memory.opt_out_count("main") == 1


async def test_contacts_that_share_an_address_are_both_known_at_the_new_place(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1, "shared@x.test"), person(2, "shared@x.test"))
    await bench.move()
    await bench.change(list_id, "delete", person(1, "shared@x.test"))
    assert await bench.mailable(list_id) == {"shared@x.test"}
    await bench.change(list_id, "delete", person(2, ""))
    assert await bench.mailable(list_id) == set()


async def test_ids_at_the_old_provider_are_used_where_the_store_was_lost(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    async with bench.command() as (store, _), store.database.write() as connection:
        await connection.execute(text("DELETE FROM contacts"))
    await bench.move()
    await bench.change(list_id, "delete", person(1, ""))  # by the map alone
    assert await bench.mailable(list_id) == {"p2@x.test"}


async def test_contacts_that_the_old_list_does_not_have_are_told_as_missing(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1), person(2))
    del bench.esp.on["1"]["p1@x.test"]
    [moved] = await bench.switch()
    assert moved.counts == {Result.MOVED: 1, Result.MISSING: 1}
    assert ["memory:1", "1", "missing", "", ""] in bench.report
    await bench.change(list_id, "update", person(1))
    assert await bench.mailable(list_id) == {"p1@x.test", "p2@x.test"}


async def test_who_left_a_service_that_forgets_counts_as_opted_out(store_url: str, clock: DrivenClock) -> None:
    async with running(MovingBench(store_url, clock, old="forgetting")) as bench:
        list_id = await bench.create()
        await bench.bring(list_id, *(person(number) for number in range(1, 5)))
        del bench.esp.on["1"]["p1@x.test"]
        await bench.change(list_id, "delete", person(2))  # by us: no opt-out
        bench.there.hold("upsert")
        switching = asyncio.create_task(bench.switch())
        await bench.there.until_called("upsert")
        del bench.esp.on["1"]["p3@x.test"]  # copied already
        bench.there.release("upsert")
        [moved] = await switching
        assert moved.counts == {Result.MOVED: 1, Result.OPTED_OUT: 2}
        await bench.bring(list_id, *(person(number) for number in range(1, 5)))
        assert await bench.mailable(list_id) == {"p2@x.test", "p4@x.test"}
        await bench.bring(list_id, person(1, "new@x.test"))  # known by the map to be the same person
        assert await bench.mailable(list_id) == {"p2@x.test", "p4@x.test"}


async def test_a_bounce_is_carried_as_the_address_s_alone(store_url: str, clock: DrivenClock) -> None:
    async with running(MovingBench(store_url, clock, new="taking")) as bench:
        list_id = await bench.create()
        await bench.bring(list_id, person(1), person(2))
        bench.esp.out.add("p1@x.test")
        bench.esp.how["p1@x.test"] = BOUNCED
        await bench.move()
        assert bench.there.out == set()
        await bench.change(list_id, "update", person(1))
        assert await bench.mailable(list_id) == {"p2@x.test"}
        await bench.change(list_id, "update", person(1, "new@x.test"), "p1@x.test")
        assert await bench.mailable(list_id) == {"new@x.test", "p2@x.test"}


async def test_opt_outs_are_told_to_a_provider_that_takes_them(store_url: str, clock: DrivenClock) -> None:
    async with running(MovingBench(store_url, clock, new="taking")) as bench:
        list_id = await bench.create()
        await bench.bring(list_id, person(1), person(2))
        bench.esp.out.add("p1@x.test")
        await bench.move()
        assert bench.there.out == {"p1@x.test"}


async def test_one_name_is_parted_where_there_is_a_place_for_two(store_url: str, clock: DrivenClock) -> None:
    async with running(MovingBench(store_url, clock, old="one_name")) as bench:
        list_id = await bench.create()
        await bench.bring(
            list_id, person(1, first="Иван Петрович Сидоров"), person(2, first="Иван"), person(3, first="")
        )
        await bench.move()
        there = bench.there.on[str((await bench.list_of(list_id)).provider_list_id)]
        assert {c.id: (c.first_name, c.last_name) for c in there.values()} == {
            "1": ("Иван Петрович", "Сидоров"),
            "2": ("Иван", ""),
            "3": ("", ""),
        }


# Back, and the end of old lists


async def test_the_way_back_uses_the_old_list_and_takes_off_who_has_left(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, *(person(number) for number in range(1, 6)))
    bench.esp.on["1"]["form@x.test"] = Contact("", "form@x.test")
    await bench.move()
    await bench.change(list_id, "delete", person(1))
    await bench.change(list_id, "update", person(2, "new@x.test"), "p2@x.test")
    await bench.change(list_id, "add", person(9))
    bench.esp.on["1"]["later@x.test"] = Contact("", "later@x.test")  # signed up at the old service meanwhile
    bench.esp.out.add("p4@x.test")  # and clicked in an old mail
    bench.there.out.add("p5@x.test")
    await bench.move(None)
    mapped = await bench.list_of(list_id)
    assert (mapped.provider, mapped.provider_list_id) == ("memory", "1")
    assert len(bench.esp.names) == 1
    expected = {"new@x.test", "p3@x.test", "p9@x.test", "form@x.test", "later@x.test"}
    assert await bench.mailable(list_id) == expected
    await bench.bring(list_id, person(4), person(5))
    assert await bench.mailable(list_id) == expected


async def test_there_and_back_and_there_again_makes_one_list_at_each(bench: MovingBench) -> None:
    list_id = await bench.create()
    await bench.bring(list_id, person(1))
    for to, number in (("there", 2), (None, 3), ("there", 4), ("memory", 5)):
        await bench.move(to)
        assert await bench.change(list_id, "add", person(number)) == DELIVERED
    assert await bench.mailable(list_id) == {f"p{n}@x.test" for n in range(1, 6)}
    assert (len(bench.esp.names), len(bench.there.names)) == (1, 1)


@pytest.mark.parametrize("new", ["memory", "taking"])
async def test_an_opt_out_in_an_old_mail_is_heard_before_the_old_list_is_deleted(
    store_url: str, clock: DrivenClock, new: str
) -> None:
    async with running(MovingBench(store_url, clock, new=new)) as bench:
        list_id = await bench.create()
        await bench.bring(list_id, person(1), person(2))
        bench.esp.on["1"]["form@x.test"] = Contact("", "form@x.test")
        await bench.move()
        bench.esp.out |= {"p1@x.test", "form@x.test"}
        assert [each.gone for each in await bench.clean_up()] == [True]
        await bench.until_delivered()
        assert bench.esp.names == {}
        assert await bench.mailable(list_id) == {"p2@x.test"}
        await bench.change(list_id, "add", person(1))
        assert await bench.mailable(list_id) == {"p2@x.test"}
        assert await bench.clean_up() == []
        assert await bench.switch(None) == []  # there is no way back any more


async def test_who_left_an_old_list_of_a_service_that_forgets_is_out(store_url: str, clock: DrivenClock) -> None:
    async with running(MovingBench(store_url, clock, old="forgetting")) as bench:
        list_id = await bench.create()
        await bench.bring(list_id, person(1), person(2))
        await bench.move()
        del bench.esp.on["1"]["p1@x.test"]
        await bench.clean_up()
        assert await bench.mailable(list_id) == {"p2@x.test"}
        await bench.change(list_id, "add", person(1))
        assert await bench.mailable(list_id) == {"p2@x.test"}


async def test_an_old_list_that_is_gone_already_is_cleaned_up(bench: MovingBench) -> None:
    await bench.bring(await bench.create(), person(1))
    await bench.move()
    bench.esp.on.clear()
    bench.esp.names.clear()
    assert [each.gone for each in await bench.clean_up()] == [True]


async def test_old_lists_of_a_list_that_is_being_moved_stay(bench: MovingBench) -> None:
    await bench.bring(await bench.create(), person(1))
    await bench.move()
    assert await bench.killed_switch("upsert", 1, acted=True, to=None)
    [told] = await bench.clean_up()
    assert not told.gone
    assert "--back" in told.detail
    assert len(bench.esp.names) == 1
