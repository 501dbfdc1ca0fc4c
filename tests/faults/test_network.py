"""A bad network between the bridge and each real service: afterwards the list there is right, nothing is doubled."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import msgspec
import pytest

from bridge.delivery import State
from bridge.sample_contacts import made_up
from bridge.simulator import Planfix
from providers.base import Contact
from providers.testing import Fault
from tests.end_to_end import OVER_HTTP, ByHand, QuickClock, Stage, config_of, esp_of, listed, look_at_jobs_at_once
from tests.faults.proxy import FaultProxy, Spoil

TIMEOUT_S = 1.0
TIMES = 3


class Line:
    """A stage whose way to the service goes through a proxy."""

    def __init__(self, stage: Stage, proxy: FaultProxy) -> None:
        self.stage = stage
        self.proxy = proxy

    def state(self) -> State:
        [(_, _, health)] = list(self.stage.bridge.bridge.couriers.health())
        return health.state


@pytest.fixture(autouse=True)
def quick_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    look_at_jobs_at_once(monkeypatch.setattr)


@pytest.fixture(params=OVER_HTTP)
async def line(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Line]:
    async with esp_of(request.param, tmp_path) as esp:
        name = esp.provider.name
        async with FaultProxy(str(esp.provider.settings.base_url)) as proxy:
            config = config_of(f"sqlite:///{tmp_path / 'bridge.db'}", name, {name: esp})
            [provider] = config.providers.values()
            # An upsert whose answer was lost counts as under way for twice the time of a job, which is SendGrid's own.
            jobs = {"job_timeout_s": TIMEOUT_S} if name == "sendgrid" else {}
            settings = msgspec.structs.replace(provider.settings, base_url=proxy.url, timeout_s=TIMEOUT_S, **jobs)
            config.providers[name] = msgspec.structs.replace(provider, settings=settings)
            async with Stage(esp, config, QuickClock()) as stage:
                yield Line(stage, proxy)
        assert esp.violations() == []


@pytest.fixture
def strangers() -> Iterator[Contact]:
    return made_up(1, "post.test")


async def live_on(planfix: ByHand, present: list[Contact], strangers: Iterator[Contact]) -> None:
    """What Planfix does meanwhile: an import, and single changes of every kind, one contact twice."""
    first, second, third, *rest = present
    await planfix.import_contacts([*present, *islice(strangers, 5)])
    await planfix.update("add", next(strangers))
    await planfix.update("update", replace(second, first_name="Новое"))
    await planfix.update("update", replace(second, address="moved@post.test"), second.address)
    await planfix.update("delete", third)
    await planfix.update("delete", rest[0])
    await planfix.update("add", rest[0])
    await planfix.update("add", first)


def said(planfix: Planfix) -> list[str]:
    return [message for step in planfix.steps for message in step.messages]


@pytest.mark.parametrize("how", Spoil)
async def test_after_a_fault_the_list_is_right(line: Line, how: Spoil, strangers: Iterator[Contact]) -> None:
    stage = line.stage
    async with stage.planfix() as planfix:
        assert await planfix.create_list("Клиенты")
        present = list(islice(strangers, 20))
        await planfix.import_contacts(present)
        await stage.delivered()
        await stage.esp.opt_out(present[0].address)
        line.proxy.spoil(how, TIMES)
        await live_on(planfix, present, strangers)
        await stage.delivered()
        assert (line.proxy.spoiled, line.proxy.coming) == (TIMES, 0)
        assert said(planfix) == []
        expected = [contact for contact in planfix.expected if contact.id != present[0].id]
        assert await stage.mailable(planfix) == listed(expected)
        assert line.state() is State.UP


async def test_while_connections_are_refused_every_change_is_kept(line: Line, strangers: Iterator[Contact]) -> None:
    stage = line.stage
    async with stage.planfix() as planfix:
        assert await planfix.create_list("Клиенты")
        present = list(islice(strangers, 20))
        await planfix.import_contacts(present)
        await stage.delivered()
        async with line.proxy.refusing():
            await live_on(planfix, present, strangers)
            assert await stage.bridge.bridge.store.outbox.depths() != []
        await stage.delivered()
        assert said(planfix) == []
        assert await stage.mailable(planfix) == listed(planfix.expected)


@pytest.mark.parametrize("how", [Spoil.RESET_IN_ANSWER, Spoil.SLOW_BODY, Spoil.CUT_JSON, Spoil.GARBAGE])
async def test_a_list_whose_making_was_spoilt_is_made_once(line: Line, how: Spoil) -> None:
    stage = line.stage
    before = await stage.esp.lists()
    async with stage.planfix() as planfix:
        for spoilt in (1, 2, 3):  # whichever of the calls this is, the search before or the making
            line.proxy.spoil(how, spoilt)
            while line.proxy.coming:
                await planfix.create_list("Клиенты")
        assert await planfix.create_list("Клиенты")
        assert len(await stage.esp.lists()) == len(before) + 1


async def test_a_key_that_is_revoked_and_restored_loses_nothing(line: Line, strangers: Iterator[Contact]) -> None:
    stage = line.stage
    async with stage.planfix() as planfix:
        assert await planfix.create_list("Клиенты")
        present = list(islice(strangers, 20))
        await planfix.import_contacts(present)
        await stage.delivered()
        stage.esp.fail(Fault.WRONG_KEY, times=10_000)
        await planfix.update("update", replace(present[0], first_name="Новое"))
        while line.state() is not State.KEY_REFUSED:  # noqa: ASYNC110 - there is no event to wait for
            await asyncio.sleep(0.01)
        answered = len(said(planfix))
        await live_on(planfix, present, strangers)
        assert len(said(planfix)) > answered, "Planfix is told that somebody has to look at the key"
        stage.esp.heal()
        await stage.delivered()
        assert line.state() is State.UP
        assert await stage.mailable(planfix) == listed(planfix.expected)


async def test_a_list_deleted_behind_our_back_is_told_and_stops_no_other(
    line: Line, strangers: Iterator[Contact]
) -> None:
    stage = line.stage
    async with stage.planfix() as planfix, stage.planfix() as other:
        assert await planfix.create_list("Клиенты")
        assert await other.create_list("Другой")
        present = list(islice(strangers, 5))
        await planfix.import_contacts(present)
        await other.import_contacts(present)
        await stage.delivered()
        await stage.esp.drop_list(str(planfix.list_id).partition(":")[2])
        added = next(strangers)
        await planfix.update("add", added)
        await other.update("add", added)
        await stage.delivered()
        problems = await stage.bridge.bridge.store.memory.problems()
        assert [(problem.public_id, problem.contact_id) for problem in problems] == [(planfix.list_id, added.id)]
        assert await stage.mailable(other) == listed(other.expected)
        await planfix.delete_list()
        await stage.delivered()
        assert planfix.list_deleted
