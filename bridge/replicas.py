"""Several processes on one store: who delivers for which provider, and how they tell each other what happened.

On PostgreSQL all replicas keep one connection open for locks and messages. A replica delivers to a provider while it
holds that provider's session lock, so the provider's limit on parallel calls holds over all of them, and the lock of
a replica that died is free as soon as its connection is. Locks and messages go over the same connection on purpose:
whoever may have missed a message has lost its locks too, and reads the outbox anew when it gets them back.

On SQLite there is one process, which a file lock makes sure of.
"""

import asyncio
import hashlib
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, TypeAlias
from uuid import uuid4

import asyncpg
import msgspec
import structlog
from sqlalchemy import func, make_url, select

from bridge.store import Connection, StoreError
from bridge.store.database import lock_file

CHANNEL: Final = "planfix_bridge"
TRY_EVERY_S: Final = 1.0
"""How often a replica tries for locks that another one holds: the longest that an account stands still after a
crash, and the time that the database needs to notice it."""
ANSWER_WITHIN_S: Final = 5.0
_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class ChangesStored(msgspec.Struct, frozen=True, tag=True):
    """Changes of these lists were stored. `lists` holds (list, account, provider, how many)."""

    lists: list[tuple[int, str, str, int]]


class ChangesSettled(msgspec.Struct, frozen=True, tag=True):
    """Changes of this list are not pending any more."""

    list_id: int


class ProviderSeen(msgspec.Struct, frozen=True, tag=True):
    """How the leading replica sees a provider: the words of `bridge.delivery.State`."""

    account: str
    provider: str
    state: str
    since: float
    detail: str


Message: TypeAlias = ChangesStored | ChangesSettled | ProviderSeen
Handler: TypeAlias = Callable[[Message], None]


class _Envelope(msgspec.Struct, frozen=True):
    sender: str
    message: Message


class Replicas(ABC):
    """Leadership and messages among the processes on one store."""

    @abstractmethod
    async def lead(self, provider: str, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` while this process may deliver to the provider, and again whenever it may again; returns when
        `work` does. Cancels `work` when the right is lost."""

    @abstractmethod
    async def leave(self, provider: str) -> None:
        """Gives up the right to deliver to a provider, for which no `lead` is under way here any more."""

    @abstractmethod
    async def tell(self, message: Message, connection: Connection | None = None) -> None:
        """Tells the other processes; with a `connection` when its transaction commits, and only then."""

    @abstractmethod
    async def close(self) -> None:
        """Gives up all leadership."""


async def open_replicas(store_url: str, handler: Handler) -> Replicas:
    """Joins the processes on a store; `handler` gets what others tell. Raises StoreError."""
    url = make_url(store_url)
    if url.get_backend_name() == "postgresql":
        replicas = PostgresReplicas(url.render_as_string(hide_password=False), handler)
        await replicas.connect()
        return replicas
    return Alone(Path(f"{url.database}.lock"))


class Alone(Replicas):
    """The only process on a SQLite file. Raises StoreError when there is another one."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = lock_file(path)
        except OSError as error:
            raise StoreError("another bridge runs on this SQLite file; several need PostgreSQL") from error

    async def lead(self, provider: str, work: Callable[[], Awaitable[None]]) -> None:
        await work()

    async def leave(self, provider: str) -> None:
        return

    async def tell(self, message: Message, connection: Connection | None = None) -> None:
        return

    async def close(self) -> None:
        self._file.close()


class PostgresReplicas(Replicas):
    """One of several processes on a PostgreSQL database."""

    def __init__(self, dsn: str, handler: Handler) -> None:
        self._dsn = dsn
        self._handler = handler
        self._name = uuid4().hex
        self._decoder = msgspec.json.Decoder(_Envelope)
        self._connection: asyncpg.Connection | None = None
        self._in_use = asyncio.Lock()  # the connection does one thing at a time
        self._wanted: set[str] = set()
        self._asked = asyncio.Event()
        self._held: dict[str, asyncio.Event] = {}  # provider → set when the connection that holds its lock is gone
        self._turn = asyncio.Condition()
        self._keeper: asyncio.Task[None] | None = None
        self._log = structlog.get_logger().bind(replica=self._name[:8])

    async def connect(self) -> None:
        """Connects for the first time. Raises StoreError."""
        try:
            await self._connect()
        except _FAILURES as error:
            raise StoreError(f"{type(error).__name__}: cannot connect for locks and messages") from error
        self._keeper = asyncio.create_task(self._keep(), name="replica locks")

    async def lead(self, provider: str, work: Callable[[], Awaitable[None]]) -> None:
        self._wanted.add(provider)
        self._asked.set()
        while True:
            async with self._turn:
                await self._turn.wait_for(lambda: provider in self._held)
            self._log.info("leading", provider=provider)
            working = asyncio.ensure_future(work())
            lost = asyncio.create_task(self._held[provider].wait())
            try:
                await asyncio.wait({working, lost}, return_when=asyncio.FIRST_COMPLETED)
                if working.done():
                    return working.result()
            finally:
                for task in (working, lost):
                    task.cancel()
                await asyncio.gather(working, lost, return_exceptions=True)
            self._log.warning("lead_lost", provider=provider)

    async def leave(self, provider: str) -> None:
        self._wanted.discard(provider)
        # Whoever leads anew from here on locks once more: the database counts locks and unlocks of a session.
        if self._held.pop(provider, None) is not None:
            with suppress(*_FAILURES):  # the lock is gone with its connection
                await self._run("SELECT pg_advisory_unlock($1)", _lock_key(provider))

    async def tell(self, message: Message, connection: Connection | None = None) -> None:
        payload = msgspec.json.encode(_Envelope(self._name, message)).decode()
        if connection is not None:
            await connection.execute(select(func.pg_notify(CHANNEL, payload)))
        else:
            with suppress(*_FAILURES):  # who does not hear it waits to the end of its time and answers `pending`
                await self._run("SELECT pg_notify($1, $2)", CHANNEL, payload)

    async def close(self) -> None:
        if self._keeper is not None:
            self._keeper.cancel()
            await asyncio.gather(self._keeper, return_exceptions=True)
        if self._connection is not None:
            with suppress(*_FAILURES):
                await self._connection.close(timeout=ANSWER_WITHIN_S)

    async def _connect(self) -> None:
        connection = await asyncpg.connect(self._dsn, timeout=ANSWER_WITHIN_S, command_timeout=ANSWER_WITHIN_S)
        lost = asyncio.Event()

        def gone(_: object) -> None:
            lost.set()
            self._held = {provider: event for provider, event in self._held.items() if event is not lost}
            self._asked.set()

        connection.add_termination_listener(gone)
        self._connection, self._lost = connection, lost
        await connection.add_listener(CHANNEL, self._heard)

    async def _keep(self) -> None:
        """Keeps the connection, and tries for every lock that is wanted and not held."""
        while True:
            self._asked.clear()
            try:
                if self._lost.is_set():
                    await self._connect()
                await self._try_locks()
            except _FAILURES as error:
                self._log.warning("replica_connection_lost", error=type(error).__name__)
                if self._connection is not None:
                    self._connection.terminate()
            with suppress(TimeoutError):
                async with asyncio.timeout(TRY_EVERY_S):
                    await self._asked.wait()

    async def _try_locks(self) -> None:
        keys = {_lock_key(provider): provider for provider in self._wanted - self._held.keys()}
        # Asked even for no locks: that the connection still answers is what leading rests on.
        lost = self._lost
        got = await self._run("SELECT key FROM unnest($1::bigint[]) AS key WHERE pg_try_advisory_lock(key)", list(keys))
        if got and not lost.is_set():
            async with self._turn:
                self._held |= {keys[row["key"]]: lost for row in got}
                self._turn.notify_all()

    async def _run(self, query: str, *values: object) -> list[Any]:
        async with self._in_use:
            if self._connection is None or self._lost.is_set():
                raise ConnectionError("no connection for locks and messages")
            return list(await self._connection.fetch(query, *values))

    def _heard(self, _: object, __: int, ___: str, payload: object) -> None:
        envelope = self._decoder.decode(str(payload))
        if envelope.sender != self._name:
            self._handler(envelope.message)


def _lock_key(provider: str) -> int:
    digest = hashlib.blake2b(f"planfix bridge delivers to {provider}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big", signed=True)
