"""A bridge as people run it, a process of its own that can be killed, and a look into its store from outside."""

import asyncio
import json
import os
import signal
import socket
import sqlite3
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg

from tests.crash.esp import ROOT
from tests.leaks import leaks_in

TOKEN = "a token of the crash tests"
DEADLINE_S = 60.0
"""Only ends a run that would hang."""


async def until(holds: Callable[[], Awaitable[bool]], what: str, deadline_s: float = DEADLINE_S) -> None:
    """Returns when something outside holds, which tells nobody. Raises TimeoutError that names it."""
    try:
        async with asyncio.timeout(deadline_s):
            while not await holds():  # noqa: ASYNC110 - see above
                await asyncio.sleep(0.02)
    except TimeoutError as error:
        raise TimeoutError(f"waited {deadline_s:g} s in vain: {what}") from error


class BridgeProcess:
    """`planfix-bridge serve` on a store; each start is a new process at the same ports. `module` is run instead of
    `bridge`: one that does the same."""

    def __init__(
        self,
        folder: Path,
        store_url: str,
        provider: str,
        providers: Mapping[str, Mapping[str, Any]],
        module: str = "bridge",
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        port, admin_port = _free_ports(2)
        config = {
            "server": {"port": port, "reply_within_s": 3, "grace_s": 1},
            "admin": {"port": admin_port},
            "store": store_url,
            "accounts": {"main": {"token": TOKEN, "provider": provider}},
            "providers": providers,
        }
        self.module = module
        self.url = f"http://127.0.0.1:{port}/planfix"
        self.started_in_s = 1.0  # how long the last complete start took
        self._admin = f"http://127.0.0.1:{admin_port}"
        self.config_file = folder / "config.yaml"
        self.config_file.write_text(json.dumps(config))  # which is YAML as well
        keys = [str(settings.get("api_key", "")) for settings in providers.values()]
        self._secrets = (TOKEN, *keys)
        self._log = folder / "bridge.log"
        self._log_from = 0  # where the lines of the present process begin
        self._process: asyncio.subprocess.Process | None = None

    async def spawn(self) -> None:
        """Starts the process and does not wait for anything."""
        with self._log.open("ab") as log:
            self._log_from = log.tell()
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", self.module, "serve", "-c", str(self.config_file)),
                cwd=ROOT,
                stdout=log,
                stderr=log,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    async def start(self) -> None:
        """Returns when it answers."""
        started_s = time.monotonic()
        await self.spawn()
        await until(self._answers, "a start of the bridge")
        self.started_in_s = time.monotonic() - started_s

    async def kill(self) -> None:
        """kill -9."""
        if self._process is not None and self._process.returncode is None:
            self._process.kill()
            await self._process.wait()

    def terminate(self) -> None:
        """A graceful stop begins."""
        if self._process is not None and self._process.returncode is None:
            self._process.send_signal(signal.SIGTERM)

    def leaks(self) -> list[str]:
        """What the log of all its lives holds and may not."""
        return [f"the log holds {leak}" for leak in leaks_in(self._log.read_text(), also=self._secrets)]

    def is_leading(self) -> bool:
        """Whether the last line about it in the log of the present process says so."""
        with self._log.open("rb") as log:
            log.seek(self._log_from)
            text = log.read()
        return text.rfind(b'"leading"') > text.rfind(b'"lead_lost"')

    async def is_idle(self) -> bool:
        """Whether nothing waits to be delivered."""
        return int((await self._ready())["pending"]) == 0

    async def _answers(self) -> bool:
        assert self._process is not None
        if self._process.returncode is not None:
            raise RuntimeError(f"the bridge ended by itself: {self._log.read_text()[-2000:]}")
        try:
            return "pending" in await self._ready()
        except aiohttp.ClientError:
            return False

    async def _ready(self) -> dict[str, Any]:
        async with aiohttp.ClientSession() as session, session.get(f"{self._admin}/readyz") as response:
            return dict(await response.json())


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


class StoreEyes:
    """Looks at a bridge's store beside the bridge, and can keep it from writing."""

    def __init__(self, store_url: str) -> None:
        self._url = store_url

    async def pending(self) -> int:
        return await self._count("SELECT count(*) FROM outbox")

    async def creating(self) -> int:
        """Lists whose making was begun and has no id yet."""
        return await self._count("SELECT count(*) FROM lists WHERE state = 'creating'")

    async def lists(self) -> list[tuple[str | None, str, str | None, str]]:
        """All lists and their copies, which have no id of Planfix: that id, provider, id there, state."""
        query = "SELECT public_id, provider, provider_list_id, state FROM lists WHERE state != 'deleted'"
        return [tuple(row) for row in await self._rows(query)]

    @asynccontextmanager
    async def locked(self) -> AsyncIterator[None]:
        """Nobody else writes to the store while the block runs."""
        if self._is_sqlite:
            with _sqlite(self._url) as db:
                await asyncio.to_thread(db.execute, "BEGIN IMMEDIATE")
                yield
            return
        connection = await asyncpg.connect(self._url)
        try:
            async with connection.transaction():
                await connection.execute("LOCK TABLE lists, contacts, outbox IN EXCLUSIVE MODE")
                yield
        finally:
            await connection.close()

    @property
    def _is_sqlite(self) -> bool:
        return self._url.startswith("sqlite")

    async def _count(self, query: str) -> int:
        return int((await self._rows(query))[0][0])

    async def _rows(self, query: str) -> list[Any]:
        if self._is_sqlite:
            with _sqlite(self._url) as db:
                return db.execute(query).fetchall()
        connection = await asyncpg.connect(self._url)
        try:
            return list(await connection.fetch(query))
        finally:
            await connection.close()


def _sqlite(url: str) -> "closing[sqlite3.Connection]":
    file = url.removeprefix("sqlite:///")
    return closing(sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=10.0))
