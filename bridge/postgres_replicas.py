"""Replicas on PostgreSQL: session locks and messages, over one connection of each that stays open."""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Final
from uuid import uuid4

import asyncpg
import msgspec
import structlog
from sqlalchemy import func, select

from bridge.replicas import Handler, Message, Replicas
from bridge.store import Connection, StoreError

CHANNEL: Final = "planfix_bridge"
TRY_EVERY_S: Final = 1.0
"""How often a replica tries for locks that another one holds: the longest that an account stands still after a
crash, and the time that the database needs to notice it."""
ANSWER_WITHIN_S: Final = 5.0
_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError)


class _Envelope(msgspec.Struct, frozen=True):
    sender: str
    message: Message


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
