"""The commands, as people and programs use them."""

import asyncio
import json
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from click.testing import CliRunner, Result
from msgspec.structs import replace

from bridge.cli import main
from bridge.config import Config, Server, load, sandbox_config
from bridge.planfix import CreateList, ImportContacts, WireContact
from bridge.replies import Outcome
from bridge.service import Bridge
from providers.base import Reason
from providers.sandbox import SandboxProvider

T = TypeVar("T")
COMMANDS = ("init", "serve", "reload", "check", "providers", "lists", "pending", "problems", "simulate")
COMMANDS += ("switch", "verify")
EMPTY = {
    "lists": "No lists yet. Planfix makes one when a mailing is switched on in a filter.\n",
    "pending": "Nothing is pending: every change has been delivered or refused.\n",
    "problems": "No problems: nothing was refused that has not been mended since.\n",
}


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to be in."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLANFIX_BRIDGE_CONFIG", raising=False)
    return tmp_path


def run(*args: str, **env: str | None) -> Result:
    return CliRunner().invoke(main, args, env=env)


def finish(work: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(work)


@pytest.fixture
def sandbox() -> Config:
    """Settings as `serve --sandbox` would leave them here."""
    return sandbox_config()


def ask(config: Config, *requests: CreateList | ImportContacts) -> list[Outcome]:
    """What a bridge of these settings answers."""

    async def work() -> list[Outcome]:
        [account] = config.accounts.values()
        async with Bridge(config) as bridge:
            return [await bridge.handle(account, request) for request in requests]

    return finish(work())


def person(contact_id: int, address: str | None = None, first: str = "Анна") -> WireContact:
    return WireContact(str(contact_id), address or f"p{contact_id}@x.test", first, "Ö")


def settings_file(folder: Path, **sandbox: object) -> Path:
    """Settings over the same store and sandbox as `serve --sandbox` has here, the sandbox changed."""
    path = folder / "own.yaml"
    path.write_text(
        "store: sqlite:///data/bridge.db\n"
        "accounts: {sandbox: {token: '${file:data/sandbox-token}', provider: sandbox}}\n"
        f"providers: {{sandbox: {json.dumps({'path': 'data/sandbox.db', **sandbox})}}}\n"
    )
    return path


# Help and settings


@pytest.mark.parametrize("option", ["--help", "-h"])
def test_help_names_every_command_with_what_it_does(option: str) -> None:
    result = run(option)
    assert result.exit_code == 0
    listed = re.findall(r"^  ([a-z]+)  +(\S.*)$", result.stdout, re.MULTILINE)
    assert {name for name, _ in listed} == set(COMMANDS)
    assert all(len(line) <= 80 for line in result.stdout.splitlines())


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_explains_itself_and_its_options(command: str) -> None:
    result = run(command, "--help")
    assert result.exit_code == 0
    assert result.stdout.startswith(f"Usage: main {command}")
    for line in result.stdout.split("Options:\n")[1].splitlines():
        assert re.search(r"  \S+", line), line


def test_the_version_is_told() -> None:
    assert re.fullmatch(r"\S+, version \d+\.\d+\.\d+\n", run("--version").stdout)


@pytest.mark.parametrize("command", ["serve", "check", "lists", "pending", "problems", "simulate"])
def test_without_settings_the_way_on_is_told(command: str) -> None:
    result = run(command)
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr == (
        "Error: There is no config.yaml here. Copy config.example.yaml and fill it in, or try the bridge without any: "
        "planfix-bridge serve --sandbox\n"
    )


@pytest.mark.parametrize(("args", "env"), [(["-c", "none.yaml"], ""), ([], "none.yaml")])
def test_a_file_that_was_named_and_is_not_there_is_told(args: list[str], env: str) -> None:
    result = run("lists", *args, **({"PLANFIX_BRIDGE_CONFIG": env} if env else {}))
    assert result.exit_code == 1
    assert re.fullmatch(r"Error: .*none\.yaml.*: No such file or directory\n", result.stderr)


@pytest.mark.parametrize("command", ["serve", "check", "lists", "pending", "problems"])
def test_every_fault_of_the_settings_is_told_at_once_with_its_place(folder: Path, command: str) -> None:
    (folder / "config.yaml").write_text(
        "server: {prot: 80}\n"
        "accounts: {main: {token: changeme, provider: mailchump}}\n"
        "providers: {mailchimp: {api_key: '${NOT_SET_ANYWHERE}'}}\n"
    )
    result = run(command)
    assert result.exit_code == 1
    places = re.findall(r"config\.yaml:(\d+):\d+: ", result.stderr)
    assert {"1", "2", "3"} <= set(places), result.stderr
    assert "port" in result.stderr
    assert "mailchimp" in result.stderr
    assert "NOT_SET_ANYWHERE" in result.stderr
    assert "changeme" not in result.stderr


def test_the_sandbox_takes_no_settings_file() -> None:
    result = run("serve", "--sandbox", "-c", "x.yaml")
    assert (result.exit_code, result.stderr) == (1, "Error: --sandbox takes no settings file.\n")


def test_a_sandbox_token_that_was_spoilt_is_told(sandbox: Config) -> None:
    Path("data/sandbox-token").write_text("short")
    result = run("serve", "--sandbox")
    assert result.exit_code == 1
    assert "delete the file to get a new one" in result.stderr


# lists, pending, problems


@pytest.mark.parametrize("command", list(EMPTY))
def test_an_empty_store_is_told_in_a_sentence(sandbox: Config, command: str) -> None:
    for args in ([], ["--account", "sandbox"], ["--account", "nobody"]):
        result = run(command, *args)
        assert (result.exit_code, result.stdout, result.stderr) == (0, EMPTY[command], "")


def test_an_empty_store_as_json(sandbox: Config) -> None:
    assert json.loads(run("lists", "--json").stdout) == []
    assert json.loads(run("pending", "--json").stdout) == {"accounts": [], "lists": [], "held": []}
    assert json.loads(run("problems", "--json").stdout) == []


NAME = "Клиенты [bold]VIP[/] :fire: \\[x"


def test_lists_shows_what_planfix_made(sandbox: Config) -> None:
    ask(sandbox, CreateList(NAME), ImportContacts("sandbox:1", [person(1), person(2)]), CreateList("empty"))
    result = run("lists")
    header, first, second = result.stdout.splitlines()
    assert header.split() == ["List", "Name", "Account", "At", "State", "Contacts", "Pending"]
    assert re.split(r"  +", first.rstrip()) == ["sandbox:1", NAME, "sandbox", "sandbox", "open", "2", "0"]
    assert re.split(r"  +", second.rstrip()) == ["sandbox:2", "empty", "sandbox", "sandbox", "open", "0", "0"]
    told = json.loads(run("lists", "--json").stdout)
    assert told[0] == {
        "list": "sandbox:1",
        "name": NAME,
        "account": "sandbox",
        "provider": "sandbox",
        "state": "open",
        "contacts": 2,
        "pending": 0,
    }
    assert [each["list"] for each in told] == ["sandbox:1", "sandbox:2"]
    assert run("lists", "--account", "nobody").stdout == EMPTY["lists"]


def test_members_of_a_list_are_whole_when_piped(sandbox: Config) -> None:
    long = f"{'very-' * 12}long@{'sub.' * 15}x.test"
    ask(sandbox, CreateList("A"), ImportContacts("sandbox:1", [person(1), person(2, long, "[red]")]))
    out_ = SandboxProvider(sandbox.providers["sandbox"].settings)  # type: ignore[arg-type]  # of the sandbox
    finish(_opt_out(out_, "p1@x.test"))
    result = run("lists", "--members", "sandbox:1")
    assert result.exit_code == 0
    assert result.stderr == "2 members\n"
    assert [re.split(r"  +", line.rstrip()) for line in result.stdout.splitlines()] == [
        ["Planfix id", "Address", "First name", "Last name", "State"],
        ["1", "p1@x.test", "Анна", "Ö", "opted_out"],
        ["2", long, "[red]", "Ö", "subscribed"],
    ]
    told = json.loads(run("lists", "--members", "sandbox:1", "--json").stdout)
    assert [(member["id"], member["address"], member["state"]) for member in told] == [
        ("1", "p1@x.test", "opted_out"),
        ("2", long, "subscribed"),
    ]


async def _opt_out(provider: SandboxProvider, address: str) -> None:
    async with provider:
        await provider.opt_out(address)


@pytest.mark.parametrize("list_id", ["nope", "other:1", "sandbox:", ""])
def test_an_unknown_list_is_told(sandbox: Config, list_id: str) -> None:
    result = run("lists", "--members", list_id)
    assert result.exit_code == 1
    assert result.stderr == f"Error: There is no list {list_id}. Show all: planfix-bridge lists\n"


def test_a_list_that_the_provider_does_not_have_is_told(sandbox: Config) -> None:
    result = run("lists", "--members", "sandbox:77")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert len(result.stderr.splitlines()) == 1


def test_pending_shows_what_waits(sandbox: Config, folder: Path) -> None:
    ask(sandbox, CreateList(NAME))
    down = load(settings_file(folder, down=True))
    ask(
        replace(down, server=Server(reply_within_s=0.01, grace_s=0.0)),
        ImportContacts("sandbox:1", [person(1), person(2), person(3)]),
    )
    result = run("pending")
    assert result.exit_code == 0
    rows = [re.split(r"  +", line.rstrip()) for line in result.stdout.splitlines()]
    assert rows[0] == ["Account", "Pending", "Oldest since", "Waits"]
    assert rows[1][:2] == ["sandbox", "3"]
    assert rows[2:] == [["List", "Name", "Pending"], ["sandbox:1", NAME, "3"]]
    told = json.loads(run("pending", "--json").stdout)
    assert told["lists"] == [{"list": "sandbox:1", "pending": 3}]
    assert (told["accounts"][0]["account"], told["accounts"][0]["pending"]) == ("sandbox", 3)
    assert run("pending", "--account", "nobody").stdout == EMPTY["pending"]
    assert "p1@x.test" not in result.stdout


def test_problems_shows_what_was_refused_and_why(sandbox: Config) -> None:
    ask(sandbox, CreateList("A"), ImportContacts("sandbox:1", [person(1), person(2, "who@nowhere.invalid")]))
    result = run("problems")
    assert result.exit_code == 0
    header, row = (re.split(r"  +", line.rstrip()) for line in result.stdout.splitlines())
    assert header == ["Since", "List", "Planfix id", "Reason", "The provider's words"]
    assert row[1:4] == ["sandbox:1", "2", "The email address is not valid. Correct it."]
    [problem] = json.loads(run("problems", "--json").stdout)
    assert (problem["public_id"], problem["contact_id"], problem["reason"]) == (
        "sandbox:1",
        "2",
        Reason.INVALID_ADDRESS,
    )
    assert "nowhere" not in result.stdout


@pytest.mark.parametrize("command", ["lists", "pending", "problems"])
def test_a_store_that_cannot_be_opened_is_told_in_a_sentence(sandbox: Config, command: str) -> None:
    Path("data/bridge.db").write_text("this is no database")
    result = run(command)
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: The store cannot be used: ")
    assert len(result.stderr.splitlines()) == 1


# check and providers


def test_check_says_that_everything_works(sandbox: Config) -> None:
    ask(sandbox, CreateList("Клиенты"))
    result = run("check")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "✓ settings: well formed",
        "✓ store: opens; 0 changes wait in it",
        "✓ account sandbox: new lists go to sandbox",
        "✓ sandbox: Lists in use: 1 of 1000.",
        "Everything works.",
    ]


@pytest.mark.parametrize(
    ("switch", "said", "advice"),
    [
        ("key_refused", "The sandbox refuses its key.", "Set key_refused to false."),
        ("down", "does not answer: the sandbox is set to fail", "try again; look at `base_url` and the network"),
    ],
)
def test_check_says_what_does_not_work_and_what_to_do(
    sandbox: Config, folder: Path, switch: str, said: str, advice: str
) -> None:
    result = run("check", "-c", str(settings_file(folder, **{switch: True})))
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-3:] == [
        f"✗ sandbox: {said}",
        f"    → {advice}",
        "Something does not work; see above.",
    ]


def test_check_says_what_an_empty_store_would_mean(sandbox: Config) -> None:
    result = run("check")
    assert result.exit_code == 0
    assert "! store: knows no lists; for a new bridge that is right" in result.stdout
    assert "who opted out earlier is known to the email service alone" in " ".join(result.stdout.split())


def test_check_says_what_a_lost_store_took_with_it(sandbox: Config) -> None:
    ask(sandbox, CreateList("Клиенты"))
    for file in Path("data").glob("bridge.db*"):
        file.unlink()
    ask(sandbox, ImportContacts("sandbox:1", [person(1)]))
    result = run("check")
    assert result.exit_code == 0
    assert "! store: 1 of 1 lists were made before this store" in result.stdout
    said = " ".join(result.stdout.split())
    assert "changes that were not delivered then are gone" in said
    assert "who opted out earlier is known to the email service alone" in said


def test_check_goes_on_after_a_store_that_cannot_be_opened(sandbox: Config) -> None:
    Path("data/bridge.db").write_text("this is no database")
    result = run("check")
    assert result.exit_code == 1
    assert "✗ store: " in result.stdout
    assert "✓ sandbox: " in result.stdout


def test_providers_shows_all_of_them() -> None:
    result = run("providers")
    assert result.exit_code == 0
    names = [line.split()[0] for line in result.stdout.splitlines()]
    assert {"Name", "mailchimp", "sandbox", "sendgrid"} <= set(names)
    assert result.stderr == "The settings of one: planfix-bridge providers NAME\n"
    told = json.loads(run("providers", "--json").stdout)
    assert [each["name"] for each in told] == names[1:]
    assert all(each["batch_size"] > 0 and each["settings"] for each in told)


def test_providers_shows_the_settings_of_one() -> None:
    result = run("providers", "sandbox")
    assert result.exit_code == 0
    assert result.stdout.startswith("Sandbox (type: sandbox)\n  a list is: a list in a local file\n")
    assert re.search(r"^latency_s +a number from 0 +0\.0 +how long every call takes *$", result.stdout, re.MULTILINE)
    [told] = json.loads(run("providers", "sandbox", "--json").stdout)
    assert {"base_url", "timeout_s", "parallel_calls", "path"} <= {each["key"] for each in told["settings"]}


def test_an_unknown_provider_is_told_with_the_nearest_one() -> None:
    result = run("providers", "mailchump")
    assert result.exit_code == 1
    assert result.stderr.startswith("Error: ")
    assert "mailchimp" in result.stderr


# What people see


@pytest.mark.parametrize("columns", [80, 120])
def test_on_a_terminal_every_line_fits(sandbox: Config, columns: int) -> None:
    ask(sandbox, CreateList(NAME), ImportContacts("sandbox:1", [person(1, f"{'long' * 12}@{'x' * 30}.test")]))
    shown = on_a_terminal(columns, "lists", "lists --members sandbox:1", "providers", "providers mailchimp", "check")
    assert shown.count("sandbox:1") == 1
    assert "Everything works." in shown
    assert all(len(line) <= columns for line in shown.splitlines()), shown


def on_a_terminal(columns: int, *commands: str) -> str:
    """What the commands write to a terminal of this width, without colours."""
    ours, its = pty.openpty()
    each = "import sys; from bridge.cli import main; [main(c.split(), standalone_mode=False) for c in sys.argv[1:]]"
    with subprocess.Popen(
        [sys.executable, "-c", each, *commands],
        stdin=subprocess.DEVNULL,
        stdout=its,
        stderr=its,
        env=os.environ | {"COLUMNS": str(columns), "LINES": "50", "TERM": "xterm"},
    ) as process:
        os.close(its)
        written = b""
        while True:
            try:
                read = os.read(ours, 65536)
            except OSError:  # how a terminal says that the other side has hung up
                read = b""
            if not read:
                break
            written += read
        assert process.wait() == 0, written
    os.close(ours)
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", written.decode()).replace("\r", "")


# serve


@contextmanager
def serving(*args: str) -> Iterator[tuple[subprocess.Popen[str], Callable[[str], str]]]:
    """A real `serve`, and what reads its standard error up to a line that holds some words."""
    with subprocess.Popen(
        [sys.executable, "-W", "error", "-m", "bridge", "serve", *args],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    ) as process:
        assert process.stderr is not None
        lines: list[str] = []

        def read_to(words: str) -> str:
            for line in process.stderr or []:
                lines.append(line)
                if words in line:
                    return "".join(lines)
            raise EOFError("".join(lines))

        try:
            yield process, read_to
        finally:
            process.kill()


def free_ports(folder: Path) -> Path:
    """Settings for the sandbox of this folder on ports that are free."""
    path = settings_file(folder)
    path.write_text("server: {port: 0}\nadmin: {port: 0}\n" + path.read_text())
    return path


def post(url: str, body: bytes) -> dict[str, Any]:
    with urllib.request.urlopen(urllib.request.Request(url, data=body), timeout=30) as response:
        answer: dict[str, Any] = json.load(response)
        return answer


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_serve_runs_until_it_is_stopped_and_ends_cleanly(sandbox: Config, folder: Path, number: int) -> None:
    token = sandbox.accounts["sandbox"].tokens[0].reveal()
    with serving("-c", str(free_ports(folder))) as (process, read_to):
        greeting = read_to("Status")
        url = re.findall(r"URL for Planfix +(http://127\.0\.0\.1:\d+/planfix)", greeting)[0]
        assert token not in greeting, "a token is shown only where nobody but the bridge knows it"
        body = json.dumps({"action": "createList", "authToken": token, "data": {"listName": "A"}})
        assert post(url, body.encode()) == {"success": True, "listId": "sandbox:1"}
        process.send_signal(number)
        rest, errors = process.communicate(timeout=30)
        assert process.returncode == 0
        assert rest == ""
        assert "Traceback" not in errors
        events = [json.loads(line)["event"] for line in errors.splitlines() if line.startswith("{")]
        assert events[-2:] == ["stopping", "stopped"]


def test_serve_sandbox_needs_nothing_and_shows_how_to_try_it(folder: Path) -> None:
    """The one test that needs the real ports: skipped where something else has them."""
    with serving("--sandbox") as (process, read_to):
        try:
            greeting = read_to("simulate --contacts")
        except EOFError as error:
            if "address already in use" in str(error):
                pytest.skip("port 8080 or 8081 is taken on this machine")
            raise
        token = (folder / "data" / "sandbox-token").read_text().strip()
        assert (folder / "data" / "sandbox-token").stat().st_mode & 0o777 == 0o600
        assert re.search(rf"API Key +{re.escape(token)} ", greeting)
        command = shlex.split(next(line for line in greeting.splitlines() if line.startswith("  curl ")))
        assert command[:3] == ["curl", "-sS", "http://127.0.0.1:8080/planfix"]
        assert post(command[2], command[4].encode()) == {"success": True, "listId": "sandbox:1"}
        process.terminate()
        assert process.wait(30) == 0


def test_a_port_that_is_taken_is_told_in_a_sentence(sandbox: Config, folder: Path, unused_tcp_port: int) -> None:
    with serving("-c", str(free_ports(folder))) as (_, read_to):
        taken = re.findall(r"http://127\.0\.0\.1:(\d+)/planfix", read_to("Status"))[0]
        elsewhere = folder / "elsewhere.yaml"
        elsewhere.write_text(
            f"server: {{port: {taken}}}\nadmin: {{port: {unused_tcp_port}}}\nstore: sqlite:///elsewhere.db\n"
            + "".join(settings_file(folder).read_text().partition("accounts:")[1:])
        )
        with serving("-c", str(elsewhere)) as (second, _):
            _, errors = second.communicate(timeout=30)
    assert second.returncode == 1
    assert errors.splitlines()[-1] == (
        f"Error: Cannot listen on 127.0.0.1:{taken} or 127.0.0.1:{unused_tcp_port}: address already in use. "
        "Is a bridge running already?"
    )
    assert "Traceback" not in errors


def test_a_start_imports_nothing_that_sqlite_does_not_need() -> None:
    """Each of these took a tenth of the time of a start, or more."""
    script = "import sys, bridge.cli; print([m for m in ('alembic', 'asyncpg', 'sqlalchemy.orm') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
