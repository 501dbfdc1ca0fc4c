"""The base of providers over a REST service: calls with classified errors, lists found by name, checks.

A subclass declares its service as data (`errors`, `rates`, `default_base_url`, …) and fills in the steps that
`providers.plan` asks for.
"""

import asyncio
import time
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, ClassVar, Generic, TypeVar

from providers.answers import Answer, CallRefused, ErrorTable
from providers.base import (
    AuthFailed,
    Finding,
    Message,
    ProviderError,
    Reason,
    Refused,
    SettingsT,
    Transient,
)
from providers.http import Auth, HttpClient, Outgoing, Query, json_body, path_of, query_of
from providers.pace import Pace, Rate
from providers.plan import PlannedProvider

T = TypeVar("T")
Check = Callable[[], Awaitable[Finding]]


class Needed(Generic[T]):
    """Something that the account must have, such as a field for Planfix ids: found once, and made where it is
    missing. Who finds out that it is gone calls `forget`."""

    def __init__(self, find: Callable[[], Awaitable[T | None]], make: Callable[[], Awaitable[T]]) -> None:
        self._find = find
        self._make = make
        self._lock = asyncio.Lock()
        self._it: T | None = None

    async def get(self) -> T:
        async with self._lock:
            if self._it is None:
                self._it = await self._find()
            if self._it is None:
                try:
                    self._it = await self._make()
                except CallRefused:
                    self._it = await self._find()  # somebody was quicker
                    if self._it is None:
                        raise
            return self._it

    def forget(self) -> None:
        self._it = None

    async def is_there(self) -> bool:
        """Whether the account has it now; what is gone is made again when it is asked for."""
        there = await self._find() is not None
        if not there:
            self.forget()
        return there

    async def finding(self, what: Message) -> Finding:
        """What a check says of it."""
        if await self._find() is not None:
            return Finding(True, Message("%(what)s: there", what=what))
        return Finding(True, Message("%(what)s: missing; made with the first contact", what=what))


class NeededFields(Needed[bool]):
    """Fields of contacts that must exist before they are written, each under its name. `there` tells the names of those
    that the account has, `make` adds one."""

    def __init__(
        self,
        names: Sequence[str],
        there: Callable[[], Awaitable[Collection[str]]],
        make: Callable[[str], Awaitable[object]],
    ) -> None:
        super().__init__(self._all_there, self._make_all)
        self._names = list(dict.fromkeys(names))
        self._there = there
        self._make_one = make

    async def missing(self) -> list[str]:
        """The names that the account has no field of."""
        there = await self._there()
        return [name for name in self._names if name not in there]

    async def finding(self, what: Message) -> Finding:
        missing = await self.missing()
        if not missing:
            return Finding(True, Message("%(what)s: there", what=what))
        names = ", ".join(missing)
        return Finding(
            True, Message("%(what)s: missing %(names)s; made with the first contact", what=what, names=names)
        )

    async def _all_there(self) -> bool | None:
        return None if await self.missing() else True

    async def _make_all(self) -> bool:
        for name in await self.missing():
            await self._make_one(name)
        return True


class RestProvider(PlannedProvider[SettingsT], ABC, Generic[SettingsT]):
    """A service that is called by HTTP. `errors` says what its errors mean, `rates` how often it may be called.

    `key_advice` tells people what to do about a refused key.
    """

    default_base_url: ClassVar[str]
    errors: ClassVar[ErrorTable] = ErrorTable()
    rates: ClassVar[Mapping[str, Sequence[Rate]]] = {}
    headers: ClassVar[Mapping[str, str]] = {}
    key_advice: ClassVar[Message]

    def __init__(self, settings: SettingsT) -> None:
        super().__init__(settings)
        self._client = HttpClient(
            settings.base_url or self.default_base_url,
            self.auth(),
            timeout_s=settings.timeout_s,
            connections=self.parallel_calls,
            headers=self.headers,
        )
        self._pace = Pace(self.rates)
        self._slots = asyncio.Semaphore(self.parallel_calls)

    @abstractmethod
    def auth(self) -> Auth:
        """How the service is told the key of the settings."""

    async def close(self) -> None:
        await self._client.close()

    # Calls

    async def call(
        self,
        operation: str,
        method: str,
        template: str,
        *parts: object,
        query: Query | None = None,
        json: Any = None,
        form: Sequence[tuple[str, str]] | None = None,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        accept: Collection[int] = (),
        bucket: str = "",
        reads_json: bool = True,
    ) -> Answer:
        """One call, reported under `operation`; `parts` fill the `{}` of the path. The body is one of `json`, `form`
        and `body`.

        Statuses in `accept` are answers like a success; every other error is raised as `errors` says. A success whose
        body should be JSON and is not raises Transient: a proxy may have written it, or it was cut off.
        """
        request = Outgoing(method, path_of(template, *parts), query_of(query), dict(headers or {}), body)
        if json is not None:
            request.body = json_body(json)
            request.headers.setdefault("Content-Type", self.headers.get("Content-Type", "application/json"))
        elif form is not None:
            request.form = list(form)
        async with self._slots:
            await self._pace.turn(bucket)
            started_s = time.monotonic()
            ended = "ok"
            try:
                return self._judged(await self._client.send(request), operation, accept, reads_json)
            except ProviderError as error:
                ended = type(error).__name__
                raise
            finally:
                self.observe(operation, ended, time.monotonic() - started_s)

    async def download(self, operation: str, url: str) -> Answer:
        """A file that the service points to, fetched without the key and reported under `operation`."""
        async with self._slots:
            answer = await self._client.download(url)
        if not answer.ok:
            raise Transient(f"{operation}: {answer.status} for a file that the service pointed to")
        return answer

    def _judged(self, answer: Answer, operation: str, accept: Collection[int], reads_json: bool) -> Answer:
        if answer.status in accept:
            if not (answer.ok or self.errors.is_own(answer)):
                raise Transient(f"{operation}: {answer.status} by something before the service")
            return answer
        if self.errors.is_error(answer):
            raise self.errors.error_of(answer, operation)
        if reads_json and answer.body:
            answer.json()
        return answer

    # Lists

    def lists(self) -> AsyncIterator[tuple[str, str]]:
        """Id and name of every list of the account that a Planfix list may be. Where the service finds a list by its
        exact name, `find_list` is replaced instead."""
        raise AssertionError(f"{self.name} neither lists its lists nor finds one by its name")

    async def room_for_lists(self) -> int | None:
        if self.limits.lists is None:
            return None
        return max(0, self.limits.lists - len([list_id async for list_id, _ in self.lists()]))

    async def find_list(self, name: str) -> str | None:
        async for list_id, its_name in self.lists():
            if its_name == name:
                return list_id
        return None

    @abstractmethod
    async def has_list(self, list_id: str) -> bool:
        """Whether the service has a list of this id, which looks like one."""

    async def require_there(self, list_id: str, cause: Exception | None = None) -> None:
        """Raises Refused, from `cause`, when there is no such list."""
        self.require_list(list_id)
        if not await self.has_list(list_id):
            raise Refused(Reason.LIST_GONE, "no such list") from cause

    async def require_gone(self, list_id: str, cause: Exception) -> None:
        """Raises `cause`, a refused call, unless it was about a list that does not exist; for services without a code
        that tells so."""
        if await self.has_list(list_id):
            raise cause

    async def require_free(self, name: str, cause: Exception) -> None:
        """Raises Refused, from `cause`, when there is a list of this name, case aside; for services without a code that
        tells so."""
        async for _, its_name in self.lists():
            if its_name.casefold() == name.casefold():
                raise Refused(Reason.NAME_TAKEN, "there is a list of this name") from cause

    async def require_fault_of_contact(self, list_id: str, refused: Refused, needed: Needed[Any]) -> None:
        """Raises what lies behind a refused contact where that is another thing: the limit of the plan, a list that is
        gone, or something that contacts need and somebody deleted."""
        if refused.reason is Reason.PLAN_LIMIT:
            raise Refused(refused.reason, refused.detail) from refused
        await self.require_there(list_id, refused)
        if not await needed.is_there():
            raise Transient("a field of contacts is gone; it is made again before the next try") from refused

    # Check

    async def check_lists(self) -> Finding:
        """The first look at most services: the key works, and there is room for lists."""
        count = len([one async for one in self.lists()])
        most = self.limits.lists
        if most is None:
            return Finding(True, Message("the API key works; the account has %(count)s lists", count=count))
        text = Message("the API key works; the account has %(count)s lists of at most %(most)s", count=count, most=most)
        advice = Message("Delete lists at %(service)s that nobody needs any more.", service=self.title)
        return Finding(count < most, text, None if count < most else advice)

    async def check(self) -> list[Finding]:
        findings: list[Finding] = []
        for look in self.checks():
            try:
                findings.append(await look())
            except AuthFailed as error:
                text = Message("%(service)s refuses the key: %(detail)s", service=self.title, detail=error.detail)
                return [*findings, Finding(False, text, self.key_advice)]
            except Refused as error:
                text = Message("%(service)s refused a call: %(detail)s", service=self.title, detail=error.detail)
                advice = Message("Look at the rights of the key and at what the account has.")
                findings.append(Finding(False, text, advice))
        return findings

    @abstractmethod
    def checks(self) -> Sequence[Check]:
        """What `check` looks at, the key first; each changes nothing, and says what to do when it is not well."""
