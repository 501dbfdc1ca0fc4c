"""The connections of the public port: their limits, and one shape for every answer, whoever made it."""

import asyncio
from collections.abc import Callable
from http import HTTPStatus
from typing import Any, Final, cast

import structlog
from aiohttp import web
from aiohttp.web_request import BaseRequest

from bridge.config import Config
from bridge.replies import error_reply

LINE_MAX_BYTES: Final = 8190
"""Of the request line, and of each header with its name."""
HEADERS_MAX: Final = 64
_ERROR_CODES: Final = {
    404: "not_found",
    405: "method_not_allowed",
    408: "too_slow",
    413: "too_large",
}

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class PublicRunner(web.AppRunner):
    """Runs the public app with the limits of the settings, which may change while it runs.

    The library offers no public way to its handler class; tests fail when this one stops working.
    """

    def __init__(self, app: web.Application, config: Callable[[], Config]) -> None:
        super().__init__(
            app,
            access_log=None,
            max_line_size=LINE_MAX_BYTES,
            max_field_size=LINE_MAX_BYTES,
            max_headers=HEADERS_MAX,
            lingering_time=1.0,  # how long the rest of a body is read that was refused already
        )
        self._config = config

    async def cleanup(self) -> None:
        """Ends requests under way within `server.grace_s`; those that are held back are answered at once."""
        for connection in self.server.connections if self.server else ():
            cast("_Connection", connection).hung_up.set()
        self._shutdown_timeout = self._config().server.grace_s
        await super().cleanup()

    async def _make_server(self) -> web.Server:
        return _Server(await super()._make_server(), self._config)


class _Server(web.Server):
    """Makes a `_Connection` where the library makes its own handler, one for each connection."""

    def __init__(self, like: web.Server, config: Callable[[], Config]) -> None:
        super().__init__(
            like.request_handler,
            request_factory=like.request_factory,
            handler_cancellation=like.handler_cancellation,
            **like._kwargs,
        )
        self._config = config

    def __call__(self) -> web.RequestHandler:
        idle_s = self._config().server.idle_s
        return _Connection(self, config=self._config, loop=self._loop, keepalive_timeout=idle_s, **self._kwargs)


class _Connection(web.RequestHandler):
    """One client. Every answer that is not JSON leaves as `{"error": …}` of the same status.

    A request's head must come within `server.receive_within_s`. The body's time is kept by who reads it.
    """

    def __init__(self, manager: web.Server, *, config: Callable[[], Config], **kwargs: Any) -> None:
        super().__init__(manager, **kwargs)
        self.hung_up = asyncio.Event()
        self._config = config
        self._head_is_late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        if self._manager is not None and len(self._manager.connections) > self._config().server.max_connections:
            log.warning("too_many_connections")
            self._turn_away(HTTPStatus.SERVICE_UNAVAILABLE, "busy")

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self._messages or self._request_in_progress or self._force_close:
            self._head_has_come()
        elif self._head_is_late is None:
            within_s = self._config().server.receive_within_s
            self._head_is_late = self._loop.call_later(within_s, self._head_is_too_late)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_has_come()
        self.hung_up.set()
        super().connection_lost(exc)

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
        self._head_has_come()
        if resp.content_type != "application/json":
            code = _ERROR_CODES.get(resp.status, "bad_http" if resp.status < 500 else "internal")
            body = error_reply(resp.status, code, self._config().language).encode()
            replaced = web.Response(status=resp.status, body=body, content_type="application/json", charset="utf-8")
            if "Allow" in resp.headers:
                replaced.headers["Allow"] = resp.headers["Allow"]
            if resp.keep_alive is False:  # None: not decided yet
                replaced.force_close()
            resp = replaced
        resp.headers["Server"] = "planfix-bridge"  # and not which versions of what it runs on
        return await super().finish_response(request, resp, start_time)

    def _head_has_come(self) -> None:
        if self._head_is_late is not None:
            self._head_is_late.cancel()
            self._head_is_late = None

    def _head_is_too_late(self) -> None:
        self._head_is_late = None
        if not (self._messages or self._request_in_progress):
            log.info("bad_http", status=int(HTTPStatus.REQUEST_TIMEOUT), error="SlowHead")
            self._turn_away(HTTPStatus.REQUEST_TIMEOUT, "too_slow")

    def _turn_away(self, status: HTTPStatus, code: str) -> None:
        """Answers who has not sent a request, and hangs up."""
        body = error_reply(status, code, self._config().language).encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\n"
            "Content-Type: application/json; charset=utf-8\r\n"
            f"Content-Length: {len(body)}\r\n"
            "Server: planfix-bridge\r\n"
            "Connection: close\r\n\r\n"
        )
        if self.transport is not None:
            self.transport.write(head.encode() + body)
        self.force_close()


def hung_up(request: web.Request) -> asyncio.Event:
    """Set as soon as the client of a request is gone."""
    return cast("_Connection", request.protocol).hung_up
