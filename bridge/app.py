"""The HTTP side: routes and limits. How answers of other makers are brought into shape is in `bridge.server`."""

import asyncio
import secrets
from http import HTTPStatus
from importlib.metadata import version
from typing import Any, Final

import structlog
from aiohttp import web

from bridge.planfix import BadRequest, Envelope, open_envelope, read_request
from bridge.replies import Reply, bad_request_reply, error_reply, reply_to, unauthorized_reply
from bridge.service import Bridge

IN_THREAD_OVER_BYTES: Final = 256 * 1024
"""A larger body is read in a thread: other requests need not wait for it."""

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class _Endpoint:
    """The URL that Planfix calls."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._language = bridge.config.language
        self._always_200 = bridge.config.server.error_status == "always_200"

    async def post(self, request: web.Request) -> web.Response:
        structlog.contextvars.bind_contextvars(request=secrets.token_hex(6))
        try:
            reply = await self._reply(await request.read())
        except web.HTTPException:
            raise
        except ConnectionError:
            raise
        except web.RequestPayloadError:  # not compressed as it says, broken chunks
            reply = error_reply(HTTPStatus.BAD_REQUEST, "bad_http", self._language)
        except Exception:
            log.exception("request_broke_off")
            reply = error_reply(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", self._language)
        return web.Response(status=reply.status, body=reply.encode(), content_type="application/json", charset="utf-8")

    async def _reply(self, body: bytes) -> Reply:
        try:
            envelope = await self._read(open_envelope, body, len(body))
        except BadRequest as error:
            log.info("bad_request", code=error.code, field=error.field)
            self._bridge.metrics.answered("", "", "bad_request")
            return bad_request_reply(error, self._language, self._always_200)
        account = self._bridge.tokens.account_of(envelope.token) if envelope.token else None
        if account is None:
            log.warning("wrong_token", action=envelope.action)
            self._bridge.metrics.answered("", envelope.action, "wrong_token")
            return unauthorized_reply(self._language, self._always_200)
        try:
            asked = await self._read(read_request, envelope, len(body))
        except BadRequest as error:
            log.info("bad_request", account=account.name, code=error.code, field=error.field)
            self._bridge.metrics.answered(account.name, envelope.action, "bad_request")
            return bad_request_reply(error, account.language, self._always_200)
        del body, envelope  # of a large import they are most of its memory, and it may wait for long
        return reply_to(await self._bridge.handle(account, asked), account.language, self._always_200)

    @staticmethod
    async def _read(reader: Any, source: bytes | Envelope, size_bytes: int) -> Any:
        if size_bytes > IN_THREAD_OVER_BYTES:
            return await asyncio.to_thread(reader, source)
        return reader(source)


def public_app(bridge: Bridge) -> web.Application:
    """What Planfix and health checks may reach."""
    server = bridge.config.server
    app = web.Application(client_max_size=server.max_body_mb * 1024 * 1024)
    endpoint = _Endpoint(bridge)
    app.router.add_post(server.path, endpoint.post)
    app.router.add_post(server.path + "/{anything:.*}", endpoint.post)
    app.router.add_get("/healthz", healthz)
    return app


async def healthz(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok", "version": version("planfix-bridge")})
