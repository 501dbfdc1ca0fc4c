"""The simulator asks as Planfix does, and knows who must be on the list in the end."""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from click.testing import CliRunner, Result

from bridge.cli import main
from bridge.config import Admin, Server, sandbox_config
from bridge.sample_contacts import BadCsv, made_up, read_csv
from bridge.server import Listening, listening
from bridge.simulator import CHANGES, Planfix, Step
from providers.base import Contact, Member

CREATED = {"success": True, "listId": "sandbox:7"}
ServerFactory = Callable[[web.Application], Awaitable[TestServer]]


@pytest.fixture
async def bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Listening]:
    """A bridge started by `serve --sandbox` in the current folder, but on free ports."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PLANFIX_BRIDGE_CONFIG", raising=False)
    config = sandbox_config(Path("data"), server=Server(port=0), admin=Admin(port=0))
    async with listening(config) as running:
        yield running


def token_of(running: Listening) -> str:
    return running.bridge.config.accounts["sandbox"].tokens[0].reveal()


async def members(running: Listening, list_id: object) -> list[Member]:
    sandbox = running.bridge.couriers.provider("sandbox")
    return [member async for member in sandbox.members(str(list_id).removeprefix("sandbox:"))]


def people(contacts: Sequence[Contact | Member]) -> list[tuple[str | None, str, str, str]]:
    return sorted((str(c.id), c.address.lower(), c.first_name or "", c.last_name or "") for c in contacts)


async def simulate(*args: object) -> Result:
    """Runs the command in a thread: the bridge has this one."""
    return await asyncio.to_thread(CliRunner().invoke, main, ["simulate", *(str(arg) for arg in args)])


class Scripted:
    """A bridge that gives prepared answers, the last one again and again, and keeps what it was sent."""

    def __init__(self, *answers: object, status: int = 200) -> None:
        self._answers = list(answers)
        self._status = status
        self.sent: list[tuple[str, str]] = []
        self.connections: set[Any] = set()

    async def answer(self, request: web.Request) -> web.Response:
        self.sent.append((request.content_type, (await request.read()).decode()))
        self.connections.add(request.transport)
        body = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        text = body if isinstance(body, str) else json.dumps(body)
        return web.Response(status=self._status, text=text, content_type="application/json")

    async def start(self, aiohttp_server: ServerFactory) -> str:
        app = web.Application()
        app.router.add_post("/planfix", self.answer)
        return str((await aiohttp_server(app)).make_url("/planfix"))


# What is sent


async def test_planfix_sends_json_as_documented_one_request_after_the_other(aiohttp_server: ServerFactory) -> None:
    scripted = Scripted(CREATED, {"success": True})
    anna = Contact("123", "anna@sim.test", "Анна", "O'Brien")
    boris = Contact("1001", "boris@sim.test", "Борис Львович", "")
    moved = Contact("1002", "moved@sim.test", "Мария", "Де")

    async with Planfix(await scripted.start(aiohttp_server), "key") as planfix:
        assert await planfix.create_list("Фильтр")
        await planfix.import_contacts([anna])
        await planfix.change(1, iter([boris]), random.Random(1))
        await planfix.change(4, iter([moved, moved, moved, moved]), random.Random(1))
        await planfix.delete_list()

    assert {content_type for content_type, _ in scripted.sent} == {"application/json"}
    assert len(scripted.connections) == 1
    asked = [json.loads(body) for _, body in scripted.sent]
    assert {request["authToken"] for request in asked} == {"key"}
    assert [request["action"] for request in asked] == [
        "createList",
        "importContacts",
        *["updateContact"] * 5,
        "deleteList",
    ]
    assert asked[0]["data"] == {"listName": "Фильтр"}
    wire_anna = {"id": 123, "email": "anna@sim.test", "firstName": "Анна", "lastName": "O'Brien"}
    assert asked[1]["data"] == {"listId": "sandbox:7", "contacts": [wire_anna]}
    renamed = wire_anna | {"firstName": "Борис Львович", "lastName": ""}
    assert asked[2]["data"] == {"listId": "sandbox:7", "action": "update", "contact": renamed}
    assert [request["data"]["action"] for request in asked[3:7]] == ["add", "update", "update", "delete"]
    assert ["oldEmail" in request["data"] for request in asked[3:7]] == [False, False, True, False]
    assert asked[7]["data"] == {"listId": "sandbox:7"}
    assert "Фильтр" in scripted.sent[0][1], "text travels as UTF-8, not as escapes"


async def test_ids_travel_as_text_when_wanted_or_when_a_number_would_change_them(aiohttp_server: ServerFactory) -> None:
    contacts = [Contact(id_, "a@sim.test") for id_ in ("7", "007", "0", "9" * 30, "к-1")]
    for as_text, ids in ((False, [7, "007", "0", "9" * 30, "к-1"]), (True, ["7", "007", "0", "9" * 30, "к-1"])):
        scripted = Scripted(CREATED, {"success": True})
        async with Planfix(await scripted.start(aiohttp_server), "key", ids_as_text=as_text) as planfix:
            await planfix.import_contacts(contacts)
        assert [contact["id"] for contact in json.loads(scripted.sent[0][1])["data"]["contacts"]] == ids


async def test_names_that_are_not_known_are_left_out(aiohttp_server: ServerFactory) -> None:
    scripted = Scripted({"success": True})
    async with Planfix(await scripted.start(aiohttp_server), "key") as planfix:
        await planfix.import_contacts([Contact("1", "a@sim.test", None, "")])
    assert json.loads(scripted.sent[0][1])["data"]["contacts"] == [{"id": 1, "email": "a@sim.test", "lastName": ""}]


async def test_a_form_holds_the_three_fields(aiohttp_server: ServerFactory) -> None:
    scripted = Scripted(CREATED)
    async with Planfix(await scripted.start(aiohttp_server), "a key & more", form=True) as planfix:
        await planfix.create_list("Фильтр")

    ((content_type, body),) = scripted.sent
    assert content_type == "application/x-www-form-urlencoded"
    fields = parse_qs(body, strict_parsing=True)
    assert (fields["action"], fields["authToken"]) == (["createList"], ["a key & more"])
    assert json.loads(fields["data"][0]) == {"listName": "Фильтр"}


async def test_a_request_is_repeated_once_when_its_answer_is_slow(aiohttp_server: ServerFactory) -> None:
    bodies: list[bytes] = []
    repeated = asyncio.Event()

    async def slow(request: web.Request) -> web.Response:
        bodies.append(await request.read())
        if len(bodies) == 2:
            repeated.set()
        await repeated.wait()
        return web.json_response(CREATED)

    app = web.Application()
    app.router.add_post("/planfix", slow)
    url = str((await aiohttp_server(app)).make_url("/planfix"))
    async with Planfix(url, "key", repeat_after_s=0.1) as planfix:
        assert await planfix.create_list("Filter")

    assert len(bodies) == 2
    assert bodies[0] == bodies[1]
    (step,) = planfix.steps
    assert (step.requests, step.successes, step.errors) == (2, 1, 0)


async def test_parallel_requests_are_never_two_about_one_contact(aiohttp_server: ServerFactory) -> None:
    under_way: list[int] = []
    most = 0
    together = asyncio.Event()

    async def answer(request: web.Request) -> web.Response:
        nonlocal most
        asked = await request.json()
        if asked["action"] != "updateContact":
            return web.json_response(CREATED)
        contact_id = asked["data"]["contact"]["id"]
        assert contact_id not in under_way
        under_way.append(contact_id)
        most = max(most, len(under_way))
        if most == 3:
            together.set()
        await together.wait()  # the first ones wait for each other
        under_way.remove(contact_id)
        return web.json_response({"success": True})

    app = web.Application()
    app.router.add_post("/planfix", answer)
    strangers = made_up(1, "sim.test")
    async with Planfix(str((await aiohttp_server(app)).make_url("/planfix")), "key", parallel=3) as planfix:
        await planfix.create_list("Filter")
        await planfix.import_contacts(list(islice(strangers, 5)))
        await planfix.change(40, strangers, random.Random(1))

    assert most == 3
    assert sum(step.errors for step in planfix.steps) == 0


# What is understood


@pytest.mark.parametrize(
    ("status", "body", "said"),
    [
        (200, {"error": "Список не найден"}, "Список не найден"),
        (401, {"error": "The API key is wrong."}, "The API key is wrong."),
        (200, {}, "No proper answer of the mailing API (HTTP 200). Check the URL."),
        (200, {"success": True}, "No proper answer of the mailing API (HTTP 200). Check the URL."),
        (200, {"success": True, "listId": 7, "error": "x"}, "No proper answer of the mailing API (HTTP 200)."),
        (201, CREATED, "No proper answer of the mailing API (HTTP 201). Check the URL."),
        (502, "<html>Bad Gateway</html>", "No proper answer of the mailing API (HTTP 502). Check the URL."),
    ],
)
async def test_only_status_200_with_success_and_a_list_id_makes_a_list(
    aiohttp_server: ServerFactory, status: int, body: object, said: str
) -> None:
    async with Planfix(await Scripted(body, status=status).start(aiohttp_server), "key") as planfix:
        assert not await planfix.create_list("Filter")

    (step,) = planfix.steps
    assert (step.successes, step.errors) == (0, 1)
    assert next(iter(step.messages)).startswith(said)
    assert planfix.list_id is None


async def test_pending_and_rejected_contacts_are_counted(aiohttp_server: ServerFactory) -> None:
    reply = {"success": True, "delivered": 2, "pending": 3, "rejected": [{"id": "2", "reason": "bad"}]}
    async with Planfix(await Scripted(CREATED, reply).start(aiohttp_server), "key") as planfix:
        await planfix.create_list("Filter")
        await planfix.import_contacts(list(islice(made_up(1, "sim.test"), 10)))

    step = planfix.steps[1]
    assert (step.successes, step.pending, step.rejected) == (1, 3, 5)
    assert step.messages == {"bad": 1}
    assert "2" not in {contact.id for contact in planfix.expected}


# A real bridge


@pytest.mark.parametrize(
    "switches",
    [{}, {"ids_as_text": True}, {"form": True}, {"parallel": 4}, {"repeat_after_s": 0.02}],
    ids=lambda switches: next(iter(switches), "default"),
)
async def test_the_list_ends_as_the_simulator_expects(bridge: Listening, switches: dict[str, Any]) -> None:
    strangers = made_up(1, "sim.test")
    contacts = list(islice(strangers, 30))
    async with Planfix(bridge.url, token_of(bridge), **switches) as planfix:
        assert await planfix.create_list("Filter")
        await planfix.import_contacts(contacts, slice_size=7)
        assert people(await members(bridge, planfix.list_id)) == people(contacts)
        await planfix.change(22, strangers, random.Random(1))

    told: dict[str, Step] = {step.name: step for step in planfix.steps}
    assert told["importContacts"].successes == 5
    asked = {name: step.successes for name, step in told.items() if name in CHANGES}
    assert asked == {
        "add contact": 5,
        "update names": 7,
        "update address": 5,
        "delete contact": 5,
    }
    assert sum(step.errors + step.pending + step.rejected for step in planfix.steps) == 0
    assert len(planfix.expected) == 30
    assert people(planfix.expected) != people(contacts)
    assert people(await members(bridge, planfix.list_id)) == people(planfix.expected)


@pytest.mark.parametrize("contacts", [0, 1, 40])
async def test_a_run_ends_with_as_many_contacts_as_were_asked_for(bridge: Listening, contacts: int) -> None:
    for seed in (1, 1, 2):  # the same people on a second list, then others
        result = await simulate("--contacts", contacts, "--changes", 9, "--seed", seed, "--json", bridge.url)

        assert result.exit_code == 0, result.output
        told = json.loads(result.stdout)
        assert (told["ok"], told["contacts"], told["deleted"]) == (True, contacts, False)
        assert len(await members(bridge, told["list"])) == contacts
        assert told["steps"][0]["name"] == "createList"


async def test_people_read_a_table_and_what_to_run_next(bridge: Listening) -> None:
    result = await simulate(bridge.url, "--token", token_of(bridge), "--contacts", 3, "--list-name", "Клиенты [VIP]")

    assert result.exit_code == 0, result.output
    assert [line.split("  ")[0] for line in result.stdout.splitlines()] == [
        "Asked",
        "createList",
        "importContacts",
        "add contact",
        "update names",
        "update address",
        "delete contact",
        "Contacts that are on the list sandbox:1 now: 3. See them: planfix-bridge lists --members sandbox:1",
    ]
    assert token_of(bridge) not in result.output


async def test_the_list_can_be_deleted_at_the_end(bridge: Listening) -> None:
    result = await simulate(bridge.url, "--contacts", 3, "--delete-list")

    assert result.exit_code == 0, result.output
    assert "The list sandbox:1 is deleted." in result.stdout
    assert await bridge.bridge.couriers.provider("sandbox").find_list("Simulated filter") is None


async def test_a_wrong_token_is_told_in_the_words_of_the_bridge(bridge: Listening) -> None:
    result = await simulate(bridge.url, "--token", "not-the-token-of-it", "--contacts", 3)

    assert result.exit_code == 1
    assert "createList, 1 ×: The API key is wrong." in result.stdout
    assert "No list was made." in result.stdout
    assert "not-the-token-of-it" not in result.output


async def test_a_contact_that_the_bridge_rejects_is_told_and_not_expected(bridge: Listening, tmp_path: Path) -> None:
    (tmp_path / "filter.csv").write_text("id;email\n1;Anna@sim.test\n2;\n3;nobody\n4;anna@sim.test\n")

    result = await simulate(bridge.url, "--csv", "filter.csv", "--changes", 0)

    assert result.exit_code == 0, result.output
    assert "The contact has no email address." in result.stdout
    assert "The email address is not valid." in result.stdout
    assert "Contacts that are on the list sandbox:1 now: 2." in result.stdout
    assert {member.address for member in await members(bridge, "sandbox:1")} == {"anna@sim.test"}


# Where it goes, and mistakes at the terminal


async def test_url_and_token_come_from_the_settings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, unused_tcp_port: int
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = (
        f"server: {{host: 0.0.0.0, port: {unused_tcp_port}, path: /mail}}\n"
        "accounts: {main: {token: '${file:data/sandbox-token}', provider: sandbox}}\n"
        "providers: {sandbox: {path: sandbox.db}}\n"
    )
    (tmp_path / "own.yaml").write_text(settings)
    config = sandbox_config(Path("data"), server=Server(port=unused_tcp_port, path="/mail"), admin=Admin(port=0))

    refused = await simulate("-c", "own.yaml")
    assert refused.exit_code == 1
    assert f"Nobody answers at 127.0.0.1:{unused_tcp_port}. Start the bridge or correct the URL." in refused.stdout

    async with listening(config):
        result = await simulate("-c", "own.yaml", "--contacts", 2)
    assert result.exit_code == 0, result.output
    assert "planfix-bridge lists -c own.yaml --members sandbox:1" in result.stdout


async def test_nobody_listening_is_one_plain_sentence(unused_tcp_port: int) -> None:
    result = await simulate(
        f"http://me:pw@127.0.0.1:{unused_tcp_port}/secret-in-the-path", "--token", "correct-horse-battery", "--json"
    )

    assert result.exit_code == 1
    told = json.loads(result.stdout)
    assert (told["ok"], told["list"], told["contacts"]) == (False, None, 0)
    (step,) = told["steps"]
    assert step["messages"] == {
        f"Nobody answers at 127.0.0.1:{unused_tcp_port}. Start the bridge or correct the URL.": 1
    }


async def test_a_broken_connection_is_an_error_and_not_a_traceback(aiohttp_server: ServerFactory) -> None:
    async def hang_up(request: web.Request) -> web.Response:
        assert request.transport is not None
        request.transport.abort()
        return web.Response()

    app = web.Application()
    app.router.add_post("/planfix", hang_up)
    url = (await aiohttp_server(app)).make_url("/planfix")

    result = await simulate(url, "--token", "correct-horse-battery")

    assert result.exit_code == 1
    assert "createList, 1 ×: The connection broke" in result.stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["localhost:8080"], "The URL must be like http://127.0.0.1:8080/planfix"),
        (["http://[::1/planfix"], "The URL must be like http://127.0.0.1:8080/planfix"),
        (["http://../planfix"], "The URL must be like http://127.0.0.1:8080/planfix"),
        (["http://127.0.0.1:99999/planfix"], "The URL must be like http://127.0.0.1:8080/planfix"),
        (["http://127.0.0.1:1/", "--contacts", "3", "--csv", "x.csv"], "Give --contacts or --csv, not both."),
        (["http://127.0.0.1:1/", "--csv", "none.csv"], "Cannot read none.csv: No such file or directory"),
        (["http://127.0.0.1:1/", "--csv", "bad.csv"], "bad.csv, line 2: the id is empty"),
    ],
)
async def test_mistakes_are_told_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, args: list[str], said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bad.csv").write_text("id,email\n,a@sim.test\n")

    result = await simulate(*args, "--token", "correct-horse-battery")

    assert result.exit_code == 1
    assert f"Error: {said}" in result.stderr
    assert result.stdout == ""


# The contacts


def test_made_up_contacts_are_many_kinds_and_the_same_for_a_seed() -> None:
    contacts = list(islice(made_up(5, "sim.test"), 2000))

    assert contacts == list(islice(made_up(5, "sim.test"), 2000))
    assert contacts != list(islice(made_up(6, "sim.test"), 2000))
    assert len({contact.id for contact in contacts}) == len({contact.address.lower() for contact in contacts}) == 2000
    assert all(contact.address.endswith("@sim.test") for contact in contacts)
    firsts, lasts = zip(*((contact.first_name or "", contact.last_name or "") for contact in contacts), strict=True)
    assert "" in lasts, "companies"
    assert "O'Brien" in lasts
    assert "Иван Петрович" in firsts, "patronymics"
    assert "Mary Ann" in firsts


def test_made_up_contacts_keep_clear_of_those_that_are_there() -> None:
    first, second, third = islice(made_up(5, "sim.test"), 3)
    there = [Contact(first.id, "own@sim.test"), Contact("x", second.address.upper())]

    assert next(made_up(5, "sim.test", without=there)) == third


@pytest.mark.parametrize(
    ("text", "contacts"),
    [
        ("id,email,firstName,lastName\n1,a@b.c,Анна,O'Neil\n", [Contact("1", "a@b.c", "Анна", "O'Neil")]),
        ("\ufefflastName;EMAIL;id\r\nИванова;a@b.c; 1 \r\n", [Contact("1", "a@b.c", None, "Иванова")]),
        (
            'email,id,note\n"a@b.c",1,"x, y"\n\n , ,\nd@e.f,2,\n',
            [Contact("1", "a@b.c"), Contact("2", "d@e.f")],
        ),
        ("id,email\n1,\n", [Contact("1", "")]),
        ("id,email\n", []),
    ],
    ids=["commas", "bom and semicolons", "other columns and empty lines", "no address", "no contacts"],
)
def test_csv_files_are_read(text: str, contacts: list[Contact]) -> None:
    assert read_csv(text.encode()) == contacts


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "line 1: it must name the columns: id,email,firstName,lastName"),
        (b"1,a@b.c\n", "line 1: it must name the columns"),
        (b"id,email,Email\n", "line 1: the column email is there twice"),
        (b"id,email\n1,a@b.c\n2\n", "line 3: 1 cells, but 2 columns"),
        (b"id,email\n1,a@b.c\n,d@e.f\n", "line 3: the id is empty"),
        (b"id,email\n1,a@b.c\n\n1,d@e.f\n", "line 4: an earlier line has the same id"),
        (b'id,email\n1,"a@b.c\n', "line 2: unexpected end of data"),
        ("id,email\n1,Анна@b.c\n".encode("cp1251"), "line 2: not UTF-8; save the file as CSV in UTF-8"),
    ],
)
def test_a_bad_csv_file_is_told_with_its_line(content: bytes, said: str) -> None:
    with pytest.raises(BadCsv) as caught:
        read_csv(content)
    assert str(caught.value).startswith(said)
