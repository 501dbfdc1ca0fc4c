"""HubSpot: the kit's promises, and what is its own."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest

from providers.base import (
    Contact,
    ContactRefused,
    Delivered,
    MemberState,
    OptedOut,
    Postponed,
    Reason,
    Rejected,
)
from providers.hubspot.records import PLANFIX_ID
from providers.testing import ProviderConformance
from providers.testing.base import upsert
from providers.testing.opt_outs import OptOutPromises
from tests.fakes.hubspot import ALL, MARKETING, NEWS, HubSpotHarness, Record, hubspot


@pytest.fixture
async def esp() -> AsyncIterator[HubSpotHarness]:
    async with hubspot() as harness:
        yield harness


class TestHubSpot(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: HubSpotHarness) -> HubSpotHarness:
        return esp


class TestOptOutsOfOneType(OptOutPromises):
    """The promises hold as well for who unsubscribes from one kind of mail."""

    @pytest.fixture
    def esp(self, esp: HubSpotHarness) -> HubSpotHarness:
        esp.opts_out_of = MARKETING
        return esp


def people(count: int) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(count)]


@pytest.fixture
async def list_id(esp: HubSpotHarness) -> str:
    return await esp.provider.create_list("Клиенты")


def made(esp: HubSpotHarness, calls: int) -> list[str]:
    """The calls behind the first `calls` ones: method and the end of the path."""
    short = [re.sub(r"[^/]+@[^/]+|\d{3,}", "N", call.path) for call in esp.fake.calls[calls:]]
    return [
        f"{call.method} {'/'.join(path.split('/')[-2:])}"
        for call, path in zip(esp.fake.calls[calls:], short, strict=True)
    ]


async def test_the_calls_for_one_contact(esp: HubSpotHarness, list_id: str) -> None:
    anna = Contact("1", "anna@post.test", "Анна")
    await esp.provider.upsert(list_id, people(1))  # looks for the property once, and makes it
    assert made(esp, 1) == [
        "GET contacts/planfix_id",
        "POST properties/contacts",
        "POST batch/upsert",
        "PUT memberships/add",
    ]
    before = esp.calls()
    await esp.provider.upsert(list_id, [anna])
    assert made(esp, before) == ["POST batch/upsert", "PUT memberships/add"]
    before = esp.calls()
    await esp.provider.upsert(list_id, [replace(anna, address="new@post.test", old_address=anna.address)])
    look = ["POST batch/read", "GET N/unsubscribe-all", "GET statuses/N"]
    assert made(esp, before) == [*look, *look, "PATCH contacts/N", "POST batch/upsert", "PUT memberships/add"]
    before = esp.calls()
    await esp.provider.remove(list_id, [replace(anna, address="new@post.test")])
    assert made(esp, before) == ["POST batch/read", "PUT memberships/remove"]


@pytest.mark.parametrize(("count", "calls"), [(1000, 11), (10_000, 110)])
async def test_an_import_takes_the_calls_that_the_docs_name(
    esp: HubSpotHarness, list_id: str, count: int, calls: int
) -> None:
    await esp.provider.upsert(list_id, people(1))
    before = esp.calls()
    await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(esp.fake.members[list_id]) == count


async def test_a_thousand_removals_take_eleven_calls(esp: HubSpotHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1000))
    before = esp.calls()
    await esp.provider.remove(list_id, people(1000))
    assert esp.calls() - before == 11
    assert await esp.mailable(list_id) == {}


@pytest.mark.parametrize("keep_old", [False, True])
@pytest.mark.parametrize("taken", [False, True])
async def test_opt_outs_of_some_mail_are_copied_as_they_are_and_the_contact_stays(
    esp: HubSpotHarness, list_id: str, keep_old: bool, taken: bool
) -> None:
    await esp.provider.upsert(list_id, people(1))
    esp.fake.opt_outs["p0@post.test"] = {NEWS}
    if taken:
        esp.fake.record("new@post.test")
    moved = Contact("0", "new@post.test", old_address="p0@post.test", keep_old=keep_old)
    for _ in range(2):
        (outcome,) = await esp.provider.upsert(list_id, [moved])
        assert outcome == Delivered(esp.fake.record("new@post.test").id)
        assert esp.fake.opt_outs["new@post.test"] == {NEWS}


async def test_who_is_out_of_all_mail_is_so_under_the_new_address(esp: HubSpotHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(1))
    esp.fake.opt_outs["p0@post.test"] = {ALL, NEWS}
    (outcome,) = await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert outcome == OptedOut("unsubscribed")
    assert ALL in esp.fake.opt_outs["new@post.test"]
    assert esp.fake.members[list_id] == set()


@pytest.mark.parametrize("what", [ALL, NEWS])
async def test_an_opt_out_is_seen_of_an_address_whose_contact_is_gone(
    esp: HubSpotHarness, list_id: str, what: int
) -> None:
    await esp.provider.upsert(list_id, people(1))
    esp.fake.opt_outs["p0@post.test"] = {what}
    esp.fake.drop_record("p0@post.test")
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert esp.fake.opt_outs["new@post.test"] == {what}


async def test_an_opt_out_that_cannot_be_copied_keeps_the_new_address_off_the_list(
    esp: HubSpotHarness, list_id: str
) -> None:
    await esp.provider.upsert(list_id, people(1))
    esp.fake.opt_outs["p0@post.test"] = {NEWS}
    with pytest.raises(ContactRefused):
        await esp.provider.upsert(list_id, [Contact("0", esp.refused_address(), old_address="p0@post.test")])
    assert len(esp.fake.members[list_id]) == 1


async def test_members_show_opt_outs_of_every_kind(esp: HubSpotHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(300))
    esp.fake.opt_outs |= {"p0@post.test": {ALL}, "p1@post.test": {NEWS}}
    states = {member.id: member.state async for member in esp.provider.members(list_id)}
    assert len(states) == 300
    assert [id_ for id_, state in states.items() if state is MemberState.OPTED_OUT] == ["0", "1"]


async def test_all_who_are_out_of_any_mail_are_told_page_by_page(esp: HubSpotHarness) -> None:
    for number in range(250):
        esp.fake.record(f"p{number}@post.test")
    esp.fake.records["0"] = Record("0", {"email": ""})  # known by telephone only
    out: dict[str, set[int]] = {"p0@post.test": {ALL}, "p120@post.test": {NEWS}, "p249@post.test": {MARKETING}}
    esp.fake.opt_outs |= out
    before = esp.calls()
    assert {member.address async for member in esp.provider.kept_out()} == out.keys()
    assert made(esp, before) == ["GET v4/definitions", *["GET objects/contacts"] * 3]


@pytest.mark.parametrize("named", [False, True])
async def test_a_bad_address_is_named_or_the_bridge_halves_the_batch(
    esp: HubSpotHarness, list_id: str, named: bool
) -> None:
    esp.fake.names_bad_ones = named
    bad = Contact("bad", esp.refused_address())
    if not named:
        with pytest.raises(ContactRefused):
            await esp.provider.upsert(list_id, [*people(3), bad])
    outcomes = await upsert(esp.provider, list_id, [*people(3), bad])
    refused = outcomes.pop()
    assert isinstance(refused, Rejected)
    assert refused.reason is Reason.INVALID_ADDRESS
    assert esp.refused_address() not in refused.detail
    assert {type(outcome) for outcome in outcomes} == {Delivered}


async def test_a_contact_that_vanishes_between_the_calls_goes_again(esp: HubSpotHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(2))
    hold = esp.fake.hold("memberships/add")
    upserting = asyncio.create_task(esp.provider.upsert(list_id, people(2)))
    await hold.reached.wait()
    esp.fake.drop_record("p1@post.test")
    hold.release(act=True)
    assert [type(outcome) for outcome in await upserting] == [Delivered, Postponed]


async def test_a_property_that_somebody_deleted_is_made_again(esp: HubSpotHarness, list_id: str) -> None:
    await esp.provider.upsert(list_id, people(2))
    esp.fake.properties.remove(PLANFIX_ID)
    assert {type(outcome) for outcome in await upsert(esp.provider, list_id, people(4))} == {Delivered}


async def test_somebody_known_by_an_additional_address_is_taken_off_and_keeps_the_main_one(
    esp: HubSpotHarness, list_id: str
) -> None:
    esp.fake.add_address("main@post.test", "p0@post.test")
    record = esp.fake.record("main@post.test")
    esp.fake.members[list_id].add(record.id)
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert set(await esp.mailable(list_id)) == {"new@post.test"}
    assert record.properties["email"] == "main@post.test"


async def test_an_opt_out_of_the_main_address_holds_for_an_additional_one(esp: HubSpotHarness, list_id: str) -> None:
    esp.fake.add_address("main@post.test", "p0@post.test")
    await esp.opt_out("main@post.test")
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert ALL in esp.fake.opt_outs["new@post.test"]


async def test_a_name_that_differs_in_case_only_is_another_name(esp: HubSpotHarness) -> None:
    await esp.make_list("КЛИЕНТЫ")
    assert await esp.provider.find_list("Клиенты") is None


def test_slashes_leave_list_names(esp: HubSpotHarness) -> None:
    assert esp.provider.list_name("Клиенты/Москва", 2) == "Клиенты Москва (2)"


@pytest.mark.parametrize("path", ["/objects/contacts", "/crm/v3/lists", "/communication-preferences", "/properties/"])
async def test_a_check_names_the_scopes_when_one_is_missing(esp: HubSpotHarness, path: str) -> None:
    esp.fake.missing_scope = path
    wrong = [finding for finding in await esp.provider.check() if not finding.ok]
    assert "MISSING_SCOPES" in str(wrong[0].text)
    assert "communication_preferences.read_write" in str(wrong[0].advice)


async def test_a_check_tells_the_calls_that_are_left(esp: HubSpotHarness) -> None:
    texts = [str(finding.text) for finding in await esp.provider.check()]
    assert "the token may read contacts; 249000 calls are left today" in texts
    assert "the property planfix_id will be made with the first contact" in texts
