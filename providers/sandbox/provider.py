"""An email service inside the bridge, to try it out without an account anywhere.

It sends no mail. It keeps lists, contacts and opt-outs as a real service does, and its settings can make it slow,
unreliable, down or locked, to see what Planfix then shows.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Annotated, ParamSpec, TypeVar

from msgspec import Meta

from providers.base import (
    AuthFailed,
    Capabilities,
    Contact,
    Finding,
    Limits,
    Member,
    Message,
    Outcome,
    Proof,
    Provider,
    ProviderError,
    Settings,
    Transient,
)
from providers.sandbox.esp import MAX_LISTS, NAME_CHARS, SandboxEsp

P = ParamSpec("P")
R = TypeVar("R")


class SandboxSettings(Settings, frozen=True, kw_only=True):
    path: Annotated[str, Meta(min_length=1, description="file of lists and contacts; made when missing")] = (
        "data/sandbox.db"
    )
    latency_s: Annotated[float, Meta(ge=0, description="how long every call takes")] = 0.0
    fail_share: Annotated[float, Meta(ge=0, le=1, description="share of calls that fail and may be repeated")] = 0.0
    down: Annotated[bool, Meta(description="every call fails, as in an outage")] = False
    key_refused: Annotated[bool, Meta(description="every call is refused, as with a revoked key")] = False


class SandboxProvider(Provider[SandboxSettings]):
    """Lists and contacts in a SQLite file. Another process may use it meanwhile."""

    name = "sandbox"
    title = "Sandbox"
    settings_type = SandboxSettings
    capabilities = Capabilities(
        list_is="a list in a local file",
        renames_address=True,
        tells_opt_outs=True,
        equal_names=False,
        takes_opt_outs=True,
        proof=Proof.REAL_SERVER,
    )
    limits = Limits(
        batch_size=500,
        parallel_calls=8,
        list_name_chars=NAME_CHARS,
        name_chars=NAME_CHARS,
        lists=MAX_LISTS,
        calls="no limit",
    )

    def __init__(self, settings: SandboxSettings) -> None:
        super().__init__(settings)
        self._esp = SandboxEsp(Path(settings.path), settings.timeout_s)
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sandbox")  # SQLite writes one thing at a time

    async def close(self) -> None:
        self._thread.submit(self._esp.close)
        await asyncio.to_thread(self._thread.shutdown)

    async def check(self) -> list[Finding]:
        try:
            lists = await self._call("check", self._esp.count_lists)
        except AuthFailed:
            return [Finding(False, Message("The sandbox refuses its key."), Message("Set key_refused to false."))]
        room = lists < MAX_LISTS
        in_use = Message("Lists in use: %(count)s of %(most)s.", count=lists, most=MAX_LISTS)
        return [Finding(room, in_use, None if room else Message("Delete lists in Planfix."))]

    async def room_for_lists(self) -> int:
        return max(0, MAX_LISTS - await self._call("count_lists", self._esp.count_lists))

    async def find_list(self, name: str) -> str | None:
        return await self._call("find_list", self._esp.find_list, name)

    async def create_list(self, name: str) -> str:
        return await self._call("create_list", self._esp.create_list, name)

    async def delete_list(self, list_id: str) -> None:
        await self._call("delete_list", self._esp.delete_list, list_id)

    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        return await self._call("upsert", self._esp.upsert, list_id, contacts)

    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        return await self._call("remove", self._esp.remove, list_id, contacts)

    async def keep_out(self, list_id: str, contacts: Sequence[Contact]) -> None:
        await self._call("keep_out", self._esp.keep_out, contacts)

    def members(self, list_id: str) -> AsyncIterator[Member]:
        return self._pages("members", partial(self._esp.members, list_id))

    def kept_out(self) -> AsyncIterator[Member]:
        return self._pages("kept_out", self._esp.kept_out)

    async def _pages(self, operation: str, read: Callable[[str, int], list[Member]]) -> AsyncIterator[Member]:
        last = "0"
        while page := await self._call(operation, read, last, 500):
            for member in page:
                yield member
            last = page[-1].provider_contact_id or last

    async def opt_out(self, address: str, how: str = "unsubscribed") -> None:
        """The person opts out, bounces or complains, as `how` says. An unknown address is made known."""
        await self._call("opt_out", self._esp.opt_out, address, how)

    async def _call(self, operation: str, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """A call as of a service: it takes its time, may fail, and is reported under `operation`."""
        asked = partial(function, *args, **kwargs)
        started_s = time.monotonic()
        ended = "ok"
        try:
            async with asyncio.timeout(self.settings.timeout_s):
                await asyncio.sleep(self.settings.latency_s)
                return await asyncio.get_running_loop().run_in_executor(self._thread, self._answer, asked)
        except TimeoutError as error:
            ended = Transient.__name__
            raise Transient(f"no answer within {self.settings.timeout_s:g} s") from error
        except ProviderError as error:
            ended = type(error).__name__
            raise
        finally:
            self.observe(operation, ended, time.monotonic() - started_s)

    def _answer(self, function: Callable[[], R]) -> R:
        """In the sandbox's thread: what the settings, or else the service, make of a call."""
        if self.settings.key_refused:
            raise AuthFailed("the sandbox is set to refuse its key")
        if self.settings.down or random.random() < self.settings.fail_share:  # noqa: S311 - guards nothing
            raise Transient("the sandbox is set to fail")
        return function()
