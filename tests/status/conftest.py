"""A bridge over the ESP in memory, and its admin port as a browser or a machine sees it."""

import html
import re
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import pytest
from msgspec.structs import replace

from bridge.config import Admin, Config
from providers.base import Secret
from tests.clock import DrivenClock
from tests.http_bench import HttpBench
from tests.postbox import install

TOKEN = "token-of-the-status-page"


@dataclass(frozen=True)
class Seen:
    """An answer of the admin port. `words` is what a page says, without its markup, spaces joined."""

    status: int
    headers: Mapping[str, str]
    text: str

    @property
    def words(self) -> str:
        body = self.text.partition("<body>")[2] or self.text
        return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())

    def section(self, heading_id: str) -> str:
        """The words of one section of the page, found by the id of its heading."""
        (section,) = re.findall(rf'<section[^>]* aria-labelledby="{heading_id}">(.*?)</section>', self.text, re.DOTALL)
        return Seen(self.status, self.headers, section).words


class AdminBench(HttpBench):
    """`see` asks the admin port, with the cookies and redirects of nobody."""

    async def see(
        self, path: str = "/", method: str = "GET", data: Mapping[str, str] | None = None, **headers: str
    ) -> Seen:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        url = self.listening.admin_url + path
        async with self.session.request(method, url, data=data, headers=named, allow_redirects=False) as response:
            return Seen(response.status, response.headers.copy(), await response.text())

    async def check(self, provider: str = "memory", path: str = "/check", **headers: str) -> Seen:
        """Presses a provider's button."""
        (form_token, *_) = re.findall(r'name="form_token" value="([^"]+)"', (await self.see(**headers)).text)
        return await self.see(path, "POST", {"form_token": form_token, "provider": provider}, **headers)


class Opener(Protocol):
    async def __call__(self, token: str | None = None, **config: Any) -> AdminBench: ...


@pytest.fixture
async def open_bench(tmp_path: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opener]:
    """Starts a bridge with these settings; `token` is admin.token."""
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    opened: list[AdminBench] = []

    async def start(token: str | None = None, **config: Any) -> AdminBench:
        bench = AdminBench(f"sqlite:///{tmp_path / f'bridge{len(opened)}.db'}", clock)
        changed: dict[str, Any] = {"admin": Admin(port=0, token=Secret(token) if token else None), **config}
        settings: Config = replace(bench.config, **changed)
        bench.config = settings
        await bench.start()
        opened.append(bench)
        return bench

    yield start
    for bench in opened:
        await bench.stop()


@pytest.fixture
async def admin(open_bench: Opener) -> AdminBench:
    return await open_bench()
