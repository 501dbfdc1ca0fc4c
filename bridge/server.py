"""Listening and stopping: the two listeners of a running bridge, and one shape for every answer of the public one."""

import asyncio
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog
from aiohttp import web
from aiohttp.web_request import BaseRequest

from bridge.app import public_app
from bridge.clock import Clock
from bridge.config import Config
from bridge.replies import error_reply
from bridge.service import Bridge
from bridge.status.app import admin_app

_ERROR_CODES: Final = {
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
}

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Listening:
    """A bridge that answers: where, and what is inside."""

    bridge: Bridge
    url: str
    admin_url: str


@asynccontextmanager
async def listening(config: Config, clock: Clock | None = None) -> AsyncIterator[Listening]:
    """Runs a bridge while the block runs. Raises StoreError, or OSError when a port is taken.

    At the end no new requests are taken, those under way are answered with what is known, calls of providers end
    within `server.grace_s`, and what is left stays in the outbox.
    """
    async with Bridge(config, clock) as bridge:
        server, admin = config.server, config.admin
        public = _JsonRunner(
            public_app(bridge),
            language=config.language,
            access_log=None,
            shutdown_timeout=server.grace_s,
            lingering_time=1.0,  # how long the rest of a body is read that was refused already
        )
        private = web.AppRunner(admin_app(bridge), access_log=None, shutdown_timeout=1.0)
        try:
            url = await _listen(public, server.host, server.port)
            admin_url = await _listen(private, admin.host, admin.port)
            log.info("started", url=url + server.path, admin_url=admin_url, accounts=len(config.accounts))
            yield Listening(bridge, url + server.path, admin_url)
            log.info("stopping")
        finally:
            for site in list(public.sites):
                await site.stop()
            bridge.tickets.release_all()
            await public.cleanup()
            await private.cleanup()


async def serve_until_stopped(config: Config, started: asyncio.Future[Listening] | None = None) -> None:
    """Runs a bridge until SIGTERM or SIGINT; `started` gets it as soon as it answers."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with listening(config) as running:
        if started is not None:
            started.set_result(running)
        await stop.wait()
    log.info("stopped")


async def _listen(runner: web.AppRunner, host: str, port: int) -> str:
    await runner.setup()
    await web.TCPSite(runner, host, port).start()
    address = runner.addresses[0]
    shown = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{shown}:{address[1]}"


class _JsonErrors(web.RequestHandler):
    """Every answer that is not JSON, whoever made it, leaves as `{"error": …}` of the same status."""

    def __init__(self, manager: web.Server, *, language: str, **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self._language = language

    def handle_error(
        self,
        request: BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        # The library would log the bytes that it could not read.
        log.info("bad_http", status=status, error=type(exc).__name__)
        response = web.Response(status=status)
        response.force_close()
        return response

    def log_exception(self, *args: Any, **kwargs: Any) -> None:
        # The library reads on after the answer, and stumbles again over a body that was told to be broken.
        if not isinstance(kwargs.get("exc_info"), web.RequestPayloadError):
            super().log_exception(*args, **kwargs)

    async def finish_response(
        self, request: BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        if resp.content_type != "application/json":
            code = _ERROR_CODES.get(resp.status, "bad_http" if resp.status < 500 else "internal")
            body = error_reply(resp.status, code, self._language).encode()
            replaced = web.Response(status=resp.status, body=body, content_type="application/json", charset="utf-8")
            if "Allow" in resp.headers:
                replaced.headers["Allow"] = resp.headers["Allow"]
            if resp.keep_alive is False:  # None: not decided yet
                replaced.force_close()
            resp = replaced
        resp.headers["Server"] = "planfix-bridge"  # and not which versions of what it runs on
        return await super().finish_response(request, resp, start_time)


class _JsonServer(web.Server):
    """Makes `_JsonErrors` where the library makes its own handler, one for each connection."""

    def __init__(self, like: web.Server, language: str) -> None:
        super().__init__(
            like.request_handler,
            request_factory=like.request_factory,
            handler_cancellation=like.handler_cancellation,
            **like._kwargs,
        )
        self._language = language

    def __call__(self) -> web.RequestHandler:
        return _JsonErrors(self, language=self._language, loop=self._loop, **self._kwargs)


class _JsonRunner(web.AppRunner):
    """The library offers no public way to its handler class; a test fails when this one stops working."""

    def __init__(self, app: web.Application, *, language: str, **kwargs: Any) -> None:
        super().__init__(app, **kwargs)
        self._language = language

    async def _make_server(self) -> web.Server:
        return _JsonServer(await super()._make_server(), self._language)
