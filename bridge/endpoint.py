"""The URL that Planfix calls: from the bytes of a request to those of its answer."""

import asyncio
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus
from typing import Final, TypeVar

import structlog
from aiohttp import web

from bridge.bodies import Bodies
from bridge.clients import client_of
from bridge.config import Account, Server
from bridge.envelope import open_envelope
from bridge.planfix import Request, read_request
from bridge.protocol import hung_up
from bridge.replies import Reply, bad_request_reply, error_reply, reply_to, unauthorized_reply
from bridge.service import Bridge
from bridge.strict_json import BadRequest
from bridge.throttle import Throttle

IN_THREAD_OVER_BYTES: Final = 256 * 1024
"""A larger body is read in a thread: other requests need not wait for it."""

S = TypeVar("S")
R = TypeVar("R")

log: structlog.stdlib.BoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a body says. `account` is None for a wrong token; `token_shown` tells that there was one at all."""

    action: str = ""
    token_shown: bool = False
    account: Account | None = None
    request: Request | BadRequest | None = None  # None: not read, for the token is wrong


class Endpoint:
    """Answers requests with the settings of the moment in which they came."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._bodies = Bodies()
        self._throttle = Throttle(bridge.clock)

    async def post(self, request: web.Request) -> web.Response:
        structlog.contextvars.bind_contextvars(request=secrets.token_hex(6))
        language = self._bridge.config.language
        try:
            reply = await self._reply(request)
        except web.HTTPException:
            raise
        except ConnectionError:
            raise
        except web.RequestPayloadError:  # not compressed as it says, broken chunks
            reply = error_reply(HTTPStatus.BAD_REQUEST, "bad_http", language)
        except Exception:
            log.exception("request_broke_off")
            reply = error_reply(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", language)
        return web.Response(status=reply.status, body=reply.encode(), content_type="application/json", charset="utf-8")

    async def _reply(self, request: web.Request) -> Reply:
        config, metrics = self._bridge.config, self._bridge.metrics
        always_200 = config.server.error_status == "always_200"
        asked = await self._read(request, config.server)
        account = asked.account
        name = account.name if account else ""
        if asked.token_shown:
            forwarded_for = request.headers.getall("X-Forwarded-For", [])
            client = client_of(request.remote, forwarded_for, config.server.trusted_proxies)
            await self._throttle.hold_back(client, name or None, hung_up(request))
        if isinstance(asked.request, BadRequest):
            error = asked.request
            log.info("bad_request", account=name, code=error.code, field=error.field)
            metrics.answered(name, asked.action, "bad_request")
            return bad_request_reply(error, account.language if account else config.language, always_200)
        if account is None or asked.request is None:
            log.warning("wrong_token", action=asked.action)
            metrics.answered("", asked.action, "wrong_token")
            return unauthorized_reply(config.language, always_200)
        return reply_to(await self._bridge.handle(account, asked.request), account.language, always_200)

    async def _read(self, request: web.Request, server: Server) -> _Asked:
        """Reads the body as far as its token allows. Raises as `Bodies.of`."""
        max_bytes = server.max_body_mb * 1024 * 1024
        async with self._bodies.of(request, max_bytes, server.receive_within_s) as body:
            try:
                envelope = await _aside(len(body), open_envelope, body)
            except BadRequest as error:
                return _Asked(request=error)
            account = self._bridge.tokens.account_of(envelope.token) if envelope.token else None
            if account is None:
                return _Asked(envelope.action, bool(envelope.token))
            try:
                return _Asked(envelope.action, True, account, await _aside(len(body), read_request, envelope))
            except BadRequest as error:
                return _Asked(envelope.action, True, account, error)


async def _aside(size_bytes: int, reader: Callable[[S], R], source: S) -> R:
    """Runs what takes long for a large body where nobody waits for it."""
    if size_bytes > IN_THREAD_OVER_BYTES:
        return await asyncio.to_thread(reader, source)
    return reader(source)
