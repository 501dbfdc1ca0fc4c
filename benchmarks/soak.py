"""Does the bridge keep what it should give back? A real `serve` under mixed load, watched from outside.

Run it from the repository: `make soak`, or `make soak SECONDS=3600`.
"""

import argparse
import asyncio
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from typing import IO, Any, Final

import aiohttp
import psutil
from rich.console import Console
from rich.table import Table

from bridge.sample_contacts import made_up
from bridge.simulator import Planfix

TOKEN = "a token for soaking the bridge"  # noqa: S105 - guards nothing
MB: Final = 1024 * 1024
SAMPLE_S = 0.5
PLANFIXES = 3
CONTACTS = 500
CHANGES_A_ROUND = 80
ESP_LATENCY_S = 0.02
STARTS_WITHIN_S = 30.0
DELIVERS_WITHIN_S = 60.0


@dataclass(frozen=True)
class Measure:
    """What is sampled. It is flat while the last quarter's median exceeds the second's by no more than the larger of
    `tolerance` (in `unit`) and `share` of it."""

    name: str
    unit: str
    tolerance: float
    share: float


MEASURES: Final = (
    Measure("memory (RSS)", "MB", 4.0, 0.05),
    Measure("open files", "", 4.0, 0.0),
    Measure("threads", "", 2.0, 0.0),
    Measure("store with its log", "MB", 1.0, 0.05),
)


@dataclass(frozen=True)
class Verdict:
    """The medians of the quarters of one measure's samples."""

    measure: Measure
    quarters: tuple[float, ...]

    @classmethod
    def of(cls, measure: Measure, samples: list[float]) -> "Verdict":
        size = max(1, len(samples) // 4)
        return cls(measure, tuple(median(samples[start * size : (start + 1) * size]) for start in range(4)))

    @property
    def flat(self) -> bool:
        _, second, _, last = self.quarters
        return last - second <= max(self.measure.tolerance, self.measure.share * second)


@contextmanager
def process(*arguments: str) -> Iterator[dict[str, Any]]:
    """A Python process that says in its first line, as JSON, where it is reached; it ends with the block."""
    command = [sys.executable, "-m", *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as running:  # noqa: S603 - our own modules
        try:
            output: IO[str] = running.stdout  # type: ignore[assignment]  # it is a pipe
            yield json.loads(output.readline())
        finally:
            running.terminate()


@contextmanager
def serving(folder: Path, esp: dict[str, str]) -> Iterator[tuple[psutil.Process, str, str]]:
    """A bridge as its users run it: its process, its URL for Planfix and that of its metrics."""
    settings = folder / "soak.yaml"
    settings.write_text(
        "server: {port: 0}\nadmin: {port: 0}\n"
        f"store: sqlite:///{folder / 'bridge.db'}\n"
        f"accounts: {{main: {{token: {TOKEN}, provider: mailchimp}}}}\n"
        f"providers: {{mailchimp: {{api_key: {esp['key']}, base_url: {esp['base_url']}}}}}\n"
    )
    log = folder / "bridge.log"
    command = [sys.executable, "-m", "bridge", "serve", "-c", str(settings)]
    with (
        log.open("w") as errors,
        subprocess.Popen(command, stderr=errors, env=os.environ | {"COLUMNS": "120"}) as running,  # noqa: S603 - ours
    ):
        try:
            deadline_s = time.monotonic() + STARTS_WITHIN_S
            while len(urls := re.findall(r"http://127\.0\.0\.1:\d+(?:/planfix)?", log.read_text())) < 2:
                if running.poll() is not None or time.monotonic() > deadline_s:
                    raise SystemExit(f"the bridge does not start:\n{log.read_text()}")
                time.sleep(0.1)
            url = next(each for each in urls if each.endswith("/planfix"))
            admin_url = next(each for each in urls if not each.endswith("/planfix"))
            yield psutil.Process(running.pid), url, admin_url
        finally:
            running.terminate()


async def live(planfix: Planfix, seed: int, until_s: float) -> None:
    """One filter's life, round after round; its size stays the same."""
    dice = random.Random(seed)  # noqa: S311 - sample data
    strangers = made_up(seed, "post.test")
    await planfix.create_list(f"Soak {seed}")
    people = list(islice(strangers, CONTACTS))
    while time.monotonic() < until_s:
        await planfix.import_contacts(people)
        await planfix.change(CHANGES_A_ROUND, strangers, dice)
        people = planfix.expected
        # A run of hours would be remembered as one step for each request.
        planfix.steps[:] = [step for step in planfix.steps if step.errors]


async def sample(bridge: psutil.Process, store: Path, samples: dict[str, list[float]]) -> None:
    while True:
        with bridge.oneshot():
            values = (
                bridge.memory_info().rss / MB,
                bridge.num_fds(),
                bridge.num_threads(),
                sum(file.stat().st_size for file in store.parent.glob(f"{store.name}*")) / MB,
            )
        for measure, value in zip(MEASURES, values, strict=True):
            samples[measure.name].append(float(value))
        await asyncio.sleep(SAMPLE_S)


async def outbox_depth(admin_url: str) -> int:
    async with aiohttp.ClientSession() as session, session.get(f"{admin_url}/metrics") as answer:
        found = re.findall(r"^planfix_bridge_outbox_changes\{.*\} (\S+)$", await answer.text(), re.MULTILINE)
        return int(sum(map(float, found)))


async def left_over(admin_url: str) -> int:
    """What is still in the outbox when it has had its time."""
    deadline_s = time.monotonic() + DELIVERS_WITHIN_S
    while (left := await outbox_depth(admin_url)) and time.monotonic() < deadline_s:  # noqa: ASYNC110 - in another process
        await asyncio.sleep(0.5)
    return left


async def soak(seconds: float, console: Console) -> bool:
    with (
        tempfile.TemporaryDirectory() as temporary,
        process("tests.fakes.mailchimp", "--latency-s", str(ESP_LATENCY_S)) as esp,
        serving(Path(temporary), esp) as (bridge, url, admin_url),
    ):
        samples: dict[str, list[float]] = {measure.name: [] for measure in MEASURES}
        sampling = asyncio.create_task(sample(bridge, Path(temporary) / "bridge.db", samples))
        until_s = time.monotonic() + seconds
        planfixes = [Planfix(url, TOKEN, parallel=8) for _ in range(PLANFIXES)]

        async def one(seed: int, planfix: Planfix) -> None:
            async with planfix:
                await live(planfix, seed, until_s)

        await asyncio.gather(*(one(seed, planfix) for seed, planfix in enumerate(planfixes, start=1)))
        sampling.cancel()
        left = await left_over(admin_url)
    errors = sum(step.errors for planfix in planfixes for step in planfix.steps)
    verdicts = [Verdict.of(measure, samples[measure.name]) for measure in MEASURES]
    show(console, seconds, verdicts)
    console.print(f"Left in the outbox: {left}. Requests answered with an error: {errors}.")
    return all(verdict.flat for verdict in verdicts) and not left and not errors


def show(console: Console, seconds: float, verdicts: list[Verdict]) -> None:
    table = Table("", "1st quarter", "2nd", "3rd", "4th", "may grow by", "", title=f"{seconds:g} s, medians")
    for verdict in verdicts:
        measure = verdict.measure
        may_grow = max(measure.tolerance, measure.share * verdict.quarters[1])
        table.add_row(
            f"{measure.name}, {measure.unit}" if measure.unit else measure.name,
            *(f"{value:.1f}" for value in verdict.quarters),
            f"{may_grow:.1f}",
            "[green]flat[/]" if verdict.flat else "[bold red]growing[/]",
        )
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=120.0)
    options = parser.parse_args()
    if not asyncio.run(soak(options.seconds, Console())):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
