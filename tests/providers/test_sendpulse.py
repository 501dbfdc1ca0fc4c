"""SendPulse: the kit's promises, and what is its own."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from msgspec.structs import replace as replace_settings

from providers.base import (
    BOUNCED,
    AuthFailed,
    Contact,
    ContactRefused,
    Delivered,
    MemberState,
    OptedOut,
    Outcome,
    Rejected,
    Secret,
)
from providers.sendpulse import SendPulseProvider, SendPulseSettings
from providers.testing import ProviderConformance
from tests.fakes.sendpulse import (
    BROKEN,
    OUT,
    OUT_OF_ALL,
    TOKEN_PATH,
    WAITING,
    SendPulseHarness,
    sendpulse,
    sendpulse_spec,
)


@pytest.fixture
async def esp() -> AsyncIterator[SendPulseHarness]:
    async with sendpulse() as harness:
        yield harness


class TestSendPulse(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: SendPulseHarness) -> SendPulseHarness:
        return esp


def people(count: int) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(count)]


@pytest.fixture
async def list_id(esp: SendPulseHarness) -> str:
    return await esp.provider.create_list("Клиенты")


def made(esp: SendPulseHarness, calls: int) -> list[str]:
    """The calls behind the first `calls` ones: method and path, ids left out."""
    return [f"{call.method} {re.sub('[0-9]+', 'N', call.path)}" for call in esp.fake.calls[calls:]]


async def kept_out(esp: SendPulseHarness) -> set[str]:
    return {member.address async for member in esp.provider.kept_out()}


LOOK, ADD, REMOVE = "POST /emails", "POST /addressbooks/N/emails", "DELETE /addressbooks/N/emails"


async def test_the_calls_for_one_contact(esp: SendPulseHarness, list_id: str) -> None:
    anna = Contact("1", "anna@post.test", "Анна")
    for calls in ([LOOK, ADD, LOOK], [LOOK, ADD]):
        before = esp.calls()
        await esp.provider.upsert(list_id, [anna])
        assert made(esp, before) == calls
    before = esp.calls()
    await esp.provider.upsert(list_id, [replace(anna, address="new@post.test", old_address=anna.address)])
    assert made(esp, before) == ["GET /blacklist", LOOK, LOOK, ADD, LOOK, LOOK, REMOVE]
    before = esp.calls()
    await esp.provider.remove(list_id, [replace(anna, address="new@post.test")])
    assert made(esp, before) == [LOOK, REMOVE]


@pytest.mark.parametrize(("count", "new", "known"), [(1000, 22, 12), (10_000, 220, 120)])
async def test_an_import_takes_the_calls_that_the_docs_name(
    esp: SendPulseHarness, list_id: str, count: int, new: int, known: int
) -> None:
    if count > 1000:
        esp.fake.spec = None  # the same shapes again
    contacts = people(count)
    before = esp.calls()
    await esp.provider.upsert(list_id, contacts)
    assert esp.calls() - before == new
    assert len(await esp.mailable(list_id)) == count
    if count == 1000:
        before = esp.calls()
        await esp.provider.upsert(list_id, contacts)
        assert esp.calls() - before == known


async def test_a_thousand_removals_take_twenty_calls(esp: SendPulseHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1000))
    before = esp.calls()
    await esp.provider.remove(list_id, people(1000))
    assert esp.calls() - before == 20
    assert await esp.mailable(list_id) == {}


async def test_a_removal_leaves_who_unsubscribed_in_the_book_for_it_would_forget_them(
    esp: SendPulseHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(3))
    await esp.opt_out("p1@post.test")
    outcomes = await esp.provider.remove(list_id, people(3))
    assert [type(outcome) for outcome in outcomes] == [Delivered, OptedOut, Delivered]
    assert {entry.email: entry.status for entry in esp.fake.entries[int(list_id)].values()} == {"p1@post.test": OUT}


@pytest.mark.parametrize(
    ("status", "in_this_book", "outcome"),
    [
        (OUT, True, OptedOut("unsubscribed", "p0@post.test")),
        (5, True, OptedOut("unsubscribed", "p0@post.test")),
        (OUT_OF_ALL, True, OptedOut("unsubscribed", "p0@post.test")),
        (OUT_OF_ALL, False, OptedOut("unsubscribed", "p0@post.test")),
        (BROKEN, True, OptedOut(BOUNCED, "p0@post.test")),
        (BROKEN, False, Delivered("p0@post.test")),
        (OUT, False, Delivered("p0@post.test")),
        (WAITING, True, Delivered("p0@post.test")),
    ],
)
async def test_who_is_added_depends_on_the_status(
    esp: SendPulseHarness, list_id: str, status: int, in_this_book: bool, outcome: Outcome
) -> None:
    book = list_id if in_this_book else await esp.make_list("Другой")
    esp.fake.entry(book, "p0@post.test").status = status
    assert await esp.provider.upsert(list_id, people(1)) == [outcome]
    assert esp.fake.entry(book, "p0@post.test").status == status
    assert (ADD in made(esp, 0)) is (not in_this_book and isinstance(outcome, Delivered))


async def test_an_opt_out_moves_to_the_blacklist_under_the_new_address_and_from_there_on(
    esp: SendPulseHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(1))
    await esp.opt_out("p0@post.test")
    for old, new in [("p0@post.test", "new@post.test"), ("new@post.test", "newer@post.test")]:
        assert await esp.provider.upsert(list_id, [Contact("0", new, old_address=old)]) == [OptedOut("unsubscribed")]
    assert esp.fake.blacklist == {"new@post.test", "newer@post.test"}


async def test_who_unsubscribed_from_a_book_that_is_deleted_stays_out_of_the_next_one(
    esp: SendPulseHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(300))
    for number, status in enumerate([OUT, 5, OUT_OF_ALL, BROKEN, WAITING]):
        esp.fake.entry(list_id, f"p{number}@post.test").status = status
    before = esp.calls()
    await esp.provider.delete_list(list_id)
    assert made(esp, before) == ["GET /addressbooks/N/emails", "POST /blacklist", "DELETE /addressbooks/N"]
    assert esp.fake.blacklist == {"p0@post.test", "p1@post.test", "p2@post.test"}
    again = await esp.provider.create_list("Клиенты")
    await esp.provider.upsert(again, people(5))
    assert set(await esp.mailable(again)) == {"p3@post.test", "p4@post.test"}


async def test_an_address_with_a_comma_puts_nobody_else_on_the_blacklist(esp: SendPulseHarness, list_id: str) -> None:
    await esp.provider.keep_out(list_id, [Contact("1", "anna@post.test,ivan@post.test"), Contact("2", "b@post.test")])
    assert esp.fake.blacklist == {"b@post.test"}


async def test_members_are_told_with_their_states(esp: SendPulseHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(250))
    for number, status in enumerate([WAITING, OUT, OUT_OF_ALL, BROKEN]):
        esp.fake.entry(list_id, f"p{number}@post.test").status = status
    esp.fake.blacklist = {"p4@post.test"}
    esp.fake.entry(list_id, "by.hand@post.test")
    members = [member async for member in esp.provider.members(list_id)]
    assert len(members) == 251
    out = MemberState.OPTED_OUT
    assert [member.state for member in members[:6]] == [MemberState.PENDING, out, out, out, out, MemberState.SUBSCRIBED]
    assert (members[-1].id, members[-1].first_name) == (None, "")


async def test_a_bounce_is_told_as_one_unless_the_person_is_on_the_blacklist_too(
    esp: SendPulseHarness, list_id: str
) -> None:
    for number, status in enumerate([BROKEN, BROKEN, OUT]):
        esp.fake.entry(list_id, f"p{number}@post.test").status = status
    esp.fake.blacklist = {"p1@post.test"}
    told = [(member.state, member.how) async for member in esp.provider.members(list_id)]
    assert told == [(MemberState.OPTED_OUT, how) for how in (BOUNCED, "unsubscribed", "unsubscribed")]


async def test_the_blacklist_and_who_is_out_of_all_books_are_told(esp: SendPulseHarness, list_id: str) -> None:
    other, gone = await esp.make_list("Другой"), await esp.make_list("Третий")
    for number in range(150):
        esp.fake.entry(other, f"p{number}@post.test").status = OUT_OF_ALL
    for number, status in enumerate([WAITING, OUT, BROKEN], 200):  # of one book
        esp.fake.entry(list_id, f"p{number}@post.test").status = status
    esp.fake.blacklist = {"black@post.test"}
    hold = esp.fake.hold(f"/addressbooks/{gone}/emails")
    reading = asyncio.create_task(kept_out(esp))
    await hold.reached.wait()
    esp.fake.drop_book(int(gone))
    hold.release(act=True)
    assert await reading == {"black@post.test", *(f"p{number}@post.test" for number in range(150))}
    emails = "GET /addressbooks/N/emails"
    assert made(esp, 1) == ["GET /blacklist", "GET /addressbooks", *[emails] * 4]


@pytest.mark.parametrize(("looks", "outcome"), [(2, Delivered), (99, Rejected)])
async def test_an_address_that_is_not_seen_at_once_is_looked_for_again(
    esp: SendPulseHarness, list_id: str, looks: int, outcome: type[Outcome]
) -> None:
    esp.fake.looks_until_seen = looks
    assert [type(told) for told in await esp.provider.upsert(list_id, people(2))] == [outcome] * 2


async def test_who_is_left_out_for_the_blacklist_has_opted_out(esp: SendPulseHarness, list_id: str) -> None:
    esp.fake.blacklist = {"p0@post.test"}
    esp.fake.looks_until_seen = 99
    opted_out, refused = await esp.provider.upsert(list_id, people(2))
    assert opted_out == OptedOut("unsubscribed", "p0@post.test")
    assert isinstance(refused, Rejected)


async def test_a_refused_addition_is_halved_by_the_bridge(esp: SendPulseHarness, list_id: str) -> None:
    esp.fake.refuses_additions = True
    with pytest.raises(ContactRefused):
        await esp.provider.upsert(list_id, people(2))


async def test_who_was_removed_by_hand_meanwhile_is_removed(esp: SendPulseHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    hold = esp.fake.hold("DELETE")
    removing = asyncio.create_task(esp.provider.remove(list_id, people(1)))
    await hold.reached.wait()
    esp.fake.entries[int(list_id)].clear()
    hold.release(act=True)
    assert await removing == [Delivered("p0@post.test")]


async def test_names_go_into_the_variables_of_the_settings(esp: SendPulseHarness, list_id: str) -> None:
    settings = replace_settings(esp.provider.settings, first_name="имя", last_name="фамилия")
    async with SendPulseProvider(settings) as provider:
        await provider.upsert(list_id, [Contact("7", "anna@post.test", "Анна", "Иванова")])
        (member,) = [member async for member in provider.members(list_id)]
    variables = {"planfix_id": "7", "имя": "Анна", "фамилия": "Иванова"}
    assert esp.fake.entry(list_id, "anna@post.test").variables == variables
    assert (member.id, member.first_name, member.last_name) == ("7", "Анна", "Иванова")


async def test_a_check_tells_lists_that_sendpulse_holds_and_a_full_plan(esp: SendPulseHarness) -> None:
    held = await esp.make_list("Held")
    await esp.make_list("Клиенты")
    esp.fake.held_books = {int(held)}
    esp.fake.plan = {"maximum_subscribers": 500, "current_subscribers": 500}
    lists, plan = await esp.provider.check()
    assert (lists.ok, str(lists.text)) == (False, "SendPulse sends nothing to these lists: Held")
    assert (plan.ok, str(plan.text)) == (False, "500 subscribers of the 500 that the plan allows")
    esp.fake.plan = {}
    assert (await esp.provider.check())[1].ok


async def test_a_token_is_fetched_once_and_again_when_it_has_ended() -> None:
    async with sendpulse(oauth=True) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.provider.upsert(list_id, people(3))
        tokens = [call for call in esp.fake.calls if call.path == TOKEN_PATH]
        assert len(tokens) == 1
        esp.fake.token = "another"
        assert await esp.provider.find_list("Клиенты") == list_id
        assert len([call for call in esp.fake.calls if call.path == TOKEN_PATH]) == 2
        assert esp.violations() == []


async def test_a_wrong_secret_is_a_matter_of_the_key() -> None:
    async with sendpulse(oauth=True) as esp:
        wrong = replace_settings(esp.provider.settings, client_secret=Secret("wrong"))
        async with SendPulseProvider(wrong) as provider:
            with pytest.raises(AuthFailed):
                await provider.find_list("Клиенты")
            (finding,) = await provider.check()
            assert (finding.ok, bool(finding.advice)) == (False, True)


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"client_id": "id"},
        {"client_secret": Secret("s")},
        {"api_key": Secret("k"), "client_id": "id"},
        {"api_key": Secret("k"), "client_id": "id", "client_secret": Secret("s")},
    ],
)
def test_the_settings_hold_one_way_to_sign_in(given: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="either `api_key`"):
        SendPulseSettings(**given)


@pytest.mark.parametrize(
    "body",
    [b'{"emails": {"email": "a@post.test"}}', b'{"emails": ["a@post.test"]}', b'{"emails": [], "tags": [1]}', b"{}"],
)
def test_the_mended_description_still_refuses_what_is_wrong(body: bytes) -> None:
    described = sendpulse_spec()
    if described is None:
        pytest.skip("the description of SendPulse is not here")
    assert described.faults("POST", "/addressbooks/1/emails", {}, {"Content-Type": "application/json"}, body)


async def test_one_whom_no_book_has_hides_no_opt_out_of_another() -> None:
    async with sendpulse(refuses_unknown=True) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.provider.upsert(list_id, people(2))
        await esp.opt_out(people(2)[1].address)
        outcomes = await esp.provider.upsert(list_id, people(3))
        assert [type(outcome) for outcome in outcomes] == [Delivered, OptedOut, Delivered]
