"""Several bridges on one PostgreSQL; one is killed, the others go on, a new one comes."""

import asyncio
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from providers.mailchimp import MailchimpProvider
from tests.crash.bridge import BridgeProcess, until
from tests.crash.esp import start_esp
from tests.crash.planfix import Planfix

PARALLEL = 8
LIFE_S = 0.8
LATENCY_S = 0.05


@dataclass
class Takeovers:
    """The figures of a run. `takeovers_s`: from the kill of a replica that delivered until another one does."""

    replicas: int
    kills: int = 0
    takeovers_s: list[float] = field(default_factory=list)
    answered: int = 0
    unanswered: int = 0
    expected: int = 0
    unsure: int = 0
    found: int = 0
    max_parallel: int = 0
    differences: list[str] = field(default_factory=list)


async def play_replicas(number: int, folder: Path, store_url: str, kills: int, seed: str) -> Takeovers:
    """Requests go to all in turn. Every second kill is of the replica that delivers, the others are of any."""
    dice = random.Random(seed)
    result = Takeovers(number)
    esp = await start_esp("mailchimp tag", folder, latency_s=LATENCY_S, spec=False)
    settings = {"type": "mailchimp", **esp.settings}
    bridges = [
        BridgeProcess(folder / f"replica {n}", store_url, "mailchimp", {"mailchimp": settings}) for n in range(number)
    ]
    planfix = Planfix([bridge.url for bridge in bridges], esp, random.Random(f"{seed} planfix"))
    watching = asyncio.create_task(planfix.watch())
    try:
        await asyncio.gather(*(bridge.start() for bridge in bridges))
        planfix.up.set()
        planfix.begin(PARALLEL)
        for kill in range(kills):
            await asyncio.sleep(dice.uniform(0.5, 1.5) * LIFE_S)
            leader = await _leader_of(bridges)
            victim = leader if kill % 2 == 0 else dice.choice(bridges)
            planfix.urls.remove(victim.url)
            killed_s = time.monotonic()
            await victim.kill()
            result.kills += 1
            if victim is leader:
                await _leader_of([bridge for bridge in bridges if bridge is not victim])
                result.takeovers_s.append(time.monotonic() - killed_s)
            await victim.start()
            planfix.urls.append(victim.url)
        await planfix.end()
        assert not watching.done(), watching.exception()
        await until(bridges[0].is_idle, "everything to be delivered")
        state = await esp.state()
        result.differences = planfix.faults + planfix.model.differences(state)
        result.differences += [leak for bridge in bridges for leak in bridge.leaks()]
        result.max_parallel = state.max_parallel
        # The making of a list is outside the limit on the calls that deliver.
        if state.max_parallel > MailchimpProvider.limits.parallel_calls + 1:
            result.differences.append(f"{state.max_parallel} calls at one time")
        result.answered, result.unanswered = planfix.answered, planfix.unanswered
        result.expected, result.unsure = planfix.model.expected()
        result.found = planfix.model.found(state)
    finally:
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
        await planfix.close()
        for bridge in bridges:
            await bridge.kill()
        await esp.stop()
    return result


async def _leader_of(bridges: list[BridgeProcess]) -> BridgeProcess:
    """The one of these that delivers, as soon as there is one."""

    async def is_there() -> bool:
        return any(bridge.is_leading() for bridge in bridges)

    await until(is_there, "a replica to deliver")
    return next(bridge for bridge in bridges if bridge.is_leading())
