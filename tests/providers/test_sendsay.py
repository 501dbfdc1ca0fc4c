"""Sendsay: the kit's promises, and what is its own."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from providers.base import (
    AuthFailed,
    Contact,
    Delivered,
    MemberState,
    OptedOut,
    Reason,
    Refused,
    Rejected,
    Transient,
)
from providers.sendsay.provider import REMOVED_AT_ONCE
from providers.testing import ProviderConformance
from tests.fakes.sendsay import SendsayHarness, sendsay


@pytest.fixture
async def esp() -> AsyncIterator[SendsayHarness]:
    async with sendsay() as harness:
        yield harness


class TestSendsay(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: SendsayHarness) -> SendsayHarness:
        return esp


def people(count: int, first: int = 0) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(first, first + count)]


@pytest.mark.parametrize(("count", "calls"), [(1, 1), (1000, 10), (10_000, 100)])
async def test_an_upsert_takes_the_calls_that_the_docs_name(esp: SendsayHarness, count: int, calls: int) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    esp.fake.only_counts = True
    before = esp.calls()
    outcomes = await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(outcomes) == count


@pytest.mark.parametrize(("count", "calls"), [(1, 1), (1000, 1), (10_000, 10)])
async def test_a_removal_takes_the_calls_that_the_docs_name(esp: SendsayHarness, count: int, calls: int) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    before = esp.calls()
    await esp.provider.remove(list_id, people(count))
    assert esp.calls() - before == calls


async def test_a_changed_address_takes_three_calls(esp: SendsayHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    await esp.provider.upsert(list_id, people(1))
    before = esp.calls()
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert esp.calls() - before == 3


async def test_a_contact_sets_its_own_answers_its_list_and_nothing_else(esp: SendsayHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    await esp.provider.upsert(list_id, [Contact("7", "p7@post.test", "Анна", None)])
    assert esp.fake.asked("member.set") == [
        {
            "action": "member.set",
            "email": "p7@post.test",
            "addr_type": "email",
            "newbie.confirm": 0,
            "datakey": [["base.firstName", "set", "Анна"], [f"-group.{list_id}", "set", 1]],
        }
    ]
    assert esp.fake.asked("stoplist.add") == []


async def test_planfix_ids_are_kept_where_the_settings_name_a_question() -> None:
    async with sendsay({"planfix_id": "custom.planfix_id"}) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.provider.upsert(list_id, people(2))
        assert {member.id async for member in esp.provider.members(list_id)} == {"0", "1"}


async def test_who_is_kept_out_can_be_looked_up_after_a_further_change_of_address(esp: SendsayHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    await esp.provider.upsert(list_id, people(1))
    await esp.opt_out("p0@post.test")
    old = "p0@post.test"
    for new in ("second@post.test", "third@post.test"):
        (outcome,) = await esp.provider.upsert(list_id, [Contact("0", new, old_address=old)])
        assert isinstance(outcome, OptedOut)
        assert new in esp.fake.stopped
        old = new
    assert await esp.mailable(list_id) == {}


async def test_an_opt_out_that_cannot_be_set_is_an_error(esp: SendsayHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    with pytest.raises(Refused):
        await esp.provider.keep_out(list_id, [Contact("0", "not an address")])


@pytest.mark.parametrize("looks", [1, 3])
async def test_a_removal_that_is_done_later_is_waited_for(looks: int) -> None:
    async with sendsay(cleans_later=True, track_looks=looks) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.provider.upsert(list_id, people(2))
        await esp.provider.remove(list_id, people(1))
        assert list(await esp.mailable(list_id)) == ["p1@post.test"]


@pytest.mark.parametrize("status", [-2, -3])
async def test_a_removal_that_fails_later_is_repeated(status: int) -> None:
    async with sendsay(cleans_later=True, track_ends=status) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        with pytest.raises(Transient, match=str(status)):
            await esp.provider.remove(list_id, people(1))


async def test_a_large_removal_goes_in_parts(esp: SendsayHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    await esp.provider.take_off(
        list_id, [r for r in await esp.provider.look_up_leaving(list_id, people(REMOVED_AT_ONCE + 1)) if r]
    )
    assert [len(one["list"]) for one in esp.fake.asked("group.clean")] == [REMOVED_AT_ONCE, 1]


@pytest.mark.parametrize(
    "knob",
    [
        {"rows_are": "cells"},
        {"rows_are": "record"},
        {"page_at_most": 7},
    ],
)
async def test_members_are_read_however_they_are_listed(knob: dict[str, Any]) -> None:
    async with sendsay(**knob) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.provider.upsert(list_id, people(60))
        addresses = [member.address async for member in esp.provider.members(list_id)]
        assert sorted(addresses) == sorted(contact.address for contact in people(60))


async def test_pages_that_are_all_the_same_are_no_whole_list() -> None:
    async with sendsay(ignores_pages=True) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.provider.upsert(list_id, people(60))
        with pytest.raises(Transient, match="same page"):
            _ = [member async for member in esp.provider.members(list_id)]


@pytest.mark.parametrize("knob", [{"page_at_most": 7}, {"ignores_filters": True}])
async def test_whoever_is_stopped_is_told_on_no_list_too(knob: dict[str, Any]) -> None:
    async with sendsay({"contacts_per_call": 5}, **knob) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.provider.upsert(list_id, people(60))
        await esp.provider.remove(list_id, people(30))
        out = [contact.address for contact in people(20, first=20)]
        for address in out:
            await esp.opt_out(address)
        assert sorted([member.address async for member in esp.provider.kept_out()]) == sorted(out)


async def test_who_was_added_beyond_the_plan_is_pending() -> None:
    async with sendsay(plan_size=1) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.provider.upsert(list_id, people(2))
        states = {member.address: member.state async for member in esp.provider.members(list_id)}
        assert states == {"p0@post.test": MemberState.SUBSCRIBED, "p1@post.test": MemberState.PENDING}


@pytest.mark.parametrize("knob", [{"id_under_obj": True}, {"tells_no_id": True}])
async def test_the_id_of_a_new_list_is_found_wherever_it_is_told(knob: dict[str, bool]) -> None:
    async with sendsay(**knob) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        assert await esp.lists() == {list_id: "Клиенты"}


async def test_a_name_that_is_taken_is_told_where_names_are_unique() -> None:
    async with sendsay(unique_names=True) as esp:
        await esp.provider.create_list("Клиенты")
        with pytest.raises(Refused) as refused:
            await esp.provider.create_list("Клиенты")
        assert refused.value.reason is Reason.NAME_TAKEN


async def test_lists_of_telephone_numbers_are_none_of_ours(esp: SendsayHarness) -> None:
    esp.fake.make_list("Клиенты", "msisdn")
    assert await esp.provider.find_list("Клиенты") is None


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"errors": [{"id": "error/auth/failed", "explain": "x"}]}, AuthFailed),
        ({"error": {"id": "error/auth/expired"}}, AuthFailed),
        ({"errors": [{"id": "wrong_parameter", "explain": "x"}]}, Refused),
        ([], Transient),
        ({"result": []}, Transient),
        ({"REDIRECT": "/other"}, Transient),
    ],
)
async def test_an_answer_of_status_200_is_judged_by_what_it_says(
    esp: SendsayHarness, told: object, kind: type[Exception]
) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    esp.fake.always = told
    with pytest.raises(kind):
        await esp.provider.upsert(list_id, people(1))


@pytest.mark.parametrize(
    ("told", "kind"),
    [
        ({"errors": [{"id": "error/auth/failed"}]}, AuthFailed),
        ({"errors": [{"id": "strange"}]}, Refused),
        ({"errors": [{"id": "error/unknown", "explain": "unknown error"}]}, Refused),
        ({"obj": {"base": {}}}, Transient),
        (None, Transient),
    ],
)
async def test_nobody_is_taken_for_unknown_who_could_not_be_looked_up(
    esp: SendsayHarness, told: object, kind: type[Exception]
) -> None:
    esp.fake.always = {"result": [told]}
    with pytest.raises(kind):
        await esp.provider.look_up("pl1", people(1))


async def test_an_error_of_one_contact_is_that_contacts(esp: SendsayHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    outcomes = await esp.provider.upsert(list_id, [*people(1), Contact("8", esp.refused_address()), *people(1, 5)])
    assert [type(outcome) for outcome in outcomes] == [Delivered, Rejected, Delivered]
