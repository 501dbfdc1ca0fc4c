"""`switch`, `verify` and `check` as people and programs use them, from one sandbox to another."""

import asyncio
import csv
import json
import re
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from itertools import count
from pathlib import Path
from typing import TypeVar

import pytest
from click.testing import CliRunner, Result

from bridge.cli import main
from bridge.config import load
from bridge.planfix import CreateList, ImportContacts, UpdateContact
from bridge.replies import Failure, ListCreated, Outcome, Tally
from bridge.service import Bridge
from bridge.store import Store, StoreError
from providers.base import Member, Transient
from providers.sandbox import SandboxProvider
from tests.bench import person

T = TypeVar("T")

SETTINGS = """
accounts:
  main: {{token: "a token long enough", provider: {provider}}}
providers: {providers}
"""
BOTH = {"old": {"type": "sandbox", "path": "data/old.db"}, "new": {"type": "sandbox", "path": "data/new.db"}}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in, with settings of two sandboxes."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLANFIX_BRIDGE_CONFIG", raising=False)
    write_settings()
    return tmp_path


@pytest.fixture(autouse=True)
def logs_as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    """Log lines go where every test has them, not to the standard error of the command."""
    monkeypatch.setattr("bridge.logs.set_up", lambda level: None)


def write_settings(provider: str = "old", **providers: object) -> None:
    text = SETTINGS.format(provider=provider, providers=json.dumps(providers or BOTH))
    Path("config.yaml").write_text(text)


def run(*args: str) -> Result:
    return CliRunner().invoke(main, args)


def switch(*args: str) -> Result:
    return run("switch", "main", *args)


def ask(*requests: CreateList | ImportContacts | UpdateContact) -> list[Outcome]:
    """What a bridge of the settings here answers; without requests it ends when nothing is pending."""
    config = load(Path("config.yaml"))

    async def work() -> list[Outcome]:
        async with Bridge(config) as bridge:
            outcomes = [await bridge.handle(config.accounts["main"], request) for request in requests]
            while not requests and await bridge.store.outbox.depths():  # noqa: ASYNC110 - the store tells nobody
                await asyncio.sleep(0.01)
            return outcomes

    return asyncio.run(work())


def in_store(work: Callable[[Store], Awaitable[T]]) -> T:
    """What a look into the store of the settings here gives."""

    async def looking() -> T:
        store = await Store.open(load(Path("config.yaml")).store)
        try:
            return await work(store)
        finally:
            await store.close()

    return asyncio.run(looking())


@pytest.fixture
def mailings(folder: Path) -> None:
    """Two lists at `old`, one with somebody who opted out."""
    people = [person(number) for number in range(1, 6)]
    made = ask(CreateList("Clients"), CreateList("News"))
    assert made == [ListCreated("old:1"), ListCreated("old:2")]
    ask(ImportContacts("old:1", people), ImportContacts("old:2", people[:2]))
    opt_out("old", "p3@x.test")


def opt_out(provider: str, address: str) -> None:
    with sqlite3.connect(f"data/{provider}.db") as db:
        db.execute("update contacts set opted_out = 'unsubscribed' where address = ?", (address,))
    db.close()


def rows(provider: str, sql: str) -> list[tuple[object, ...]]:
    db = sqlite3.connect(f"data/{provider}.db")
    try:
        return db.execute(sql).fetchall()
    finally:
        db.close()


@pytest.mark.parametrize("args", [[], ["--to", "new", "--back"], ["--back", "--clean-up"]])
def test_one_thing_at_a_time(args: list[str]) -> None:
    result = switch(*args)
    assert result.exit_code == 1
    assert result.stderr == "Error: Say one of --to PROVIDER, --back and --clean-up.\n"


def test_an_unknown_account_or_provider_is_told_with_those_that_there_are() -> None:
    assert (
        run("switch", "nobody", "--back").stderr
        == "Error: There is no account nobody in the settings. They have main.\n"
    )
    assert switch("--to", "brevo").stderr == "Error: There is no provider brevo in the settings. They have old, new.\n"
    assert run("verify", "nobody").stderr == "Error: There is no account nobody in the settings. They have main.\n"


def test_without_lists_there_is_nothing_to_do() -> None:
    for args in (["--to", "new"], ["--back"]):
        result = switch(*args)
        assert (result.exit_code, result.stdout) == (0, "Nothing to move: no list is elsewhere.\n")
    assert switch("--clean-up").stdout == "No old lists are kept.\n"
    assert run("verify", "main").stdout == "No lists yet.\n"


@pytest.mark.usefixtures("mailings")
def test_a_dry_run_shows_the_plan_and_changes_nothing() -> None:
    result = switch("--to", "new", "--dry-run")
    assert result.exit_code == 0
    assert "old:1  Clients  old   new  new list “Clients”  5" in result.stdout
    assert "Lists: 2, new ones: 2, contacts: 7. About 1 min, calls: 6 of old, 6 of new." in result.stdout
    assert rows("new", "select * from lists") == []
    assert list(Path().glob("*.csv")) == []


@pytest.mark.usefixtures("mailings")
def test_nothing_is_moved_unless_somebody_says_yes() -> None:
    result = switch("--to", "new")
    assert result.exit_code == 1
    assert result.stderr == "Error: Nobody can be asked here: add --yes, after a look at --dry-run.\n"
    assert rows("new", "select * from lists") == []
    assert switch("--to", "new", "--json").exit_code == 1
    assert rows("new", "select * from lists") == []


@pytest.mark.usefixtures("mailings")
def test_a_move_is_told_in_a_table_and_a_report_for_its_owner_alone() -> None:
    result = switch("--to", "new", "--yes", "--report", "report.csv")
    assert result.exit_code == 0
    assert re.search(r"old:1  Clients  moved +4 +1 +0 +0 +0", result.stdout)
    assert "Change the line to `provider: new`." in result.stdout
    assert "Back to them: planfix-bridge switch main --back" in result.stdout
    report = Path("report.csv")
    assert report.stat().st_mode & 0o777 == 0o600
    assert "x.test" not in report.read_text()
    head, *lines = csv.reader(report.read_text().splitlines())
    assert head == ["list", "planfix_id", "result", "reason", "detail"]
    assert ["old:1", "3", "opted_out", "", ""] in lines
    assert ["old:2", "", "moved", "", ""] in lines
    assert len(lines) == 7 + 2
    assert rows("new", "select address from contacts where opted_out is not null") == [("p3@x.test",)]
    assert "Change the line" not in switch("--back", "--yes").stdout


@pytest.mark.usefixtures("mailings")
def test_programs_get_json() -> None:
    plan = json.loads(switch("--to", "new", "--dry-run", "--json").stdout)
    assert (plan["ok"], plan["lists"], plan["plan"]["new_lists"]) == (True, [], 2)
    assert plan["plan"]["lists"][0] == {
        "list": "old:1",
        "name": "Clients",
        "from": "old",
        "to": "new",
        "there": None,
        "name_there": "Clients",
        "contacts": 5,
        "pending": 0,
    }
    told = json.loads(switch("--to", "new", "--yes", "--json").stdout)
    assert told["ok"] is True
    assert told["lists"][0] == {
        "list": "old:1",
        "name": "Clients",
        "to": "new",
        "state": "moved",
        "moved": 4,
        "opted_out": 1,
        "refused": 0,
        "later": 0,
        "missing": 0,
        "detail": "",
    }
    assert Path(told["report"]).exists()
    [verified, _] = json.loads(run("verify", "main", "--json").stdout)
    assert (verified["well"], verified["at"], verified["members"]) == (True, "new", 4)
    [kept, _] = json.loads(switch("--clean-up", "--dry-run", "--json").stdout)
    assert (kept["at"], kept["id"], kept["name"]) == ("old", "1", "Clients")
    assert [each["gone"] for each in json.loads(switch("--clean-up", "--yes", "--json").stdout)] == [True, True]


@pytest.mark.usefixtures("mailings")
def test_what_cannot_be_moved_is_refused_with_the_reason() -> None:
    write_settings(old=BOTH["old"], new=BOTH["new"] | {"key_refused": True})
    result = switch("--to", "new", "--yes")
    assert result.exit_code == 1
    assert "This cannot be moved:\n  new: The sandbox refuses its key. Set key_refused to false.\n" in result.stdout
    write_settings()
    switch("--to", "new", "--dry-run")  # makes the file
    db = sqlite3.connect("data/new.db")
    db.executemany("insert into lists (name) values (?)", [(f"list {n}",) for n in range(999)])
    db.commit()
    db.close()
    result = switch("--to", "new", "--yes")
    assert result.exit_code == 1
    assert "new has room for 1 more lists, 2 are needed: delete some there" in result.stdout
    told = json.loads(switch("--to", "new", "--dry-run", "--json").stdout)
    assert (told["ok"], len(told["plan"]["refusals"])) == (False, 1)


@pytest.mark.usefixtures("mailings")
def test_only_one_switch_runs_at_a_time() -> None:
    async def work(store: Store) -> None:
        async with store.database.alone("switch"):
            with pytest.raises(StoreError, match="another process is busy with switch"):
                async with store.database.alone("switch"):
                    raise AssertionError
        async with store.database.alone("switch"):
            pass

    in_store(work)


@pytest.mark.usefixtures("mailings")
def test_the_settings_line_alone_moves_nothing_and_loses_nothing() -> None:
    write_settings(provider="new")
    [told] = ask(UpdateContact("old:1", "add", person(9), None))
    assert told == Tally(delivered=1)  # where the list is
    [made] = ask(CreateList("Later"))
    assert made == ListCreated("new:1")
    checked = run("check")
    assert checked.exit_code == 0
    assert "! account main: lists at old, which go on there: 2" in checked.stdout
    assert "→ move them: planfix-bridge switch main --to new; or, if they are to stay" in checked.stdout


@pytest.mark.usefixtures("mailings")
def test_lists_at_a_provider_that_left_the_settings_keep_their_changes_and_say_so() -> None:
    write_settings(provider="new", new=BOTH["new"])
    [told] = ask(UpdateContact("old:1", "add", person(9), None))
    assert isinstance(told, Tally)
    assert (told.pending, told.failure) == (1, Failure("provider_missing"))
    checked = run("check")
    assert checked.exit_code == 1
    assert "✗ account main: lists at old, which is not in the settings: 2; changes that wait: 1" in checked.stdout
    write_settings(provider="new")
    ask()
    assert ("p9@x.test",) in rows("old", "select address from contacts")


@pytest.mark.usefixtures("mailings")
def test_check_tells_of_a_move_that_broke_off() -> None:
    async def work(store: Store) -> None:
        mapped = await store.lists.by_public_id("old:1")
        assert mapped is not None
        copy = await store.lists.begin("main", "new", "Clients", "Clients", 0.0, mapped.id)
        await store.lists.finish(copy, None, "77", 0.0)
        await store.moves.begin(mapped.id, copy)

    in_store(work)
    checked = run("check").stdout
    assert "! account main: lists on their way from old: 1; changes that wait: 0" in checked
    assert "planfix-bridge switch main --back" in checked
    assert "moving" in run("lists").stdout
    result = switch("--back", "--yes")
    assert "old:1: its move broke off; it stays at old" in result.stdout
    assert result.exit_code == 0
    assert "moving" not in run("lists").stdout


@pytest.mark.usefixtures("mailings")
def test_check_tells_of_a_move_that_broke_off_after_the_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    readings = count()

    async def kept_out(_: SandboxProvider) -> AsyncIterator[Member]:
        """Nobody before the lists are copied; and no answer after their turn."""
        if next(readings):
            raise Transient("503")
        nobody: tuple[Member, ...] = ()
        for member in nobody:
            yield member

    with monkeypatch.context() as patch:
        patch.setattr(SandboxProvider, "kept_out", kept_out)
        assert "--repair" in switch("--to", "new", "--yes").stdout
    told = "! account main: lists that moved, opt-outs of the last moment not heard: 2"
    assert told in run("check").stdout
    switch("--to", "new", "--yes")
    assert told not in run("check").stdout


@pytest.mark.usefixtures("mailings")
def test_verify_tells_what_differs_and_repairs_it() -> None:
    assert run("verify", "main").exit_code == 1  # of the opt-out nobody has told the bridge yet
    db = sqlite3.connect("data/old.db")
    db.execute("delete from memberships where contact_id = 1 and list_id = 1")
    db.commit()
    db.close()
    result = run("verify", "main")
    assert re.search(r"old:1  Clients  old  4 +1 +0 +0 +1 +as made", result.stdout)
    assert "old:1: missing, save them again in Planfix: 1\n" in result.stdout
    assert "add --repair" in result.stdout
    result = run("verify", "main", "--repair")
    assert "old:1: put right: 1; what was queued goes with the running bridge" in result.stdout
    result = run("verify", "main")
    assert re.search(r"old:1  Clients  old  4 +1 +0 +0 +0 +as made", result.stdout)
