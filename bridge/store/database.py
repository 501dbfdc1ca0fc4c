"""The connection to SQLite or PostgreSQL: opening, schema steps, transactions. Only this file knows which it is."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import lru_cache, partial
from operator import itemgetter
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Protocol, TypeVar

from sqlalchemy import URL, Select, make_url, text
from sqlalchemy import Connection as SyncConnection
from sqlalchemy.dialects import sqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.sql.dml import Delete, Insert

from bridge.store.schema import NewerSchema, migrate
from bridge.store.sqlite import Sqlite

if TYPE_CHECKING:
    from bridge.store.postgres import Postgres

R = TypeVar("R")

_MIGRATION_LOCK = 0x706C616E  # an arbitrary number that all replicas share


class StoreError(Exception):
    """The store cannot do its work: unreachable, full, read-only, or of a newer version. Nothing was changed."""


class Connection(Protocol):
    """A connection to either database, as the store uses it. Results hold their rows already."""

    async def execute(self, statement: Any, parameters: Any = None) -> Any: ...

    async def scalar(self, statement: Any, parameters: Any = None) -> Any: ...

    async def scalars(self, statement: Any, parameters: Any = None) -> Any: ...

    async def run_sync(self, function: Callable[..., R], /, *args: Any) -> R: ...


class Database:
    """`write()` gives a transaction that is durable when the block has ended; `read()` a connection without one."""

    def __init__(self, backend: "Sqlite | Postgres") -> None:
        self._backend = backend
        self._is_sqlite = isinstance(backend, Sqlite)
        # Each holds a connection while its block needs others: more of them could take them all.
        self._exclusives = asyncio.Semaphore(4)

    @classmethod
    async def open(cls, url: str) -> "Database":
        """Opens `sqlite:///file` or `postgresql://…` and brings its schema up to date. Raises StoreError."""
        parsed = make_url(url)
        try:
            database = cls(_backend(parsed))
        except OSError as error:
            raise StoreError(_short(error)) from error
        try:
            async with database.write() as connection:
                if not database._is_sqlite:
                    await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
                await connection.run_sync(migrate)
        except BaseException as error:
            await database.close()
            if isinstance(error, NewerSchema):
                reason = f"the store has schema {error}, made by a newer version of the bridge; use that version"
                raise StoreError(reason) from error
            raise
        return database

    async def close(self) -> None:
        await self._backend.close()

    @asynccontextmanager
    async def write(self) -> AsyncIterator[Connection]:
        try:
            async with self._backend.write() as connection:
                yield connection
        except self._backend.failures as error:
            raise StoreError(_short(error)) from error

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Connection]:
        try:
            async with self._backend.read() as connection:
                yield connection
        except self._backend.failures as error:
            raise StoreError(_short(error)) from error

    @asynccontextmanager
    async def exclusive(self, name: str) -> AsyncIterator[None]:
        """One at a time over all processes on this store, for each name. SQLite has one process: nothing to do."""
        if self._is_sqlite:
            yield
            return
        async with self._exclusives, self.write() as connection:
            key = text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))")
            await connection.execute(key, {"name": name})
            yield

    @asynccontextmanager
    async def alone(self, name: str) -> AsyncIterator[None]:
        """Keeps every other process on this store out of its block of the same name. Raises StoreError when one is in
        it."""
        taken = StoreError(f"another process is busy with {name}")
        if isinstance(self._backend, Sqlite):
            try:
                file = lock_file(Path(f"{self._backend.file}.{name}.lock"))
            except BlockingIOError:
                raise taken from None
            with file:
                yield
            return
        async with self.read() as connection:
            lock = text("SELECT pg_try_advisory_lock(hashtextextended(:name, 0))")
            if not await connection.scalar(lock, {"name": name}):
                raise taken
            try:
                yield
            finally:
                await connection.execute(text("SELECT pg_advisory_unlock(hashtextextended(:name, 0))"), {"name": name})

    def insert(self, table: Any) -> Any:
        """An INSERT that knows ON CONFLICT, which both databases write alike and SQLAlchemy spells per database."""
        if self._is_sqlite:
            return sqlite.insert(table)
        from sqlalchemy.dialects import postgresql  # half of what SQLAlchemy takes of memory, where it is not used

        return postgresql.insert(table)

    def upsert(self, table: Any, rows: Select[Any] | None = None) -> Insert:
        """An INSERT that replaces the row of the same primary key; of the `rows` of a query with all columns in order,
        where there is one."""
        statement = self.insert(table)
        if rows is not None:
            statement = statement.from_select([column.name for column in table.columns], rows)
        key = [column.name for column in table.primary_key]
        values = {c.name: statement.excluded[c.name] for c in table.columns if c.name not in key}
        replacing: Insert = statement.on_conflict_do_update(index_elements=key, set_=values)
        return replacing


def _backend(url: URL) -> "Sqlite | Postgres":
    if url.get_backend_name() != "postgresql":
        return Sqlite(url)
    from bridge.store.postgres import Postgres  # brings asyncpg and half of SQLAlchemy: time and memory of a start

    return Postgres(url)


def execute_many(connection: SyncConnection, statement: Insert | Delete, rows: Sequence[Mapping[str, object]]) -> None:
    """Runs a statement, which the caller keeps, for each of these rows, if any. Their values are as the drivers take
    them: to look at each value costs SQLAlchemy as much time as the database needs."""
    if rows:
        sql, values = _of_rows(statement, connection.dialect)
        connection.exec_driver_sql(sql, list(map(values, rows)))


@lru_cache(maxsize=32)
def _of_rows(statement: Insert | Delete, dialect: Dialect) -> tuple[str, Callable[[Mapping[str, object]], Any]]:
    """The statement in the words of a driver, and what picks its values out of a row."""
    compiled = statement.compile(dialect=dialect)
    return str(compiled), itemgetter(*(compiled.positiontup or ()))


def lock_file(path: Path) -> IO[str]:
    """A file that is this process's alone until it is closed. Raises BlockingIOError when it is another's."""
    file = open(path, "w", opener=partial(os.open, mode=0o600))  # noqa: SIM115 - the caller closes it
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        file.close()
        raise
    return file


def _short(error: BaseException) -> str:
    """What went wrong in one line, without SQL and values."""
    cause = getattr(error, "orig", None) or error
    return f"{type(cause).__name__}: {str(cause).splitlines()[0] if str(cause) else ''}"[:300]
