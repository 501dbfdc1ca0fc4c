"""Promises about the lists, and about a check that finds all well."""

# ruff: noqa: S101 - a test kit asserts

import pytest

from providers.base import Reason, Refused
from providers.testing.base import Promises, new_list, people, person
from providers.testing.harness import EspHarness

NAMES = ["Clients", "Клиенты: «Москва», Анна Иванова", 'O\'Hara & "Sons" <b>', "a/b?c=d%20#e+f", "🎉 רשימה"]


class ListPromises(Promises):
    async def test_check_finds_all_well_and_changes_nothing(self, esp: EspHarness) -> None:
        findings = await esp.provider.check()
        assert findings
        assert [f for f in findings if not f.ok] == []
        assert await esp.lists() == {}

    @pytest.mark.parametrize("name", NAMES)
    async def test_a_created_list_has_its_name_and_is_found_by_it(self, esp: EspHarness, name: str) -> None:
        fitting = esp.provider.list_name(name)
        list_id = await esp.provider.create_list(fitting)
        assert await esp.lists() == {list_id: fitting}
        assert await esp.provider.find_list(fitting) == list_id

    async def test_a_name_may_be_as_long_as_the_limit_says(self, esp: EspHarness) -> None:
        name = esp.provider.list_name("я" * (esp.provider.limits.list_name_chars + 1))
        assert len(name) == esp.provider.limits.list_name_chars
        list_id = await esp.provider.create_list(name)
        assert await esp.provider.find_list(name) == list_id

    @pytest.mark.parametrize("name", NAMES)
    async def test_a_numbered_name_is_another_that_fits(self, esp: EspHarness, name: str) -> None:
        names = [esp.provider.list_name(each, number) for each in (name, name * 100) for number in (1, 2, 50)]
        assert len(set(names)) == len(names)
        for each in names:
            assert 0 < len(each) <= esp.provider.limits.list_name_chars
            assert esp.provider.list_name(each) == each

    async def test_an_equal_name_is_a_second_list_or_told_as_taken(self, esp: EspHarness) -> None:
        name = esp.provider.list_name("Клиенты")
        first = await esp.provider.create_list(name)
        if esp.provider.capabilities.equal_names:
            second = await esp.provider.create_list(name)
            assert await esp.lists() == {first: name, second: name}
        else:
            with pytest.raises(Refused) as refused:
                await esp.provider.create_list(name)
            assert refused.value.reason is Reason.NAME_TAKEN
            assert await esp.lists() == {first: name}

    @pytest.mark.parametrize("name", NAMES)
    async def test_a_list_made_by_hand_is_found_among_others(self, esp: EspHarness, name: str) -> None:
        name = esp.provider.list_name(name)
        await esp.make_list(f"{name} 2")
        by_hand = await esp.make_list(name)
        await esp.make_list(f"1 {name}")
        assert await esp.provider.find_list(name) == by_hand

    @pytest.mark.parametrize("wanted", ["Клиент", "клиенты 2026", "Клиенты 20", "Клиенты  2026", "Other", "%", "*"])
    async def test_only_exactly_the_name_is_found(self, esp: EspHarness, wanted: str) -> None:
        await esp.make_list(esp.provider.list_name("Клиенты 2026"))
        assert await esp.provider.find_list(wanted) is None

    async def test_nothing_is_found_where_no_list_is(self, esp: EspHarness) -> None:
        assert await esp.provider.find_list("Клиенты") is None

    async def test_deleting_a_list_leaves_its_people_on_other_lists(self, esp: EspHarness) -> None:
        going = await new_list(esp, "Going")
        staying = await new_list(esp, "Staying")
        on_both = people(3)
        await esp.provider.upsert(going, [*on_both, person(4)])
        await esp.provider.upsert(staying, on_both)
        await esp.provider.delete_list(going)
        assert await esp.lists() == {staying: esp.provider.list_name("Staying")}
        assert await esp.mailable(staying) == esp.listed(*on_both)

    async def test_deleting_a_list_that_is_gone_is_success(self, esp: EspHarness, list_id: str) -> None:
        await esp.provider.delete_list(list_id)
        await esp.provider.delete_list(list_id)
        by_hand = await esp.make_list(esp.provider.list_name("By hand"))
        await esp.drop_list(by_hand)
        await esp.provider.delete_list(by_hand)
        assert await esp.lists() == {}

    @pytest.mark.parametrize("count", [1, 3])
    async def test_nobody_can_be_put_on_a_list_that_is_gone(self, esp: EspHarness, list_id: str, count: int) -> None:
        contacts = people(count)
        await esp.provider.upsert(list_id, contacts)
        await esp.drop_list(list_id)
        with pytest.raises(Refused) as refused:
            await esp.provider.upsert(list_id, contacts)
        assert refused.value.reason is Reason.LIST_GONE

    @pytest.mark.parametrize("count", [1, 3])
    async def test_taking_people_off_a_list_that_is_gone_is_success(
        self, esp: EspHarness, list_id: str, count: int
    ) -> None:
        contacts = people(count)
        await esp.provider.upsert(list_id, contacts)
        await esp.drop_list(list_id)
        assert len(await esp.provider.remove(list_id, contacts)) == count
