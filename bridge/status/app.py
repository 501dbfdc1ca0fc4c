"""The admin port: the status page, checks of providers from it, `/readyz` and `/metrics`."""

import secrets
from pathlib import Path
from typing import Final
from urllib.parse import quote

import structlog
from aiohttp import web
from aiohttp.typedefs import Handler

from bridge.app import healthz
from bridge.checks import Checks
from bridge.openapi import document
from bridge.provider_pool import ProviderMissing
from bridge.reload import Reloading, ReloadRefused
from bridge.service import Bridge
from bridge.status import view
from bridge.status.access import Denied, harden, only_with_token, same
from bridge.status.render import language_of, page, set_up
from bridge.store import StoreError
from providers.base import Message

STATIC: Final = Path(__file__).resolve().parent / "static"
MAX_FORM_BYTES: Final = 16 * 1024

_ERRORS: Final = {
    404: Message("There is nothing at this address."),
    405: Message("This address does not take this kind of request."),
    413: Message("The request is too large."),
}
_BAD_REQUEST: Final = Message("The request was not understood.")
_BROKE_OFF: Final = Message("The page could not be made. Look at the bridge's log.")

log: structlog.stdlib.BoundLogger = structlog.get_logger()


def admin_app(bridge: Bridge, reloading: Reloading) -> web.Application:
    """What only the people who run the bridge may reach."""
    pages = _Pages(bridge)
    machines = _Machines(bridge, reloading)
    app = web.Application(middlewares=[pages.told_to_people, only_with_token(bridge)], client_max_size=MAX_FORM_BYTES)
    app.on_response_prepare.append(harden)
    set_up(app)
    app.router.add_get("/", pages.status)
    app.router.add_post("/check", pages.check)
    app.router.add_static("/static", STATIC)
    app.router.add_get("/healthz", healthz)
    app.router.add_get("/readyz", machines.readyz)
    app.router.add_get("/metrics", machines.metrics)
    app.router.add_post("/reload", machines.reload)
    app.router.add_get("/openapi.json", machines.openapi)
    return app


class _Pages:
    """What people see in a browser. A form that acts carries `form_token`, which no other site can know."""

    def __init__(self, bridge: Bridge) -> None:
        self._bridge = bridge
        self._checks = Checks(bridge.providers, bridge.couriers, bridge.clock)
        self._form_token = secrets.token_urlsafe(32)

    async def status(self, request: web.Request) -> web.Response:
        context = {
            "page": await view.look(self._bridge, self._checks),
            "states": view.STATES,
            "list_states": view.LIST_STATES,
            "form_token": self._form_token,
        }
        return page(request, "status.html", context, self._bridge.config.language)

    async def check(self, request: web.Request) -> web.Response:
        """Runs the check of one provider; the page then shows what it found."""
        form = await request.post()
        if not same(str(form.get("form_token", "")), self._form_token):
            raise Denied(403, Message("This page is out of date. Go back, load it anew and press the button again."))
        name = str(form.get("provider", ""))
        try:
            await self._checks.run(name)
        except ProviderMissing as error:
            raise Denied(404, Message("There is no such provider in the settings.")) from error
        language = language_of(request, self._bridge.config.language)
        raise web.HTTPSeeOther(f"/?lang={language}#provider-{quote(name)}")

    @web.middleware
    async def told_to_people(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Whatever goes wrong leaves as a page that says so in the reader's language."""
        headers = {}
        try:
            return await handler(request)
        except Denied as error:
            status, message = error.status, error.message
            if status == 401:
                headers["WWW-Authenticate"] = 'Basic realm="planfix-bridge", charset="UTF-8"'
        except web.HTTPException as error:
            if error.status < 400:
                raise
            status, message = error.status, _ERRORS.get(error.status, _BAD_REQUEST)
            if "Allow" in error.headers:
                headers["Allow"] = error.headers["Allow"]
        except StoreError as error:
            status = 503
            message = Message("The store cannot be read: %(detail)s. Look at the disk or the database.", detail=error)
        except ConnectionError:
            raise
        except Exception:
            log.exception("status_page_broke_off")
            status, message = 500, _BROKE_OFF
        response = page(request, "error.html", {"message": message}, self._bridge.config.language, status)
        response.headers.update(headers)
        return response


class _Machines:
    """What orchestrators, Prometheus and commands ask."""

    def __init__(self, bridge: Bridge, reloading: Reloading) -> None:
        self._bridge = bridge
        self._reloading = reloading

    async def readyz(self, _: web.Request) -> web.Response:
        try:
            depths = await self._bridge.store.outbox.depths()
        except StoreError as error:
            return _store_failed(error)
        providers = [
            {"account": account, "provider": provider, "state": health.state.value, "since": health.since}
            for account, provider, health in self._bridge.couriers.health()
        ]
        return web.json_response(
            {"status": "ok", "pending": sum(depth.pending for depth in depths), "providers": providers}
        )

    async def metrics(self, _: web.Request) -> web.Response:
        try:
            text = await self._bridge.measure()
        except StoreError as error:
            return _store_failed(error)
        return web.Response(body=text, headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"})

    async def reload(self, request: web.Request) -> web.Response:
        if "Origin" in request.headers:  # a web page, in a browser that may send a password by itself
            raise Denied(403, Message("Only the command planfix-bridge reload may ask for this."))
        try:
            return web.json_response({"changes": await self._reloading.reload()})
        except ReloadRefused as error:
            return web.json_response({"faults": error.faults}, status=422)

    async def openapi(self, _: web.Request) -> web.Response:
        return web.json_response(document(self._bridge.config))


def _store_failed(error: StoreError) -> web.Response:
    return web.json_response({"status": "store failed", "detail": str(error)}, status=503)
