"""A bench with a second ESP, and the commands that move lists between the two as another process would."""

import csv
import shutil
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

from msgspec.structs import replace

from bridge.config import ProviderConfig
from bridge.moves.plan import Plan, Step, plan_back, plan_to
from bridge.moves.providers import OpenProviders
from bridge.moves.report import Report
from bridge.moves.switch import Cleaned, Moved, State, Switch
from bridge.moves.verify import Difference, Verify
from bridge.store import MappedList, Store
from providers.base import Capabilities, Member, MemberState, Settings
from tests.bench import Bench
from tests.clock import DrivenClock
from tests.memory_provider import ESPS, Killed, MemoryEsp, MemoryProvider


def can(**more: Any) -> Capabilities:
    facts = {"list_is": "a dict", "renames_address": False, "tells_opt_outs": True, "equal_names": False}
    return Capabilities(**facts | more)


class Taking(MemoryProvider):
    """Takes opt-outs from elsewhere."""

    name = "taking"
    capabilities = can(takes_opt_outs=True)


class Forgetting(MemoryProvider):
    """Whoever opts out is gone, without a trace."""

    name = "forgetting"
    capabilities = can(forgets_opt_outs=True)


class Keeping(MemoryProvider):
    """Tells whom the account keeps out, whatever lists they are on."""

    name = "keeping"
    capabilities = can()

    async def kept_out(self) -> AsyncIterator[Member]:
        for address in await self.esp.call("kept_out", [], lambda _: sorted(self.esp.out)):
            yield Member(address, MemberState.OPTED_OUT)


class OneName(MemoryProvider):
    name = "one_name"
    capabilities = can(one_name=True)


TYPES = {cls.name: f"tests.moves.bench:{cls.__name__}" for cls in (Taking, Forgetting, Keeping, OneName)}
TYPES["memory"] = "tests.memory_provider:MemoryProvider"


class Mortal(Switch):
    """Once it is killed nothing is put in order."""

    async def _let_go(self, step: Step) -> None:
        return


class MovingBench(Bench):
    """The lists begin at `memory`; `esp` is there. `there` is the ESP that they may move to, as a provider `there`."""

    def __init__(self, store_url: str, clock: DrivenClock, *, old: str = "memory", new: str = "memory") -> None:
        super().__init__(store_url, clock)
        self.there_at = uuid4().hex
        self.there = ESPS.setdefault(self.there_at, MemoryEsp())
        self.there.list_ids = iter(range(101, 10_000))  # so that no id is right at both by chance
        kinds = {"memory": (old, self.place), "there": (new, self.there_at)}
        self.config = replace(
            self.config,
            providers={
                name: ProviderConfig(name=name, type=kind, settings=Settings(base_url=place))
                for name, (kind, place) in kinds.items()
            },
        )
        self.report: list[list[str]] = []

    @asynccontextmanager
    async def command(self) -> AsyncIterator[tuple[Store, OpenProviders]]:
        """What a command has of its own, in a process beside the bridge."""
        store = await Store.open(self.config.store)
        try:
            async with OpenProviders(self.config, store, self.clock) as providers:
                yield store, providers
        finally:
            await store.close()

    async def plan(self, to: str | None = "there") -> Plan:
        async with self.command() as (store, providers):
            return await _plan(store, providers, to)

    async def switch(self, to: str | None = "there", *, kind: type[Switch] = Switch) -> list[Moved]:
        """`--to`, or `--back` for None."""
        path = Path(tempfile.mkdtemp()) / "report.csv"
        try:
            async with self.command() as (store, providers):
                plan = await _plan(store, providers, to)
                assert plan.refusals == []
                switch = kind(store, providers, self.clock)
                await switch.tidy(plan)
                with Report(path) as report:
                    return await switch.apply(plan, report)
        finally:
            if path.exists():
                self.report = list(csv.reader(path.read_text().splitlines()))
                shutil.rmtree(path.parent)

    async def killed_switch(self, operation: str, times: int, *, acted: bool, to: str | None = "there") -> bool:
        """A switch that is killed at a call of the provider that it moves to; False when it ended before."""
        esp = self.there if to == "there" else self.esp
        esp.dies_at = (operation, times, acted)
        try:
            await self.switch(to, kind=Mortal)
        except Killed:
            return True
        esp.dies_at = None
        return False

    async def move(self, to: str | None = "there") -> None:
        """All lists move, without any that stays."""
        assert {moved.state for moved in await self.switch(to)} == {State.MOVED}

    async def clean_up(self) -> list[Cleaned]:
        async with self.command() as (store, providers):
            return await Switch(store, providers, self.clock).clean_up("main")

    async def verify(self, *, repair: bool = False) -> Difference:
        """What is found of the one list."""
        async with self.command() as (store, providers):
            [found] = [each async for each in Verify(store, providers, self.clock, repair=repair).run("main")]
            return found

    async def list_of(self, public_id: str) -> MappedList:
        found = await self.bridge.store.lists.by_public_id(public_id)
        assert found is not None
        return found

    async def mailable(self, list_id: str) -> set[str]:
        """Who gets mail where the list lives now."""
        mapped = await self.list_of(list_id)
        esp = self.esp if mapped.provider == "memory" else self.there
        return esp.mailable(str(mapped.provider_list_id))


async def _plan(store: Store, providers: OpenProviders, to: str | None) -> Plan:
    return await (plan_back(store, "main", providers) if to is None else plan_to(store, "main", to, providers))


@asynccontextmanager
async def running(bench: MovingBench) -> AsyncIterator[MovingBench]:
    """The bench with its bridge, which is stopped at the end."""
    await bench.start()
    try:
        yield bench
    finally:
        bench.there.open.set()
        await bench.stop()
