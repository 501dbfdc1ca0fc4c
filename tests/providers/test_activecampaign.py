"""ActiveCampaign: the kit's promises, and what is its own."""

import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from msgspec.structs import replace as replace_settings

from providers.activecampaign import ActiveCampaignProvider
from providers.activecampaign.provider import SINGLE_UP_TO
from providers.base import (
    BOUNCED,
    Contact,
    ContactRefused,
    Delivered,
    MemberState,
    OptedOut,
    Outcome,
    Postponed,
    Reason,
    Refused,
    Rejected,
    Transient,
)
from providers.testing import ProviderConformance
from tests.fakes.activecampaign import LIST_ID, ActiveCampaignHarness, activecampaign


@pytest.fixture
async def esp() -> AsyncIterator[ActiveCampaignHarness]:
    async with activecampaign() as harness:
        yield harness


class TestActiveCampaign(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: ActiveCampaignHarness) -> ActiveCampaignHarness:
        return esp


def people(count: int) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(count)]


MANY = SINGLE_UP_TO + 1


@pytest.fixture
async def list_id(esp: ActiveCampaignHarness) -> str:
    return await esp.provider.create_list("Клиенты")


def made(esp: ActiveCampaignHarness, calls: int) -> list[str]:
    """The calls behind the first `calls` ones: method and path, ids left out."""
    return [
        f"{call.method} {re.sub(r'[0-9]+', 'N', call.path.removeprefix('/api/3'))}" for call in esp.fake.calls[calls:]
    ]


async def test_the_calls_for_one_contact(esp: ActiveCampaignHarness, list_id: str) -> None:
    anna = Contact("1", "anna@post.test", "Анна")
    assert made(esp, 0) == ["POST /tags"]
    await esp.provider.upsert(list_id, people(1))  # looks for the field once, and makes it
    assert made(esp, 1)[:3] == ["GET /tags/N", "GET /fields", "POST /fields"]
    for calls in (
        ["POST /contact/sync", "GET /contacts/N/contactLists", "POST /contactLists", "POST /contactTags"],
        ["POST /contact/sync", "GET /contacts/N/contactLists", "POST /contactTags"],
    ):
        before = esp.calls()
        await esp.provider.upsert(list_id, [anna])
        assert made(esp, before) == ["GET /tags/N", *calls]
    before = esp.calls()
    await esp.provider.upsert(list_id, [replace(anna, address="new@post.test", old_address=anna.address)])
    assert made(esp, before) == [
        "GET /contacts", "GET /contacts/N/contactLists", "GET /contacts", "PUT /contacts/N",
        "GET /tags/N", "POST /contact/sync", "GET /contacts/N/contactLists", "POST /contactTags",
    ]  # fmt: skip
    before = esp.calls()
    await esp.provider.remove(list_id, [replace(anna, address="new@post.test")])
    assert made(esp, before) == ["GET /contacts", "GET /contacts/N/contactTags", "DELETE /contactTags/N"]


@pytest.mark.parametrize(("count", "calls"), [(1000, 4 * 3), (10_000, 40 * 3)])
async def test_an_import_takes_the_calls_that_the_docs_name(
    esp: ActiveCampaignHarness, list_id: str, count: int, calls: int
) -> None:
    esp.fake.job_looks = 1
    await esp.provider.upsert(list_id, people(1))
    before = esp.calls()
    await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(await esp.mailable(list_id)) == count


async def test_nothing_unsubscribes_anybody_but_what_keeps_people_out(esp: ActiveCampaignHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(MANY))
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    await esp.provider.remove(list_id, people(MANY))
    await esp.opt_out("p1@post.test")
    await esp.provider.upsert(list_id, [Contact("1", "also.new@post.test", old_address="p1@post.test")])
    statuses = [call.body["contactList"] for call in esp.fake.calls if call.path == "/api/3/contactLists"]
    kept_out = esp.fake.person("also.new@post.test")
    assert statuses == [{"list": LIST_ID, "contact": kept_out.id, "status": 2}]


async def test_who_is_removed_stays_subscribed_so_that_unsubscribed_is_the_persons_own_word(
    esp: ActiveCampaignHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(1))
    await esp.provider.remove(list_id, people(1))
    assert esp.fake.person("p0@post.test").lists == {LIST_ID: "1"}
    await esp.opt_out("p0@post.test")
    (outcome,) = await esp.provider.upsert(list_id, people(1))
    assert outcome == OptedOut("unsubscribed", "p0@post.test")


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("2", OptedOut("unsubscribed", "p0@post.test")),
        ("3", OptedOut(BOUNCED, "p0@post.test")),
        ("91", OptedOut("unsubscribed", "p0@post.test")),
        ("0", Delivered("p0@post.test")),
    ],
)
async def test_no_status_is_ever_made_active(
    esp: ActiveCampaignHarness, list_id: str, status: str, outcome: Outcome
) -> None:
    person = esp.fake.person("p0@post.test")
    person.lists[LIST_ID] = status
    assert await esp.provider.upsert(list_id, people(1)) == [outcome]
    assert person.lists == {LIST_ID: status}
    assert await esp.mailable(list_id) == {}


async def test_an_opt_out_is_seen_among_many_lists(esp: ActiveCampaignHarness, list_id: str) -> None:
    person = esp.fake.person("p0@post.test")
    person.lists = dict.fromkeys(range(1000, 1150), "1") | {LIST_ID: "2"}
    assert await esp.provider.upsert(list_id, people(1)) == [OptedOut("unsubscribed", "p0@post.test")]


async def test_members_are_told_with_their_states(esp: ActiveCampaignHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(MANY))
    for number, status in enumerate(["0", "2", "3"]):
        esp.fake.person(f"p{number}@post.test").lists[LIST_ID] = status
    del esp.fake.person("p3@post.test").lists[LIST_ID]  # taken off by hand: the tag alone is no membership
    members = {member.address: member async for member in esp.provider.members(list_id)}
    states = {member.id: member.state for member in members.values()}
    out = MemberState.OPTED_OUT
    assert {id_: states.pop(id_) for id_ in "012"} == {"0": MemberState.PENDING, "1": out, "2": out}
    assert states == dict.fromkeys((str(n) for n in range(4, MANY)), MemberState.SUBSCRIBED)


async def test_all_who_are_out_are_told_whatever_their_tag_and_why(esp: ActiveCampaignHarness) -> None:
    for number in range(250):
        esp.fake.person(f"p{number}@post.test").lists = {LIST_ID: "1"}
    hows = {"p0@post.test": "unsubscribed", "p120@post.test": BOUNCED, "p249@post.test": "unsubscribed"}
    for address, status in zip(hows, ["2", "3", "91"], strict=True):
        esp.fake.person(address).lists = {LIST_ID: status}
    esp.fake.person("p7@post.test").lists = {LIST_ID: "0"}
    esp.fake.person("elsewhere@post.test").lists = {LIST_ID + 1: "2"}
    before = esp.calls()
    assert {member.address: member.how async for member in esp.provider.kept_out()} == hows
    assert made(esp, before) == ["GET /fields", *["GET /contacts"] * 3]


async def test_members_without_their_lists_are_no_members_that_we_know_of(
    esp: ActiveCampaignHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(1))
    esp.fake.sideloads = False
    with pytest.raises(Transient, match="without their lists"):
        [member async for member in esp.provider.members(list_id)]


async def test_whom_an_import_could_not_take_goes_alone(esp: ActiveCampaignHarness, list_id: str) -> None:
    people_there = people(MANY)
    out, fine = people_there[1], people_there[2]
    await esp.opt_out(out.address)
    esp.fake.import_fails_for = {out.address, fine.address}
    bad = Contact("bad", esp.refused_address())
    outcomes = await esp.provider.upsert(list_id, [*people_there, bad])
    assert outcomes.pop(1) == OptedOut("unsubscribed", out.address)
    refused = outcomes.pop()
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.INVALID_ADDRESS
    assert {type(outcome) for outcome in outcomes} == {Delivered}
    assert len(await esp.mailable(list_id)) == MANY - 1


async def test_an_import_that_is_refused_for_a_row_is_halved_by_the_bridge(
    esp: ActiveCampaignHarness, list_id: str
) -> None:
    with pytest.raises(ContactRefused):
        await esp.provider.upsert(list_id, [*people(MANY), Contact("bad", "anna@nowhere")])
    assert await esp.mailable(list_id) == {}


@pytest.mark.parametrize("status", ["failed", "interrupted"])
async def test_an_import_that_does_not_end_well_is_halved_until_contacts_go_alone(
    esp: ActiveCampaignHarness, list_id: str, status: str
) -> None:
    esp.fake.job_status = status
    with pytest.raises(ContactRefused, match=status):
        await esp.provider.upsert(list_id, people(MANY))
    assert {type(outcome) for outcome in await esp.provider.upsert(list_id, people(SINGLE_UP_TO))} == {Delivered}


async def test_who_may_still_be_put_on_the_list_is_not_removed_too_early(
    esp: ActiveCampaignHarness, list_id: str
) -> None:
    esp.fake.job_looks = 1_000_000
    with pytest.raises(Transient, match="not done"):
        await esp.provider.upsert(list_id, people(MANY))
    by_id = Contact("0", "", provider_contact_id="p0@post.test")
    moved = Contact("0", "new@post.test", provider_contact_id="p0@post.test", id_is_old=True)
    for outcomes in (
        await esp.provider.remove(list_id, people(1)),
        await esp.provider.remove(list_id, [by_id]),
        await esp.provider.upsert(list_id, [moved]),
    ):
        assert [type(outcome) for outcome in outcomes] == [Postponed]


async def test_too_many_imports_are_waited_for(esp: ActiveCampaignHarness, list_id: str) -> None:
    esp.fake.imports_limited = True
    with pytest.raises(Transient, match="Rate limit"):
        await esp.provider.upsert(list_id, people(MANY))


async def test_a_tag_that_differs_in_case_only_is_taken(esp: ActiveCampaignHarness) -> None:
    await esp.make_list("КЛИЕНТЫ")
    with pytest.raises(Refused) as refused:
        await esp.provider.create_list("Клиенты")
    assert refused.value.reason is Reason.NAME_TAKEN
    assert await esp.provider.find_list("Клиенты") is None


async def test_a_tag_of_templates_is_no_list(esp: ActiveCampaignHarness) -> None:
    esp.fake.template_tags = {7: "Клиенты"}
    assert await esp.provider.find_list("Клиенты") is None


def test_commas_leave_list_names(esp: ActiveCampaignHarness) -> None:
    assert esp.provider.list_name("Клиенты, Москва,Анна", 2) == "Клиенты Москва Анна (2)"


@pytest.mark.parametrize("address", ["new@refused.test", "p1@post.test"])
async def test_an_address_that_the_service_will_not_give_leaves_the_old_one(
    esp: ActiveCampaignHarness, list_id: str, address: str
) -> None:
    await esp.provider.upsert(list_id, people(1))
    await esp.provider.upsert(list_id, [Contact("0", address, old_address="p0@post.test")])
    assert "p0@post.test" not in await esp.mailable(list_id)


async def test_an_opt_out_moves_to_an_address_that_the_service_does_not_take(
    esp: ActiveCampaignHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(2))
    await esp.opt_out("p0@post.test")
    outcomes = await esp.provider.upsert(
        list_id, [Contact("0", esp.refused_address(), old_address="p0@post.test"), *people(2)[1:]]
    )
    assert [type(outcome) for outcome in outcomes] == [OptedOut, Delivered]


async def test_a_page_of_another_server_is_no_answer_of_activecampaign(esp: ActiveCampaignHarness) -> None:
    """A wrong URL answers 404 to everything: that is not "the list is gone", and nothing may be given up for it."""
    settings = replace_settings(esp.provider.settings, base_url=f"{esp.fake.base_url}/elsewhere")
    async with ActiveCampaignProvider(settings) as elsewhere:
        for work in (
            elsewhere.upsert("1", people(1)),
            elsewhere.remove("1", people(1)),
            elsewhere.delete_list("1"),
            elsewhere.find_list("Клиенты"),
            elsewhere.check(),
        ):
            with pytest.raises(Transient):
                await work


async def test_a_check_misses_the_list_of_the_settings(esp: ActiveCampaignHarness) -> None:
    esp.fake.lists.clear()
    key, wrong = await esp.provider.check()
    assert (key.ok, wrong.ok) == (True, False)
    assert str(wrong.text) == "there is no list 3: nobody could be subscribed"
    assert "listid=" in str(wrong.advice)
