"""Fixtures that all tests share: both kinds of store, a driven clock, logs that are quiet and hold no secrets."""

import asyncio
import gc
import shutil
import sys
from collections.abc import AsyncIterator, Generator, Iterator, MutableMapping
from functools import cache
from importlib.metadata import EntryPoints, entry_points
from pathlib import Path
from typing import Any
from uuid import uuid4

import asyncpg
import pgserver
import pytest

from bridge import registry
from bridge.store import Store
from bridge.store.tables import metadata
from providers.testing.fake import without_waits
from tests.bench import Bench
from tests.clock import DrivenClock
from tests.leaks import watch_secrets, watched_logs
from tests.postbox import install

watch_secrets()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """Thousands of tests that all live to the end: the garbage collector is not to go through them again and again."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(20_000, 20, 10)
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def packages_are_read_once() -> Iterator[None]:
    """Each bridge looks for its providers through all that is installed, which changes here only with `sys.path`."""

    @cache
    def read(path: tuple[str, ...], wanted: tuple[tuple[str, str], ...]) -> EntryPoints:
        return entry_points(**dict(wanted))

    with pytest.MonkeyPatch.context() as patches:
        patches.setattr(registry, "entry_points", lambda **wanted: read(tuple(sys.path), tuple(wanted.items())))
        yield


@pytest.fixture(autouse=True)
def log_lines(caplog: pytest.LogCaptureFixture) -> Iterator[list[MutableMapping[str, Any]]]:
    """What was logged, instead of printing it. A key, token or whole address in it fails the test."""
    with watched_logs(lambda: caplog.get_records("call")) as lines:
        yield lines


@pytest.fixture(autouse=True)
def quick_services(monkeypatch: pytest.MonkeyPatch) -> None:
    without_waits(monkeypatch)


@pytest.fixture(scope="session")
def postgres(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real PostgreSQL server on a Unix socket, one for each test process; its maintenance database's URL."""
    with pgserver.get_server(tmp_path_factory.mktemp("postgres"), cleanup_mode="stop") as server:
        # Hundreds of databases are made here, and no test cuts the power of the machine.
        server.psql("ALTER SYSTEM SET fsync = off; SELECT pg_reload_conf();")
        yield server.get_uri()


@pytest.fixture(params=["sqlite", "postgresql"])
async def new_store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind that no bridge has opened yet."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'bridge.db'}"
    return await new_database(request.getfixturevalue("postgres"))


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store of each kind with its tables and nothing in them: to make tables takes longer than most tests."""
    if request.param == "sqlite":
        return f"sqlite:///{shutil.copy(request.getfixturevalue('sqlite_file'), tmp_path / 'bridge.db')}"
    url: str = request.getfixturevalue("postgres_database")
    asyncio.run(empty(url))
    return url


@pytest.fixture(scope="session")
def sqlite_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("sqlite") / "bridge.db"
    asyncio.run(make_tables(f"sqlite:///{file}"))
    return file


@pytest.fixture(scope="session")
def postgres_database(postgres: str) -> str:
    url = asyncio.run(new_database(postgres))
    asyncio.run(make_tables(url))
    return url


async def make_tables(store_url: str) -> None:
    await (await Store.open(store_url)).close()


async def empty(store_url: str) -> None:
    """Takes every row out of a database, whoever still uses it."""
    connection = await asyncpg.connect(store_url)
    try:
        await connection.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
        await connection.execute("; ".join(f"DELETE FROM {table.name}" for table in reversed(metadata.sorted_tables)))
    finally:
        await connection.close()


async def new_database(maintenance_url: str) -> str:
    name = f"t{uuid4().hex}"
    connection = await asyncpg.connect(maintenance_url)
    try:
        await connection.execute(f"CREATE DATABASE {name}")
    finally:
        await connection.close()
    return maintenance_url.replace("/postgres?", f"/{name}?")


@pytest.fixture
async def store(store_url: str) -> AsyncIterator[Store]:
    opened = await Store.open(store_url)
    yield opened
    await opened.close()


@pytest.fixture
def clock() -> DrivenClock:
    return DrivenClock()


@pytest.fixture
async def bench(
    store_url: str, clock: DrivenClock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    """A bridge over a provider in memory, without HTTP, on each kind of store."""
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    opened = Bench(store_url, clock)
    await opened.start()
    yield opened
    await opened.stop()
