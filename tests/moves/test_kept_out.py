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
from providers.testing.base import people
from tests.end_to_end import Stage, config_of, esp_of, look_at_jobs_at_once


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
