"""Promises about contacts coming, changing and going."""

# ruff: noqa: S101 - a test kit asserts

import asyncio
from dataclasses import replace
from typing import ClassVar

import pytest

from providers.base import Delivered, Member, MemberState, Rejected, Unsupported
from providers.testing.base import DOMAIN, Promises, id_of, new_list, people, person, upsert
from providers.testing.harness import EspHarness

ODD_NAMES = [
    ("Жанна", "д'Арк"),
    ("Иван Петрович", ""),
    ("", "ООО «Ромашка»"),
    ("Zoë 👩‍🚀", "🎉"),
    ('"Bob"', "<b>& Sons</b>; DROP TABLE contacts; --"),
    ("שרה", "‏כהן"),
    ("a,b\tc", "%20 \\ {{name}} *|FNAME|*"),
]
ODD_ADDRESSES = [
    f"o'hara@{DOMAIN}",
    f"anna+planfix@{DOMAIN}",
    f"anna.maria_s-2@{DOMAIN}",
    f"Anna.MARIA@{DOMAIN}",
    f"anna@{DOMAIN.upper()}",
    f"anna@mail.sub-domain.{DOMAIN}",
    f"{'a' * 64}@{DOMAIN}",
]


async def all_members(esp: EspHarness, list_id: str) -> list[Member] | None:
    """What `members` gives; None where the ESP cannot list members, which the provider must then say in words."""
    try:
        return [member async for member in esp.provider.members(list_id)]
    except Unsupported as error:
        unsupported = error
    assert unsupported.detail
    return None


class ContactPromises(Promises):
    """A subclass may lower the sizes, where every contact costs a real server time."""

    MANY: ClassVar = 10_000
    MEMBER_PAGE: ClassVar = 1000  # the longest page of members that we know of

    @pytest.mark.parametrize("size", ["none", "one", "batch", "batch and one", "many"])
    async def test_any_number_arrives(self, esp: EspHarness, list_id: str, size: str) -> None:
        # A larger batch is cut down to what is quick to try: its edges are the provider's own test.
        batch = min(esp.provider.limits.batch_size, self.MANY // 2)
        contacts = people({"none": 0, "one": 1, "batch": batch, "batch and one": batch + 1, "many": self.MANY}[size])
        outcomes = await esp.provider.upsert(list_id, contacts)
        assert len(outcomes) == len(contacts)
        assert {type(outcome) for outcome in outcomes} <= {Delivered}
        assert await esp.mailable(list_id) == esp.listed(*contacts)

    @pytest.mark.parametrize("count", [1, 3])
    async def test_a_repeat_changes_nothing(self, esp: EspHarness, list_id: str, count: int) -> None:
        contacts = people(count)
        first = await esp.provider.upsert(list_id, contacts)
        assert await esp.provider.upsert(list_id, contacts) == first
        known = [replace(c, provider_contact_id=id_of(o)) for c, o in zip(contacts, first, strict=True)]
        assert await esp.provider.upsert(list_id, known) == first
        assert await esp.mailable(list_id) == esp.listed(*contacts)

    async def test_calls_at_one_time_do_not_disturb_each_other(self, esp: EspHarness, list_id: str) -> None:
        contacts = people(3 * esp.provider.parallel_calls)
        outcomes = await asyncio.gather(*(esp.provider.upsert(list_id, [contact]) for contact in contacts))
        assert {type(outcome) for (outcome,) in outcomes} == {Delivered}
        assert await esp.mailable(list_id) == esp.listed(*contacts)

    async def test_an_address_given_twice_is_there_once(self, esp: EspHarness, list_id: str) -> None:
        anna, ivan = people(2)
        twin = replace(anna, id="7", address=anna.address.upper())
        outcomes = await esp.provider.upsert(list_id, [anna, ivan, twin, anna])
        assert outcomes[0] == outcomes[2] == outcomes[3]
        assert {type(outcome) for outcome in outcomes} == {Delivered}
        assert await esp.mailable(list_id) == esp.listed(anna, ivan)

    @pytest.mark.parametrize("alone", [True, False])
    @pytest.mark.parametrize("address", ODD_ADDRESSES)
    async def test_odd_addresses(self, esp: EspHarness, list_id: str, address: str, alone: bool) -> None:
        contacts = [person(1, address=address)] if alone else [person(1, address=address), *people(2, first=2)]
        outcomes = await esp.provider.upsert(list_id, contacts)
        assert {type(outcome) for outcome in outcomes} == {Delivered}
        assert await esp.mailable(list_id) == esp.listed(*contacts)
        await esp.provider.remove(list_id, contacts)
        assert await esp.mailable(list_id) == {}

    @pytest.mark.parametrize("alone", [True, False])
    async def test_odd_names(self, esp: EspHarness, list_id: str, alone: bool) -> None:
        contacts = [
            person(number, first_name=first_name, last_name=last_name)
            for number, (first_name, last_name) in enumerate(ODD_NAMES)
        ]
        for part in [[c] for c in contacts] if alone else [contacts]:
            await esp.provider.upsert(list_id, part)
        assert await esp.mailable(list_id) == esp.listed(*contacts)

    @pytest.mark.parametrize("count", [1, 3])
    async def test_names_follow_and_none_leaves_them_alone(self, esp: EspHarness, list_id: str, count: int) -> None:
        contacts = people(count)
        untold = [replace(c, first_name=None, last_name=None) for c in contacts]
        await esp.provider.upsert(list_id, untold)
        assert await esp.mailable(list_id) == esp.listed(*untold)
        await esp.provider.upsert(list_id, contacts)
        assert await esp.mailable(list_id) == esp.listed(*contacts)
        await esp.provider.upsert(list_id, untold)
        assert await esp.mailable(list_id) == esp.listed(*contacts)
        renamed = [replace(c, first_name="Новое", last_name="") for c in contacts]
        await esp.provider.upsert(list_id, renamed)
        assert await esp.mailable(list_id) == esp.listed(*renamed)

    @pytest.mark.parametrize("count", [1, 3])
    async def test_a_name_that_is_too_long_is_cut(self, esp: EspHarness, list_id: str, count: int) -> None:
        limit = esp.provider.limits.name_chars
        contacts = [replace(c, first_name="Я" * ((limit or 200) + 1)) for c in people(count)]
        outcomes = await esp.provider.upsert(list_id, contacts)
        assert {type(outcome) for outcome in outcomes} == {Delivered}
        assert await esp.mailable(list_id) == esp.listed(
            *(replace(c, first_name=c.first_name[:limit] if c.first_name else "") for c in contacts)
        )

    @pytest.mark.parametrize("position", ["alone", "first", "middle", "last"])
    async def test_a_bad_contact_stops_nobody_else(self, esp: EspHarness, list_id: str, position: str) -> None:
        good = [] if position == "alone" else people(4)
        index = {"alone": 0, "first": 0, "middle": 2, "last": 4}[position]
        bad = person(9, address=esp.refused_address())
        outcomes = await upsert(esp.provider, list_id, [*good[:index], bad, *good[index:]])
        refused = outcomes.pop(index)
        assert isinstance(refused, Rejected)
        assert bad.address not in refused.detail
        assert [type(outcome) for outcome in outcomes] == [Delivered] * len(good)
        assert await esp.mailable(list_id) == esp.listed(*good)

    @pytest.mark.parametrize("by_id", [True, False])
    @pytest.mark.parametrize("count", [1, 3])
    async def test_removal_takes_people_off_this_list_only(
        self, esp: EspHarness, list_id: str, count: int, by_id: bool
    ) -> None:
        other = await new_list(esp, "Другой")
        going, staying = people(count), person(9)
        outcomes = await esp.provider.upsert(list_id, [*going, staying])
        await esp.provider.upsert(other, [*going, staying])
        asked = [
            replace(c, address="", provider_contact_id=id_of(o)) if by_id else c
            for c, o in zip(going, outcomes, strict=False)
        ]
        for _ in range(2):
            assert [type(o) for o in await esp.provider.remove(list_id, asked)] == [Delivered] * count
            assert await esp.mailable(list_id) == esp.listed(staying)
        assert await esp.mailable(other) == esp.listed(*going, staying)

    async def test_a_large_removal(self, esp: EspHarness, list_id: str) -> None:
        contacts = people(min(esp.provider.limits.batch_size, self.MANY // 10) + 2)
        await esp.provider.upsert(list_id, contacts)
        outcomes = await esp.provider.remove(list_id, contacts[1:])
        assert len(outcomes) == len(contacts) - 1
        assert await esp.mailable(list_id) == esp.listed(contacts[0])

    @pytest.mark.parametrize("count", [1, 3])
    async def test_removing_strangers_is_success(self, esp: EspHarness, list_id: str, count: int) -> None:
        member = person(9)
        await esp.provider.upsert(list_id, [member])
        assert [type(o) for o in await esp.provider.remove(list_id, people(count))] == [Delivered] * count
        assert await esp.mailable(list_id) == esp.listed(member)

    @pytest.mark.parametrize("count", [1, 3])
    async def test_our_own_removal_is_no_opt_out(self, esp: EspHarness, list_id: str, count: int) -> None:
        contacts = people(count)
        await esp.provider.upsert(list_id, contacts)
        for _ in range(2):
            await esp.provider.remove(list_id, contacts)
            await esp.restart()
            outcomes = await esp.provider.upsert(list_id, contacts)
            assert {type(outcome) for outcome in outcomes} == {Delivered}
            assert await esp.mailable(list_id) == esp.listed(*contacts)

    async def test_members_are_all_there_with_state_and_id(self, esp: EspHarness, list_id: str) -> None:
        """Those who opted out are left out or shown as such, never as subscribed."""
        contacts = people(self.MEMBER_PAGE + 2)
        outcomes = await esp.provider.upsert(list_id, contacts)
        out = contacts[-1]
        await esp.opt_out(out.address)
        told = await all_members(esp, list_id)
        if told is None:
            return
        members = {member.address.lower(): member for member in told}
        assert len(members) == len(told)
        told_out = members.pop(out.address, None)
        assert told_out is None or told_out.state is MemberState.OPTED_OUT
        assert {m.state for m in members.values()} == {MemberState.SUBSCRIBED}
        assert {a: (m.first_name, m.last_name) for a, m in members.items()} == esp.listed(*contacts[:-1])
        for contact, outcome in zip(contacts[:-1], outcomes, strict=False):
            member = members[contact.address]
            assert member.id in (contact.id, None)
            assert member.provider_contact_id == id_of(outcome)

    async def test_an_empty_list_has_no_members(self, esp: EspHarness, list_id: str) -> None:
        assert not await all_members(esp, list_id)
