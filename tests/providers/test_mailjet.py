"""Mailjet: the kit's promises, and what is its own."""

from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from aiohttp import web

from providers.base import (
    AuthFailed,
    Contact,
    ContactRefused,
    Delivered,
    MemberState,
    OptedOut,
    Postponed,
    Reason,
    Refused,
    Rejected,
    Transient,
)
from providers.mailjet.provider import READ_FOR_MORE_THAN, SINGLE_UP_TO
from providers.testing import ProviderConformance
from tests.fakes.mailjet import MailjetHarness, mailjet, refused

MANY = SINGLE_UP_TO + 1


@pytest.fixture
async def esp() -> AsyncIterator[MailjetHarness]:
    async with mailjet() as harness:
        yield harness


@pytest.fixture
async def list_id(esp: MailjetHarness) -> str:
    return await esp.provider.create_list("Клиенты")


def people(count: int) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(count)]


class TestMailjet(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: MailjetHarness) -> MailjetHarness:
        return esp


# Calls


@pytest.mark.parametrize(("count", "calls"), [(1, 1), (1000, 2), (20_000, 8)])
async def test_an_import_takes_the_calls_that_the_docs_name(
    esp: MailjetHarness, list_id: str, count: int, calls: int
) -> None:
    await esp.provider.upsert(list_id, people(1))  # looks at the properties once
    before = esp.calls()
    await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(await esp.mailable(list_id)) == count


@pytest.mark.parametrize(("count", "calls"), [(1, 2), (1000, 5)])
async def test_a_removal_takes_the_calls_that_the_docs_name(
    esp: MailjetHarness, list_id: str, count: int, calls: int
) -> None:
    await esp.provider.upsert(list_id, people(1000))
    before = esp.calls()
    await esp.provider.remove(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(await esp.mailable(list_id)) == 1000 - count


async def test_a_changed_address_takes_five_calls(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    before = esp.calls()
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert esp.calls() - before == 5


# What is sent


async def test_nothing_is_sent_that_could_subscribe_somebody_again(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(MANY))
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    await esp.opt_out("p1@post.test")
    await esp.provider.upsert(list_id, [Contact("1", "also.new@post.test", old_address="p1@post.test")])
    await esp.provider.remove(list_id, people(MANY))
    bodies = [call.body for call in esp.fake.calls if isinstance(call.body, dict)]
    assert {body["Action"] for body in bodies if "Action" in body} == {"addnoforce", "remove"}
    told = [body for body in bodies if "IsExcludedFromCampaigns" in str(body)]
    assert told == [{"Contacts": [{"Email": "also.new@post.test", "IsExcludedFromCampaigns": True}]}]


async def test_an_empty_name_clears_its_property_and_one_that_is_not_told_leaves_it(
    esp: MailjetHarness, list_id: str
) -> None:
    person = esp.fake.person("anna@post.test")
    await esp.provider.upsert(list_id, [Contact("1", "anna@post.test", "Анна", "Иванова")])
    assert person.name == "Анна Иванова"
    await esp.provider.upsert(list_id, [Contact("1", "anna@post.test", None, "")])
    assert (person.name, person.properties) == ("Анна Иванова", {"firstname": "Анна", "planfix_id": "1"})


async def test_properties_are_made_once_and_those_of_the_settings_are_used(list_id: str, esp: MailjetHarness) -> None:
    for _ in range(2):
        await esp.provider.upsert(list_id, people(2))
    made = [call.body for call in esp.fake.calls if call.path.endswith("/contactmetadata") and call.body]
    assert made == [
        {"Name": name, "Datatype": "str", "NameSpace": "static"} for name in ("firstname", "lastname", "planfix_id")
    ]
    assert {member.id async for member in esp.provider.members(list_id)} == {"0", "1"}


@pytest.mark.parametrize("count", [1, MANY])
async def test_a_property_that_somebody_deleted_is_made_again_and_nobody_is_refused_for_it(
    esp: MailjetHarness, list_id: str, count: int
) -> None:
    await esp.provider.upsert(list_id, people(1))
    del esp.fake.properties["planfix_id"]
    esp.fake.refuses_whole = True
    with pytest.raises(Transient, match="is gone"):
        await esp.provider.upsert(list_id, people(count))
    assert {type(outcome) for outcome in await esp.provider.upsert(list_id, people(count))} == {Delivered}


# Opt-outs


@pytest.mark.parametrize("others", [0, READ_FOR_MORE_THAN])
async def test_who_unsubscribed_stays_on_the_list_with_the_mark(esp: MailjetHarness, list_id: str, others: int) -> None:
    contacts = people(1 + others)
    await esp.provider.upsert(list_id, contacts)
    await esp.opt_out(contacts[0].address)
    out, *told = await esp.provider.remove(list_id, contacts)
    assert isinstance(out, OptedOut)
    assert {type(outcome) for outcome in told} <= {Delivered}
    (recipient,) = esp.fake.lists[int(list_id)].recipients.items()
    assert recipient == (esp.fake.person(contacts[0].address).id, True)


async def test_who_is_excluded_leaves_the_list_for_the_mark_is_the_contacts(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    esp.fake.person("p0@post.test").excluded = True
    await esp.provider.remove(list_id, people(1))
    assert esp.fake.lists[int(list_id)].recipients == {}
    assert esp.fake.person("p0@post.test").excluded


async def test_who_unsubscribed_from_a_deleted_list_is_not_on_the_next_one(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(3))
    await esp.opt_out("p1@post.test")
    await esp.provider.delete_list(list_id)
    again = await esp.provider.create_list("Клиенты снова")
    await esp.provider.upsert(again, people(3))
    assert set(await esp.mailable(again)) == {"p0@post.test", "p2@post.test"}


async def test_a_list_of_which_nobody_unsubscribed_is_deleted_in_two_calls(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(3))
    before = esp.calls()
    await esp.provider.delete_list(list_id)
    assert esp.calls() - before == 2


async def test_a_complaint_holds_for_a_new_address(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    esp.fake.person("p0@post.test").complained = True
    (outcome,) = await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert outcome == OptedOut("complained")
    assert esp.fake.person("new@post.test").excluded


async def test_members_show_who_is_out_in_each_way(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(4))
    await esp.opt_out("p0@post.test")
    esp.fake.person("p1@post.test").excluded = True
    esp.fake.person("p2@post.test").complained = True
    told = {member.address[:2]: member async for member in esp.provider.members(list_id)}
    out = {address: member.how for address, member in told.items() if member.state is MemberState.OPTED_OUT}
    assert out == {"p0": "unsubscribed", "p1": "excluded", "p2": "complained"}
    assert told["p3"].state is MemberState.SUBSCRIBED


async def test_listings_whose_pages_are_short_are_read_to_the_end(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(7))
    for number in range(3):
        await esp.opt_out(f"p{number}@post.test")
    esp.fake.page_max = 2
    members = [member async for member in esp.provider.members(list_id)]
    assert len(members) == 7
    assert [member.state for member in members].count(MemberState.OPTED_OUT) == 3
    assert {member.id for member in members} == {str(number) for number in range(7)}


async def test_whom_the_account_sends_nothing_is_told_from_all_pages(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(7))
    await esp.opt_out("p1@post.test")  # of the list, where they stay
    esp.fake.person("p0@post.test").complained = True
    esp.fake.person("on.no.list@post.test").excluded = True
    esp.fake.page_max = 2
    told = {member.address: member.how async for member in esp.provider.kept_out()}
    assert told == {"p0@post.test": "complained", "on.no.list@post.test": "excluded"}


# Jobs


async def test_the_report_of_a_job_names_who_was_refused(esp: MailjetHarness, list_id: str) -> None:
    *told, last = await esp.provider.upsert(list_id, [*people(MANY), Contact("bad", esp.refused_address())])
    assert {type(outcome) for outcome in told} == {Delivered}
    assert isinstance(last, Rejected)
    assert last.reason is Reason.INVALID_ADDRESS


async def test_a_call_that_is_refused_for_one_contact_is_halved(esp: MailjetHarness, list_id: str) -> None:
    esp.fake.refuses_whole = True
    with pytest.raises(ContactRefused):
        await esp.provider.upsert(list_id, [*people(MANY), Contact("bad", esp.refused_address())])


@pytest.mark.parametrize(
    "spoilt",
    [
        {"Status": "Error", "Error": "something"},
        {"Status": "Abort"},
        {"Status": "Completed", "Error": "2 rows in error"},
    ],
)
async def test_a_job_that_fails_and_names_nobody_is_halved(
    esp: MailjetHarness, list_id: str, spoilt: dict[str, str]
) -> None:
    esp.fake.spoilt = spoilt
    with pytest.raises(ContactRefused, match=spoilt["Status"]):
        await esp.provider.upsert(list_id, people(MANY))


async def test_a_removal_whose_job_fails_is_repeated(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(MANY))
    esp.fake.spoilt = {"Status": "Error", "Error": "something"}
    with pytest.raises(Transient, match="something"):
        await esp.provider.remove(list_id, people(MANY))


@pytest.mark.parametrize("count", [1, MANY])
async def test_a_list_that_is_deleted_in_the_middle_of_a_removal_is_success(
    esp: MailjetHarness, list_id: str, count: int
) -> None:
    await esp.provider.upsert(list_id, people(count))
    found = await esp.provider.look_up(list_id, people(count))
    await esp.drop_list(list_id)
    await esp.provider.take_off(list_id, [one for one in found if one is not None])
    assert esp.violations() == []


async def test_an_opt_out_that_cannot_be_set_is_no_success(esp: MailjetHarness, list_id: str) -> None:
    esp.fake.spoilt = {"Status": "Error", "Error": "something"}
    with pytest.raises(ContactRefused):
        await esp.provider.keep_out(list_id, people(1))


@pytest.mark.parametrize("count", [1, MANY])
async def test_the_limit_of_the_plan_is_told(esp: MailjetHarness, list_id: str, count: int) -> None:
    esp.fake.free_contacts = 0
    with pytest.raises(Refused) as full:
        await esp.provider.upsert(list_id, people(count))
    assert full.value.reason is Reason.PLAN_LIMIT
    assert not isinstance(full.value, ContactRefused)


@pytest.mark.parametrize("count", [1, MANY])
async def test_a_list_that_is_gone_says_so(esp: MailjetHarness, list_id: str, count: int) -> None:
    await esp.drop_list(list_id)
    with pytest.raises(Refused) as gone:
        await esp.provider.upsert(list_id, people(count))
    assert gone.value.reason is Reason.LIST_GONE


async def test_who_may_still_be_put_on_the_list_is_not_removed_too_early(esp: MailjetHarness, list_id: str) -> None:
    esp.fake.job_looks = 1_000_000
    with pytest.raises(Transient, match="not done"):
        await esp.provider.upsert(list_id, people(MANY))
    (outcome,) = await esp.provider.remove(list_id, people(1))
    assert isinstance(outcome, Postponed)


# Errors and check


async def test_a_deleted_list_that_still_shows_is_none_and_keeps_its_name(esp: MailjetHarness, list_id: str) -> None:
    await esp.provider.delete_list(list_id)
    assert await esp.provider.find_list("Клиенты") is None
    with pytest.raises(Refused) as taken:
        await esp.provider.create_list("Клиенты")
    assert taken.value.reason is Reason.NAME_TAKEN


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        (web.Response(status=401), AuthFailed),
        (refused(401, "Unauthorized"), AuthFailed),
        (refused(401, "Internal error: List address is automatically generated"), Refused),
        (refused(401, 'Internal error: MJ19 Setting a value for property "UnsubscribedAt" is not allowed'), Refused),
        (refused(500, "An Unexpected Error occurred"), Transient),
        (refused(429, "Too many requests"), Transient),
    ],
)
async def test_only_a_401_that_is_no_error_inside_means_the_key(
    esp: MailjetHarness, monkeypatch: pytest.MonkeyPatch, answer: web.Response, kind: type[Exception]
) -> None:
    monkeypatch.setattr(esp.fake, "error", lambda *_: answer)
    monkeypatch.setattr("tests.fakes.mailjet._AUTHORIZATION", "another")
    with pytest.raises(kind):
        await esp.provider.create_list("Клиенты")


async def test_a_check_tells_what_will_be_made(esp: MailjetHarness, list_id: str) -> None:
    texts = [str(finding.text) for finding in await esp.provider.check()]
    assert texts == [
        "the API key works; the account has 1 lists",
        "contact properties: missing firstname, lastname, planfix_id; made with the first contact",
    ]
    await esp.provider.upsert(list_id, people(1))
    assert str((await esp.provider.check())[1].text) == "contact properties: there"
    assert [one.value for one in (await esp.provider.choices())["last_name"]] == ["country", "firstname", "lastname"]


async def test_an_opt_out_is_seen_whatever_number_of_lists_somebody_is_on(esp: MailjetHarness, list_id: str) -> None:
    (anna,) = people(1)
    others = [await esp.provider.create_list(f"Список {number}") for number in range(12)]
    for one in [*others, list_id]:
        await esp.provider.upsert(one, [anna])
    last = others[-1]
    await esp.opt_out(anna.address)
    moved = replace(anna, address="new@post.test", old_address=anna.address)
    (outcome,) = await esp.provider.upsert(last, [moved])
    assert isinstance(outcome, OptedOut)
    esp.fake.page_max = 2
    with pytest.raises(Transient, match="not all lists"):
        await esp.provider.upsert(last, [replace(moved, address="newer@post.test")])
    assert await esp.mailable(last) == {}
