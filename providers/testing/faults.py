"""The second promise, the provider's part: a fault is told as what it is, and a repeat ends well."""

# ruff: noqa: S101 - a test kit asserts

import traceback
from collections.abc import Awaitable
from typing import Any, Final

import pytest

from providers import jobs
from providers.base import AuthFailed, Contact, Delivered, Postponed, ProviderError, Transient
from providers.testing.addresses import NEW, moved
from providers.testing.base import BridgeSide, Promises, people, person
from providers.testing.harness import EspHarness, Fault

SHORT_TIMEOUT_S: Final = 0.5
FOLLOWED: Final = 600  # contacts, of which every service with jobs makes one
LOOKS: Final = 20  # at a job, until it has ended
RATE_LIMITS = (Fault.RATE_LIMIT_SECONDS, Fault.RATE_LIMIT_DATE)

# One operation may be several calls: the fault meets the first, the second or the third of them.
at_any_call = pytest.mark.parametrize("after", [0, 1, 2])
any_fault = pytest.mark.parametrize("fault", list(Fault))


class FaultPromises(Promises):
    async def ends_in(
        self, esp: EspHarness, fault: Fault, after: int, operation: Awaitable[Any], contacts: list[Contact]
    ) -> None:
        """Awaits `operation` while `fault` meets the call behind the first `after` ones.

        The error must be of the right kind and tell no key and no address of `contacts`. There may be none only where
        the operation makes fewer calls, or does not need the one that failed.
        """
        calls = esp.calls()
        # An HTTP client may repeat a read by itself, once, for a connection that was kept may have died long ago; so
        # may each of several reads at one time.
        times = 2 * esp.provider.parallel_calls if fault is Fault.CONNECTION_RESET else 1
        esp.fail(fault, times=times, after=after)
        raised: ProviderError | None = None
        try:
            await operation
        except ProviderError as error:
            raised = error
        esp.heal()
        assert esp.calls() > calls
        if raised is None:
            assert after > 0, f"{fault} went unnoticed"
            return
        expected = AuthFailed if fault is Fault.WRONG_KEY else Transient
        assert isinstance(raised, expected), f"{fault} came out as {raised!r}"
        if isinstance(raised, Transient) and fault in RATE_LIMITS:
            assert raised.retry_after_s is not None, "the service's wait was not read; see ErrorTable.retry_headers"
            assert 1 <= raised.retry_after_s <= 8
        text = "".join(traceback.format_exception(raised))
        assert [secret for secret in [*esp.secrets(), *(c.address for c in contacts)] if secret in text] == []

    async def prepare(self, esp: EspHarness, list_id: str, fault: Fault) -> None:
        """Lets the provider learn what it asks only once, so that the fault meets the operation itself."""
        if fault is Fault.TIMEOUT_AFTER_ACTING:
            await esp.restart(timeout_s=SHORT_TIMEOUT_S)
        for operation in (esp.provider.upsert, esp.provider.remove):
            try:
                await operation(list_id, people(5, first=90))
            except Transient:  # the first answer of a fake may take longer than the short timeout
                await operation(list_id, people(5, first=90))

    async def test_check_tells_a_wrong_key_and_what_to_do(self, esp: EspHarness) -> None:
        esp.fail(Fault.WRONG_KEY, times=100)
        wrong = [f for f in await esp.provider.check() if not f.ok]
        assert wrong
        assert wrong[0].text
        assert wrong[0].advice

    async def test_check_never_calls_an_esp_well_that_is_down(self, esp: EspHarness) -> None:
        esp.fail(Fault.EMPTY_503, times=100)
        with pytest.raises(Transient):
            await esp.provider.check()

    async def test_could_not_look_is_not_there_is_none(self, esp: EspHarness) -> None:
        name = esp.provider.list_name("Клиенты")
        await esp.make_list(name)
        esp.fail(Fault.EMPTY_503)
        with pytest.raises(Transient):
            await esp.provider.find_list(name)

    @any_fault
    @at_any_call
    async def test_upsert(self, esp: EspHarness, bridge: BridgeSide, list_id: str, fault: Fault, after: int) -> None:
        fresh, known, old, out = people(4)
        await bridge.upsert(list_id, [known, old, out])
        await esp.opt_out(out.address)
        await self.prepare(esp, list_id, fault)
        before = await esp.mailable(list_id)

        contacts = [fresh, person(2, first_name="Новое"), moved(old), out]
        await self.ends_in(esp, fault, after, bridge.upsert(list_id, contacts), [*contacts, old])

        if fault is Fault.WRONG_KEY and after == 0:
            assert await esp.mailable(list_id) == before
        assert out.address not in await esp.mailable(list_id)
        outcomes = await bridge.upsert(list_id, contacts)
        assert [type(outcome) for outcome in outcomes[:3]] == [Delivered] * 3
        assert await esp.mailable(list_id) == esp.listed(*contacts[:3])

    @any_fault
    @at_any_call
    async def test_upsert_of_one(self, esp: EspHarness, list_id: str, fault: Fault, after: int) -> None:
        await self.prepare(esp, list_id, fault)
        contact = person(1)
        await self.ends_in(esp, fault, after, esp.provider.upsert(list_id, [contact]), [contact])
        assert [type(o) for o in await esp.provider.upsert(list_id, [contact])] == [Delivered]
        assert await esp.mailable(list_id) == esp.listed(contact)

    @any_fault
    @at_any_call
    async def test_a_changed_address_of_one_who_opted_out(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, fault: Fault, after: int
    ) -> None:
        out = person(1)
        await bridge.upsert(list_id, [out])
        await esp.opt_out(out.address)
        await self.prepare(esp, list_id, fault)
        operation = bridge.upsert(list_id, [moved(out)])
        await self.ends_in(esp, fault, after, operation, [out, moved(out)])
        assert await esp.mailable(list_id) == {}
        await bridge.upsert(list_id, [moved(out)])
        assert await esp.mailable(list_id) == {}

    @at_any_call
    async def test_an_opt_out_before_the_repeat(
        self, esp: EspHarness, bridge: BridgeSide, list_id: str, after: int
    ) -> None:
        """The answer is lost, the person opts out, the bridge repeats."""
        await self.prepare(esp, list_id, Fault.CUT_JSON)
        out, old, other = people(3)
        await bridge.upsert(list_id, [old])
        contacts = [out, moved(old), other]
        await self.ends_in(esp, Fault.CUT_JSON, after, bridge.upsert(list_id, contacts), contacts)
        await esp.opt_out(out.address)
        await esp.opt_out(NEW)
        await bridge.upsert(list_id, contacts)
        mailable = await esp.mailable(list_id)
        if esp.provider.capabilities.forgets_opt_outs:  # nobody heard that they were on the list before they left
            mailable = {address: names for address, names in mailable.items() if address == other.address}
        assert mailable == esp.listed(other)

    @any_fault
    @at_any_call
    async def test_remove(self, esp: EspHarness, list_id: str, fault: Fault, after: int) -> None:
        staying, *going = people(3)
        await esp.provider.upsert(list_id, [staying, *going])
        await self.prepare(esp, list_id, fault)
        before = await esp.mailable(list_id)
        await self.ends_in(esp, fault, after, esp.provider.remove(list_id, going), going)
        if fault is Fault.WRONG_KEY and after == 0:
            assert await esp.mailable(list_id) == before
        assert [type(o) for o in await esp.provider.remove(list_id, going)] == [Delivered] * 2
        assert await esp.mailable(list_id) == esp.listed(staying)

    @at_any_call
    async def test_a_removal_with_a_lost_answer_is_no_opt_out(self, esp: EspHarness, list_id: str, after: int) -> None:
        contacts = people(2)
        await esp.provider.upsert(list_id, contacts)
        await self.prepare(esp, list_id, Fault.CUT_JSON)
        await self.ends_in(esp, Fault.CUT_JSON, after, esp.provider.remove(list_id, contacts), contacts)
        assert [type(o) for o in await esp.provider.upsert(list_id, contacts)] == [Delivered] * 2
        assert await esp.mailable(list_id) == esp.listed(*contacts)

    @any_fault
    @at_any_call
    async def test_create_list(self, esp: EspHarness, list_id: str, fault: Fault, after: int) -> None:
        await self.prepare(esp, list_id, fault)
        name = esp.provider.list_name("Новый")
        await self.ends_in(esp, fault, after, esp.provider.create_list(name), [])
        there = [id_ for id_, its_name in (await esp.lists()).items() if its_name == name]
        if fault is Fault.WRONG_KEY and after == 0:
            assert there == []
        found = await esp.provider.find_list(name)
        assert there == ([] if found is None else [found])
        created = found or await esp.provider.create_list(name)
        assert (await esp.lists())[created] == name

    # An answer that says nothing may be cut unnoticed.
    @pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.CUT_JSON])
    async def test_delete_list(self, esp: EspHarness, list_id: str, fault: Fault) -> None:
        await self.prepare(esp, list_id, fault)
        await self.ends_in(esp, fault, 0, esp.provider.delete_list(list_id), [])
        await esp.provider.delete_list(list_id)
        assert await esp.lists() == {}

    async def test_a_job_whose_bridge_is_gone_holds_nobody_up_once_it_has_ended(
        self, esp: EspHarness, list_id: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Where the service works later: who is removed meanwhile waits for the job that may bring them, and no longer.
        A provider that is told the job's id asks for its end."""
        contacts = people(FOLLOWED)
        with monkeypatch.context() as patch:
            patch.setattr(jobs, "pause", _killed)
            try:
                await esp.provider.upsert(list_id, contacts)
            except _Gone:
                pass
            else:
                assert not esp.provider.capabilities.asynchronous, "no job was followed"
                return
        under_way = esp.provider.under_way
        await esp.restart()
        esp.provider.under_way = under_way  # it is kept in the store
        for _ in range(LOOKS):
            outcomes = await esp.provider.remove(list_id, contacts)
            if not any(isinstance(outcome, Postponed) for outcome in outcomes):
                break
        assert {type(outcome) for outcome in outcomes} == {Delivered}
        assert await esp.mailable(list_id) == {}


class _Gone(Exception):
    """The process was killed."""


async def _killed(_: float) -> None:
    raise _Gone
