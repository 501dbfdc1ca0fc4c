"""Listening and stopping: the two listeners of a running bridge, and the signals that it heeds."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import structlog
from aiohttp import web

from bridge.app import public_app
from bridge.clock import Clock
from bridge.config import Config
from bridge.protocol import PublicRunner
from bridge.reload import Reloading, ReloadRefused
from bridge.service import Bridge
from bridge.status.app import admin_app

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listening:
    """A bridge that answers: where, and what is inside."""

    bridge: Bridge
    reloading: Reloading
    url: str
    admin_url: str


@asynccontextmanager
async def listening(config: Config, clock: Clock | None = None, path: Path | None = None) -> AsyncIterator[Listening]:
    """Runs a bridge while the block runs. Raises StoreError, or OSError when a port is taken.

    `path` is the file that the settings came from, to be read again by a reload.

    At the end no new requests are taken, those under way are answered with what is known, calls of providers end
    within `server.grace_s`, and what is left stays in the outbox.
    """
    async with Bridge(config, clock) as bridge:
        server, admin = config.server, config.admin
        reloading = Reloading(bridge, path)
        public = PublicRunner(public_app(bridge), lambda: bridge.config)
        private = web.AppRunner(admin_app(bridge, reloading), access_log=None, shutdown_timeout=1.0)
        try:
            url = await _listen(public, server.host, server.port)
            admin_url = await _listen(private, admin.host, admin.port)
            log.info("started", url=url + server.path, admin_url=admin_url, accounts=len(config.accounts))
            yield Listening(bridge, reloading, url + server.path, admin_url)
            log.info("stopping")
        finally:
            for site in list(public.sites):
                await site.stop()
            bridge.tickets.release_all()
            await public.cleanup()
            await private.cleanup()


async def serve_until_stopped(config: Config, path: Path | None, started: asyncio.Future[Listening]) -> None:
    """Runs a bridge until SIGTERM or SIGINT; `started` gets it as soon as it answers.

    With the `path` of a settings file SIGHUP reads it again; without, SIGHUP ends the process, as when its terminal
    is closed.
    """
    stop, hang_up = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if path is not None:
        loop.add_signal_handler(signal.SIGHUP, hang_up.set)
    async with listening(config, path=path) as running:
        started.set_result(running)
        reloads = asyncio.create_task(_reload_when(hang_up, running.reloading))
        await stop.wait()
        reloads.cancel()
        await asyncio.gather(reloads, return_exceptions=True)
    log.info("stopped")


async def _reload_when(hang_up: asyncio.Event, reloading: Reloading) -> None:
    while True:
        await hang_up.wait()
        hang_up.clear()
        try:
            await reloading.reload()
        except ReloadRefused:
            pass  # the log tells why
        except Exception:
            log.exception("reload_broke_off")


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    address = runner.addresses[0]
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{shown}:{address[1]}"
