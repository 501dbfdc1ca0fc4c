"""The first promise: nobody who opted out is ever subscribed again, by any path."""

# ruff: noqa: S101 - a test kit asserts

from collections.abc import Sequence
from dataclasses import replace

import pytest

from providers.base import Contact, Delivered, MemberState, OptedOut, Outcome, Unsupported
from providers.testing.addresses import NEW, moved
from providers.testing.base import BridgeSide, Promises, id_of, new_list, people, person
from providers.testing.harness import EspHarness


class OptOutPromises(Promises):
    """`others` are good contacts in the same call; they must arrive."""

    @pytest.fixture(params=[0, 2], ids=["alone", "in a batch"])
    def others(self, request: pytest.FixtureRequest) -> list[Contact]:
        return people(request.param, first=50)

    async def stays_out(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, out: Contact, others: Sequence[Contact]
    ) -> None:
        """Upserts `out` between `others`, again, and again after a restart: only the others may get mail."""
        expected = (OptedOut,) if esp.provider.capabilities.tells_opt_outs else (OptedOut, Delivered)
        for restart in (False, False, True):
            if restart:
                await esp.restart()
            outcomes = await bridge.upsert(list_id, [*others[:1], out, *others[1:]])
            told: list[Outcome] = list(outcomes)
            assert isinstance(told.pop(len(others[:1])), expected)
            assert {type(outcome) for outcome in told} <= {Delivered}
            assert await esp.mailable(list_id) == esp.listed(*others)

    async def test_a_member_who_opted_out(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        out = person(1)
        await bridge.upsert(list_id, [out])
        await esp.opt_out(out.address)
        await self.stays_out(esp, bridge, list_id, out, others)

    async def test_a_member_who_opted_out_and_is_written_in_another_case(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        out = person(1)
        await bridge.upsert(list_id, [out])
        await esp.opt_out(out.address)
        await self.stays_out(esp, bridge, list_id, replace(out, address=out.address.upper(), id="7"), others)

    async def test_somebody_whom_the_list_never_had(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        out = person(1)
        await esp.opt_out(out.address)
        await self.stays_out(esp, bridge, list_id, out, others)

    async def test_somebody_who_opted_out_and_was_then_removed(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        out = person(1)
        await bridge.upsert(list_id, [out])
        await esp.opt_out(out.address)
        for _ in range(2):
            (outcome,) = await bridge.remove(list_id, [out])
            assert isinstance(outcome, OptedOut | Delivered)
        await self.stays_out(esp, bridge, list_id, out, others)

    async def test_somebody_who_was_removed_and_then_opted_out(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        out = person(1)
        await bridge.upsert(list_id, [out])
        await bridge.remove(list_id, [out])
        await esp.opt_out(out.address)
        await self.stays_out(esp, bridge, list_id, out, others)

    async def test_an_address_changed_after_the_opt_out(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        old = person(1)
        await bridge.upsert(list_id, [old])
        await esp.opt_out(old.address)
        await self.stays_out(esp, bridge, list_id, moved(old), others)
        await self.stays_out(esp, bridge, list_id, replace(old, address=NEW), others)

    async def test_an_address_changed_after_the_opt_out_and_known_by_its_id_only(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        old = person(1)
        (outcome,) = await bridge.upsert(list_id, [old])
        await esp.opt_out(old.address)
        new = replace(old, address=NEW, provider_contact_id=id_of(outcome), id_is_old=True)
        await self.stays_out(esp, bridge, list_id, new, others)

    async def test_an_address_changed_after_opt_out_and_removal(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        old = person(1)
        await bridge.upsert(list_id, [old])
        await esp.opt_out(old.address)
        await bridge.remove(list_id, [old])
        await self.stays_out(esp, bridge, list_id, moved(old), others)

    async def test_an_address_changed_after_the_opt_out_to_one_that_the_account_knows(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        old, taken = person(1), person(2, address=NEW)
        other_list = await new_list(esp, "Другой")
        await bridge.upsert(list_id, [old])
        await bridge.upsert(other_list, [taken])
        await esp.opt_out(old.address)
        await self.stays_out(esp, bridge, list_id, moved(old), others)

    async def test_an_address_changed_after_the_opt_out_while_another_contact_uses_the_old_one(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        old = person(1)
        await bridge.upsert(list_id, [old])
        await esp.opt_out(old.address)
        await self.stays_out(esp, bridge, list_id, moved(old, keep_old=True), others)

    async def test_an_address_changed_to_one_that_opted_out(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        old = person(1)
        await bridge.upsert(list_id, [old])
        await esp.opt_out(NEW)
        await self.stays_out(esp, bridge, list_id, moved(old), others)

    async def test_an_opt_out_of_the_new_address_leaves_an_old_one_that_is_kept(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        old = person(1)
        await bridge.upsert(list_id, [old])
        await esp.opt_out(NEW)
        outcomes = await bridge.upsert(list_id, [moved(old, keep_old=True), *others])
        assert len(outcomes) == 1 + len(others)
        assert await esp.mailable(list_id) == esp.listed(old, *others)

    @pytest.mark.parametrize("last", ["the removal", "the opt-out"])
    async def test_an_opt_out_of_somebody_on_no_list_goes_along_to_another_service(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, last: str
    ) -> None:
        """Whoever moves the lists hears of it: by the removal, by the list, or by those whom the account keeps out."""
        out, staying = people(2)
        await bridge.upsert(list_id, [out, staying])
        if last == "the removal":
            await esp.opt_out(out.address)
        (outcome,) = await bridge.remove(list_id, [out])
        if last == "the opt-out":
            await esp.opt_out(out.address)
        told = [member async for member in esp.provider.kept_out()]
        assert {member.state for member in told} <= {MemberState.OPTED_OUT}
        told += [m async for m in esp.provider.members(list_id) if m.state is MemberState.OPTED_OUT]
        addresses = {member.address.lower() for member in told}
        assert addresses | ({out.address} if isinstance(outcome, OptedOut) else set()) == {out.address}

    async def test_who_is_kept_out_gets_no_mail_or_it_is_said_that_nobody_can_be(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, others: list[Contact]
    ) -> None:
        member, stranger = people(2)
        await bridge.upsert(list_id, [member])
        if not esp.provider.capabilities.takes_opt_outs:
            with pytest.raises(Unsupported) as unsupported:
                await esp.provider.keep_out(list_id, [member])
            assert unsupported.value.detail
            return
        for _ in range(2):
            await esp.provider.keep_out(list_id, [member, stranger])
            assert await esp.mailable(list_id) == {}
        await self.stays_out(esp, bridge, list_id, member, others)
        await self.stays_out(esp, bridge, list_id, stranger, others)
