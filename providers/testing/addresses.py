"""Promises about a changed address."""

# ruff: noqa: S101 - a test kit asserts

from dataclasses import replace

import pytest

from providers.base import Contact, Delivered
from providers.testing.base import DOMAIN, Promises, id_of, new_list, people, person
from providers.testing.harness import EspHarness

NEW = f"new.address@{DOMAIN}"


def moved(contact: Contact, address: str = NEW, *, keep_old: bool = False) -> Contact:
    """`contact` after its address has changed."""
    return replace(contact, address=address, old_address=contact.address, keep_old=keep_old)


class AddressPromises(Promises):
    """`others` are contacts in the same call: one contact and a batch may take different ways."""

    @pytest.fixture(params=[0, 2], ids=["alone", "in a batch"])
    def others(self, request: pytest.FixtureRequest) -> list[Contact]:
        return people(request.param, first=50)

    async def test_a_free_address(self, esp: EspHarness, list_id: str, others: list[Contact]) -> None:
        old, bystander = people(2)
        await esp.provider.upsert(list_id, [old, bystander])
        new = replace(moved(old), first_name="Новое")
        for _ in range(2):
            outcomes = await esp.provider.upsert(list_id, [new, *others])
            assert {type(outcome) for outcome in outcomes} == {Delivered}
            assert await esp.mailable(list_id) == esp.listed(bystander, new, *others)

    async def test_names_that_are_not_told_move_along_where_the_contact_does(
        self, esp: EspHarness, list_id: str, others: list[Contact]
    ) -> None:
        old = person(1)
        await esp.provider.upsert(list_id, [old])
        new = replace(moved(old), first_name=None, last_name=None)
        await esp.provider.upsert(list_id, [new, *others])
        names = (await esp.mailable(list_id))[NEW]
        as_before = esp.listed(old)[old.address]
        assert names in ([as_before] if esp.provider.capabilities.renames_address else [as_before, ("", "")])

    async def test_other_lists_keep_the_person(self, esp: EspHarness, list_id: str, others: list[Contact]) -> None:
        other_list = await new_list(esp, "Другой")
        old = person(1)
        await esp.provider.upsert(list_id, [old])
        await esp.provider.upsert(other_list, [old])
        await esp.provider.upsert(list_id, [moved(old), *others])
        assert await esp.mailable(list_id) == esp.listed(moved(old), *others)
        assert len(await esp.mailable(other_list)) == 1

    async def test_an_address_that_another_member_has(
        self, esp: EspHarness, list_id: str, others: list[Contact]
    ) -> None:
        old, taken = person(1), person(2, address=NEW)
        await esp.provider.upsert(list_id, [old, taken])
        new = moved(old)
        for _ in range(2):
            outcomes = await esp.provider.upsert(list_id, [new, *others])
            assert {type(outcome) for outcome in outcomes} == {Delivered}
            assert await esp.mailable(list_id) == esp.listed(new, *others)

    async def test_an_address_that_the_account_knows_from_elsewhere(
        self, esp: EspHarness, list_id: str, others: list[Contact]
    ) -> None:
        other_list = await new_list(esp, "Другой")
        old, taken = person(1), person(2, address=NEW)
        await esp.provider.upsert(list_id, [old])
        await esp.provider.upsert(other_list, [taken])
        await esp.provider.upsert(list_id, [moved(old), *others])
        assert await esp.mailable(list_id) == esp.listed(moved(old), *others)
        assert NEW in await esp.mailable(other_list)

    async def test_an_address_that_differs_in_case_only(
        self, esp: EspHarness, list_id: str, others: list[Contact]
    ) -> None:
        old = person(1)
        await esp.provider.upsert(list_id, [old])
        new = moved(old, old.address.upper())
        outcomes = await esp.provider.upsert(list_id, [new, *others])
        assert {type(outcome) for outcome in outcomes} == {Delivered}
        assert await esp.mailable(list_id) == esp.listed(new, *others)

    async def test_an_old_address_that_nobody_knows(self, esp: EspHarness, list_id: str, others: list[Contact]) -> None:
        new = moved(person(1))
        outcomes = await esp.provider.upsert(list_id, [new, *others])
        assert {type(outcome) for outcome in outcomes} == {Delivered}
        assert await esp.mailable(list_id) == esp.listed(new, *others)

    async def test_an_old_address_that_another_contact_still_uses(
        self, esp: EspHarness, list_id: str, others: list[Contact]
    ) -> None:
        old = person(1)
        await esp.provider.upsert(list_id, [old])
        new = moved(old, keep_old=True)
        for _ in range(2):
            outcomes = await esp.provider.upsert(list_id, [new, *others])
            assert {type(outcome) for outcome in outcomes} == {Delivered}
            assert await esp.mailable(list_id) == esp.listed(old, new, *others)

    async def test_an_old_address_known_by_its_id_only(
        self, esp: EspHarness, list_id: str, others: list[Contact]
    ) -> None:
        old = person(1)
        (outcome,) = await esp.provider.upsert(list_id, [old])
        new = replace(old, address=NEW, provider_contact_id=id_of(outcome), id_is_old=True)
        for _ in range(2):
            await esp.restart()
            outcomes = await esp.provider.upsert(list_id, [new, *others])
            assert {type(outcome) for outcome in outcomes} == {Delivered}
            assert await esp.mailable(list_id) == esp.listed(new, *others)

    async def test_two_contacts_that_swap_their_addresses(self, esp: EspHarness, list_id: str) -> None:
        anna, ivan = people(2)
        await esp.provider.upsert(list_id, [anna, ivan])
        swapped = [moved(anna, ivan.address, keep_old=True), moved(ivan, anna.address, keep_old=True)]
        await esp.provider.upsert(list_id, swapped)
        assert await esp.mailable(list_id) == esp.listed(*swapped)

    async def test_an_address_that_is_left_and_taken_in_one_call(self, esp: EspHarness, list_id: str) -> None:
        leaving = person(1)
        await esp.provider.upsert(list_id, [leaving])
        taking = person(2, address=leaving.address)
        await esp.provider.upsert(list_id, [moved(leaving), taking])
        assert await esp.mailable(list_id) == esp.listed(moved(leaving), taking)

    async def test_an_address_that_changes_twice_in_one_call(self, esp: EspHarness, list_id: str) -> None:
        first = person(1)
        await esp.provider.upsert(list_id, [first])
        second = moved(first, f"second@{DOMAIN}")
        third = moved(second)
        await esp.provider.upsert(list_id, [second, third])
        assert await esp.mailable(list_id) == esp.listed(third)
