"""The whole way, from a request of Planfix to the ESP: real HTTP on both sides, each provider, each store."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import replace
from itertools import islice
from math import ceil
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bridge.sample_contacts import made_up
from bridge.simulator import Planfix
from providers.base import Contact
from providers.mailchimp.provider import MailchimpProvider
from providers.sendgrid import SendgridProvider
from providers.testing import EspHarness, Fault
from tests.end_to_end import OVER_HTTP, PROVIDERS, QuickClock, Stage, config_of, esp_of, listed, look_at_jobs_at_once
from tests.fakes.sendgrid import SendgridHarness


@pytest.fixture(autouse=True)
def quick_jobs(monkeypatch: pytest.MonkeyPatch) -> None:
    look_at_jobs_at_once(monkeypatch.setattr)


@pytest.fixture(params=PROVIDERS)
async def stage(request: pytest.FixtureRequest, store_url: str, tmp_path: Path) -> AsyncIterator[Stage]:
    async with esp_of(request.param, tmp_path) as esp:
        name = esp.provider.name
        async with Stage(esp, config_of(store_url, name, {name: esp})) as running:
            yield running
        assert esp.violations() == []


@pytest.fixture
def strangers() -> Iterator[Contact]:
    return made_up(1, "post.test")


def errors(planfix: Planfix) -> dict[str, int]:
    return {message: count for step in planfix.steps for message, count in step.messages.items()}


async def test_a_mailing_from_its_first_day_to_its_last(stage: Stage, strangers: Iterator[Contact]) -> None:
    async with stage.planfix() as planfix:
        assert await planfix.create_list("Клиенты: «Москва»")
        await planfix.import_contacts(list(islice(strangers, 1000)))
        await planfix.change(8, strangers, random.Random(1))  # two each of: added, renamed, moved, removed
        await stage.delivered()
        assert errors(planfix) == {}
        assert len(planfix.expected) == 1000
        assert await stage.mailable(planfix) == listed(planfix.expected)
        await planfix.delete_list()
        await stage.delivered()
        assert planfix.list_deleted
        assert await stage.esp.lists() == {}


async def test_who_opted_out_stays_out_on_every_path(stage: Stage, strangers: Iterator[Contact]) -> None:
    out, staying, newcomer = islice(strangers, 3)
    moved = replace(out, address="moved@post.test")
    async with stage.planfix() as planfix, stage.planfix() as second:
        assert await planfix.create_list("Клиенты")
        await planfix.import_contacts([out, staying])
        await stage.delivered()
        await stage.esp.opt_out(out.address)

        async def holds() -> None:
            await stage.delivered()
            assert await stage.mailable(planfix) == listed([staying])

        await planfix.import_contacts([out, staying])
        await holds()
        await planfix.update("add", out)
        await holds()
        await planfix.update("update", replace(out, first_name="Новое"))
        await holds()
        await planfix.update("add", replace(newcomer, address=out.address.upper()))
        await holds()
        await planfix.update("delete", replace(newcomer, address=out.address.upper()))
        await holds()
        await planfix.update("delete", out)
        await holds()
        await planfix.update("add", out)
        await holds()
        await stage.restart()
        await planfix.update("update", moved, out.address)
        await holds()
        for contact in (out, moved):
            await planfix.import_contacts([contact, staying])
            await holds()
        assert await second.create_list("Другой")
        await second.import_contacts([out, moved, staying])
        await stage.delivered()
        assert await stage.mailable(second) == listed([staying])


async def test_a_job_of_a_bridge_that_is_gone_overtakes_no_removal(
    store_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bridge.actions.ASYNCHRONOUS_REPLY_S", 0.01)
    contact = next(made_up(1, "post.test"))
    async with SendgridHarness(job_polls=1_000_000) as esp:
        await esp.reopen(job_timeout_s=1.0)
        config = config_of(store_url, "sendgrid", {"sendgrid": esp}, grace_s=0.0)
        async with Stage(esp, config, QuickClock()) as stage, stage.planfix() as planfix:
            assert await planfix.create_list("Клиенты")
            await planfix.import_contacts([contact])
            async with asyncio.timeout(60):
                while not esp.fake.has_jobs:  # noqa: ASYNC110 - the fake tells nobody
                    await asyncio.sleep(0.01)
            await planfix.update("delete", contact)
            await stage.restart()
            outbox = stage.bridge.bridge.store.outbox
            async with asyncio.timeout(60):
                while await outbox.depths() and not await outbox.next_due_at("main", "sendgrid", time.time()):  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            esp.fake.job_polls = 0
            esp.fake.settle()
            await stage.delivered()
            assert await stage.mailable(planfix) == {}


async def test_a_burst_of_single_changes_is_few_calls(store_url: str, tmp_path: Path, esp_kind: str) -> None:
    contacts = list(islice(made_up(1, "post.test"), 500))
    async with esp_of(esp_kind, tmp_path, spec=False, latency_s=0.2) as esp:
        name = esp.provider.name
        async with (
            Stage(esp, config_of(store_url, name, {name: esp})) as stage,
            stage.planfix(parallel=500) as planfix,
        ):
            assert await planfix.create_list("Клиенты")
            before = esp.calls()
            await asyncio.gather(*(planfix.update("add", contact) for contact in contacts))
            await stage.delivered()
            calls = esp.calls() - before
            print(f"{esp_kind}: 500 changes, {calls} calls")  # noqa: T201 - the figure is part of the report
            assert await stage.mailable(planfix) == listed(contacts)
            # A round is a batch or less, the first of one change, and takes at most four calls. Rounds are as many as
            # the latency leaves room for while Planfix still sends.
            assert calls <= 40
        assert esp.violations() == []


@pytest.fixture(params=OVER_HTTP)
def esp_kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.mark.parametrize("batch_tags", [True, False])
async def test_an_import_into_a_tag_takes_the_calls_of_the_plan(tmp_path: Path, batch_tags: bool) -> None:
    count = 5000
    batches = ceil(count / MailchimpProvider.limits.batch_size)
    counts = await import_calls(tmp_path, "mailchimp tag", count, batch_tags=batch_tags)
    bulk = {"POST members": batches} | ({} if batch_tags else {"POST segment": batches})
    assert {kind: calls for kind, calls in counts.items() if kind in ("POST members", "POST segment")} == bulk
    assert sum(counts.values()) - sum(bulk.values()) <= 4  # fields of the audience, name of the tag: asked once


async def test_an_import_into_a_sendgrid_list_takes_the_calls_of_the_plan(tmp_path: Path) -> None:
    counts = await import_calls(tmp_path, "sendgrid", 35_000)
    assert counts["PUT contacts"] == ceil(35_000 / SendgridProvider.limits.batch_size)


async def import_calls(folder: Path, kind: str, count: int, **knobs: Any) -> dict[str, int]:
    """The calls of an import by kind, the making of its list left out."""
    contacts = list(islice(made_up(1, "post.test"), count))
    async with esp_of(kind, folder, spec=False, **knobs) as esp:
        name = esp.provider.name
        config = config_of(f"sqlite:///{folder / 'bridge.db'}", name, {name: esp})
        async with Stage(esp, config) as stage, stage.planfix() as planfix:
            assert await planfix.create_list("Клиенты")
            before = esp.calls()
            await planfix.import_contacts(contacts)
            await stage.delivered()
            assert await stage.mailable(planfix) == listed(contacts)
            counts: dict[str, int] = {}
            for call in esp.fake.calls[before:]:  # type: ignore[attr-defined]  # of both harnesses
                kind_of_call = f"{call.method} {kind_of(call.path)}"
                counts[kind_of_call] = counts.get(kind_of_call, 0) + 1
        assert esp.violations() == []
    print(kind, knobs, counts)  # noqa: T201 - the figures are part of the report
    return counts


def kind_of(path: str) -> str:
    """What a path is about, ids left out."""
    parts = path.strip("/").split("/")
    if parts[:2] == ["3.0", "lists"]:
        return {3: "members", 4: parts[-1], 5: "segment"}.get(len(parts), "other")
    return "jobs" if "imports" in parts else parts[-1]


@pytest.mark.parametrize("fault", Fault)
async def test_the_list_ends_right_whatever_call_fails(tmp_path: Path, esp_kind: str, fault: Fault) -> None:
    async with esp_of(esp_kind, tmp_path) as esp:
        name = esp.provider.name
        settings = msgspec.structs.replace(esp.provider.settings, timeout_s=0.5)
        config = config_of(f"sqlite:///{tmp_path / 'bridge.db'}", name, {name: esp})
        config = msgspec.structs.replace(
            config, providers={name: msgspec.structs.replace(config.providers[name], settings=settings)}
        )
        strangers = made_up(1, "post.test")
        async with Stage(esp, config, QuickClock()) as stage, stage.planfix() as planfix:
            assert await planfix.create_list("Клиенты")
            for position in range(4):
                esp.fail(fault, after=position)
                fresh = list(islice(strangers, 20))
                await planfix.import_contacts(fresh)
                await stage.delivered()
                esp.heal()
                assert await stage.mailable(planfix) == listed(planfix.expected)
                esp.fail(fault, after=position)
                moved = replace(fresh[0], address=f"moved{position}@post.test")
                await planfix.update("update", moved, fresh[0].address)
                await stage.delivered()
                esp.heal()
                assert await stage.mailable(planfix) == listed(planfix.expected)


async def test_lists_outlive_a_switch_of_the_provider(store_url: str, tmp_path: Path) -> None:
    strangers = made_up(1, "post.test")
    async with AsyncExitStack() as stack:
        old: EspHarness = await stack.enter_async_context(esp_of("sandbox", tmp_path))
        new: EspHarness = await stack.enter_async_context(esp_of("mailchimp tag", tmp_path))
        both = {"sandbox": old, "mailchimp": new}
        async with (
            Stage(old, config_of(store_url, "sandbox", both)) as stage,
            stage.planfix() as first,
            stage.planfix() as second,
        ):
            assert await first.create_list("Клиенты")
            await first.import_contacts(list(islice(strangers, 3)))

            stage.config = config_of(store_url, "mailchimp", both)
            await stage.restart()
            await first.import_contacts(list(islice(strangers, 2)))
            assert await second.create_list("Клиенты")
            await second.import_contacts(list(islice(strangers, 2)))
            assert str(second.list_id).startswith("mailchimp:")
            assert await old.mailable(str(first.list_id).partition(":")[2]) == listed(first.expected)
            assert await new.mailable(str(second.list_id).partition(":")[2]) == listed(second.expected)

            stage.config = config_of(store_url, "mailchimp", {"mailchimp": new})
            await stage.restart()
            assert errors(first) == {}
            await first.import_contacts(list(islice(strangers, 2)))
            [(message, _)] = errors(first).items()
            assert "not in the bridge's configuration" in message
            assert len(await old.mailable(str(first.list_id).partition(":")[2])) == 5

            stage.config = config_of(store_url, "mailchimp", both)
            await stage.restart()
            await stage.delivered()
            assert await old.mailable(str(first.list_id).partition(":")[2]) == listed(first.expected)
