"""DashaMail: the kit's promises, and what is its own."""

from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from typing import Any

import pytest

from providers.base import (
    BOUNCED,
    AuthFailed,
    Contact,
    Delivered,
    MemberState,
    OptedOut,
    Outcome,
    Reason,
    Refused,
    Rejected,
    Transient,
)
from providers.dashamail.provider import HOLDING, SINGLE_UP_TO
from providers.testing import EspHarness, Fault, ProviderConformance
from providers.testing.base import BridgeSide
from tests.fakes.dashamail import DashaMailHarness, dashamail

MANY = SINGLE_UP_TO + 1


@pytest.fixture
async def esp() -> AsyncIterator[DashaMailHarness]:
    async with dashamail() as harness:
        yield harness


class TestDashaMail(ProviderConformance):
    @pytest.fixture
    def esp(self, esp: DashaMailHarness) -> DashaMailHarness:
        return esp

    # Who is no member can only be on the black list, which no method lists.
    @pytest.mark.parametrize("last", ["the removal"])
    async def test_an_opt_out_of_somebody_on_no_list_goes_along_to_another_service(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, last: str
    ) -> None:
        await super().test_an_opt_out_of_somebody_on_no_list_goes_along_to_another_service(esp, bridge, list_id, last)


def people(count: int, first: int = 0) -> list[Contact]:
    return [Contact(str(number), f"p{number}@post.test", "Анна", "Иванова") for number in range(first, first + count)]


async def new_list(esp: DashaMailHarness) -> str:
    """A list with one contact; what is looked up once after a start is known."""
    list_id = await esp.provider.create_list("Клиенты")
    await esp.provider.upsert(list_id, people(1))
    return list_id


def outs(outcomes: Sequence[Outcome]) -> list[int]:
    return [index for index, outcome in enumerate(outcomes) if isinstance(outcome, OptedOut)]


# Calls


@pytest.mark.parametrize(("count", "calls"), [(1, 2), (1000, 7), (20_000, 104)])
async def test_an_upsert_takes_the_calls_that_the_docs_name(esp: DashaMailHarness, count: int, calls: int) -> None:
    list_id = await new_list(esp)
    esp.fake.only_counts = True
    before = esp.calls()
    outcomes = await esp.provider.upsert(list_id, people(count))
    assert esp.calls() - before == calls
    assert len(outcomes) == count


@pytest.mark.parametrize(("count", "calls"), [(1, 2), (1000, 1002)])
async def test_a_removal_takes_the_calls_that_the_docs_name(esp: DashaMailHarness, count: int, calls: int) -> None:
    list_id = await new_list(esp)
    await esp.provider.upsert(list_id, people(count))
    before = esp.calls()
    await esp.provider.remove(list_id, people(count))
    assert esp.calls() - before == calls
    assert await esp.mailable(list_id) == {}


async def test_a_changed_address_takes_five_calls(esp: DashaMailHarness) -> None:
    list_id = await new_list(esp)
    before = esp.calls()
    await esp.provider.upsert(list_id, [replace(people(1)[0], address="new@post.test", old_address="p0@post.test")])
    assert esp.calls() - before == 5


async def test_who_fits_no_row_goes_alone(esp: DashaMailHarness) -> None:
    list_id = await new_list(esp)
    odd = [
        Contact("7", "p7@post.test", "Иванов, Иван", "Петрович"),
        Contact("8", "p8@post.test", "Анна", "a;b"),
        Contact("9", "p9@post.test", None, "Петрова"),
    ]
    await esp.provider.upsert(list_id, [*people(3), *odd])
    assert [form["email"] for form in esp.fake.asked("lists.add_member")[1:]] == [contact.address for contact in odd]
    assert [form["batch"].count(";") for form in esp.fake.asked("lists.add_member_batch")] == [3]
    assert await esp.mailable(list_id) == esp.listed(*people(3), *odd)
    assert "merge_1" not in esp.fake.asked("lists.add_member")[-1]


# Who is out


@pytest.mark.parametrize("count", [3, MANY])
async def test_who_unsubscribed_is_neither_updated_nor_deleted(esp: DashaMailHarness, count: int) -> None:
    list_id = await new_list(esp)
    await esp.provider.upsert(list_id, people(count))
    await esp.opt_out("p1@post.test")
    for _ in range(2):
        assert outs(await esp.provider.upsert(list_id, people(count))) == [1]
        assert outs(await esp.provider.remove(list_id, people(count))) == [1]
        assert esp.fake.member(list_id, "p1@post.test").state == "unsubscribed"
        assert await esp.mailable(list_id) == {}


async def test_an_opt_out_of_another_list_is_none_of_this_one(esp: DashaMailHarness) -> None:
    other = await new_list(esp)
    await esp.opt_out("p0@post.test")
    list_id = await esp.provider.create_list("Другой")
    await esp.provider.upsert(list_id, people(1))
    assert list(await esp.mailable(list_id)) == ["p0@post.test"]
    assert await esp.mailable(other) == {}


@pytest.mark.parametrize(
    ("state", "how"),
    [
        ("active", None),
        ("Unsubscribed", "unsubscribed"),
        ("complained", "complained"),
        ("hardbounced", BOUNCED),
        ("unconfirmed", None),
        ("archived", "archived"),
    ],
)
async def test_every_state_but_active_keeps_a_member_as_it_is(
    esp: DashaMailHarness, state: str, how: str | None
) -> None:
    list_id = await new_list(esp)
    esp.fake.member(list_id, "p0@post.test").state = state
    members = [member async for member in esp.provider.members(list_id)]
    (outcome,) = await esp.provider.upsert(list_id, people(1))
    assert getattr(outcome, "how", None) == how
    expected = MemberState.OPTED_OUT if how else MemberState.PENDING if "confirm" in state else MemberState.SUBSCRIBED
    assert [(member.state, member.how) for member in members] == [(expected, how or "unsubscribed")]


@pytest.mark.parametrize("after", range(8))
async def test_a_stranger_who_is_kept_out_is_never_active_in_the_list(esp: DashaMailHarness, after: int) -> None:
    """The kit breaks the first three calls off; this takes more."""
    list_id = await new_list(esp)
    await esp.opt_out("p0@post.test")
    esp.fail(Fault.CUT_JSON, after=after)
    try:
        await esp.provider.keep_out(list_id, people(1, first=5))
    except Transient:
        assert await esp.mailable(list_id) == {}
    esp.heal()
    await esp.provider.keep_out(list_id, people(1, first=5))
    assert esp.fake.member(list_id, "p5@post.test").state == "unsubscribed"
    assert [base.members for base in esp.fake.bases.values() if base.name == HOLDING] == [{}]


async def test_who_is_moved_is_unsubscribed_again_where_a_move_loses_the_state() -> None:
    async with dashamail(moves_keep_states=False) as esp:
        list_id = await new_list(esp)
        await esp.provider.keep_out(list_id, people(1, first=5))
        assert list(await esp.mailable(list_id)) == ["p0@post.test"]


async def test_no_address_needs_no_opt_out(esp: DashaMailHarness) -> None:
    list_id = await new_list(esp)
    await esp.provider.keep_out(list_id, [Contact("8", esp.refused_address())])
    assert esp.fake.asked("lists.move_member") == []


# Fields


@pytest.mark.parametrize("form", ["json", "text", "php", "title"])
async def test_fields_are_found_by_their_titles_and_made_once(form: str) -> None:
    async with dashamail(fields_are=form) as esp:
        list_id = await new_list(esp)
        await esp.restart()
        await esp.provider.upsert(list_id, people(2))
        assert esp.fake.bases[int(list_id)].fields == ["Имя", "Фамилия", "Planfix id"]
        assert {member.id async for member in esp.provider.members(list_id)} == {"0", "1"}


async def test_fields_that_nothing_is_told_of_are_not_made_again() -> None:
    async with dashamail(fields_are="untold") as esp:
        list_id = await new_list(esp)
        await esp.restart()
        await esp.provider.upsert(list_id, people(2))
        assert len(esp.fake.bases[int(list_id)].fields) == 3
        assert await esp.mailable(list_id) == esp.listed(*people(2))


async def test_a_list_whose_making_broke_off_gets_the_fields_that_are_missing(esp: DashaMailHarness) -> None:
    esp.fail(Fault.EMPTY_503, after=2)
    with pytest.raises(Transient):
        await esp.provider.create_list("Клиенты")
    list_id = await esp.provider.find_list("Клиенты")
    assert list_id is not None
    await esp.provider.upsert(list_id, people(3))
    assert esp.fake.bases[int(list_id)].fields == ["Имя", "Фамилия", "Planfix id"]
    assert await esp.mailable(list_id) == esp.listed(*people(3))


async def test_the_fields_of_a_list_made_by_hand_stay_whose_they_are(esp: DashaMailHarness) -> None:
    list_id = await esp.make_list("Клиенты")
    esp.fake.bases[int(list_id)].fields = ["Город", "Фамилия"]
    esp.fake.write(esp.fake.bases[int(list_id)], "p0@post.test", {"merge_1": "Москва"})
    await esp.provider.upsert(list_id, people(3))
    assert esp.fake.member(list_id, "p0@post.test").merges["merge_1"] == "Москва"
    assert await esp.mailable(list_id) == esp.listed(*people(3))


# Bad addresses


@pytest.mark.parametrize("knob", [{}, {"batch_refuses": True}, {"ids_are_a_list": True}])
async def test_who_was_refused_in_a_batch_is_found_by_halving_it(knob: dict[str, bool]) -> None:
    async with dashamail(**knob) as esp:
        list_id = await new_list(esp)
        bad = Contact("bad", esp.refused_address(), "Анна", "Иванова")
        before = esp.calls()
        outcomes = await esp.provider.upsert(list_id, [*people(150), bad, *people(49, first=150)])
        refused = outcomes.pop(150)
        assert isinstance(refused, Rejected)
        assert refused.reason is Reason.INVALID_ADDRESS
        assert {type(outcome) for outcome in outcomes} == {Delivered}
        assert esp.calls() - before < 25
        assert await esp.mailable(list_id) == esp.listed(*people(199))


# Addresses at ya.ru


async def test_an_address_at_ya_ru_is_the_same_at_yandex_ru(esp: DashaMailHarness) -> None:
    list_id = await new_list(esp)
    anna = Contact("7", "Anna@ya.ru", "Анна", "Иванова")
    (outcome,) = await esp.provider.upsert(list_id, [anna])
    assert outcome == Delivered("anna@yandex.ru")
    for address, old in (("anna@yandex.ru", "anna@ya.ru"), ("anna@ya.ru", "anna@yandex.ru")):
        await esp.provider.upsert(list_id, [replace(anna, address=address, old_address=old)])
        assert "anna@yandex.ru" in await esp.mailable(list_id)
    esp.fake.member(list_id, "anna@yandex.ru").state = "unsubscribed"
    assert outs(await esp.provider.upsert(list_id, [anna])) == [0]
    esp.fake.member(list_id, "anna@yandex.ru").state = "active"
    await esp.provider.remove(list_id, [anna])
    assert list(await esp.mailable(list_id)) == ["p0@post.test"]


async def test_both_spellings_in_one_call(esp: DashaMailHarness) -> None:
    list_id = await new_list(esp)
    both = [Contact(str(n), f"anna@{domain}", "Анна", "И") for n, domain in enumerate(("ya.ru", "yandex.ru"))]
    outcomes = await esp.provider.upsert(list_id, [*people(3), *both])
    assert set(outcomes[3:]) == {Delivered("anna@yandex.ru")}


# Reading


@pytest.mark.parametrize("size", [7, 1000])
async def test_a_base_is_read_to_its_end_whatever_a_page_holds(size: int) -> None:
    async with dashamail(page_at_most=size) as esp:
        list_id = await new_list(esp)
        await esp.provider.upsert(list_id, people(MANY + 5))
        assert len([member async for member in esp.provider.members(list_id)]) == MANY + 5
        await esp.provider.remove(list_id, people(MANY))
        assert await esp.mailable(list_id) == esp.listed(*people(5, first=MANY))


async def test_removing_many_from_a_list_that_is_gone_is_success(esp: DashaMailHarness) -> None:
    list_id = await new_list(esp)
    await esp.drop_list(list_id)
    assert {type(outcome) for outcome in await esp.provider.remove(list_id, people(MANY))} == {Delivered}


# Codes


@pytest.mark.parametrize("as_text", [True, False])
@pytest.mark.parametrize(
    ("code", "kind", "reason"),
    [
        (1, AuthFailed, None),
        (47, AuthFailed, None),
        (100, AuthFailed, None),
        (2, Transient, None),
        (58, Transient, None),
        (5, Refused, Reason.LIST_GONE),
        (8, Refused, Reason.PLAN_LIMIT),
        (101, Refused, Reason.REQUEST_REFUSED),
    ],
)
async def test_an_error_of_status_200_is_told_by_its_code(
    esp: DashaMailHarness, code: int, kind: type[Exception], reason: Reason | None, as_text: bool
) -> None:
    esp.fake.always = {"response": {"msg": {"err_code": str(code) if as_text else code, "text": "x"}, "data": None}}
    with pytest.raises(kind) as raised:
        await esp.provider.create_list("Клиенты")
    assert getattr(raised.value, "reason", None) is reason


@pytest.mark.parametrize("odd", [{}, [], {"response": None}, {"response": {"data": []}}, "text"])
async def test_an_answer_of_another_shape_is_tried_again(esp: DashaMailHarness, odd: Any) -> None:
    esp.fake.always = odd
    with pytest.raises(Transient):
        await esp.provider.find_list("Клиенты")


async def test_an_account_without_bases_has_a_good_key(esp: DashaMailHarness) -> None:
    (finding,) = await esp.provider.check()
    assert finding.ok
    assert "0 lists" in str(finding.text)


@pytest.mark.parametrize("data", [None, {}, "rows"])
@pytest.mark.parametrize("count", [1, SINGLE_UP_TO + 1])
async def test_a_success_that_tells_of_no_members_does_not_say_that_there_are_none(
    esp: DashaMailHarness, data: Any, count: int
) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    esp.fake.always = {"response": {"msg": {"err_code": 0, "text": "OK"}, "data": data}}
    moved = [Contact(str(n), f"new{n}@post.test", old_address=f"p{n}@post.test") for n in range(count)]
    with pytest.raises(Transient, match="without rows"):
        await esp.provider.upsert(list_id, moved)


async def test_the_base_of_opt_outs_is_made_again_when_it_is_gone(esp: DashaMailHarness) -> None:
    list_id = await esp.provider.create_list("Клиенты")
    strangers = [Contact(str(n), f"p{n}@post.test") for n in range(2)]
    await esp.provider.keep_out(list_id, strangers[:1])
    del esp.fake.bases[next(number for number, base in esp.fake.bases.items() if base.name == HOLDING)]
    with pytest.raises(Transient):
        await esp.provider.keep_out(list_id, strangers[1:])
    await esp.provider.keep_out(list_id, strangers[1:])
    assert await esp.mailable(list_id) == {}
