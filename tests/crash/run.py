"""One run: a store, an ESP, a bridge that is killed at chosen moments, and the comparison at the end."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tests.crash.bridge import BridgeProcess, StoreEyes, until
from tests.crash.esp import MAKES_A_LIST, WRITES, Esp, start_esp
from tests.crash.planfix import Planfix

NewStore = Callable[[], Awaitable[str]]
"""The URL of an empty store."""

REACHED_WITHIN_S = 5.0
"""How long a moment is waited for; then the kill comes all the same."""
MOMENTS = (
    "stored, no reply",
    "in a bulk call",
    "acted, not recorded",
    "in createList",
    "in the migration",
    "at the start",
    "in a graceful stop",
    "at random",
)
LIFE_S = 0.8
"""How long the bridge lives between two kills, on average."""
PARALLEL = 6


@dataclass
class Result:
    """The figures of a run; `differences` must be empty."""

    store: str
    provider: str
    kills: dict[str, int] = field(default_factory=dict)  # by moment
    missed: list[str] = field(default_factory=list)  # moments that did not come; the kill came all the same
    answered: int = 0
    unanswered: int = 0
    expected: int = 0
    unsure: int = 0  # both states are allowed, for the request was given up
    found: int = 0
    opted_out: int = 0
    lists: int = 0
    duration_s: float = 0.0
    differences: list[str] = field(default_factory=list)


class Run:
    """The parts of a run, and the moments at which it kills."""

    def __init__(self, kind: str, folder: Path, esp: Esp, new_store: NewStore, store_url: str, seed: str) -> None:
        self.dice = random.Random(seed)
        self.esp = esp
        self.store = StoreEyes(store_url)
        self.missed: list[str] = []  # moments that did not come
        self._moment = ""
        self._causes: list[asyncio.Task[None]] = []
        self._kind = kind
        self._folder = folder
        self._new_store = new_store
        self.bridge = self._bridge_on(store_url, folder)
        self.planfix = Planfix([self.bridge.url], esp, random.Random(f"{seed} planfix"))

    async def kill(self, moment: str) -> None:
        """Kills at the moment and starts again on the same store."""
        self._moment = moment
        ways: list[Callable[[], Awaitable[None]]] = [
            self._before_the_reply,
            self._in_a_bulk_call,
            self._before_the_record,
            self._in_create_list,
            self._in_the_migration,
            self._at_the_start,
            self._in_a_graceful_stop,
            self._at_random,
        ]
        await dict(zip(MOMENTS, ways, strict=True))[moment]()
        await self.start()

    async def start(self) -> None:
        await self.bridge.start()
        self.planfix.up.set()

    async def differences(self) -> list[str]:
        """Waits until nothing is pending. Planfix must have ended."""
        await until(self.bridge.is_idle, "everything to be delivered")
        return self.planfix.faults + self.planfix.model.differences(await self.esp.state())

    # --- the moments

    async def _before_the_reply(self) -> None:
        """Something is stored, its call waits at the ESP, its reply waits for the call."""
        async with self._held(WRITES):
            await self._kill()

    async def _in_a_bulk_call(self) -> None:
        async with self._held(WRITES, skip=self.dice.randrange(3), bulk=True):
            await self._kill()

    async def _before_the_record(self) -> None:
        if self._kind == "sandbox":
            await self._before_the_record_in_the_sandbox()
            return
        async with self._held(WRITES, skip=self.dice.randrange(3), acted=True, bulk=self.dice.random() < 0.5):
            await self._kill()

    async def _in_create_list(self) -> None:
        acted = self.dice.random() < 0.5
        if self._kind == "sandbox":
            await self._in_create_list_of_the_sandbox(acted=acted)
            return
        async with self._held(MAKES_A_LIST, acted=acted, in_create=True):
            await self._kill()

    async def _in_the_migration(self) -> None:
        """A new store; the bridge is killed on its way up, and used then for a first list."""
        url = await self._new_store()
        number = self.dice.randrange(10**9, 2 * 10**9)  # far from the contacts of the run
        bridge = self._bridge_on(url, self._folder / f"first start {number}")
        try:
            await bridge.spawn()
            await asyncio.sleep(self.dice.uniform(0.3, 1.05) * self.bridge.started_in_s)
            await bridge.kill()
            await bridge.start()
            other = Planfix([bridge.url], self.esp, self.dice, first_id=number)
            other.up.set()
            mailing = await other.create_list(f"First list {number}")
            assert mailing is not None
            self.planfix.model.existing |= {mailing.provider_id}
            await other.update(mailing, "add", other.strangers(mailing, 1)[0])
            await until(bridge.is_idle, "a first list to be delivered")
            state = await self.esp.state()
            if len(state.mailable.get(mailing.provider_id, {})) != 1:
                self.planfix.faults.append("the first contact on a new store is missing")
            self.planfix.faults += other.faults
            await other.close()
        finally:
            await bridge.kill()
        await self._kill()

    async def _at_the_start(self) -> None:
        await self._kill()
        await self.bridge.spawn()
        await asyncio.sleep(self.dice.uniform(0.0, 1.2) * self.bridge.started_in_s)
        await self._kill()

    async def _in_a_graceful_stop(self) -> None:
        async with self._held(WRITES, skip=self.dice.randrange(2), acted=self._kind != "sandbox"):
            self.bridge.terminate()
            await asyncio.sleep(self.dice.uniform(0.0, 0.3))
            await self._kill()

    async def _at_random(self) -> None:
        await asyncio.sleep(self.dice.uniform(0.0, 0.6))
        await self._kill()

    # --- their parts

    async def _kill(self) -> None:
        self.planfix.up.clear()
        await self.bridge.kill()

    @asynccontextmanager
    async def _held(
        self, calls: str, *, skip: int = 0, acted: bool = False, bulk: bool = False, in_create: bool = False
    ) -> AsyncIterator[None]:
        """The block runs while a call waits at the ESP; afterwards, for a call not acted on, that is left to chance."""
        await self.esp.hold(calls, skip=skip, acted=acted)
        causing = asyncio.create_task(self._cause(bulk, in_create))
        try:
            try:
                async with asyncio.timeout(REACHED_WITHIN_S):
                    await self.esp.held()
                    if self._kind == "sandbox":
                        await until(self._has_pending, "a call")
            except TimeoutError:
                self.missed.append(self._moment)
            yield
        finally:
            await self.esp.release(act=self.dice.random() < 0.5)
            self._causes.append(causing)

    async def _before_the_record_in_the_sandbox(self) -> None:
        """The sandbox acts within the bridge: the store is kept from writing instead."""
        before = await self.esp.state()

        async def has_acted() -> bool:
            return await self.esp.state() != before

        await self.esp.hold(WRITES)
        self._causes.append(asyncio.create_task(self._cause(bulk=False, in_create=False)))
        try:
            await until(self._has_pending, "a call", REACHED_WITHIN_S)
            async with self.store.locked():
                await self.esp.release(act=True)
                await until(has_acted, "the sandbox to act", REACHED_WITHIN_S)
                await self._kill()
        except TimeoutError:
            self.missed.append(self._moment)
            await self.esp.release(act=True)
            await self._kill()

    async def _in_create_list_of_the_sandbox(self, *, acted: bool) -> None:
        """Its one thread has no place for a call that is held: the latency of its calls is the time to kill in."""
        before = (await self.esp.state()).lists

        async def has_acted() -> bool:
            return (await self.esp.state()).lists != before

        self._causes.append(asyncio.create_task(self._cause(bulk=False, in_create=True)))
        try:
            await until(self._is_creating, "a list to be begun", REACHED_WITHIN_S)
            if acted:
                async with self.store.locked():
                    await until(has_acted, "the sandbox to act", REACHED_WITHIN_S)
                    await self._kill()
        except TimeoutError:
            self.missed.append(self._moment)
        await self._kill()

    async def _cause(self, bulk: bool, in_create: bool) -> None:
        """What brings the moment about, beside all else that goes on."""
        planfix = self.planfix
        if in_create:
            await planfix.create_list(planfix.list_name())
            return
        mailings = [mailing for mailing in planfix.model.mailings if not mailing.asked_to_go]
        if not mailings:
            return
        mailing = self.dice.choice(mailings)
        mailing.in_use += 1
        people = planfix.strangers(mailing, 300 if bulk else 1)
        if bulk:
            await planfix.import_contacts(mailing, people)
        else:
            await planfix.update(mailing, "add", people[0])
        for person in people:
            person.busy = False
        mailing.in_use -= 1

    async def settle(self) -> None:
        """Ends Planfix."""
        await asyncio.gather(self.planfix.end(), *self._causes)

    async def _has_pending(self) -> bool:
        return await self.store.pending() > 0

    async def _is_creating(self) -> bool:
        return await self.store.creating() > 0

    def _bridge_on(self, store_url: str, folder: Path) -> BridgeProcess:
        name, _, list_as = self._kind.partition(" ")
        settings = {"type": name, **self.esp.settings} | ({"list_as": list_as} if list_as else {})
        return BridgeProcess(folder, store_url, name, {name: settings})


async def play(
    kind: str, folder: Path, new_store: NewStore, moments: Sequence[str], seed: str, *, spec: bool = True
) -> Result:
    """Kills once at each of `moments`, in their order, and compares."""
    started_s = time.monotonic()
    store_url = await new_store()
    result = Result(store_url.partition(":")[0], kind)
    esp = await start_esp(kind, folder, spec=spec)
    run = Run(kind, folder, esp, new_store, store_url, seed)
    watching = asyncio.create_task(run.planfix.watch())
    try:
        await run.start()
        run.planfix.begin(PARALLEL)
        for moment in moments:
            await asyncio.sleep(run.dice.uniform(0.0, 2 * LIFE_S))
            await run.kill(moment)
            result.kills[moment] = result.kills.get(moment, 0) + 1
        await run.settle()
        assert not watching.done(), watching.exception()
        result.differences = await run.differences() + run.bridge.leaks()
        model = run.planfix.model
        state = await esp.state()
        result.answered, result.unanswered = run.planfix.answered, run.planfix.unanswered
        result.expected, result.unsure = model.expected()
        result.found = model.found(state)
        result.opted_out, result.lists = len(model.out()), len(model.mailings)
        result.missed = run.missed
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await run.planfix.close()
        await run.bridge.kill()
        await esp.stop()
    result.duration_s = time.monotonic() - started_s
    return result
