"""One run: lists of a bridge move from ESP to ESP while Planfix goes on, the switch is killed, and all is compared."""

import asyncio
import json
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bridge.registry import provider_class
from tests.crash.bridge import BridgeProcess, StoreEyes, until
from tests.crash.esp import ROOT, Esp, EspState, start_esp
from tests.crash.planfix import Planfix

PARALLEL = 3
OPTED_OUT_SHARE = 0.03
QUICK = "tests.switch.quick"


class Places(Esp):
    """All ESPs as one: each list is shown where it lives by the bridge's store, under its first id."""

    def __init__(self, esps: dict[str, Esp], store: StoreEyes) -> None:
        self.esps = esps
        self.settings = {}
        self._store = store

    async def state(self) -> EspState:
        while True:
            before = await self._store.lists()
            states = {name: await esp.state() for name, esp in self.esps.items()}
            if before == await self._store.lists():
                return _as_one(before, states)

    async def opt_out(self, address: str) -> None:
        """Where mail reaches the address. Should its list begin to move in that moment, the click may come too late to
        be read at the old place before the clean-up: the person clicks again."""
        clicked = False
        while True:
            before = await self._live()
            reached = [
                (provider, there, state)
                for provider, there, state in before
                if address in (await self.esps[provider].state()).mailable.get(str(there), {})
            ]
            if clicked and not reached:
                return
            for provider, _, _ in reached:
                await self.esps[provider].opt_out(address)
                clicked = True
            after = await self._live()
            if clicked and all(place in after and place[2] == "open" for place in reached):
                return
            await asyncio.sleep(0.05)

    async def _live(self) -> list[tuple[str, str | None, str]]:
        """Where lists of Planfix are: provider, id there, state."""
        lists = await self._store.lists()
        return [(provider, there, state) for public_id, provider, there, state in lists if public_id]

    async def hold(self, calls: str, *, skip: int = 0, acted: bool = False) -> None:
        raise NotImplementedError

    async def held(self) -> None:
        raise NotImplementedError

    async def release(self, *, act: bool) -> None:
        raise NotImplementedError

    async def stop(self) -> None:
        await asyncio.gather(*(esp.stop() for esp in self.esps.values()))


def _as_one(lists: Sequence[tuple[str | None, str, str | None, str]], states: dict[str, EspState]) -> EspState:
    names: dict[str, str] = {}
    mailable: dict[str, dict[str, tuple[str, str]]] = {}
    known = {(provider, there) for _, provider, there, _ in lists}
    for public_id, provider, there, _ in lists:
        state = states[provider]
        if public_id and there in state.lists:
            key = public_id.partition(":")[2]
            names[key], mailable[key] = state.lists[there], state.mailable[there]
    for name, state in states.items():
        for there in state.lists.keys() - {there for provider, there in known if provider == name}:
            names[f"{name} {there}"], mailable[f"{name} {there}"] = state.lists[there], state.mailable[there]
    violations = [f"{name}: {each}" for name, state in states.items() for each in state.violations]
    return EspState(names, mailable, violations)


@dataclass
class Leg:
    """One move of all lists and its figures; `differences` must be empty."""

    store: str
    to: str
    kills: int = 0
    runs: int = 0
    moved: int = 0  # contacts, as the last run of each list tells
    opted_out: int = 0
    expected: int = 0
    found: int = 0
    answered: int = 0
    duration_s: float = 0.0  # of the runs of the switch
    differences: list[str] = field(default_factory=list)


class Run:
    """A bridge at the first of `kinds`, with as many lists and contacts as asked for, and Planfix that goes on."""

    def __init__(self, kinds: Sequence[str], folder: Path, store_url: str, esps: dict[str, Esp], seed: str) -> None:
        self.dice = random.Random(seed)
        self._store_url = store_url
        self._report = folder / "report.csv"
        self._contacts = 0
        self._places = Places(esps, StoreEyes(store_url))
        providers = {name: _settings(kind, esps[name]) for name, kind in zip(esps, kinds, strict=True)}
        self.bridge = BridgeProcess(folder / "bridge", store_url, next(iter(esps)), providers, QUICK)
        self.planfix = Planfix([self.bridge.url], self._places, random.Random(f"{seed} planfix"))

    async def fill(self, lists: int, contacts: int) -> None:
        """Makes lists with so many contacts in all, some of whom opt out."""
        self._contacts = contacts
        await self.bridge.start()
        self.planfix.up.set()
        for number in range(lists):
            mailing = await self.planfix.create_list(f"Клиенты {number}")
            assert mailing is not None
            people = self.planfix.strangers(mailing, contacts // lists)
            await self.planfix.import_contacts(mailing, people)
            await until(self.bridge.is_idle, "an import to be delivered", 600.0)
            for person in self.dice.sample(people, round(len(people) * OPTED_OUT_SHARE)):
                await next(iter(self._places.esps.values())).opt_out(person.address)
                person.opted_out = True
            for person in people:
                person.busy = False
            mailing.in_use += 1  # this one is not deleted

    async def move(self, to: str, kills: int) -> Leg:
        """Moves all lists while Planfix goes on; the switch is killed so often, at random moments."""
        leg = Leg(self._store_url.partition(":")[0], to)
        answered = self.planfix.answered
        there_before = {mailing.public_id for mailing in self.planfix.model.mailings}
        self.planfix.begin(PARALLEL)
        spread_s = 0.1 + self._contacts / 5000  # a run takes about so long, its start aside
        started_s = time.monotonic()
        while True:
            leg.runs += 1
            self._report.unlink(missing_ok=True)
            process = await self._switch(to)
            if leg.kills < kills and await self._has_begun(process):
                await asyncio.sleep(self.dice.uniform(0.0, spread_s))
                if process.returncode is None:
                    process.kill()
                    leg.kills += 1
            assert process.stdout is not None
            told = await process.stdout.read()
            code = await process.wait()
            if code == -9:
                continue
            if code != 0:
                leg.differences.append(f"the switch ended with {code}: {told.decode()[-2000:]}")
                break
            result = json.loads(told)
            leg.moved += sum(each["moved"] for each in result["lists"])
            leg.opted_out += sum(each["opted_out"] for each in result["lists"])
            break
        leg.duration_s = time.monotonic() - started_s
        await self.planfix.end()
        await until(self.bridge.is_idle, "everything to be delivered", 600.0)
        state = await self._places.state()
        leg.differences += self.planfix.faults + self.planfix.model.differences(state)
        leg.differences += [
            f"{public_id} is at {provider} and {list_state}"
            for public_id, provider, _, list_state in await StoreEyes(self._store_url).lists()
            if public_id in there_before and (provider != to or list_state != "open")
        ]
        leg.expected, _ = self.planfix.model.expected()
        leg.found = self.planfix.model.found(state)
        leg.answered = self.planfix.answered - answered
        return leg

    async def _has_begun(self, process: asyncio.subprocess.Process) -> bool:
        """As soon as the switch is past its plan; False when it has ended."""
        while process.returncode is None:
            if self._report.exists():
                return True
            await asyncio.sleep(0.01)
        return False

    async def _switch(self, to: str) -> asyncio.subprocess.Process:
        arguments = ("switch", "main", "--to", to, "--yes", "--json", "-c", str(self.bridge.config_file))
        report = ("--report", str(self._report))
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", QUICK, *arguments, *report),
            cwd=ROOT,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )


async def play(
    kinds: Sequence[str],
    legs: Sequence[str],
    folder: Path,
    store_url: str,
    *,
    contacts: int,
    lists: int,
    kills: int,
    seed: str,
) -> list[Leg]:
    """Moves lists along `legs`, names of providers; `kinds` are theirs, the first one's lists begin there."""
    names = [kind.partition(" ")[0] for kind in kinds]
    started = await asyncio.gather(*(start_esp(kind, folder, spec=False) for kind in kinds))
    esps = dict(zip(names, started, strict=True))
    run = Run(kinds, folder, store_url, esps, seed)
    told = []
    try:
        await run.fill(lists, contacts)
        for number, to in enumerate(legs):
            told.append(await run.move(to, kills // len(legs) + (number < kills % len(legs))))
    finally:
        await run.planfix.close()
        await run.bridge.kill()
        await run._places.stop()
    return told


def _settings(kind: str, esp: Esp) -> dict[str, Any]:
    """Of a provider in the file. The fakes allow no more calls at one time than the bridge may make by itself: the
    switch takes its share of them."""
    name, _, list_as = kind.partition(" ")
    calls = max(1, provider_class(name).limits.parallel_calls - 2)
    return {"type": name, "parallel_calls": calls, **esp.settings} | ({"list_as": list_as} if list_as else {})
