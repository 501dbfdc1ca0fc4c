"""Who may see the admin port, and what browsers are told about its answers."""

import base64
import hmac
from typing import Final
from urllib.parse import urlsplit

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from bridge.app import healthz
from bridge.hosts import is_loopback
from bridge.service import Bridge
from providers.base import Message, Secret

HEADERS: Final = {
    "Content-Security-Policy": (
        "default-src 'none'; style-src 'self'; img-src 'self'; form-action 'self'; base-uri 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Server": "planfix-bridge",
}

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Denied(Exception):
    """This request gets no answer but why: `message` for people, under an HTTP status."""

    def __init__(self, status: int, message: Message) -> None:
        super().__init__(str(message))
        self.status = status
        self.message = message


async def harden(_: web.Request, response: web.StreamResponse) -> None:
    """Signal handler: every answer gets HEADERS."""
    response.headers.update(HEADERS)


def only_with_token(bridge: Bridge) -> Middleware:
    """Lets in who has `admin.token`, as `Authorization: Bearer` or as the password of HTTP Basic. `/healthz` is open.

    Without a token the port is on a loopback address. Then it must also be called by a loopback name: a page on the web
    whose own name leads to this machine (DNS rebinding) could otherwise read everything here. Raises Denied.
    """

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        token = bridge.config.admin.token
        if request.match_info.handler is not healthz:
            if token is None:
                _check_host(request)
            else:
                _check_token(request, token)
        return await handler(request)

    return check


def _check_host(request: web.Request) -> None:
    try:
        name = urlsplit(f"//{request.host}").hostname or ""
    except ValueError:
        name = ""
    if not is_loopback(name):
        raise Denied(
            403,
            Message(
                "This page answers only to 127.0.0.1 and localhost. To call it by another name, set admin.token in "
                "the bridge's settings."
            ),
        )


def _check_token(request: web.Request, token: Secret) -> None:
    given = _given_token(request.headers.get("Authorization", ""))
    if given is None or not same(given, token.reveal()):
        if given is not None:
            log.warning("wrong_admin_token")
        raise Denied(
            401,
            Message("Type the token that is set as admin.token for the password. Any user name will do."),
        )


def _given_token(header: str) -> str | None:
    scheme, _, value = header.partition(" ")
    if scheme.lower() == "bearer":
        return value.strip()
    if scheme.lower() != "basic":
        return None
    try:
        return base64.b64decode(value.strip(), validate=True).decode().partition(":")[2]
    except ValueError:  # not base64, or not UTF-8
        return None


def same(given: str, secret: str) -> bool:
    """Whether two texts are the same, in a time that tells nothing of where they differ."""
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), secret.encode())
