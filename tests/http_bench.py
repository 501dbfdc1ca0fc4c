"""A bridge over the ESP in memory, driven through HTTP as Planfix would."""

import asyncio
import json
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import msgspec

from bridge.config import Admin
from bridge.server import Listening, listening
from tests.bench import Bench
from tests.clock import DrivenClock


@dataclass(frozen=True)
class Answer:
    status: int
    content_type: str
    content: bytes

    @property
    def body(self) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(self.content)
        return body


def assert_one_shape(answer: Answer) -> None:
    """What holds of every answer on the public port: JSON in UTF-8, success or an error, never both, never neither."""
    assert answer.content_type == "application/json; charset=utf-8"
    body = json.loads(answer.content.decode("utf-8"))
    assert isinstance(body, dict)
    assert ("success" in body) != ("error" in body), body
    assert body.get("success", True) is True
    if "error" in body:
        assert set(body) == {"error"}
        assert isinstance(body["error"], str)
        assert body["error"].strip()
        assert body["error"].isprintable()


class HttpBench(Bench):
    """A bench whose bridge listens on free ports. Every answer of the public port is checked for its shape."""

    path: Path | None = None  # of the settings file, where there is one

    def __init__(self, store_url: str, clock: DrivenClock, place: str | None = None, **server: Any) -> None:
        super().__init__(store_url, clock, place, **({"port": 0} | server))
        self.config = msgspec.structs.replace(self.config, admin=Admin(port=0))
        self.token = self.account.tokens[0].reveal()
        self.listening: Listening
        self.session: aiohttp.ClientSession
        self._stack = AsyncExitStack()

    async def start(self) -> None:
        async with AsyncExitStack() as stack:
            self.listening = await stack.enter_async_context(listening(self.config, self.clock, self.path))
            self.session = await stack.enter_async_context(aiohttp.ClientSession())
            self._stack = stack.pop_all()
        self.bridge = self.listening.bridge

    async def stop(self) -> None:
        self.esp.open.set()
        await self._stack.aclose()

    @property
    def url(self) -> str:
        return self.listening.url

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    def body(self, action: str | None, token: str | None = None, /, **data: Any) -> bytes:
        """A request as Planfix writes it, with the token of account `main` when no other is given."""
        document = {"action": action, "authToken": self.token if token is None else token, "data": data}
        return json.dumps(document, ensure_ascii=False).encode()

    async def ask(self, action: str | None, token: str | None = None, /, **data: Any) -> Answer:
        return await self.post(self.body(action, token, **data))

    async def post(self, body: bytes, under: str = "", **headers: str) -> Answer:
        return await self.fetch("POST", self.url + under, body, headers)

    async def fetch(
        self, method: str, url: str, body: bytes | None = None, headers: dict[str, str] | None = None
    ) -> Answer:
        async with self.session.request(method, url, data=body, headers=headers) as response:
            content = await response.read()
            answer = Answer(response.status, response.headers["Content-Type"], content)
        if method != "HEAD" and response.url.port == self.port and response.url.path != "/healthz":
            assert_one_shape(answer)
        return answer

    async def admin(self, path: str) -> Answer:
        return await self.fetch("GET", self.listening.admin_url + path)


def wire(contact_id: int | str, address: str | None = None, **names: str) -> dict[str, object]:
    """A contact as Planfix writes it."""
    return {"id": contact_id, "email": f"p{contact_id}@x.test" if address is None else address, **names}


async def beside(http: HttpBench, check: Callable[[], None]) -> None:
    """Runs a check in a thread, for the bridge has this one; whoever waits for time to pass need not."""

    async def go_on() -> None:
        while True:
            await http.clock.until_waiting()
            http.clock.skip()
            await asyncio.sleep(0)

    going_on = asyncio.create_task(go_on())
    await asyncio.to_thread(check)
    going_on.cancel()
