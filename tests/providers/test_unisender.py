"""UniSender: the kit's promises, and what is its own."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest
from msgspec import convert

from providers.base import (
    BOUNCED,
    AuthFailed,
    Contact,
    ContactRefused,
    Delivered,
    MemberState,
    OptedOut,
    Outcome,
    Reason,
    Refused,
    Rejected,
    Secret,
    Transient,
)
from providers.testing import ProviderConformance
from providers.testing.base import upsert
from providers.testing.opt_outs import OptOutPromises
from providers.unisender import UniSenderProvider, UniSenderSettings
from providers.unisender.provider import PLANFIX_ID, SINGLE_UP_TO
from tests.fakes.unisender import UniSenderHarness, unisender


@pytest.fixture
async def esp() -> AsyncIterator[UniSenderHarness]:
    async with unisender() as harness:
        yield harness


class TestUniSender(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: UniSenderHarness) -> UniSenderHarness:
        return esp


class TestWhoLeftAllMail(OptOutPromises):
    """People leave one list in the tests above."""

    @pytest.fixture
    async def esp(self) -> AsyncIterator[UniSenderHarness]:
        async with unisender(opt_outs_of="account") as harness:
            yield harness


def people(count: int, first: int = 0) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна") for number in range(first, first + count)]


async def new_list(esp: UniSenderHarness) -> str:
    """A list with one contact; what is looked up once after a start is known."""
    list_id = await esp.provider.create_list("Клиенты")
    await esp.provider.upsert(list_id, people(1))
    return list_id


def outs(outcomes: Sequence[Outcome]) -> list[int]:
    return [index for index, outcome in enumerate(outcomes) if isinstance(outcome, OptedOut)]


@pytest.mark.parametrize(("count", "calls"), [(1, 3), (1000, 6), (20_000, 48)])
async def test_an_upsert_takes_the_calls_that_the_docs_name(esp: UniSenderHarness, count: int, calls: int) -> None:
    list_id = await new_list(esp)
    esp.fake.only_counts = True
    before = esp.calls()
    outcomes = await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(outcomes) == count


@pytest.mark.parametrize(("count", "calls"), [(1, 2), (1000, 5), (10_000, 23)])
async def test_a_removal_takes_the_calls_that_the_docs_name(esp: UniSenderHarness, count: int, calls: int) -> None:
    list_id = await new_list(esp)
    for contact in people(count):
        esp.fake.person(contact.address).lists[int(list_id)] = "active"
    before = esp.calls()
    await esp.provider.remove(list_id, people(count))
    assert esp.calls() - before == calls
    assert await esp.mailable(list_id) == {}


async def test_a_changed_address_takes_six_calls(esp: UniSenderHarness) -> None:
    list_id = await new_list(esp)
    before = esp.calls()
    await esp.provider.upsert(list_id, [Contact("0", "new@post.test", old_address="p0@post.test")])
    assert esp.calls() - before == 6


async def test_an_import_says_nothing_of_states_and_takes_no_list_away(esp: UniSenderHarness) -> None:
    list_id = await new_list(esp)
    await esp.provider.upsert(list_id, people(SINGLE_UP_TO + 1))
    await esp.provider.remove(list_id, people(SINGLE_UP_TO + 1))
    for form in esp.fake.asked("importContacts"):
        columns = {value for key, value in form.items() if key.startswith("field_names[")}
        assert columns.isdisjoint({"email_status", "delete", "tags"})
        assert form["overwrite_lists"] == form["overwrite_tags"] == "0"
    assert esp.fake.asked("unsubscribe") == esp.fake.asked("subscribe") == []


@pytest.mark.parametrize("count", [3, SINGLE_UP_TO + 1])
async def test_who_left_a_list_is_neither_put_back_nor_taken_off_it(esp: UniSenderHarness, count: int) -> None:
    list_id = await new_list(esp)
    await esp.provider.upsert(list_id, people(count))
    await esp.opt_out("p1@post.test")
    assert outs(await esp.provider.upsert(list_id, people(count))) == [1]
    assert outs(await esp.provider.remove(list_id, people(count))) == [1]
    assert esp.fake.person("p1@post.test").lists == {int(list_id): "unsubscribed"}
    assert outs(await esp.provider.upsert(list_id, people(count))) == [1]
    assert "p1@post.test" not in await esp.mailable(list_id)


async def test_an_opt_out_of_another_list_is_none_of_this_one(esp: UniSenderHarness) -> None:
    other = await new_list(esp)
    await esp.opt_out("p0@post.test")
    list_id = await esp.provider.create_list("Другой")
    await esp.provider.upsert(list_id, people(1))
    assert list(await esp.mailable(list_id)) == ["p0@post.test"]
    assert await esp.mailable(other) == {}


@pytest.mark.parametrize(
    ("field", "state", "how"),
    [
        ("status", "unsubscribed", "unsubscribed"),
        ("status", "blocked", "complained"),
        ("status", "inactive", "disabled"),
        ("status", "a word of tomorrow", "unsubscribed"),
        ("availability", "spam_folder", "complained"),
        ("availability", "unreachable", BOUNCED),
        ("availability", "mailbox_full", None),
    ],
)
@pytest.mark.parametrize("count", [1, SINGLE_UP_TO + 1])
async def test_states_that_get_no_mail_are_told(
    esp: UniSenderHarness, count: int, field: str, state: str, how: str | None
) -> None:
    list_id = await new_list(esp)
    setattr(esp.fake.person("p0@post.test"), field, state)
    outcome = (await esp.provider.upsert(list_id, people(count)))[0]
    assert getattr(outcome, "how", None) == how


async def test_who_left_all_mail_and_no_list_is_found_among_many_changed_addresses(esp: UniSenderHarness) -> None:
    list_id = await new_list(esp)
    count = SINGLE_UP_TO + 1
    await esp.provider.upsert(list_id, people(count))
    await esp.provider.remove(list_id, people(1))
    await esp.opt_out("p0@post.test")
    moved = [replace(c, address=f"new{c.address}", old_address=c.address) for c in people(count)]
    assert outs(await esp.provider.upsert(list_id, moved)) == [0]
    assert "newp0@post.test" not in await esp.mailable(list_id)
    assert len(await esp.mailable(list_id)) == count - 1


async def test_without_reads_an_upsert_is_left_to_an_import_that_heeds_lists() -> None:
    async with unisender({"reads_list_opt_outs": False}, import_heeds_lists=True) as esp:
        list_id = await new_list(esp)
        await esp.opt_out("p0@post.test")
        before = esp.calls()
        await esp.provider.upsert(list_id, people(1))
        assert esp.calls() - before == 2
        assert await esp.mailable(list_id) == {}


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("packed", [True, False])
async def test_an_export_is_read_whatever_its_separator_packed_or_not(separator: str, packed: bool) -> None:
    async with unisender(export_separator=separator, export_packed=packed, export_looks=3) as esp:
        list_id = await new_list(esp)
        await esp.provider.upsert(list_id, [Contact("1", "p1@post.test", "Анна, ;\t", "О'Хара")])
        members = [member async for member in esp.provider.members(list_id)]
        assert [member.first_name for member in members] == ["Анна", "Анна, ;\t"]


@pytest.mark.parametrize(
    "knob",
    [
        {"export_ends": "failed"},
        {"export_without": "email_unsubscribed_list_ids"},
        {"export_cut_bytes": 6},
        {"export_cut_bytes": 10, "export_packed": True},
    ],
)
async def test_nobody_is_added_while_opt_outs_cannot_be_read(knob: dict[str, Any]) -> None:
    async with unisender(**knob) as esp:
        list_id = await new_list(esp)
        with pytest.raises(Transient):
            await esp.provider.upsert(list_id, people(SINGLE_UP_TO + 1))
        assert len(await esp.mailable(list_id)) == 1


async def test_a_contact_whose_phone_alone_is_on_the_list_is_no_member(esp: UniSenderHarness) -> None:
    list_id = await new_list(esp)
    esp.fake.person("phone@post.test").fields["phone_on"] = list_id
    assert [member.address async for member in esp.provider.members(list_id)] == ["p0@post.test"]


async def test_who_gets_no_mail_at_all_is_told_on_no_list_too(esp: UniSenderHarness) -> None:
    list_id = await new_list(esp)
    states = ("unsubscribed", "blocked", "inactive", "invited", "active", "a word of tomorrow")
    for state in states:
        esp.fake.person(f"{state.replace(' ', '-')}@post.test").status = state
    for availability in ("spam_folder", "unreachable", "mailbox_full"):
        esp.fake.person(f"{availability}@post.test").availability = availability
    esp.fake.person("").status = "unsubscribed"  # of a telephone alone
    await esp.opt_out("p0@post.test")  # of the list, whose members tell it
    told = {member.address.partition("@")[0]: member.how async for member in esp.provider.kept_out()}
    assert told == {
        "unsubscribed": "unsubscribed",
        "blocked": "complained",
        "inactive": "disabled",
        "a-word-of-tomorrow": "unsubscribed",
        "spam_folder": "complained",
        "unreachable": BOUNCED,
    }
    assert [m.state async for m in esp.provider.members(list_id)] == [MemberState.OPTED_OUT]


async def test_who_has_not_confirmed_is_pending(esp: UniSenderHarness) -> None:
    list_id = await new_list(esp)
    esp.fake.person("p0@post.test").status = "invited"
    assert [member.state async for member in esp.provider.members(list_id)] == [MemberState.PENDING]


@pytest.mark.parametrize("is_silent", [True, False])
async def test_refused_addresses_are_found_out_and_warnings_are_no_refusals(
    esp: UniSenderHarness, is_silent: bool
) -> None:
    list_id = await new_list(esp)
    esp.fake.is_silent, esp.fake.warns_of = is_silent, "p2@post.test"
    asked = [*people(3), Contact("7", "info@post.test"), Contact("8", "Sales@post.test")]
    outcomes = await esp.provider.upsert(list_id, asked)
    assert [type(outcome) for outcome in outcomes] == [Delivered] * 3 + [Rejected] * 2
    assert "info@post.test" not in outcomes[3].detail  # type: ignore[union-attr]


async def test_a_refused_address_that_is_on_the_list_by_other_ways_is_excluded(esp: UniSenderHarness) -> None:
    list_id = await new_list(esp)
    esp.fake.person("info@post.test").lists[int(list_id)] = "active"
    many = [*people(SINGLE_UP_TO + 1), Contact("7", "info@post.test")]
    assert isinstance((await esp.provider.upsert(list_id, many))[-1], Delivered)
    await esp.provider.remove(list_id, many)
    assert await esp.mailable(list_id) == {}


async def test_one_for_whom_an_import_is_refused_as_a_whole_stops_nobody_else(esp: UniSenderHarness) -> None:
    list_id = await new_list(esp)
    esp.fake.refuses_all_for = "p2@post.test"
    with pytest.raises(ContactRefused):
        await esp.provider.upsert(list_id, people(3))
    outcomes = await upsert(esp.provider, list_id, people(5))
    assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered, Rejected, Delivered, Delivered]


async def test_a_field_that_somebody_deleted_is_made_again(esp: UniSenderHarness) -> None:
    list_id = await new_list(esp)
    esp.fake.fields.remove(PLANFIX_ID)
    with pytest.raises(Transient):
        await esp.provider.upsert(list_id, people(1))
    assert [type(outcome) for outcome in await esp.provider.upsert(list_id, people(1))] == [Delivered]
    assert PLANFIX_ID in esp.fake.fields


async def test_who_is_new_in_the_account_is_kept_out_of_the_list_at_least(esp: UniSenderHarness) -> None:
    """An import cannot change the state `new`, which everybody has whom an import has added."""
    list_id = await new_list(esp)
    await esp.provider.keep_out(list_id, [*people(2), Contact("7", "info@post.test")])
    assert esp.fake.person("p0@post.test").lists == {int(list_id): "unsubscribed"}
    assert esp.fake.person("p1@post.test").status == "unsubscribed"
    esp.fake.person("p2@post.test").availability = "unreachable"
    esp.fake.person("p2@post.test").lists[int(list_id)] = "active"
    await esp.provider.keep_out(list_id, people(1, first=2))
    assert esp.fake.person("p2@post.test").lists == {int(list_id): "unsubscribed"}


async def test_removing_many_from_a_list_that_is_gone_is_success(esp: UniSenderHarness) -> None:
    list_id = await new_list(esp)
    await esp.provider.upsert(list_id, people(SINGLE_UP_TO + 1))
    await esp.drop_list(list_id)
    outcomes = await esp.provider.remove(list_id, people(SINGLE_UP_TO + 1))
    assert {type(outcome) for outcome in outcomes} == {Delivered}


async def test_a_name_that_differs_in_case_only_is_taken(esp: UniSenderHarness) -> None:
    await esp.make_list("КЛИЕНТЫ")
    esp.fake.lists_ignore_case = True
    with pytest.raises(Refused) as refused:
        await esp.provider.create_list("Клиенты")
    assert refused.value.reason is Reason.NAME_TAKEN


async def test_fields_are_made_once_and_a_check_tells_of_them(esp: UniSenderHarness) -> None:
    assert "LastName, planfix_id" in str((await esp.provider.check())[1].text)
    list_id = await new_list(esp)
    await esp.provider.upsert(list_id, people(2))
    assert [form["name"] for form in esp.fake.asked("createField")] == ["LastName", PLANFIX_ID]
    assert {member.id async for member in esp.provider.members(list_id)} == {"0", "1"}
    assert "Planfix ids: there" in str((await esp.provider.check())[1].text)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        ("invalid_api_key", AuthFailed),
        ("access_denied", AuthFailed),
        ("retry_later", Transient),
        ("api_call_limit_exceeded_for_ip", Transient),
        ("not_enough_money", Refused),
        ("unspecified", Refused),
        (None, Refused),
    ],
)
async def test_an_error_of_status_200_is_told_by_its_code(
    esp: UniSenderHarness, code: str | None, kind: type[Exception]
) -> None:
    list_id = await new_list(esp)
    esp.fake.always = {"error": "something is wrong"} | ({"code": code} if code else {})
    with pytest.raises(kind):
        await esp.provider.upsert(list_id, people(1))
    with pytest.raises(kind):
        await esp.provider.look_up(list_id, people(1))


@pytest.mark.parametrize("odd", [{}, [], {"status": "ok"}, "result"])
async def test_an_answer_without_a_result_is_tried_again(esp: UniSenderHarness, odd: object) -> None:
    esp.fake.always = odd
    with pytest.raises(Transient):
        await esp.provider.find_list("Клиенты")


@pytest.mark.parametrize(
    ("settings", "url"),
    [
        ({}, "https://api.unisender.com/en/api"),
        ({"brand": "selzy"}, "https://api.selzy.com/en/api"),
        ({"brand": "selzy", "base_url": "https://proxy.test/x"}, "https://proxy.test/x"),
    ],
)
def test_the_brand_names_the_site(settings: dict[str, str], url: str) -> None:
    provider = UniSenderProvider(convert({"brand": "unisender", **settings, "api_key": Secret("k")}, UniSenderSettings))
    assert provider.settings.base_url == url


async def test_nobody_is_added_whose_states_on_lists_are_not_told() -> None:
    async with unisender(tells_lists=False) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        await esp.opt_out("p0@post.test")
        with pytest.raises(Transient):
            await esp.provider.upsert(list_id, people(1))
        assert await esp.mailable(list_id) == {}


async def test_who_stands_in_the_log_alone_is_looked_up_too() -> None:
    async with unisender(counts_refused=False) as esp:
        list_id = await esp.provider.create_list("Клиенты")
        outcomes = await esp.provider.upsert(list_id, [*people(2), Contact("9", esp.refused_address())])
        assert [type(outcome) for outcome in outcomes] == [Delivered, Delivered, Rejected]
