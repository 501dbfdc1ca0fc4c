"""The endpoint as Planfix meets it: every row of the table of answers, with its exact status and body."""

import asyncio
import json
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy import Engine, event

from bridge.delivery import AUTH_RETRY_S
from bridge.languages import LANGUAGES
from bridge.texts import text
from providers.base import AuthFailed, Postponed, ProviderError, Reason, Refused, Rejected, Transient
from tests.clock import DrivenClock
from tests.http_bench import Answer, HttpBench, wire
from tests.postbox import install

SUCCESS = {"success": True}
REQUEST_AND_COURIER = 2  # who waits while a call is tried again
Opener = Callable[..., Awaitable[HttpBench]]


@pytest.fixture
async def open_bench(tmp_path: Path, clock: DrivenClock, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Opener]:
    """Starts a bridge with these settings of `server`; `language` is for all accounts."""
    install(monkeypatch, tmp_path / "site", "planfix-memory", memory="tests.memory_provider:MemoryProvider")
    opened: list[HttpBench] = []

    async def start(language: str = "en", **server: Any) -> HttpBench:
        bench = HttpBench(f"sqlite:///{tmp_path / 'bridge.db'}", clock, **server)
        accounts = {
            name: msgspec.structs.replace(account, language=language) for name, account in bench.config.accounts.items()
        }
        bench.config = msgspec.structs.replace(bench.config, language=language, accounts=accounts)
        await bench.start()
        opened.append(bench)
        return bench

    yield start
    for bench in opened:
        await bench.stop()


@pytest.fixture
async def http(open_bench: Opener) -> HttpBench:
    return await open_bench()


def error(code: str, language: str = "en", **values: object) -> dict[str, str]:
    return {"error": text(code, language, **values)}


def told(answer: Answer) -> tuple[int, dict[str, Any]]:
    return answer.status, answer.body


async def new_list(http: HttpBench, name: str = "Клиенты") -> str:
    answer = await http.ask("createList", listName=name)
    assert answer.status == 200
    return str(answer.body["listId"])


async def outage(http: HttpBench, list_id: str) -> None:
    """The ESP goes away, and the bridge has noticed it."""
    http.esp.script = [Transient("503")] * 50
    asking = asyncio.create_task(http.ask("updateContact", listId=list_id, action="add", contact=wire(900)))
    http.clock.advance(await http.clock.until_waiting(REQUEST_AND_COURIER))
    assert told(await asking) == (200, {"success": True, "pending": 1})


# Done


async def test_the_four_actions(http: HttpBench) -> None:
    assert told(await http.ask("createList", listName="Клиенты")) == (200, {"success": True, "listId": "memory:1"})
    answer = await http.ask("importContacts", listId="memory:1", contacts=[wire(1), wire("2"), wire(3)])
    assert told(answer) == (200, SUCCESS)
    for action, contact, more in (
        ("add", wire(4, firstName="Анна", lastName="О"), {}),
        ("update", wire(4, "new@x.test"), {"oldEmail": "p4@x.test"}),
        ("delete", wire(1), {}),
    ):
        answer = await http.ask("updateContact", listId="memory:1", action=action, contact=contact, **more)
        assert told(answer) == (200, SUCCESS)
    assert await http.mailable("memory:1") == {"p2@x.test", "p3@x.test", "new@x.test"}
    assert told(await http.ask("deleteList", listId="memory:1")) == (200, SUCCESS)
    assert http.esp.names == {}


async def test_who_opted_out_is_a_success_for_planfix(http: HttpBench) -> None:
    list_id = await new_list(http)
    http.esp.out.add("p1@x.test")
    answer = await http.ask("importContacts", listId=list_id, contacts=[wire(1), wire(2)])
    assert told(answer) == (200, SUCCESS)
    assert await http.mailable(list_id) == {"p2@x.test"}


async def test_an_empty_import_is_done(http: HttpBench) -> None:
    answer = await http.ask("importContacts", listId=await new_list(http), contacts=[])
    assert told(answer) == (200, SUCCESS)


# Accepted, not delivered yet


async def test_pending_is_told_when_the_time_to_answer_is_over(open_bench: Opener) -> None:
    http = await open_bench(reply_within_s=7)
    list_id = await new_list(http)
    http.esp.open.clear()
    asking = asyncio.create_task(http.ask("importContacts", listId=list_id, contacts=[wire(1), wire(2)]))
    await http.esp.until_called("upsert")
    assert await http.clock.until_waiting() == 7
    http.clock.advance(7)
    assert told(await asking) == (200, {"success": True, "pending": 2})
    http.esp.open.set()
    await http.until_delivered()
    assert await http.mailable(list_id) == {"p1@x.test", "p2@x.test"}


async def test_in_an_outage_changes_are_accepted_and_delivered_after_it(http: HttpBench) -> None:
    list_id = await new_list(http)
    await outage(http, list_id)
    contacts = [wire(1), wire(2, "nobody")]
    answer = await http.ask("importContacts", listId=list_id, contacts=contacts)
    refused = [{"id": "2", "reason": text("invalid_address", "en")}]
    assert told(answer) == (200, {"success": True, "delivered": 0, "pending": 1, "rejected": refused})
    http.esp.script = []
    await http.until_delivered()
    assert await http.mailable(list_id) == {"p1@x.test", "p900@x.test"}


async def test_a_stop_answers_who_waits_and_a_restart_delivers(http: HttpBench) -> None:
    list_id = await new_list(http)
    http.esp.open.clear()
    asking = asyncio.create_task(http.ask("importContacts", listId=list_id, contacts=[wire(1)]))
    await http.esp.until_called("upsert")
    http.bridge.tickets.release_all()  # the first thing that a stop does to requests under way
    assert told(await asking) == (200, {"success": True, "pending": 1})
    await http.stop()
    await http.start()
    await http.until_delivered()
    assert await http.mailable(list_id) == {"p1@x.test"}


async def test_a_change_replaced_while_its_call_is_under_way_counts_once(http: HttpBench) -> None:
    list_id = await new_list(http)
    http.esp.open.clear()
    contacts = [wire(1), wire(2), wire(3)]
    first = asyncio.create_task(http.ask("importContacts", listId=list_id, contacts=contacts))
    await http.esp.until_called("upsert")
    newer = asyncio.create_task(http.ask("importContacts", listId=list_id, contacts=[wire(1), wire(4)]))
    await http.until_pending(4)
    http.esp.open.set()
    assert [told(answer) for answer in await asyncio.gather(first, newer)] == [(200, SUCCESS)] * 2


# Refused


async def test_an_import_with_refused_contacts_names_them(http: HttpBench) -> None:
    list_id = await new_list(http)
    http.esp.special["p2@x.test"] = Rejected(Reason.FORGOTTEN)
    http.esp.special["p5@x.test"] = Postponed(3600.0, Reason.TOO_OFTEN)
    contacts = [wire(1), wire(2), wire(3, ""), {"id": 4, "email": None}, wire(5), {"id": 6}]
    answer = await http.ask("importContacts", listId=list_id, contacts=contacts)
    rejected = [{"id": id_, "reason": text("no_address", "en")} for id_ in ("3", "4", "6")]
    rejected.append({"id": "2", "reason": text("forgotten", "en")})
    assert told(answer) == (200, {"success": True, "delivered": 1, "pending": 1, "rejected": rejected})


async def test_the_first_hundred_refused_contacts_are_named(http: HttpBench) -> None:
    contacts = [wire(number, "nobody") for number in range(150)] + [wire(900)]
    answer = await http.ask("importContacts", listId=await new_list(http), contacts=contacts)
    assert answer.body["delivered"] == 1
    assert [refused["id"] for refused in answer.body["rejected"]] == [str(number) for number in range(100)]


async def test_when_every_contact_is_refused_it_is_an_error(http: HttpBench) -> None:
    list_id = await new_list(http)
    answer = await http.ask("importContacts", listId=list_id, contacts=[wire(1, ""), wire(2, "nobody")])
    assert told(answer) == (200, error("all_refused", count=2, reason=text("no_address", "en")))
    answer = await http.ask("importContacts", listId=list_id, contacts=[wire(1, "")])
    assert told(answer) == (200, error("no_address"))
    answer = await http.ask("updateContact", listId=list_id, action="add", contact=wire(1, "nobody"))
    assert told(answer) == (200, error("invalid_address"))


async def test_a_contact_without_an_address_has_nothing_to_add(http: HttpBench) -> None:
    list_id = await new_list(http)
    answer = await http.ask("updateContact", listId=list_id, action="add", contact=wire(1, ""))
    assert told(answer) == (200, SUCCESS)
    assert await http.mailable(list_id) == set()


@pytest.mark.parametrize(
    ("refusal", "code"),
    [
        (Refused(Reason.PLAN_LIMIT, "key 0123456789abcdef0123456789abcdef-us1 of anna@x.test"), "plan_limit"),
        (Refused(Reason.LIST_GONE), "list_gone"),
        (AuthFailed("401"), "auth_failed"),
    ],
    ids=["plan", "gone", "key"],
)
async def test_what_the_esp_refuses_for_good_is_an_error(http: HttpBench, refusal: ProviderError, code: str) -> None:
    list_id = await new_list(http)
    http.esp.script = [refusal]
    answer = await http.ask("updateContact", listId=list_id, action="add", contact=wire(1))
    assert told(answer) == (200, error(code))


async def test_a_refused_key_keeps_every_change_and_is_told_at_once_from_then_on(http: HttpBench) -> None:
    list_id = await new_list(http)
    http.esp.script = [AuthFailed("401")] * 2
    for number in (1, 2):
        answer = await http.ask("importContacts", listId=list_id, contacts=[wire(number)])
        assert told(answer) == (200, error("auth_failed"))
    assert told(await http.ask("createList", listName="another")) == (200, error("auth_failed"))
    assert await http.clock.until_waiting() == AUTH_RETRY_S
    await http.until_delivered()
    assert await http.mailable(list_id) == {"p1@x.test", "p2@x.test"}


# Not understood, not allowed

KNOWN = b'{"authToken":"token of main, long enough",'


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "malformed"),
        (b"[]", "malformed"),
        (b'{"action":', "malformed"),
        (b"\xff\xfe{", "not_utf8"),
        (KNOWN + b'"action":"createList","action":"deleteList"}', "duplicate_key"),
        (KNOWN + b'"action":"createList","data":' + b"[" * 50 + b"]" * 50 + b"}", "too_deep"),
        (b'{"data":' + b"[" * 100_000 + b"]" * 100_000 + b"}", "too_deep"),
    ],
)
async def test_a_malformed_body(http: HttpBench, body: bytes, code: str) -> None:
    assert told(await http.post(body)) == (400, error(code))


CONTACT = {"id": 1, "email": "a@x.test"}


@pytest.mark.parametrize(
    ("action", "data", "code", "field"),
    [
        ("createlist", {"listName": "A"}, "unknown_action", "action"),
        (None, {"listName": "A"}, "unknown_action", "action"),
        ("createList", {}, "missing_field", "data.listName"),
        ("createList", {"listName": " "}, "missing_field", "data.listName"),
        ("createList", {"listName": 7}, "not_text", "data.listName"),
        ("createList", {"listName": "a" * 501}, "too_long", "data.listName"),
        ("deleteList", {}, "missing_field", "data.listId"),
        ("deleteList", {"listId": True}, "not_id", "data.listId"),
        ("importContacts", {"listId": "memory:1"}, "missing_field", "data.contacts"),
        ("importContacts", {"listId": "memory:1", "contacts": {}}, "not_array", "data.contacts"),
        ("importContacts", {"listId": "memory:1", "contacts": [CONTACT, 7]}, "not_object", "data.contacts[1]"),
        ("importContacts", {"listId": "memory:1", "contacts": [{}]}, "missing_field", "data.contacts[0].id"),
        (
            "updateContact",
            {"listId": "memory:1", "action": "remove", "contact": CONTACT},
            "unknown_change",
            "data.action",
        ),
        ("updateContact", {"listId": "memory:1", "action": "add"}, "missing_field", "data.contact"),
        ("updateContact", {"action": "add", "contact": CONTACT}, "missing_field", "data.listId"),
    ],
)
async def test_a_fault_in_the_body_names_its_field(
    http: HttpBench, action: str | None, data: dict[str, Any], code: str, field: str
) -> None:
    assert told(await http.ask(action, **data)) == (400, error(code, field=field))


@pytest.mark.parametrize(
    "token", [None, "", "wrong", 7, ["token of main, long enough"], "token of main, long enough ", "\ud800", "ключ"]
)
async def test_a_wrong_or_missing_token_is_refused_without_any_work_of_the_database(
    http: HttpBench, token: object
) -> None:
    statements: list[str] = []

    def count(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        statements.append(statement)

    event.listen(Engine, "before_cursor_execute", count)
    try:
        # Also what is wrong inside `data` is not told to strangers.
        for data in ({"listName": "A"}, {}, None):
            body = json.dumps({"action": "createList", "authToken": token, "data": data}).encode()
            assert told(await http.post(body)) == (401, error("unauthorized"))
        assert statements == []
        await http.ask("createList", listName="A")
        assert statements, "the counter does not count"
    finally:
        event.remove(Engine, "before_cursor_execute", count)


async def test_the_token_of_each_account_opens_only_that_account(http: HttpBench) -> None:
    list_id = await new_list(http)
    await http.ask("importContacts", listId=list_id, contacts=[wire(1)])
    other = http.config.accounts["other"].tokens[0].reveal()
    for contacts in ([wire(2)], []):
        answer = await http.ask("importContacts", other, listId=list_id, contacts=contacts)
        assert told(answer) == (200, error("unknown_list"))
    answer = await http.ask("updateContact", other, listId=list_id, action="delete", contact=wire(1))
    assert told(answer) == (200, error("unknown_list"))
    assert told(await http.ask("deleteList", other, listId=list_id)) == (200, SUCCESS)  # it is not there for them
    assert await http.mailable(list_id) == {"p1@x.test"}


async def test_a_list_cannot_be_made_while_the_esp_is_down(http: HttpBench) -> None:
    list_id = await new_list(http)
    http.esp.script = [Transient("503")]
    assert told(await http.ask("createList", listName="first to notice")) == (503, error("esp_down"))
    await outage(http, list_id)
    assert told(await http.ask("createList", listName="told at once")) == (503, error("esp_down"))


async def test_errors_have_status_200_where_the_settings_say_so(open_bench: Opener) -> None:
    http = await open_bench(error_status="always_200")
    assert told(await http.post(b"{")) == (200, error("malformed"))
    assert told(await http.ask("nothing")) == (200, error("unknown_action", field="action"))
    assert told(await http.ask("createList", "wrong", listName="A")) == (200, error("unauthorized"))
    http.esp.script = [Transient("503")]
    assert told(await http.ask("createList", listName="A")) == (200, error("esp_down"))


# Lists that are not there


@pytest.mark.parametrize("list_id", ["7", "sandbox:7", "memory:", ":7", "Memory:7", 7])
async def test_an_unknown_list(http: HttpBench, list_id: object) -> None:
    answer = await http.ask("importContacts", listId=list_id, contacts=[wire(1)])
    assert told(answer) == (200, error("unknown_list"))
    answer = await http.ask("updateContact", listId=list_id, action="delete", contact=wire(1))
    assert told(answer) == (200, error("unknown_list"))
    assert told(await http.ask("deleteList", listId=list_id)) == (200, SUCCESS)


async def test_a_deleted_list_takes_no_contacts(http: HttpBench) -> None:
    list_id = await new_list(http)
    for _ in range(2):
        assert told(await http.ask("deleteList", listId=list_id)) == (200, SUCCESS)
    answer = await http.ask("importContacts", listId=list_id, contacts=[wire(1)])
    assert told(answer) == (200, error("list_deleted"))
    answer = await http.ask("importContacts", listId=list_id, contacts=[])
    assert told(answer) == (200, error("list_deleted"))
    assert http.esp.on == {}


def lose_store(tmp_path: Path) -> None:
    for file in tmp_path.glob("bridge.db*"):
        file.unlink()


async def test_a_lost_store_loses_no_list(http: HttpBench, tmp_path: Path) -> None:
    list_id = await new_list(http)
    await http.ask("importContacts", listId=list_id, contacts=[wire(1)])
    await http.stop()
    lose_store(tmp_path)
    await http.start()
    answer = await http.ask("updateContact", listId=list_id, action="update", contact=wire(2))
    assert told(answer) == (200, SUCCESS)
    assert await http.mailable(list_id) == {"p1@x.test", "p2@x.test"}
    assert told(await http.ask("deleteList", listId=list_id)) == (200, SUCCESS)
    assert http.esp.names == {}


# The store fails


def execute(tmp_path: Path, sql: str) -> None:
    with closing(sqlite3.connect(tmp_path / "bridge.db")) as db, db:
        db.execute(sql)


async def test_what_could_not_be_stored_is_an_error_and_never_a_success(http: HttpBench, tmp_path: Path) -> None:
    list_id = await new_list(http)
    await http.ask("importContacts", listId=list_id, contacts=[wire(1)])
    for table in ("outbox", "lists"):
        execute(
            tmp_path, f"create trigger full_{table} before insert on {table} begin select raise(abort, 'full'); end"
        )
    calls = len(http.esp.calls)
    for answer in (
        await http.ask("importContacts", listId=list_id, contacts=[wire(2), wire(3, "")]),
        await http.ask("updateContact", listId=list_id, action="delete", contact=wire(1)),
        await http.ask("deleteList", listId=list_id),
        await http.ask("createList", listName="another"),
        await http.ask("importContacts", listId="memory:lost", contacts=[wire(2)]),
    ):
        assert told(answer) == (200, error("storage"))
    assert {name for name, _ in http.esp.calls[calls:]} <= {"find_list"}, "the ESP is not told what nobody remembers"
    for table in ("outbox", "lists"):
        execute(tmp_path, f"drop trigger full_{table}")
    assert told(await http.ask("importContacts", listId=list_id, contacts=[wire(2)])) == (200, SUCCESS)
    assert await http.mailable(list_id) == {"p1@x.test", "p2@x.test"}


async def test_a_store_that_cannot_be_read_is_told_everywhere(http: HttpBench, tmp_path: Path) -> None:
    list_id = await new_list(http)
    execute(tmp_path, "alter table lists rename to gone")
    answer = await http.ask("importContacts", listId=list_id, contacts=[wire(1)])
    assert told(answer) == (200, error("storage"))
    ready = await http.admin("/readyz")
    assert (ready.status, ready.body["status"]) == (503, "store failed")
    scraped = await http.admin("/metrics")
    assert scraped.status == 503
    assert (await http.fetch("GET", http.url.replace("/planfix", "/healthz"))).status == 200


# How it may be sent


@pytest.mark.parametrize("under", ["/", "/a-secret-in-the-url", "/index.php", "/a/b?c=d", "/%D0%BA%20%2F"])
async def test_anything_may_stand_behind_the_path(http: HttpBench, under: str) -> None:
    assert (await http.post(http.body("createList", listName="A"), under)).body["listId"] == "memory:1"


@pytest.mark.parametrize(
    "content_type",
    [
        "application/json",
        "text/plain; charset=windows-1251",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=x",
        "nonsense",
        "",
    ],
)
async def test_any_content_type_will_do(http: HttpBench, content_type: str) -> None:
    body = http.body("createList", listName="Клиенты")
    answer = await http.post(body, **{"Content-Type": content_type})
    assert told(answer) == (200, {"success": True, "listId": "memory:1"})
    assert http.esp.names == {"1": "Клиенты"}


async def test_json_may_come_with_a_mark_in_a_form_and_with_unknown_fields(http: HttpBench) -> None:
    plain = http.body("createList", listName="Клиенты")
    document = json.loads(plain) | {"unknown": [1]}
    data = json.dumps(document["data"])
    fields = {"action": "createList", "authToken": http.token, "data": data}
    for body in (
        b"\xef\xbb\xbf" + plain + b"\r\n",
        json.dumps(document).encode(),  # \u escapes
        f"json={quote(plain)}".encode(),
        urlencode(fields).encode(),
    ):
        answer = await http.post(body)
        assert told(answer) == (200, {"success": True, "listId": "memory:1"})
    assert http.esp.names == {"1": "Клиенты"}


async def test_a_large_import_is_read_beside_the_loop_and_is_one_of_its_kind(http: HttpBench) -> None:
    contacts = [wire(number, firstName="я" * 1000) for number in range(200)]
    answer = await http.ask("importContacts", listId=await new_list(http), contacts=contacts)
    assert told(answer) == (200, SUCCESS)
    broken = http.body("importContacts", listId="memory:1", contacts=[*contacts, {}])
    assert told(await http.post(broken)) == (400, error("missing_field", field="data.contacts[200].id"))
    assert told(await http.post(b"[" * 300_000)) == (400, error("malformed"))


# Languages


@pytest.mark.parametrize("language", LANGUAGES)
async def test_texts_are_in_the_configured_language(open_bench: Opener, language: str) -> None:
    http = await open_bench(language)
    list_id = await new_list(http)
    assert told(await http.post(b"{")) == (400, error("malformed", language))
    assert told(await http.ask("createList", "wrong")) == (401, error("unauthorized", language))
    assert told(await http.ask("createList")) == (400, error("missing_field", language, field="data.listName"))
    assert told(await http.ask("importContacts", listId="x", contacts=[])) == (200, error("unknown_list", language))
    answer = await http.ask("importContacts", listId=list_id, contacts=[wire(1), wire(2, "")])
    assert answer.body["rejected"] == [{"id": "2", "reason": text("no_address", language)}]
    assert told(await http.fetch("GET", http.url)) == (405, error("method_not_allowed", language))


async def test_an_account_has_its_own_language_once_it_is_known(http: HttpBench) -> None:
    await http.stop()
    russian = msgspec.structs.replace(http.config.accounts["other"], language="ru")
    http.config = msgspec.structs.replace(http.config, accounts={"main": http.account, "other": russian})
    await http.start()
    token = russian.tokens[0].reveal()
    assert told(await http.ask("deleteList", token)) == (400, error("missing_field", "ru", field="data.listId"))
    assert told(await http.ask("importContacts", token, listId="x", contacts=[])) == (200, error("unknown_list", "ru"))
    assert told(await http.ask("deleteList", "wrong")) == (401, error("unauthorized", "en"))


# Health and metrics


async def test_healthz_is_public_and_says_what_runs(http: HttpBench) -> None:
    for root in (http.url.removesuffix("/planfix"), http.listening.admin_url):
        answer = await http.fetch("GET", root + "/healthz")
        assert told(answer) == (200, {"status": "ok", "version": version("planfix-bridge")})


@pytest.mark.parametrize("path", ["/readyz", "/metrics", "/", "/planfixx", "/healthz/"])
async def test_nothing_else_is_public(http: HttpBench, path: str) -> None:
    answer = await http.fetch("GET", http.url.replace("/planfix", path))
    assert told(answer) == (404, error("not_found"))


async def test_readyz_tells_what_waits_and_for_whom(http: HttpBench) -> None:
    assert (await http.admin("/readyz")).body == {"status": "ok", "pending": 0, "providers": []}
    list_id = await new_list(http)
    await outage(http, list_id)
    answer = await http.admin("/readyz")
    assert answer.status == 200, "an ESP that is down is no reason to restart the bridge"
    assert answer.body == {
        "status": "ok",
        "pending": 1,
        "providers": [{"account": "main", "provider": "memory", "state": "down", "since": http.clock.now()}],
    }


async def metrics(http: HttpBench) -> dict[str, float]:
    """All samples by name and label values, joined by spaces; those that are 0 left out."""
    answer = await http.admin("/metrics")
    assert answer.status == 200
    assert answer.content_type.startswith("text/plain; version=0.0.4")
    return {
        " ".join([sample.name.removeprefix("planfix_bridge_"), *sample.labels.values()]): sample.value
        for family in text_string_to_metric_families(answer.content.decode())
        for sample in family.samples
        if sample.value and not sample.name.endswith(("_created", "_bucket", "_sum"))
    }


async def test_metrics_tell_the_story(http: HttpBench) -> None:
    list_id = await new_list(http)
    http.esp.out.add("p2@x.test")
    http.esp.special["p3@x.test"] = Rejected(Reason.FORGOTTEN)
    await http.ask("importContacts", listId=list_id, contacts=[wire(1), wire(2), wire(3), wire(4, "")])
    await http.ask("updateContact", listId=list_id, action="add", contact=wire(5, "nobody"))
    await http.ask("createList", "wrong", listName="A")
    await http.post(b"{")
    await outage(http, list_id)
    http.clock.advance(0.25)
    assert await metrics(http) == {
        "requests_total main createList done": 1,
        "requests_total main importContacts done": 1,
        "requests_total main updateContact refused": 1,
        "requests_total main updateContact pending": 1,
        "requests_total  createList wrong_token": 1,
        "requests_total   bad_request": 1,
        "request_seconds_count createList": 1,
        "request_seconds_count importContacts": 1,
        "request_seconds_count updateContact": 2,
        "delivery_seconds_count main": 1,
        "contacts_total main delivered": 1,
        "contacts_total main opted_out": 1,
        "contacts_total main rejected": 1,
        "outbox_changes main": 1,
        "outbox_oldest_seconds main": pytest.approx(http.clock.now() - 1_800_000_000.0),
    }
    http.esp.script = []
    await http.until_delivered()
    after = await metrics(http)
    assert after["contacts_total main delivered"] == 2
    assert after["provider_up main memory"] == 1
    assert "outbox_changes main" not in after


async def test_answers_and_logs_of_errors_hold_no_token_key_or_address(
    http: HttpBench, log_lines: list[MutableMapping[str, Any]]
) -> None:
    list_id = await new_list(http)
    http.esp.script = [Refused(Reason.REQUEST_REFUSED, "key 0123456789abcdef0123456789abcdef-us1 of anna@x.test")]
    answers = [await http.ask("updateContact", listId=list_id, action="add", contact=wire(1, "anna@x.test"))]
    http.esp.script = [Refused(Reason.REQUEST_REFUSED, "key 0123456789abcdef0123456789abcdef-us1 of anna@x.test")]
    answers.append(await http.ask("createList", listName="another"))
    answers.append(await http.ask("importContacts", listId=f"{http.token} anna@x.test", contacts=[wire(1)]))
    answers.append(await http.ask("updateContact", listId=list_id, action=http.token, contact=wire(1)))
    answers.append(await http.ask(http.token))
    said = "\n".join([*(answer.content.decode() for answer in answers), *map(str, log_lines)])
    assert all("error" in answer.body for answer in answers)
    for secret in ("anna@x", "0123456789abcdef", http.token):
        assert secret not in said
