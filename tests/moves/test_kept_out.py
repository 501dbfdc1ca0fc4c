"""Opt-outs that a service keeps for the whole account go along when lists leave it, whoever is on them."""

from pathlib import Path
from typing import Any

import pytest

from bridge.clock import Clock
from bridge.moves.plan import plan_to
from bridge.moves.providers import OpenProviders
from bridge.moves.report import Report
from bridge.moves.switch import State, Switch
from bridge.store import Moves, Store
from providers.base import Reason, Refused
from providers.testing.base import people
from tests.bench import person
from tests.clock import DrivenClock
from tests.end_to_end import Stage, config_of, esp_of, look_at_jobs_at_once
from tests.moves.bench import MovingBench, Taking, running


@pytest.mark.parametrize("old", ["brevo", "sendgrid"])
@pytest.mark.parametrize("when", ["before", "in the moment of the turn"])
async def test_who_opted_out_and_was_removed_stays_out_at_the_next_service(
    old: str, when: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_at_jobs_at_once(monkeypatch.setattr)
    out, staying = people(2)
    turn = Moves.turn
    async with esp_of(old, tmp_path) as here, esp_of("sandbox", tmp_path) as there:
        config = config_of(f"sqlite:///{tmp_path / 'bridge.db'}", old, {old: here, "sandbox": there})

        async def late(*arguments: Any) -> None:
            await here.opt_out(out.address)
            await turn(*arguments)

        async with Stage(here, config) as stage, stage.planfix() as planfix:
            assert await planfix.create_list("Клиенты")
            await planfix.import_contacts([out, staying])
            await stage.delivered()
            if when == "before":
                await here.opt_out(out.address)
            else:
                monkeypatch.setattr(Moves, "turn", late)
            await planfix.update("delete", out)
            await stage.delivered()
            store, clock = await Store.open(config.store), Clock()
            try:
                async with OpenProviders(config, store, clock) as providers:
                    plan = await plan_to(store, "main", "sandbox", providers)
                    with Report(tmp_path / "report.csv") as report:
                        [moved] = await Switch(store, providers, clock).apply(plan, report)
            finally:
                await store.close()
            assert moved.state is State.MOVED
            await planfix.update("add", out)
            await stage.delivered()
            [list_id] = await there.lists()
            assert await there.mailable(list_id) == there.listed(staying)


def readings(bench: MovingBench) -> int:
    return [operation for operation, _ in bench.esp.calls].count("kept_out")


@pytest.mark.usefixtures("types")
async def test_an_account_is_read_before_the_first_list_and_after_the_last_one(
    store_url: str, clock: DrivenClock
) -> None:
    """However many lists there are: an account may hold many more people than they do."""
    async with running(MovingBench(store_url, clock, old="keeping")) as bench:
        for number in (1, 2, 3):
            await bench.bring(await bench.create(f"List {number}"), person(number))
        await bench.move()
        assert readings(bench) == 2
        assert {cleaned.gone for cleaned in await bench.clean_up()} == {True}
        assert readings(bench) == 3


@pytest.mark.usefixtures("types")
@pytest.mark.parametrize("new", ["memory", "taking"])
async def test_an_opt_out_during_the_move_of_a_later_list_holds_for_one_that_has_moved(
    store_url: str, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch, new: str
) -> None:
    async with running(MovingBench(store_url, clock, old="keeping", new=new)) as bench:
        lists = [await bench.create("First"), await bench.create("Second")]
        for list_id in lists:
            await bench.bring(list_id, person(1), person(2))
        begin, begun = Moves.begin, iter((False, True))

        async def later(*arguments: Any) -> None:
            if next(begun):
                bench.esp.out.add("p1@x.test")
            await begin(*arguments)

        monkeypatch.setattr(Moves, "begin", later)
        await bench.move()
        await bench.until_delivered()
        assert [await bench.mailable(list_id) for list_id in lists] == [{"p2@x.test"}] * 2


@pytest.mark.usefixtures("types")
async def test_who_is_told_by_the_list_and_by_the_account_counts_once(store_url: str, clock: DrivenClock) -> None:
    async with running(MovingBench(store_url, clock, old="keeping")) as bench:
        await bench.bring(await bench.create(), person(1), person(2))
        await bench.move()
        bench.esp.out.add("p1@x.test")
        assert (await bench.verify()).late == 1
        assert (await bench.verify(repair=True)).late == 1
        assert (await bench.verify()).late == 0


@pytest.mark.usefixtures("types")
async def test_an_old_place_is_not_heard_while_the_present_one_is_not_in_the_settings(
    store_url: str, clock: DrivenClock
) -> None:
    async with running(MovingBench(store_url, clock, old="keeping", new="taking")) as bench:
        await bench.bring(await bench.create(), person(1), person(2))
        await bench.move()
        bench.esp.out.add("p1@x.test")
        there = bench.config.providers.pop("there")
        [cleaned] = await bench.clean_up()
        assert not cleaned.gone, "or nobody would hear of the opt-out any more"
        assert "there is not in the settings" in cleaned.detail
        bench.config.providers["there"] = there
        assert [cleaned.gone for cleaned in await bench.clean_up()] == [True]
        assert bench.there.out == {"p1@x.test"}


@pytest.mark.usefixtures("types")
async def test_a_new_list_that_is_gone_is_not_taken_for_an_old_one(
    store_url: str, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever opted out at the old list would not be heard any more."""

    async def gone(*_: Any) -> None:
        raise Refused(Reason.LIST_GONE)

    async with running(MovingBench(store_url, clock, new="taking")) as bench:
        await bench.bring(await bench.create(), person(1), person(2))
        await bench.move()
        bench.esp.out.add("p1@x.test")
        with monkeypatch.context() as patch:
            patch.setattr(Taking, "keep_out", gone)
            [cleaned] = await bench.clean_up()
        assert not cleaned.gone
        assert [cleaned.gone for cleaned in await bench.clean_up()] == [True]
        assert bench.there.out == {"p1@x.test"}
