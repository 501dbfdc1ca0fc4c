"""A store that is full, read-only, restarted or lost: an error to Planfix, never a success that is not kept."""

import asyncio
import json
import os
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pgserver
import psutil
import pytest
from pgserver.postgres_server import pg_ctl

from bridge.replies import Failure, Outcome, Tally
from bridge.sample_contacts import made_up
from bridge.texts import text
from providers.base import Transient
from tests.bench import Bench, person
from tests.clock import DrivenClock
from tests.conftest import new_database
from tests.end_to_end import OVER_HTTP, QuickClock, Stage, config_of, esp_of, listed, look_at_jobs_at_once
from tests.postbox import install

TOKEN = "a token of the store's faults"
STORAGE = Failure("storage")


# A full disk


@contextmanager
def serving(folder: Path) -> Iterator[tuple[psutil.Process, str]]:
    """`serve` with the sandbox in a process of its own, whose store is a file: the process and its URL."""
    settings = folder / "bridge.yaml"
    settings.write_text(
        f"server: {{port: 0}}\nadmin: {{port: 0}}\nstore: sqlite:///{folder / 'bridge.db'}\n"
        f"accounts: {{main: {{token: {TOKEN}, provider: sandbox}}}}\n"
        f"providers: {{sandbox: {{path: {folder / 'sandbox.db'}}}}}\n"
    )
    log = folder / "bridge.log"
    command = [sys.executable, "-m", "bridge", "serve", "-c", str(settings)]
    # The log is a pipe: a limit on the size of files would hit it too.
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | {"COLUMNS": "120"}) as running:
        assert running.stderr is not None
        try:
            for line in running.stderr:
                if found := re.search(r"URL for Planfix +(\S+)", line):
                    break
            else:
                raise AssertionError("the bridge does not start")
            yield psutil.Process(running.pid), found[1]
        finally:
            running.terminate()
            log.write_text(running.stderr.read())


async def ask(session: aiohttp.ClientSession, url: str, action: str, **data: object) -> tuple[int, dict[str, Any]]:
    async with session.post(url, data=json.dumps({"action": action, "authToken": TOKEN, "data": data})) as answer:
        return answer.status, json.loads(await answer.read())


async def test_a_full_disk_is_an_error_and_is_over_when_there_is_room(tmp_path: Path) -> None:
    def contact(number: int) -> dict[str, object]:
        return {"id": number, "email": f"p{number}@x.test"}

    with serving(tmp_path) as (bridge, url):
        async with aiohttp.ClientSession() as session:
            _, made = await ask(session, url, "createList", listName="Клиенты")
            list_id = made["listId"]
            status, told = await ask(session, url, "importContacts", listId=list_id, contacts=[contact(1)])
            assert (status, told["success"]) == (200, True)
            _, unlimited = bridge.rlimit(psutil.RLIMIT_FSIZE)
            bridge.rlimit(psutil.RLIMIT_FSIZE, (1, unlimited))  # no file of the process may grow: a full disk
            for number in range(2, 6):
                _, told = await ask(session, url, "importContacts", listId=list_id, contacts=[contact(number)])
                assert told == {"error": text("storage", "en")}
            bridge.rlimit(psutil.RLIMIT_FSIZE, (unlimited, unlimited))
            status, told = await ask(session, url, "importContacts", listId=list_id, contacts=[contact(6)])
            assert (status, told["success"]) == (200, True)
            while told.get("pending"):  # a courier that met the full disk takes its time before the next try
                await asyncio.sleep(0.05)
                status, told = await ask(session, url, "importContacts", listId=list_id, contacts=[contact(6)])


# PostgreSQL that goes away


@pytest.fixture
def own_postgres(tmp_path: Path) -> Iterator[pgserver.PostgresServer]:
    """A PostgreSQL server that a test may restart."""
    # After a restart pgserver does not know the process any more, so it is not to stop it.
    with pgserver.get_server(tmp_path / "postgres", cleanup_mode=None) as server:
        yield server
        pg_ctl(["-w", "-m", "fast", "stop"], pgdata=server.pgdata, user=server.system_user)


@pytest.fixture
async def on_postgres(
    own_postgres: pgserver.PostgresServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Bench]:
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    bench = Bench(await new_database(own_postgres.get_uri()), DrivenClock())
    await bench.start()
    yield bench
    await bench.stop()


async def test_a_postgres_that_crashes_in_the_middle_loses_nothing_that_was_answered(
    own_postgres: pgserver.PostgresServer, on_postgres: Bench
) -> None:
    bench = on_postgres
    list_id = await bench.create()
    bench.esp.script = [Transient("503", retry_after_s=3600.0)] * 1000  # from here on all is answered `pending` at once
    assert await bench.change(list_id, "add", person(0)) == Tally(pending=1)
    answered: dict[int, Outcome] = {}
    restarted = asyncio.Event()

    async def keep_adding(first: int) -> None:
        for number in count(first):
            answered[number] = await bench.change(list_id, "add", person(number))
            if restarted.is_set() and answered[number] != STORAGE:
                return

    adding = [asyncio.create_task(keep_adding(first)) for first in (10_000, 20_000, 30_000)]
    while len(answered) < 10:  # noqa: ASYNC110 - there is no event to wait for
        await asyncio.sleep(0)
    await asyncio.to_thread(
        pg_ctl,
        ["-w", "-m", "immediate", "-l", str(own_postgres.log), "restart"],
        pgdata=own_postgres.pgdata,
        user=own_postgres.system_user,
    )
    restarted.set()
    await asyncio.gather(*adding)
    kept = {number for number, outcome in answered.items() if isinstance(outcome, Tally)}
    assert all(outcome == STORAGE for number, outcome in answered.items() if number not in kept)
    assert len(kept) < len(answered), "the crash was noticed by nobody"
    bench.esp.script = []
    await bench.until_delivered()
    assert await bench.mailable(list_id) >= {f"p{number}@x.test" for number in kept}
    assert bench.bridge.couriers.of("main", "memory").is_leading
    assert await bench.change(list_id, "add", person(1)) == Tally(delivered=1)


async def test_a_read_only_database_is_an_error_and_is_over_when_it_can_be_written(
    own_postgres: pgserver.PostgresServer, on_postgres: Bench
) -> None:
    """As after a switch to a standby server."""
    bench = on_postgres
    list_id = await bench.create()
    name = bench.config.store.partition("?")[0].rpartition("/")[2]

    async def set_read_only(value: str) -> None:
        connection = await asyncpg.connect(own_postgres.get_uri())
        try:
            await connection.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")
            await connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = $1", name)
        finally:
            await connection.close()

    await set_read_only("on")
    for number in range(1, 4):
        assert await bench.change(list_id, "add", person(number)) == STORAGE
    await set_read_only("off")
    assert await bench.change(list_id, "add", person(4)) == Tally(delivered=1)
    assert await bench.mailable(list_id) == {"p4@x.test"}


# A lost store


def delete(store: Path) -> None:
    for file in store.parent.glob(f"{store.name}*"):
        file.unlink()


@pytest.mark.parametrize("kind", OVER_HTTP)
async def test_after_a_lost_store_the_lists_that_planfix_holds_live_on(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    look_at_jobs_at_once(monkeypatch.setattr)
    strangers = made_up(1, "post.test")
    file = tmp_path / "bridge.db"
    async with esp_of(kind, tmp_path) as esp:
        name = esp.provider.name
        async with (
            Stage(esp, config_of(f"sqlite:///{file}", name, {name: esp}), QuickClock()) as stage,
            stage.planfix() as planfix,
        ):
            assert await planfix.create_list("Клиенты")
            await planfix.import_contacts(list(islice(strangers, 10)))
            await stage.delivered()
            out, moving, leaving, *_ = planfix.expected
            await stage.esp.opt_out(out.address)

            async def lose_the_store() -> None:
                await stage.__aexit__()
                delete(file)
                await stage.__aenter__()

            async def right() -> None:
                await stage.delivered()
                expected = [contact for contact in planfix.expected if contact.id != out.id]
                assert await stage.mailable(planfix) == listed(expected)

            await lose_the_store()
            await planfix.update("update", replace(moving, address="moved@post.test"), moving.address)
            await right()
            await lose_the_store()
            await planfix.update("delete", leaving)
            await right()
            await lose_the_store()
            await planfix.import_contacts([*planfix.expected, next(strangers)])
            await right()
            await lose_the_store()
            await planfix.delete_list()
            await stage.delivered()
            assert planfix.list_deleted
            assert await stage.esp.lists() == {}
            assert [step.messages for step in planfix.steps if step.messages] == []
        assert esp.violations() == []
