"""What the status page tells: what is wrong and what to do about it, in the reader's language, and no address."""

import asyncio
import re
import sqlite3
from collections.abc import MutableMapping
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from babel.messages.pofile import read_po
from msgspec.structs import replace

from bridge.checks import Checks
from bridge.config import Guard, ProviderConfig
from bridge.delivery import AUTH_RETRY_S
from bridge.languages import CATALOGS, LANGUAGES
from bridge.status.view import LISTS_SHOWN, OLD_S, PROBLEMS_SHOWN
from bridge.texts import text
from providers.base import AuthFailed, Finding, Message, Reason, Refused, Rejected, Settings, Transient
from tests.http_bench import wire
from tests.status.conftest import AdminBench, Opener
from tests.test_delivery import REQUEST_AND_COURIER

MINUTE_S = 60.0
HOSTILE = "<script>alert(1)</script>\"'&amp;{{ 7*7 }}%(name)s"


async def new_list(admin: AdminBench, name: str = "Клиенты", token: str | None = None) -> str:
    return str((await admin.ask("createList", token, listName=name)).body["listId"])


async def bring(admin: AdminBench, list_id: str, *contacts: dict[str, object]) -> dict[str, Any]:
    return (await admin.ask("importContacts", listId=list_id, contacts=list(contacts))).body


async def outage(admin: AdminBench, list_id: str) -> None:
    """The ESP goes away, and the bridge has noticed it."""
    admin.esp.script = [Transient("503 from <b>the service</b>")] * 50
    asking = asyncio.create_task(bring(admin, list_id, wire(900)))
    admin.clock.advance(await admin.clock.until_waiting(REQUEST_AND_COURIER))
    assert await asking == {"success": True, "pending": 1}


# At a glance


async def test_a_bridge_that_has_just_started_is_well(admin: AdminBench) -> None:
    page = await admin.see()
    assert page.status == 200
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "Everything works" in page.section("verdict")
    assert "nothing to deliver yet · account main" in page.section("providers")
    assert "nothing to deliver yet · account other" in page.section("providers")
    assert page.section("waiting").endswith("None: everything is delivered.")
    assert page.section("lists").endswith("None yet. Planfix makes a list when the mailing of a filter is switched on.")
    assert page.section("activity").count("None in the last day.") == 2
    assert 'aria-labelledby="held"' not in page.text, "the guard holds nothing: it is not spoken of"


async def test_a_delivery_that_works_says_since_when(admin: AdminBench) -> None:
    await bring(admin, await new_list(admin), wire(1))
    admin.clock.advance(2 * 3600)
    assert re.search(r"✓ works since .* \( ?2 hours ago\) · account main", (await admin.see()).section("providers"))


async def test_a_provider_that_is_away_is_told_with_what_to_do(admin: AdminBench) -> None:
    list_id = await new_list(admin)
    await outage(admin, list_id)
    admin.clock.advance(20 * MINUTE_S)
    page = await admin.see()
    assert "memory does not answer (account main). Nothing is lost" in page.section("verdict")
    assert "have waited for longer" not in page.section("verdict"), "why they wait is known"
    assert "✗ does not answer since" in page.section("providers")
    assert "The service's words: 503 from <b>the service</b>" in page.section("providers")
    assert re.search(r"main 1 2\d minutes", page.section("waiting"))
    assert 'href="#provider-memory"' in page.text
    assert 'id="provider-memory"' in page.text


async def test_a_refused_key_is_told_until_it_works_again(admin: AdminBench) -> None:
    list_id = await new_list(admin)
    admin.esp.script = [AuthFailed("401")]
    assert "error" in await bring(admin, list_id, wire(1))
    page = await admin.see()
    assert "memory refuses its key (account main). Put a working key into the bridge's settings" in page.words
    await admin.clock.until_waiting()  # the courier
    admin.clock.advance(AUTH_RETRY_S)
    await admin.until_pending(0)
    await admin.until(lambda: is_well(admin))


async def is_well(admin: AdminBench) -> bool:
    return "Everything works" in (await admin.see()).section("verdict")


async def test_changes_that_wait_for_no_known_reason_are_told(admin: AdminBench) -> None:
    list_id = await new_list(admin)
    admin.esp.open.clear()  # the service takes the call and never answers
    asking = asyncio.create_task(bring(admin, list_id, wire(1)))
    await admin.esp.until_called("upsert")
    await admin.clock.until_waiting()  # the request
    admin.clock.advance(OLD_S + 1)
    assert await asking == {"success": True, "pending": 1}
    assert "Changes of the account main have waited for longer than 15 minutes" in (await admin.see()).section(
        "verdict"
    )


async def test_a_provider_that_left_the_settings_is_told(admin: AdminBench) -> None:
    await new_list(admin)
    await admin.stop()
    elsewhere = {"other": ProviderConfig(name="other", type="memory", settings=Settings(base_url="elsewhere"))}
    accounts = {name: replace(account, provider="other") for name, account in admin.config.accounts.items()}
    admin.config = replace(admin.config, providers=elsewhere, accounts=accounts)
    await admin.start()
    page = await admin.see()
    assert "Lists live at memory, which is not in the settings any more" in page.section("verdict")
    assert "Not in the settings any more: changes of its lists wait." in page.section("providers")
    assert page.text.count("<button") == 1, "what is not in the settings cannot be checked"


async def test_a_provider_that_no_account_uses_is_shown(open_bench: Opener, admin: AdminBench) -> None:
    spare = {"spare": ProviderConfig(name="spare", type="memory", settings=Settings(base_url="elsewhere"))}
    page = await (await open_bench(providers=admin.config.providers | spare)).see()
    assert "spare Memory ○ No account uses it." in page.section("providers")


# Lists


async def test_lists_tell_their_contacts_what_waits_and_their_last_change(admin: AdminBench) -> None:
    list_id = await new_list(admin, "Клиенты, Маша")
    await new_list(admin, "Empty")
    await bring(admin, list_id, *(wire(number) for number in range(1234)))
    admin.clock.advance(3600)
    made_at = admin.clock.now()
    await bring(admin, list_id, wire(1234))
    admin.clock.advance(3600)
    page = await admin.see()
    (row, empty) = re.findall(r"<tr>.*?</tr>", page.text.partition('id="lists"')[2].partition("</section>")[0], re.S)[
        1:
    ]
    assert re.search(r"Клиенты, Маша\s*<br>.*memory:1 · main", row)
    assert '<td class="number">1,235</td>' in row
    assert '<td class="number">0</td>' in row
    shown = re.findall(r'datetime="([^"]+)"', row)
    assert [datetime.fromisoformat(at).timestamp() for at in shown] == [made_at]
    assert "none known" in empty


async def test_many_lists_are_cut_off_and_the_rest_is_told(admin: AdminBench) -> None:
    for number in range(LISTS_SHOWN + 1):
        id_ = await admin.bridge.store.lists.begin("main", "memory", f"List {number}", f"List {number}", 1.0)
        await admin.bridge.store.lists.finish(id_, f"memory:{number}", str(number), 1.0)
    section = (await admin.see()).section("lists")
    assert f"List {LISTS_SHOWN - 1} memory" in section
    assert f"List {LISTS_SHOWN} memory" not in section
    assert f"The first {LISTS_SHOWN} of {LISTS_SHOWN + 1}. All of them: planfix-bridge lists" in section


async def test_a_list_that_moves_says_so_and_where_it_lives_then(admin: AdminBench) -> None:
    await bring(admin, await new_list(admin), wire(1))
    store = admin.bridge.store
    [summary] = await store.lists.summaries()
    assert " at " not in (await admin.see()).section("lists")
    begun = await store.lists.begin("main", "memory2", "copy", "copy", 0.0, summary.mapped.id)
    await store.lists.finish(begun, None, "77", 0.0)
    copy = await store.lists.by_id(begun)
    await store.moves.begin(summary.mapped.id, copy.id)
    assert "memory:1 · main · is being moved" in (await admin.see()).section("lists")
    await store.moves.turn(summary.mapped, copy, 0.0)
    assert "memory:1 · main · at memory2" in (await admin.see()).section("lists")


async def test_a_list_without_a_name_is_told_as_such(admin: AdminBench) -> None:
    await admin.bridge.store.lists.adopt("main", "memory:7", "memory", "7", 1.0)
    assert "(made before this store) memory:7 · main" in (await admin.see()).section("lists")


# Problems and held removals


@pytest.mark.parametrize("language", LANGUAGES)
async def test_problems_have_their_planfix_id_reason_and_what_to_do(admin: AdminBench, language: str) -> None:
    list_id = await new_list(admin)
    admin.esp.special["p70011@x.test"] = Rejected(Reason.FORGOTTEN, "p70011@x.test is in compliance state")
    await bring(admin, list_id, wire(1), wire(70011))
    page = await admin.see(f"/?lang={language}")
    assert f"70011 {text('forgotten', language)} Клиенты · main" in page.section("problems")
    assert "p***@x*** is in compliance state" in page.section("problems")
    assert "@x.test" not in page.text
    assert 'href="#problems"' in page.text


async def test_many_problems_are_cut_off_and_the_rest_is_told(admin: AdminBench) -> None:
    list_id = await new_list(admin)
    people = [wire(number) for number in range(PROBLEMS_SHOWN + 1)]
    admin.esp.special |= {str(person["email"]): Rejected(Reason.FORGOTTEN) for person in people}
    await bring(admin, list_id, *people)
    page = await admin.see()
    assert page.section("problems").count(text("forgotten", "en")) == PROBLEMS_SHOWN
    assert f"The newest {PROBLEMS_SHOWN}. All of them: planfix-bridge problems" in page.section("problems")


async def test_a_list_that_could_not_be_deleted_is_a_problem_of_the_list(admin: AdminBench) -> None:
    list_id = await new_list(admin)
    admin.esp.script = [Refused(Reason.RIGHTS)]
    await admin.ask("deleteList", listId=list_id)
    await admin.until_delivered()
    assert f"(the list) {text('rights', 'en')}" in (await admin.see()).section("problems")


async def test_held_removals_are_told_with_the_command_that_lets_them_go(open_bench: Opener) -> None:
    admin = await open_bench(guard=Guard(removals_share=0.2, removals_free=1, within_s=3600.0))
    list_id = await new_list(admin)
    await bring(admin, list_id, *(wire(number) for number in range(5)))
    for number in range(4):
        await admin.ask("updateContact", listId=list_id, action="delete", contact=wire(number))
    admin.clock.advance(OLD_S + 1)
    page = await admin.see()
    assert "Removals wait for your decision: 3." in page.section("verdict")
    assert "have waited for longer" not in page.section("verdict")
    assert f"Клиенты planfix-bridge pending --release {list_id} 3" in page.section("held")
    assert "held: 3" in page.section("waiting")


# Charts


async def test_requests_and_contacts_are_counted_by_what_became_of_them(admin: AdminBench) -> None:
    list_id = await new_list(admin)
    admin.esp.out.add("p2@x.test")
    await bring(admin, list_id, wire(1), wire(2))
    await admin.ask("deleteList", "a wrong token")
    await admin.post(b"{")
    section = (await admin.see()).section("activity")
    assert "Done 2 2" in section
    assert "Wrong API key 1 1" in section
    assert "Not understood 1 1" in section
    assert "Delivered 1 1" in section
    assert "Opted out: stay without mail 1 1" in section
    assert "Failed" not in section, "what did not happen is left out"
    admin.clock.advance(2 * 3600)
    assert "Done 0 2" in (await admin.see()).section("activity")
    admin.clock.advance(24 * 3600)
    assert (await admin.see()).section("activity").count("None in the last day.") == 2


async def test_charts_say_what_they_cover_and_tell_it_in_words(admin: AdminBench) -> None:
    await new_list(admin)
    admin.clock.advance(90 * MINUTE_S)
    page = await admin.see()
    assert re.search(r"Counted by this process alone, since its start at .* \(2 hours ago\)", page.section("activity"))
    assert 'role="img" aria-label="Requests of Planfix. Last hour: 0"' in page.text
    assert 'aria-label="Requests of Planfix. Last day: 1, at most 1 in half an hour"' in page.text
    hour, day = re.findall(r'<rect class="unknown" width="([\d.]+)"', page.text)[:2]
    assert (float(hour), round(float(day))) == (0, 225), "240 units are a day: all but 90 minutes are unknown"


# Checks


async def test_the_button_checks_the_provider_and_shows_what_it_found(admin: AdminBench) -> None:
    advice = Message("Set key_refused to false.")
    admin.esp.findings = [
        Finding(True, Message("the API key works")),
        Finding(False, Message("Lists in use: %(count)s of %(most)s.", count=HOSTILE, most=5), advice),
    ]
    answer = await admin.check()
    assert (answer.status, answer.headers["Location"]) == (303, "/?lang=en#provider-memory")
    section = (await admin.see()).section("providers")
    assert "✓ the API key works" in section
    assert f"✗ Lists in use: {HOSTILE} of 5. → Set key_refused to false." in section
    assert "The last check of memory found something to mend." in (await admin.see()).section("verdict")
    assert "✗ Занято списков" in (await admin.see("/?lang=ru")).section("providers")
    admin.esp.findings = admin.esp.findings[:1]
    await admin.check()
    assert await is_well(admin)


async def test_a_check_of_a_service_that_is_down_is_a_finding(admin: AdminBench) -> None:
    admin.esp.script = [Transient("503")]
    await admin.check()
    assert "✗ does not answer: 503 → try again; look at" in (await admin.see()).section("providers")


async def test_a_check_that_finds_the_provider_well_makes_deliveries_go_on(admin: AdminBench) -> None:
    list_id = await new_list(admin)
    admin.esp.script = [AuthFailed("401")]
    assert "error" in await bring(admin, list_id, wire(1))
    await admin.clock.until_waiting()
    await admin.check()
    await admin.until_pending(0)  # without any time going by
    await admin.until(lambda: is_well(admin))


async def test_checks_that_are_asked_for_at_one_time_are_one(admin: AdminBench) -> None:
    checks = Checks(admin.bridge.providers, admin.bridge.couriers, admin.clock)
    admin.esp.open.clear()
    asking = [asyncio.create_task(checks.run("memory")) for _ in range(3)]
    await admin.esp.until_called("check")
    assert (await admin.see()).status == 200, "meanwhile the page answers"
    admin.esp.open.set()
    await asyncio.gather(*asking)
    assert [name for name, _ in admin.esp.calls].count("check") == 1
    await checks.run("memory")
    assert [name for name, _ in admin.esp.calls].count("check") == 2


async def test_the_language_stays_over_a_check(admin: AdminBench) -> None:
    assert (await admin.check(path="/check?lang=ru")).headers["Location"] == "/?lang=ru#provider-memory"


@pytest.mark.parametrize("provider", ["", "nobody", "../metrics", HOSTILE])
async def test_only_providers_of_the_settings_are_checked(admin: AdminBench, provider: str) -> None:
    answer = await admin.check(provider)
    assert answer.status == 404
    assert "There is no such provider in the settings." in answer.words


# Cross-site request forgery


@pytest.mark.parametrize("form", [{}, {"form_token": ""}, {"form_token": "x" * 43}, {"form_token": "жетон"}])
async def test_a_form_of_another_site_does_nothing(admin: AdminBench, form: dict[str, str]) -> None:
    answer = await admin.see("/check", "POST", {"provider": "memory", **form})
    assert answer.status == 403
    assert "This page is out of date" in answer.words
    assert admin.esp.calls == []


async def test_a_form_is_of_no_use_to_another_process(admin: AdminBench, open_bench: Opener) -> None:
    other = await open_bench()
    (form_token, *_) = re.findall(r'name="form_token" value="([^"]+)"', (await other.see()).text)
    answer = await admin.see("/check", "POST", {"provider": "memory", "form_token": form_token})
    assert answer.status == 403


async def test_reading_changes_nothing(admin: AdminBench) -> None:
    for path in ("/", "/check?provider=memory", "/readyz", "/metrics"):
        await admin.see(path)
    assert (await admin.see("/check?provider=memory")).status == 405
    assert admin.esp.calls == []


# What people and services write


async def test_names_are_text_and_never_markup(admin: AdminBench) -> None:
    await new_list(admin, HOSTILE)
    page = await admin.see()
    assert HOSTILE in page.section("lists")
    assert "<script" not in page.text
    assert "49" not in page.section("lists")


async def test_words_of_a_service_are_text_and_never_markup_nor_an_address(admin: AdminBench) -> None:
    list_id = await new_list(admin)
    admin.esp.special["p1@x.test"] = Rejected(Reason.CONTACT_REFUSED, f"masha@example.com {HOSTILE}")
    await bring(admin, list_id, wire(1))
    page = await admin.see()
    assert HOSTILE in page.section("problems")
    assert "<script" not in page.text
    assert "masha@" not in page.text


async def test_an_address_in_a_list_name_is_cut(admin: AdminBench) -> None:
    await new_list(admin, "For masha@example.com")
    page = await admin.see()
    assert "For m***@e***" in page.section("lists")
    assert "masha@example.com" not in page.text


async def test_no_address_is_on_the_page_whatever_waits(admin: AdminBench) -> None:
    list_id = await new_list(admin)
    await outage(admin, list_id)
    assert "x.test" not in (await admin.see()).text


# Errors


@pytest.mark.parametrize("path", ["/nowhere", "/static/", "/static/../app.py", "/static/%2e%2e/app.py", "//"])
async def test_what_is_not_there_is_told(admin: AdminBench, path: str) -> None:
    answer = await admin.see(path)
    assert answer.status in (403, 404)
    assert "This did not work" in answer.words


async def test_a_wrong_method_is_told(admin: AdminBench) -> None:
    answer = await admin.see("/", "POST")
    assert (answer.status, answer.headers["Allow"]) == (405, "GET,HEAD")
    assert "This address does not take this kind of request." in answer.words


async def test_a_form_that_is_too_large_is_refused(admin: AdminBench) -> None:
    answer = await admin.see("/check", "POST", {"provider": "x" * 100_000})
    assert answer.status == 413
    assert "The request is too large." in answer.words


async def test_a_store_that_cannot_be_read_is_told(admin: AdminBench, tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "bridge0.db") as connection:
        connection.execute("alter table lists rename to gone")
    connection.close()
    answer = await admin.see("/?lang=ru")
    assert answer.status == 503
    assert "Не удаётся прочитать хранилище: OperationalError" in answer.words
    assert "select" not in answer.words.lower()


async def test_a_fault_of_ours_is_logged_and_told_without_its_insides(
    admin: AdminBench, monkeypatch: pytest.MonkeyPatch, log_lines: list[MutableMapping[str, Any]]
) -> None:
    def fail() -> None:
        raise RuntimeError("secret insides")

    monkeypatch.setattr(admin.bridge.couriers, "health", fail)
    answer = await admin.see()
    assert answer.status == 500
    assert "The page could not be made. Look at the bridge's log." in answer.words
    assert "insides" not in answer.text
    assert log_lines[-1]["event"] == "status_page_broke_off"


# Languages


@pytest.mark.parametrize(
    ("accepted", "language"),
    [
        ("", "ru"),  # the bridge's own
        ("ru", "ru"),
        ("en", "en"),
        ("en-GB,en;q=0.9", "en"),
        ("de-DE, de;q=0.9, en;q=0.8, ru;q=0.7", "en"),
        ("fr, ru-RU;q=0.3", "ru"),
        ("en;q=0.1, RU;q=0.2", "ru"),
        ("en;q=0", "ru"),
        ("en;q=0, ru;q=0.5", "ru"),
        ("en;q=2", "ru"),
        ("*;q=1, en ;  q=0.5", "en"),
        (";;;,,q=1," + "," * 500, "ru"),
        ("englisch", "ru"),
    ],
)
async def test_the_language_is_what_the_browser_likes_best(open_bench: Opener, accepted: str, language: str) -> None:
    admin = await open_bench(language="ru")
    page = await admin.see(Accept_Language=accepted)
    assert f'<html lang="{language}">' in page.text


@pytest.mark.parametrize(("path", "language"), [("/?lang=ru", "ru"), ("/?lang=en", "en"), ("/?lang=xx", "en")])
async def test_the_link_to_another_language_wins(admin: AdminBench, path: str, language: str) -> None:
    page = await admin.see(path, Accept_Language="en")
    assert f'<html lang="{language}">' in page.text
    assert f'href="/?lang={language}" lang="{language}" hreflang="{language}" aria-current="true"' in page.text


async def test_errors_speak_the_readers_language(admin: AdminBench) -> None:
    assert "По этому адресу ничего нет." in (await admin.see("/nowhere", Accept_Language="ru")).words


async def test_a_russian_page_says_nothing_in_english(open_bench: Opener) -> None:
    admin = await open_bench(guard=Guard(removals_share=0.0, removals_free=0))
    list_id = await new_list(admin)
    admin.esp.special["p2@x.test"] = Rejected(Reason.INVALID_ADDRESS)
    await bring(admin, list_id, wire(1), wire(2))
    await admin.ask("updateContact", listId=list_id, action="delete", contact=wire(1))
    admin.esp.findings = [Finding(False, Message("the API key works"), Message("Delete lists in Planfix."))]
    await admin.check()
    admin.esp.script = [AuthFailed("401")]
    assert "error" in await bring(admin, list_id, wire(3))
    page = await admin.see("/?lang=ru")
    with (CATALOGS / "ru" / "LC_MESSAGES" / "bridge.po").open("rb") as file:
        english = {str(message.id) for message in read_po(file) if message.id and "%" not in message.id}
    assert "Требует внимания" in page.words
    assert [sentence for sentence in english if re.search(rf"\b{re.escape(sentence)}(?!\w)", page.words)] == []


# For everybody


class Outline(HTMLParser):
    """Collects what a screen reader finds its way by."""

    def __init__(self) -> None:
        super().__init__()
        self.headings: list[int] = []
        self.landmarks: list[str] = []
        self.ids: list[str] = []
        self.named: list[str] = []
        self.bare_headers = 0

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag in ("header", "nav", "main", "footer"):
            self.landmarks.append(tag)
        self.bare_headers += tag == "th" and "scope" not in found
        self.ids += [found["id"] or ""] if "id" in found else []
        self.named += [found["aria-labelledby"] or ""] if "aria-labelledby" in found else []


async def test_the_page_has_an_outline(admin: AdminBench) -> None:
    list_id = await new_list(admin)
    await bring(admin, list_id, wire(1))
    outline = Outline()
    outline.feed((await admin.see()).text)
    assert outline.landmarks == ["header", "nav", "main", "footer"]
    assert outline.headings[0] == 1
    assert outline.headings.count(1) == 1
    assert all(after <= before + 1 for before, after in zip(outline.headings, outline.headings[1:], strict=False))
    assert outline.bare_headers == 0
    assert len(set(outline.ids)) == len(outline.ids)
    assert set(outline.named) <= set(outline.ids)
