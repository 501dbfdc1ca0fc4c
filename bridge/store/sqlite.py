"""SQLite without a detour: each connection has a thread of its own, and a statement is one trip to it and back.

SQLAlchemy's asyncio layer makes four trips for a statement (open a cursor, execute, fetch, close), each through a
greenlet. Statements are small and many, so that was most of what a request cost: benchmarks/RESULTS.md.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final, TypeVar

from sqlalchemy import URL, Connection, Engine, create_engine
from sqlalchemy.engine import Result
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

R = TypeVar("R")

READERS = 2
"""Reads that may go on beside each other and beside the writer."""

_PRAGMAS = (
    "journal_mode=WAL",
    "synchronous=FULL",
    "foreign_keys=ON",
    "busy_timeout=30000",
    # Fingerprints come in no order: each is a page of the index of its own. With SQLite's own sizes, 2 and 4 MB, such a
    # page is read and written anew for nearly every contact of a million; with 16 and 32 MB, far more seldom.
    "cache_size=-16000",
    "wal_autocheckpoint=8000",
)


class SqliteConnection:
    """One connection, of which all is done in one thread, in the order of the calls."""

    def __init__(self, engine: Engine, name: str) -> None:
        self._engine = engine
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=name)
        self._opened: Connection | None = None
        self._begins = False

    def begin(self) -> None:
        """The next call starts a transaction, in its own trip. One that starts as a reader cannot always become a
        writer; all of ours write."""
        self._begins = True

    async def commit(self) -> None:
        """Returns when all since `begin` is durable."""
        if not self._begins:
            await self.run_sync(lambda connection: connection.exec_driver_sql("COMMIT"))

    async def roll_back(self) -> None:
        """Ends the transaction, behind whatever is still under way in the thread; so also after a cancelled call."""
        await self._call(self._roll_back)

    async def execute(self, statement: Any, parameters: Any = None) -> Result[Any]:
        """The result, its rows read already."""
        return await self._call(self._execute, statement, parameters)

    async def scalar(self, statement: Any, parameters: Any = None) -> Any:
        """The first column of the first row, None without any."""
        return (await self.execute(statement, parameters)).scalar()

    async def scalars(self, statement: Any, parameters: Any = None) -> Any:
        """The first column of every row."""
        return (await self.execute(statement, parameters)).scalars()

    async def run_sync(self, function: Callable[..., R], /, *args: Any) -> R:
        """`function` with the connection, in its thread: any number of statements in one trip."""
        return await self._call(lambda: function(self._connection(), *args))

    async def close(self) -> None:
        await self._call(self._close)
        self._thread.shutdown(wait=False)

    async def _call(self, function: Callable[..., R], *arguments: Any) -> R:
        return await asyncio.get_running_loop().run_in_executor(self._thread, function, *arguments)

    def _connection(self) -> Connection:
        if self._opened is None:
            # Autocommit: SQLAlchemy and the driver begin nothing by themselves.
            self._opened = self._engine.connect().execution_options(isolation_level="AUTOCOMMIT")
            for pragma in _PRAGMAS:
                self._opened.exec_driver_sql(f"PRAGMA {pragma}")
        if self._begins:
            self._opened.exec_driver_sql("BEGIN IMMEDIATE")
            self._begins = False
        return self._opened

    def _execute(self, statement: Any, parameters: Any) -> Result[Any]:
        result = self._connection().execute(statement, parameters)
        # A result without rows tells how many there were; one with rows is read here, in its thread.
        return result.freeze()() if result.returns_rows else result

    def _roll_back(self) -> None:
        self._begins = False
        # A failure may have ended the transaction already.
        if self._opened is not None and getattr(self._opened.connection.dbapi_connection, "in_transaction", False):
            self._opened.exec_driver_sql("ROLLBACK")

    def _close(self) -> None:
        if self._opened is not None:
            self._opened.close()


class Sqlite:
    """A file: one writer at a time, and a few readers beside it."""

    failures: Final = (SQLAlchemyError, OSError)
    """What a transaction may raise."""

    def __init__(self, url: URL) -> None:
        self.file = Path(str(url.database))
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.touch(mode=0o600)  # SQLite gives the files beside it the same mode
        self._engine = create_engine(url, poolclass=NullPool, hide_parameters=True)
        self._writer = SqliteConnection(self._engine, "sqlite-writer")
        self._writing = asyncio.Lock()  # waiting here is fair and free, waiting in SQLite is neither
        self._readers: asyncio.LifoQueue[SqliteConnection] = asyncio.LifoQueue()
        for number in range(READERS):
            self._readers.put_nowait(SqliteConnection(self._engine, f"sqlite-reader-{number}"))

    @asynccontextmanager
    async def write(self) -> AsyncIterator[SqliteConnection]:
        async with self._writing:
            self._writer.begin()
            try:
                yield self._writer
                await self._writer.commit()
            except BaseException:
                await asyncio.shield(self._writer.roll_back())
                raise

    @asynccontextmanager
    async def read(self) -> AsyncIterator[SqliteConnection]:
        reader = await self._readers.get()
        try:
            yield reader
        finally:
            self._readers.put_nowait(reader)

    async def close(self) -> None:
        for connection in (self._writer, *(self._readers.get_nowait() for _ in range(self._readers.qsize()))):
            await connection.close()
        self._engine.dispose()
