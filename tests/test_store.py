"""The store on SQLite and PostgreSQL alike."""

import asyncio
import sqlite3
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from msgspec.structs import replace
from sqlalchemy import Connection, create_engine, event, text

from bridge.changes import Change, Kind
from bridge.store import ListClosed, ListState, MappedList, Settled, Store, Stored, StoreError
from bridge.store.memory import _PROVIDER_IDS
from bridge.store.schema import MIGRATIONS
from bridge.store.tables import metadata
from providers.base import BOUNCED, Delivered, OptedOut, Postponed, Reason, Rejected

NOW = 1_800_000_000.0


async def make_list(store: Store, name: str = "Клиенты", account: str = "main") -> MappedList:
    list_id = await store.lists.begin(account, "memory", name, name, NOW)
    await store.lists.finish(list_id, f"memory:{list_id}", str(list_id), NOW)
    return await store.lists.by_id(list_id)


def present(contact_id: int | str, address: str | None = None, **more: object) -> Change:
    values = {"contact_id": str(contact_id), "kind": Kind.PRESENT, "address": address or f"p{contact_id}@x.test"}
    return Change(**(values | {"created_at": NOW} | more))  # type: ignore[arg-type]


def absent(contact_id: int | str, address: str | None = None) -> Change:
    return replace(present(contact_id, address), kind=Kind.ABSENT)


async def put(store: Store, mapped: MappedList, *changes: Change) -> Stored:
    async with store.database.write() as connection:
        return await store.outbox.put(connection, mapped.id, changes)


async def due(store: Store, mapped: MappedList, now: float = NOW) -> list[Change]:
    return await store.outbox.due(mapped.id, 0, 1000, now)


async def settle(store: Store, mapped: MappedList, *settled: Settled) -> None:
    await store.memory.settle(mapped, settled, NOW)


def fingerprint(store: Store, address: str) -> bytes:
    return store.fingerprints.of(address)


# The outbox


async def test_changes_come_back_whole_and_in_order(store: Store) -> None:
    mapped = await make_list(store)
    change = present(2, "Ö@x.test", first_name="Anna", last_name="", old_addresses=("a@x.test", "b@x.test"))
    stored = await put(store, mapped, present(9), change)
    assert stored == Stored(1, [], provider="memory")
    assert await due(store, mapped) == [replace(present(9), seq=1), replace(change, seq=2)]


async def test_a_newer_change_replaces_the_undelivered_older_one(store: Store) -> None:
    mapped = await make_list(store)
    await put(store, mapped, present(1), present(2))
    stored = await put(store, mapped, absent(1), absent(1))
    assert stored == Stored(3, [1, 3], provider="memory")
    assert [(c.contact_id, c.kind, c.seq) for c in await due(store, mapped)] == [
        ("2", Kind.PRESENT, 2),
        ("1", Kind.ABSENT, 4),
    ]


async def test_numbers_go_on_after_all_was_delivered(store: Store) -> None:
    mapped = await make_list(store)
    await put(store, mapped, present(1))
    await settle(store, mapped, Settled(*(await due(store, mapped)), Delivered()))
    assert (await put(store, mapped, present(1))).first_seq == 2


async def test_many_changes_of_one_list(store: Store) -> None:
    mapped = await make_list(store)
    await put(store, mapped, *(present(n) for n in range(1200)))
    assert (await put(store, mapped, *(absent(n) for n in range(1200)))).superseded == list(range(1, 1201))
    assert len(await store.outbox.due(mapped.id, 0, 5000, NOW)) == 1200


async def test_a_postponed_change_is_due_later(store: Store) -> None:
    mapped = await make_list(store)
    await put(store, mapped, present(1))
    [change] = await due(store, mapped)
    await settle(store, mapped, Settled(change, Postponed(60.0, Reason.TOO_OFTEN)))
    assert await due(store, mapped) == []
    assert await store.outbox.next_due_at("main", "memory", NOW) == NOW + 60
    assert len(await due(store, mapped, NOW + 60)) == 1


async def test_a_dropped_list_loses_its_changes_and_takes_no_more(store: Store) -> None:
    mapped = await make_list(store)
    await put(store, mapped, present(1), present(2))
    async with store.database.write() as connection:
        dropped = await store.outbox.put_drop(connection, mapped.id, NOW)
    assert sorted(dropped.superseded) == [1, 2]
    assert [c.kind for c in await due(store, mapped)] == [Kind.DROP]
    with pytest.raises(ListClosed):
        await put(store, mapped, present(3))
    await store.memory.forget_list(mapped.id, dropped.first_seq)
    assert (await store.lists.by_id(mapped.id)).state is ListState.DELETED
    assert await due(store, mapped) == []


async def test_writers_at_one_time_get_numbers_of_their_own(store: Store) -> None:
    mapped = await make_list(store)
    stored = await asyncio.gather(*(put(store, mapped, present(n)) for n in range(20)))
    assert sorted(each.first_seq for each in stored) == list(range(1, 21))


# Outcomes


async def test_a_delivered_contact_is_mapped_and_a_removed_one_is_not(store: Store) -> None:
    mapped = await make_list(store)
    await put(store, mapped, present(1))
    [change] = await due(store, mapped)
    await settle(store, mapped, Settled(change, Delivered("esp-1")))
    known = await store.memory.known(mapped.id, ["1", "2"])
    assert list(known) == ["1"]
    assert known["1"].provider_contact_id == "esp-1"
    assert known["1"].fingerprint == fingerprint(store, "P1@X.test")
    await put(store, mapped, absent(1))
    await settle(store, mapped, Settled(*(await due(store, mapped)), Delivered()))
    assert await store.memory.known(mapped.id, ["1"]) == {}


async def test_an_outcome_of_a_replaced_change_leaves_the_newer_one(store: Store) -> None:
    mapped = await make_list(store)
    await put(store, mapped, present(1))
    [older] = await due(store, mapped)
    await put(store, mapped, absent(1))
    await settle(store, mapped, Settled(older, Delivered("esp-1")))
    assert [c.kind for c in await due(store, mapped)] == [Kind.ABSENT]


async def test_an_opt_out_holds_for_every_address_and_outlives_contact_and_list(store: Store) -> None:
    mapped = await make_list(store)
    await put(store, mapped, present(1))
    [change] = await due(store, mapped)
    await settle(store, mapped, Settled(change, Delivered("esp-1")))
    known = (await store.memory.known(mapped.id, ["1"]))["1"]
    moved = replace(absent(1, "new@x.test"), old_addresses=("mid@x.test",))
    await settle(store, mapped, Settled(moved, OptedOut(), known))
    await store.memory.forget_list(mapped.id, 99)
    out = [fingerprint(store, a) for a in ("p1@x.test", "mid@x.test", "NEW@x.test")]
    other = fingerprint(store, "other@x.test")
    assert await store.memory.opted_out("main", [*out, other]) == dict.fromkeys(out, OptedOut())
    assert await store.memory.opted_out("another", out) == {}


async def test_a_bounce_is_remembered_of_its_address_alone(store: Store) -> None:
    mapped = await make_list(store)
    change = replace(present(1, "new@x.test"), old_addresses=("old@x.test",))
    await settle(store, mapped, Settled(change, OptedOut(BOUNCED)))
    keys = [fingerprint(store, address) for address in ("new@x.test", "old@x.test")]
    assert await store.memory.opted_out("main", keys) == {keys[0]: OptedOut(BOUNCED)}


@pytest.mark.parametrize("order", [(BOUNCED, "unsubscribed"), ("unsubscribed", BOUNCED)])
async def test_what_a_person_said_counts_for_more_than_a_bounce(store: Store, order: tuple[str, str]) -> None:
    mapped = await make_list(store)
    for how in order:
        await settle(store, mapped, Settled(present(1), OptedOut(how)))
    key = fingerprint(store, "p1@x.test")
    assert await store.memory.opted_out("main", [key]) == {key: OptedOut("unsubscribed")}


async def test_a_problem_stays_until_the_contact_is_delivered(store: Store) -> None:
    mapped = await make_list(store)
    await put(store, mapped, present(1), present(2))
    first, second = await due(store, mapped)
    await settle(store, mapped, Settled(first, Rejected(Reason.INVALID_ADDRESS, "fake")), Settled(second, Delivered()))
    [problem] = await store.memory.problems()
    assert (problem.contact_id, problem.reason, problem.detail) == ("1", "invalid_address", "fake")
    assert await due(store, mapped) == []
    await put(store, mapped, present(1))
    await settle(store, mapped, Settled(*(await due(store, mapped)), Delivered()))
    assert await store.memory.problems("main") == []


async def test_users_of_an_address_are_found_in_map_and_outbox(store: Store) -> None:
    here, there, foreign = await make_list(store), await make_list(store, "B"), await make_list(store, "C", "other")
    for mapped in (here, there, foreign):
        await put(store, mapped, present(1, "a@x.test"))
        await settle(store, mapped, Settled(*(await due(store, mapped)), Delivered()))
    await put(store, here, present(2, "A@x.test"), absent(3, "a@x.test"))
    await put(store, there, present(4, "a@x.test"))
    key = fingerprint(store, "a@x.test")
    assert await store.memory.users_of("main", [key]) == {
        key: {(here.id, "1"), (there.id, "1"), (here.id, "2"), (there.id, "4")}
    }


def test_the_ids_of_addresses_are_found_without_reading_the_list() -> None:
    """Else each batch of an import costs as much as the list is long."""
    asked: list[tuple[str, tuple[object, ...]]] = []
    engine = create_engine("sqlite://")
    metadata.create_all(engine)
    with engine.connect() as connection:
        event.listen(connection, "before_cursor_execute", lambda _, __, *call: asked.append(call[:2]))
        connection.execute(_PROVIDER_IDS, {"list": 1, "fingerprints": [bytes(16)] * 500})
        [(query, values)] = asked
        plan = connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {query}", values).all()
    assert "contacts_by_fingerprint" in plan[0].detail


# Lists


async def test_the_text_that_planfix_holds_finds_its_list(store: Store) -> None:
    mapped = await make_list(store)
    assert await store.lists.by_public_id(f"memory:{mapped.id}") == mapped
    assert await store.lists.by_public_id("memory:999") is None


async def test_a_list_is_adopted_once_and_by_one_account(store: Store) -> None:
    adopted = [await store.lists.adopt("main", "memory:x", "memory", "x", NOW) for _ in range(2)]
    assert adopted[0] == adopted[1]
    assert await store.lists.adopt("other", "memory:x", "memory", "x", NOW) is None


async def test_only_a_list_without_any_change_is_untouched(store: Store) -> None:
    mapped = await make_list(store)
    assert await store.lists.untouched("main", "memory", "Клиенты", NOW) == mapped
    assert await store.lists.untouched("main", "memory", "Клиенты", NOW + 1) is None
    await put(store, mapped, present(1))
    assert await store.lists.untouched("main", "memory", "Клиенты", NOW) is None


async def test_summaries_and_depths_count(store: Store) -> None:
    mapped = await make_list(store)
    await put(store, mapped, present(1), present(2), present(3))
    await settle(store, mapped, Settled((await due(store, mapped))[0], Delivered()))
    [summary] = await store.lists.summaries("main")
    assert (summary.contacts, summary.pending) == (1, 2)
    [depth] = await store.outbox.depths()
    assert (depth.account, depth.pending, depth.oldest_at) == ("main", 2, NOW)
    assert await store.lists.with_pending("main", "memory") == {mapped.id: 2}
    assert await store.lists.couriers() == [("main", "memory")]


# Opening


async def test_what_was_stored_is_there_after_reopening(new_store_url: str) -> None:
    first = await Store.open(new_store_url)
    mapped = await make_list(first)
    await put(first, mapped, present(1))
    key = fingerprint(first, "a@x.test")
    await first.close()
    second = await Store.open(new_store_url)
    assert len(await due(second, mapped)) == 1
    assert fingerprint(second, "a@x.test") == key
    await second.close()


async def test_what_a_job_may_yet_do_is_known_after_a_restart_and_until_its_end(store_url: str) -> None:
    now = NOW
    first = await Store.open(store_url)
    of_first = first.under_way("brevo", lambda: now)
    await of_first.begin("a key", "7", ["anna@x.test", "b@x.test"], 60.0)
    await of_first.known_as("a key", "job 1")
    await first.close()
    store = await Store.open(store_url)
    try:
        jobs = store.under_way("brevo", lambda: now)
        [job] = await jobs.of_list("7")
        assert (job.key, job.job_id, job.left_s) == ("a key", "job 1", 60)
        assert [job.holds(address) for address in ("anna@x.test", "b@x.test", "c@x.test")] == [True, True, False]
        assert await jobs.of_list("8") == []
        assert await store.under_way("mailjet", lambda: now).of_list("7") == []
        await jobs.leave_out("a key", ["b@x.test"])
        [job] = await jobs.of_list("7")
        assert [job.holds(address) for address in ("anna@x.test", "b@x.test")] == [True, False]
        now += 61
        assert await jobs.of_list("7") == []
        await jobs.begin("another", "7", [], 60.0)
        await jobs.end("another")
        async with store.database.read() as connection:
            assert await connection.scalar(text("SELECT count(*) FROM under_way")) == 0, "what is over is forgotten"
    finally:
        await store.close()


async def test_the_migrations_make_exactly_the_declared_tables(store: Store) -> None:
    def differences(connection: Connection) -> list[object]:
        return list(compare_metadata(MigrationContext.configure(connection), metadata))

    async with store.database.write() as connection:
        assert await connection.run_sync(differences) == []


def test_every_step_is_named_by_its_revision() -> None:
    """A start compares the names, and asks Alembic only when they differ."""
    alembic = ScriptDirectory(str(MIGRATIONS))
    assert {step.revision for step in alembic.walk_revisions()} == {
        file.name.partition("_")[0] for file in (MIGRATIONS / "versions").glob("[0-9]*.py")
    }
    assert alembic.get_current_head() == max(step.revision for step in alembic.walk_revisions())


async def test_two_that_open_a_new_store_at_once_both_work(new_store_url: str) -> None:
    stores = await asyncio.gather(*(Store.open(new_store_url) for _ in range(3)))
    assert len({each.fingerprints.of("a@x.test") for each in stores}) == 1
    for each in stores:
        await each.close()


async def test_a_store_of_a_newer_version_is_refused(new_store_url: str) -> None:
    first = await Store.open(new_store_url)
    async with first.database.write() as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    await first.close()
    with pytest.raises(StoreError, match="newer version"):
        await Store.open(new_store_url)


async def test_a_file_that_is_no_database_is_an_error_of_the_store(tmp_path: Path) -> None:
    (tmp_path / "bridge.db").write_text("this is a letter, not a database, and long enough to look at" * 20)
    with pytest.raises(StoreError, match="not a database"):
        await Store.open(f"sqlite:///{tmp_path / 'bridge.db'}")


async def test_a_database_that_is_not_there_is_an_error_of_the_store(postgres: str, unused_tcp_port: int) -> None:
    for url in (f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/none", postgres.replace("/postgres?", "/none?")):
        with pytest.raises(StoreError):
            await Store.open(url)


async def test_only_the_owner_may_read_the_file(tmp_path: Path) -> None:
    """It holds addresses until they are delivered, and the key of the fingerprints."""
    opened = await Store.open(f"sqlite:///{tmp_path / 'bridge.db'}")
    await make_list(opened)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("bridge.db*")} == {0o600}  # noqa: ASYNC240 - a test
    await opened.close()


async def test_a_commit_survives_the_loss_of_power(tmp_path: Path) -> None:
    """SQLite flushes to disk at every commit: that is what `success` rests on."""
    opened = await Store.open(f"sqlite:///{tmp_path / 'bridge.db'}")
    async with opened.database.read() as connection:
        assert (await connection.execute(text("PRAGMA synchronous"))).scalar_one() == 2
        assert (await connection.execute(text("PRAGMA journal_mode"))).scalar_one() == "wal"
    await opened.close()
    assert sqlite3.connect(tmp_path / "bridge.db").execute("SELECT count(*) FROM outbox").fetchone() == (0,)
