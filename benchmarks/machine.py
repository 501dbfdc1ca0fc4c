"""The bridge as a process on a core of its own, measured from outside; fakes and load share the other core."""

import asyncio
import json
import os
import platform
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil

ROOT: Final = Path(__file__).parents[1]
LOG: Final = ROOT / "build" / "benchmarks.log"
TOKEN: Final = "a token of the benchmarks, long enough"  # noqa: S105 - guards nothing
CORES: Final = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
BRIDGE_CORE: Final = CORES[0]
OUTER_CORE: Final = CORES[-1]
MB: Final = 1024 * 1024
SAMPLE_S: Final = 0.02


def pin_outside() -> None:
    """This process, with its fakes and its load, goes to the core that is not the bridge's."""
    os.sched_setaffinity(0, {OUTER_CORE})


@dataclass(frozen=True, slots=True)
class Cost:
    """What a process used while a block ran. `peak_mb` is the most resident memory in that time."""

    wall_s: float
    cpu_s: float
    before_mb: float
    peak_mb: float


class Meter:
    """Measures a process while the block runs; `cost` is there afterwards."""

    def __init__(self, pid: int) -> None:
        self._process = psutil.Process(pid)
        self.cost: Cost

    async def __aenter__(self) -> "Meter":
        self._peak = self._before = self._process.memory_info().rss
        self._cpu_s = self._used_s()
        self._sampling = asyncio.create_task(self._sample())
        self._started_s = time.perf_counter()
        return self

    async def __aexit__(self, *_: object) -> None:
        wall_s = time.perf_counter() - self._started_s
        self._sampling.cancel()
        self._peak = max(self._peak, self._process.memory_info().rss)
        self.cost = Cost(wall_s, self._used_s() - self._cpu_s, self._before / MB, self._peak / MB)

    def _used_s(self) -> float:
        times = self._process.cpu_times()
        return float(times.user + times.system)

    async def _sample(self) -> None:
        while True:
            self._peak = max(self._peak, self._process.memory_info().rss)
            await asyncio.sleep(SAMPLE_S)


@dataclass(frozen=True, slots=True)
class Running:
    """A bridge that answers. `ready_s` is the time from its start to its first answer."""

    pid: int
    url: str
    ready_s: float

    def meter(self) -> Meter:
        return Meter(self.pid)


@contextmanager
def pinned(*arguments: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process on the bridge's core; it ends with the block."""
    LOG.parent.mkdir(exist_ok=True)
    log = LOG.open("wb")
    command = ["taskset", "-c", str(BRIDGE_CORE), sys.executable, *arguments]
    with log, subprocess.Popen(command, stdout=log, stderr=log, cwd=ROOT) as process:  # noqa: S603 - our own modules
        try:
            yield process
        finally:
            process.terminate()


@asynccontextmanager
async def bridge(folder: Path, store: str, providers: dict[str, Any], **accounts: str) -> AsyncIterator[Running]:
    """`planfix-bridge serve`, as people run it. `accounts` name their providers."""
    port, admin_port = free_ports(2)
    config = {
        "server": {"port": port, "max_body_mb": 512, "max_connections": 20_000},
        "admin": {"port": admin_port},
        "store": store,
        "accounts": {name: {"token": token_of(name), "provider": provider} for name, provider in accounts.items()},
        "providers": providers,
    }
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))
    started_s = time.perf_counter()
    with pinned("-m", "bridge", "serve", "-c", str(file)) as process:
        await until_it_answers(f"http://127.0.0.1:{port}/healthz", process)
        yield Running(process.pid, f"http://127.0.0.1:{port}/planfix", time.perf_counter() - started_s)


def token_of(account: str) -> str:
    return f"{TOKEN} {account}"


async def until_it_answers(url: str, process: subprocess.Popen[bytes]) -> None:
    async with aiohttp.ClientSession() as session:
        while process.poll() is None:
            try:
                async with session.get(url) as response:
                    if response.status == 200:
                        return
            except aiohttp.ClientError:
                await asyncio.sleep(0.005)
    raise RuntimeError(f"the process ended before it answered; see {LOG}")


def free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


def described() -> dict[str, str]:
    """The machine and the versions, for the report."""
    packages = ("planfix-bridge", "aiohttp", "SQLAlchemy", "msgspec", "asyncpg")
    return {
        "date": time.strftime("%Y-%m-%d"),
        "machine": f"{platform.machine()}, {len(CORES)} cores, {psutil.virtual_memory().total / 1024**3:.0f} GiB",
        "python": platform.python_version(),
        **{name: version(name) for name in packages},
    }
