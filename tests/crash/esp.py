"""The ESPs of the crash suite: fakes in a process of their own, steered over a second port; the sandbox by its file.

As a process: `python -m tests.crash.esp "mailchimp tag"` prints one JSON line: the control's URL, and the settings of a
provider of it.
"""

import asyncio
import json
import sqlite3
import sys
from abc import ABC, abstractmethod
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
from aiohttp import web

from providers.base import Secret, Settings
from providers.testing.fake import Hold
from tests.end_to_end import esp_of
from tests.fakes.sandbox import SandboxHarness
from tests.fakes.sendgrid import SendgridHarness

WRITES = "^(POST|PUT|PATCH|DELETE) (?!.*/search/)"
MAKES_A_LIST = r"^POST .*/(segments|marketing/lists)$"
ROOT = Path(__file__).resolve().parents[2]
JOB_TIMEOUT_S = 3.0
"""Of SendGrid: after a kill a removal waits for twice as long for a job that may be under way."""


class EspState(msgspec.Struct):
    """What the ESP holds now. `mailable`: list id → lower-case address → first and last name."""

    lists: dict[str, str]
    mailable: dict[str, dict[str, tuple[str, str]]]
    violations: list[str]
    max_parallel: int = 0


class Esp(ABC):
    """An ESP that outlives the bridge."""

    settings: dict[str, Any]  # of the provider, for the bridge's YAML

    @abstractmethod
    async def state(self) -> EspState: ...

    @abstractmethod
    async def opt_out(self, address: str) -> None: ...

    @abstractmethod
    async def hold(self, calls: str, *, skip: int = 0, acted: bool = False) -> None:
        """Keeps the next matching call waiting, as `FakeEsp.hold`."""

    @abstractmethod
    async def held(self) -> None:
        """Returns when the call waits."""

    @abstractmethod
    async def release(self, *, act: bool) -> None:
        """Ends the hold. Does nothing when there is none."""

    @abstractmethod
    async def stop(self) -> None: ...


class FakeProcess(Esp):
    """A fake with HTTP."""

    def __init__(self, process: asyncio.subprocess.Process, control: str, settings: dict[str, Any]) -> None:
        self._process = process
        self._session = aiohttp.ClientSession(control)
        self.settings = settings

    @classmethod
    async def start(cls, kind: str, folder: Path, *, latency_s: float, spec: bool) -> "FakeProcess":
        arguments = ("-m", "tests.crash.esp", kind, str(folder), str(latency_s), "spec" if spec else "")
        process = await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=ROOT, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        assert process.stdout is not None
        told = json.loads(await process.stdout.readline())
        return cls(process, told["control"], told["settings"])

    async def state(self) -> EspState:
        async with self._session.get("/state") as response:
            return msgspec.json.decode(await response.read(), type=EspState)

    async def opt_out(self, address: str) -> None:
        await self._post("/opt_out", address=address)

    async def hold(self, calls: str, *, skip: int = 0, acted: bool = False) -> None:
        await self._post("/hold", calls=calls, skip=skip, acted=acted)

    async def held(self) -> None:
        await self._post("/held")

    async def release(self, *, act: bool) -> None:
        await self._post("/release", act=act)

    async def stop(self) -> None:
        await self._session.close()
        with suppress(ProcessLookupError):
            self._process.kill()
        await self._process.wait()

    async def _post(self, path: str, **data: Any) -> None:
        async with self._session.post(path, json=data) as response:
            response.raise_for_status()


class SandboxFile(Esp):
    """The sandbox's file. Its calls are held by its write lock: only before they act."""

    def __init__(self, folder: Path) -> None:
        path = folder / "sandbox.db"
        self.settings = {"path": str(path), "latency_s": 0.1}
        self._harness = SandboxHarness(path)
        self._path = path
        self._lock: sqlite3.Connection | None = None

    async def state(self) -> EspState:
        lists = await self._harness.lists() if await self._is_ready() else {}
        return EspState(lists, {list_id: await self._harness.mailable(list_id) for list_id in lists}, [])

    async def opt_out(self, address: str) -> None:
        await self._harness.opt_out(address)

    async def hold(self, calls: str, *, skip: int = 0, acted: bool = False) -> None:
        if acted:
            raise ValueError("the sandbox holds calls only before they act")
        while not await self._is_ready():  # noqa: ASYNC110 - a file tells nobody of its changes
            await asyncio.sleep(0.01)
        self._lock = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False, timeout=10.0)
        await asyncio.to_thread(self._lock.execute, "begin immediate")

    async def held(self) -> None:
        """Nothing tells that a call waits for the lock: the caller looks at the bridge's store."""

    async def release(self, *, act: bool) -> None:
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    async def stop(self) -> None:
        await self.release(act=False)
        await self._harness.close()

    async def _is_ready(self) -> bool:
        """Whether the first call has made the tables."""
        if not self._path.exists():
            return False
        return bool(self._harness._rows("select 1 from sqlite_master where name = 'memberships'"))


async def start_esp(kind: str, folder: Path, *, latency_s: float = 0.0, spec: bool = True) -> Esp:
    """`kind` is one of `tests.end_to_end.PROVIDERS`; `spec`: calls are held against the official description."""
    if kind == "sandbox":
        return SandboxFile(folder)
    return await FakeProcess.start(kind, folder, latency_s=latency_s, spec=spec)


def _as_yaml(settings: Settings) -> dict[str, Any]:
    """Settings as they stand in a file, without those that are as by default."""
    defaults = dict(zip(reversed(settings.__struct_fields__), reversed(settings.__struct_defaults__), strict=False))
    values = msgspec.structs.asdict(settings)
    names = dict(zip(settings.__struct_fields__, settings.__struct_encode_fields__, strict=True))
    return {
        names[field]: value.reveal() if isinstance(value, Secret) else value
        for field, value in values.items()
        if field not in defaults or defaults[field] != value
    }


async def _serve(kind: str, folder: Path, latency_s: float, spec: bool) -> None:
    async with esp_of(kind, folder, spec=spec, latency_s=latency_s) as esp:
        fake: Any = esp.fake  # type: ignore[attr-defined]  # of both harnesses
        hold: Hold | None = None
        if isinstance(esp, SendgridHarness):
            await esp.reopen(job_timeout_s=JOB_TIMEOUT_S)

        async def state(_: web.Request) -> web.Response:
            lists = await esp.lists()
            mailable = {list_id: await esp.mailable(list_id) for list_id in lists}
            told = EspState(lists, mailable, esp.violations(), fake.max_parallel)
            return web.Response(body=msgspec.json.encode(told), content_type="application/json")

        async def opt_out(request: web.Request) -> web.Response:
            await esp.opt_out((await request.json())["address"])
            return web.Response()

        async def hold_next(request: web.Request) -> web.Response:
            nonlocal hold
            asked = await request.json()
            hold = fake.hold(asked.pop("calls"), **asked)
            return web.Response()

        async def held(_: web.Request) -> web.Response:
            if hold is not None:
                await hold.reached.wait()
            return web.Response()

        async def release(request: web.Request) -> web.Response:
            if hold is not None:
                hold.release(act=(await request.json())["act"])
            return web.Response()

        app = web.Application()
        app.add_routes([web.get("/state", state), web.post("/opt_out", opt_out), web.post("/hold", hold_next)])
        app.add_routes([web.post("/held", held), web.post("/release", release)])
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        told = {
            "control": "http://{}:{}".format(*runner.addresses[0][:2]),
            "settings": _as_yaml(esp.provider.settings),
        }
        sys.stdout.write(json.dumps(told) + "\n")
        sys.stdout.flush()
        await asyncio.to_thread(sys.stdin.read)  # until its maker is gone


if __name__ == "__main__":
    asyncio.run(_serve(sys.argv[1], Path(sys.argv[2]), float(sys.argv[3]), bool(sys.argv[4])))
