"""What all fake services share: a real HTTP server on loopback with latency, faults, a call log and a conscience."""

# ruff: noqa: S101 - a test kit asserts

import argparse
import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from time import time
from typing import Any, Protocol, TypeVar

import pytest
from aiohttp import web
from aiohttp.web_request import BaseRequest

from providers import jobs, pace
from providers.base import Provider
from providers.testing.harness import EspHarness, Fault

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Spec(Protocol):
    """An official description of the service; `faults` is empty for a request that it allows."""

    def faults(
        self, method: str, path: str, query: Mapping[str, str], headers: Mapping[str, str], body: bytes
    ) -> list[str]: ...


@dataclass(frozen=True)
class Call:
    """One request that reached the fake."""

    method: str
    path: str
    query: dict[str, str]
    body: Any


class Hold:
    """One call that waits at the service until it is released. `reached` is set as soon as it waits."""

    def __init__(self, calls: str, skip: int, acted: bool) -> None:
        self.acted = acted
        self.reached = asyncio.Event()
        self._calls = re.compile(calls)
        self._skip = skip
        self._released: asyncio.Future[bool] = asyncio.get_running_loop().create_future()

    def takes(self, request: web.Request) -> bool:
        """Whether this is the call to hold."""
        if self.reached.is_set() or self._released.done() or not self._calls.search(f"{request.method} {request.path}"):
            return False
        self._skip -= 1
        return self._skip < 0

    def release(self, *, act: bool) -> None:
        """Lets the call go on. One that has not been acted on is acted on now, or never when `act` is False."""
        if not self._released.done():
            self._released.set_result(act)

    async def wait(self) -> bool:
        """Whether the call is still to be acted on, as soon as it may go on."""
        self.reached.set()
        return await self._released


def without_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fakes need no time: calls are not paced, and jobs are looked at without a pause."""

    async def at_once(*_: object) -> None:
        await asyncio.sleep(0)

    monkeypatch.setattr(pace.Pace, "turn", at_once)
    monkeypatch.setattr(jobs, "pause", at_once)


@dataclass
class FakeEsp:
    """A strict fake: subclass it, fill `routes`, `error`. Every call is logged, counted and held against the spec.

    `latency_s` is how long each answer takes. `max_parallel` is the most calls that were under way at one time;
    more than `parallel_limit` is a violation. `violations` must be empty at the end of a test.
    """

    latency_s: float = 0.0
    parallel_limit: int = 1000
    spec: Spec | None = None
    spec_prefix: str = ""  # cut from the path before it is looked up in the spec
    client_max_size: int = 64 * 1024**2
    calls: list[Call] = field(default_factory=list)
    violations: list[str] = field(default_factory=list)
    max_parallel: int = 0

    def __post_init__(self) -> None:
        self._under_way = 0
        self._faults: list[Fault | None] = []
        self._runner: web.AppRunner | None = None
        self._hanging = asyncio.Event()
        self._hold: Hold | None = None
        self.base_url = ""

    def routes(self) -> list[web.RouteDef]:
        """The operations of the service."""
        raise NotImplementedError

    def error(self, status: int, headers: dict[str, str] | None = None) -> web.Response:
        """The service's own answer to a general error: 401, 429, 500. For 429 `headers` hold a `Retry-After`; a service
        that tells the wait in its own way answers 7 seconds in that way instead."""
        raise NotImplementedError

    def fail(self, fault: Fault, times: int = 1, after: int = 0) -> None:
        """The next `after` calls are answered well, the `times` calls behind them end in `fault`."""
        self._faults += [None] * after + [fault] * times

    def heal(self) -> None:
        """Forgets the faults that have not come up yet, and ends the calls that still hang."""
        self._faults.clear()
        self._hanging.set()
        self._hanging = asyncio.Event()

    def hold(self, calls: str, *, skip: int = 0, acted: bool = False) -> Hold:
        """Holds the next call whose `METHOD /path` matches, `skip` of them left out: before the service acts, or when
        it has `acted` and not answered. One call at a time is held."""
        self._hold = Hold(calls, skip, acted)
        return self._hold

    async def start(self, port: int = 0) -> str:
        """Listens on loopback; gives the base URL."""
        app = web.Application(middlewares=[self._middleware], client_max_size=self.client_max_size)
        app.add_routes(self.routes())
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.5)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", port).start()
        self.base_url = "http://{}:{}".format(*self._runner.addresses[0][:2])
        return self.base_url

    async def stop(self) -> None:
        self._hanging.set()
        if self._runner:
            await self._runner.cleanup()

    @web.middleware
    async def _middleware(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        self._under_way += 1
        self.max_parallel = max(self.max_parallel, self._under_way)
        if self._under_way > self.parallel_limit:
            self.violations.append(f"{self._under_way} calls at one time, {self.parallel_limit} are allowed")
        try:
            try:
                body = await request.read()
            except ConnectionResetError:  # the caller was killed in the middle of its call
                return web.Response(status=400)
            self._note(request, body)
            if self.latency_s:
                await asyncio.sleep(self.latency_s)
            if self._hold is not None and self._hold.takes(request):
                return await self._answer_held(self._hold, request, handler)
            return await self._answer(request, handler)
        finally:
            self._under_way -= 1

    async def _answer_held(self, hold: Hold, request: web.Request, handler: Handler) -> web.StreamResponse:
        if hold.acted:
            answer = await self._answer(request, handler)
            await hold.wait()
            return answer
        if await hold.wait():
            return await self._answer(request, handler)
        self._abort(request)
        return web.Response(status=503)

    def _note(self, request: web.Request, body: bytes) -> None:
        query = dict(request.query)
        try:
            parsed = json.loads(body) if body else None
        except ValueError:
            parsed = body
        self.calls.append(Call(request.method, request.path, query, parsed))
        if self.spec is not None:
            path = request.raw_path.split("?")[0].removeprefix(self.spec_prefix)
            self.violations += self.spec.faults(request.method, path, query, request.headers, body)

    async def _answer(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        fault = self._faults.pop(0) if self._faults else None
        match fault:
            case None:
                return await handler(request)
            case Fault.RATE_LIMIT_SECONDS:
                return self.error(429, {"Retry-After": "7"})
            case Fault.RATE_LIMIT_DATE:
                return self.error(429, {"Retry-After": formatdate(time() + 7, usegmt=True)})
            case Fault.SERVER_ERROR:
                return self.error(500)
            case Fault.EMPTY_503:
                return web.Response(status=503)
            case Fault.HTML_502:
                return web.Response(status=502, text="<html><h1>502 Bad Gateway</h1></html>", content_type="text/html")
            case Fault.CUT_JSON:
                whole = await handler(request)
                assert isinstance(whole, web.Response)
                text = (whole.body if isinstance(whole.body, bytes) else b"") or b'{"cut": "he'
                return web.Response(
                    status=whole.status if whole.status != 204 else 200,
                    body=text[: max(1, len(text) // 2)],
                    content_type=whole.content_type,
                )
            case Fault.TIMEOUT_AFTER_ACTING:
                await handler(request)
                await self._hanging.wait()
                return web.Response(status=504)
            case Fault.CONNECTION_RESET:
                self._abort(request)
                return web.Response(status=500)
            case Fault.WRONG_KEY:
                return self.error(401)

    @staticmethod
    def _abort(request: BaseRequest) -> None:
        if request.transport is not None:
            request.transport.abort()


class FakeHarness(EspHarness):
    """What the harnesses of all fakes over HTTP share. `fake` runs already."""

    def __init__(self, fake: FakeEsp, provider: Provider[Any], keys: Sequence[str]) -> None:
        self.fake = fake
        self.provider = provider
        self._keys = list(keys)

    def fail(self, fault: Fault, times: int = 1, after: int = 0) -> None:
        self.fake.fail(fault, times, after)

    def heal(self) -> None:
        self.fake.heal()

    def calls(self) -> int:
        return len(self.fake.calls)

    def violations(self) -> list[str]:
        return self.fake.violations

    def secrets(self) -> list[str]:
        return self._keys


HarnessT = TypeVar("HarnessT", bound=FakeHarness)


@asynccontextmanager
async def running(fake: FakeEsp, harness_of: Callable[[], HarnessT]) -> AsyncIterator[HarnessT]:
    """A running fake and the open provider on it; `harness_of` is called when the fake has its `base_url`."""
    await fake.start()
    try:
        harness = harness_of()
        try:
            yield harness
        finally:
            await harness.provider.close()
    finally:
        await fake.stop()


def run_forever(make: Callable[..., FakeEsp], *, key: str, **knobs: float) -> None:
    """Runs a fake as a process of its own until it is ended; prints its base URL and key as one JSON line.

    `make` is called with `latency_s` and the knobs; each is an option of the command line with its default.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("--port", type=int, default=0)
    for name, default in {"latency_s": 0.0, **knobs}.items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(default), default=default)
    options = vars(parser.parse_args())
    port = options.pop("port")

    async def serve() -> None:
        fake = make(**options)
        base_url = await fake.start(port)
        sys.stdout.write(json.dumps({"base_url": base_url, "key": key}) + "\n")
        sys.stdout.flush()
        try:
            await asyncio.Event().wait()
        finally:
            await fake.stop()

    try:
        asyncio.run(serve())
    except KeyboardInterrupt:
        return
