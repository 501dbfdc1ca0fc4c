"""The routes of the public port."""

from importlib.metadata import version

from aiohttp import web

from bridge.endpoint import Endpoint
from bridge.service import Bridge


def public_app(bridge: Bridge) -> web.Application:
    """What Planfix and health checks may reach."""
    app = web.Application()
    endpoint, path = Endpoint(bridge), bridge.config.server.path
    app.router.add_post(path, endpoint.post)
    app.router.add_post(path + "/{anything:.*}", endpoint.post)
    app.router.add_get("/healthz", healthz)
    return app


async def healthz(_: web.Request) -> web.Response:
    return web.json_response({"status": "ok", "version": version("planfix-bridge")})
