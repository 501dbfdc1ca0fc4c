"""The plan of an upsert and a removal, for providers that fill in its small steps.

The steps are `look_up`, `put`, `rename`, `keep_out` and `take_off`. What they must be called for, and in which order,
so that nobody who opted out comes back under a changed address, is decided here, once for all services.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, contextmanager
from dataclasses import dataclass
from functools import partial
from re import Pattern, fullmatch
from typing import Any, ClassVar, Final, Generic, TypeVar

from providers.answers import CallRefused
from providers.base import (
    BOUNCED,
    Contact,
    ContactRefused,
    Delivered,
    OptedOut,
    Outcome,
    Postponed,
    Provider,
    Reason,
    Refused,
    Rejected,
    SettingsT,
)
from providers.concurrency import each
from providers.jobs import KnownAs, Polling

T = TypeVar("T")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Found:
    """A contact as the service has it. `opted_out` says how it is kept out of mail, None when it is not; `on_list`
    whether it is on the list that was asked for, where the service tells. `raw` is the service's own record."""

    id: str
    address: str
    opted_out: str | None = None
    on_list: bool = True
    raw: Any = None


class PlannedProvider(Provider[SettingsT], ABC, Generic[SettingsT]):
    """A provider whose upserts and removals follow the plan.

    `list_id_pattern` is what an id of a list looks like: any other text is a list that does not exist, and reaches no
    call. `polling` is when jobs of an asynchronous service are looked at; most services have none.
    """

    list_id_pattern: ClassVar[str] = r"\d+"
    polling: ClassVar[Polling] = Polling(first_s=1, longest_s=1, budget_s=0)

    async def upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """Opt-outs of earlier addresses first, then changes of address, then everybody, then what is left behind."""
        self.require_list(list_id)
        with _perhaps_for_one_of(contacts):
            return await self._upsert_batch(list_id, contacts)

    async def _upsert_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        outcomes: dict[int, Outcome] = {}
        earlier = {i: former for i, contact in enumerate(contacts) if (former := former_contacts(contact))}
        waiting = await self._waiting(list_id, list(earlier.values()))
        outcomes.update((index, waits) for index, waits in zip(earlier, waiting, strict=True) if waits)
        moving = {i: former for i, former in earlier.items() if i not in outcomes}
        left: list[tuple[int, Found]] = []
        if moving:
            left = await self._move(list_id, contacts, moving, outcomes)
        going = [index for index in range(len(contacts)) if index not in outcomes]
        if going:
            told = await self.put(list_id, [contacts[index] for index in going])
            outcomes.update(zip(going, told, strict=True))
        if left:
            await self._leave(list_id, contacts, left, outcomes)
        return [outcomes[index] for index in range(len(contacts))]

    async def _move(
        self,
        list_id: str,
        contacts: Sequence[Contact],
        moving: Mapping[int, Sequence[Contact]],
        outcomes: dict[int, Outcome],
    ) -> list[tuple[int, Found]]:
        """Settles who opted out under an earlier address, renames where that is possible; the records that must be
        taken off the list at the end, each with the index of its contact."""
        asked = [(index, former) for index, some in moving.items() for former in some]
        found = await self.look_up(list_id, [former for _, former in asked])
        before: dict[int, dict[tuple[str, str], Found]] = {}
        for (index, _), one in zip(asked, found, strict=True):
            if one is not None:  # by address and by id it may be the same record
                before.setdefault(index, {})[one.id, one.address.lower()] = one
        out: list[Contact] = []
        moving_on: list[tuple[Found, Contact]] = []
        free: dict[int, Found] = {}
        left: list[tuple[int, Found]] = []
        for index, records in before.items():
            contact = contacts[index]
            how = next((r.opted_out for r in records.values() if r.opted_out not in (None, BOUNCED)), None)
            others = [r for r in records.values() if r.address.lower() != contact.address.lower()]
            if how is not None:
                out.append(contact)
                outcomes[index] = OptedOut(how)
            else:
                moving_on += [(record, contact) for record in others]
                if self.capabilities.renames_address and len(others) == 1 and not others[0].opted_out:
                    free[index] = others[0]
            if not contact.keep_old:
                left += [(index, record) for record in others]
        if out and self.capabilities.takes_opt_outs:
            await self.keep_out(list_id, out)
        if moving_on:
            await self.carry_over(list_id, moving_on)
        renamed = await self._rename(list_id, contacts, {i: r for i, r in free.items() if not contacts[i].keep_old})
        taken = {contact.address.lower() for contact in contacts}
        return [(i, r) for i, r in left if r.id not in renamed and r.address.lower() not in taken]

    async def _rename(self, list_id: str, contacts: Sequence[Contact], free: Mapping[int, Found]) -> set[str]:
        """Gives records their new addresses where nobody has those; the ids of the records that were renamed."""
        if not free:
            return set()
        owners = await self.look_up(list_id, [Contact(contacts[i].id, contacts[i].address) for i in free])
        renamed = set()
        for (index, record), owner in zip(free.items(), owners, strict=True):
            if owner is None and await self.rename(list_id, record, contacts[index]):
                renamed.add(record.id)
        return renamed

    async def _leave(
        self,
        list_id: str,
        contacts: Sequence[Contact],
        left: Sequence[tuple[int, Found]],
        outcomes: dict[int, Outcome],
    ) -> None:
        """Takes earlier records off. Time has passed since they were looked up, that of a job at some services: whose
        opt-out would go with the record is kept out under the present address now."""
        asked = [(i, record) for i, record in left if record.opted_out is None]
        former = [Contact(contacts[i].id, record.address, provider_contact_id=record.id) for i, record in asked]
        seen = [record for _, record in left if record.opted_out is not None]
        out: dict[int, str] = {}
        for (index, _), record in zip(asked, await self.look_up_leaving(list_id, former) if asked else [], strict=True):
            if record is not None:
                seen.append(record)
                if record.opted_out not in (None, BOUNCED):
                    out[index] = str(record.opted_out)
        if out:
            people = [Contact(contacts[i].id, contacts[i].address) for i in out]
            if self.capabilities.takes_opt_outs:
                await self.keep_out(list_id, people)
            else:
                there = await self.look_up_leaving(list_id, people)
                seen += [record for record in there if record is not None]
            outcomes.update((index, OptedOut(how)) for index, how in out.items())
        await self.take_off(list_id, seen)

    async def remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """Looks everybody up, for their ids and for opt-outs that would not be told again, then takes them off."""
        if not self.is_list(list_id):
            return [Delivered()] * len(contacts)
        with _perhaps_for_one_of(contacts):
            return await self._remove_batch(list_id, contacts)

    async def _remove_batch(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        waiting = await self._waiting(list_id, [[contact] for contact in contacts])
        asked = [contact for contact, waits in zip(contacts, waiting, strict=True) if waits is None]
        found = await self.look_up_leaving(list_id, asked) if asked else []
        there = [record for record in found if record is not None]
        if there:
            await self.take_off(list_id, there)
        told = iter(found)
        return [waits or self._removed(next(told)) for waits in waiting]

    async def _waiting(self, list_id: str, people: Sequence[Sequence[Contact]]) -> list[Postponed | None]:
        """Who of these must wait for a job; each is one contact under some addresses."""
        if not self.capabilities.asynchronous:
            return [None] * len(people)
        addresses = [[contact.known_by for contact in some] for some in people]
        return await self.under_way.waiting(list_id, addresses, partial(self.has_ended, list_id))

    @staticmethod
    def _removed(record: Found | None) -> Outcome:
        if record is None:
            return Delivered()
        return OptedOut(record.opted_out, record.id) if record.opted_out else Delivered(record.id)

    # The steps of the plan

    @abstractmethod
    async def look_up(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        """The service's records of contacts, in order: by `address` compared exactly (case aside), or by
        `provider_contact_id` where there is no address; None for who is not in the account. An opt-out must be told
        whether or not the record is on the list, and of an address that has no record, where the service keeps such."""

    async def look_up_leaving(self, list_id: str, contacts: Sequence[Contact]) -> list[Found | None]:
        """`look_up` for a removal. Where an opt-out stays told whatever leaves the list, it need not be asked for."""
        return await self.look_up(list_id, contacts)

    @abstractmethod
    async def put(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """Puts contacts on the list under their present address, in the fewest calls; one outcome each, in order.
        Never changes an opt-out. Old addresses are not its business. Raises as `Provider.upsert`."""

    async def carry_over(self, list_id: str, moving_on: Sequence[tuple[Found, Contact]]) -> None:
        """Marks the contacts' present addresses as their earlier records are marked, by what keeps a record out of some
        mail and not of all, where the service ties such marks to the address. Comes before any other change."""
        return

    async def rename(self, list_id: str, record: Found, contact: Contact) -> bool:
        """Gives a record the contact's address; False when the service will not. Only asked when
        `capabilities.renames_address`, for a free address; `put` follows for names and list."""
        raise AssertionError(f"{self.name} declares renames_address and does not say how")

    @abstractmethod
    async def take_off(self, list_id: str, records: Sequence[Found]) -> None:
        """Takes records off the list and keeps them in the account. Who is not on it, and a list that is gone, are
        success. Where that would lose the mark of an opt-out, who is `opted_out` stays."""

    def job(self, list_id: str, contacts: Iterable[Contact]) -> AbstractAsyncContextManager[KnownAs]:
        """The block in which a job for these contacts is started, told the service's id, and followed to its end: see
        `UnderWay.job`."""
        return self.under_way.job(list_id, (contact.address for contact in contacts), 2 * self.polling.budget_s)

    async def has_ended(self, list_id: str, job_id: str) -> bool:
        """Whether a job for this list has ended, by the id that `job` was told; asked when the bridge that started it
        is gone. A provider that tells no ids is not asked."""
        raise AssertionError(f"{self.name} tells ids of jobs and does not say how they are")

    async def one_by_one(self, items: Sequence[T], work: Callable[[T], Awaitable[R]]) -> list[R]:
        """`work` for every item, results in order, as many at one time as calls may be; the first failure stops the
        rest."""
        return await each(items, work, self.parallel_calls)

    def is_list(self, list_id: str) -> bool:
        """Whether the id may be one of this service's."""
        return fullmatch(self.list_id_pattern, list_id) is not None

    def require_list(self, list_id: str) -> None:
        """Raises Refused for an id that is none of this service's."""
        if not self.is_list(list_id):
            raise Refused(Reason.LIST_GONE, f"no id of a list at {self.title}")


_OF_A_CONTACT: Final = frozenset({Reason.REQUEST_REFUSED, Reason.CONTACT_REFUSED, Reason.INVALID_ADDRESS})


@contextmanager
def _perhaps_for_one_of(contacts: Sequence[Contact]) -> Iterator[None]:
    """A call that is refused, be it a look-up, may be refused for one address that the service does not take. So the
    others are not refused with it: ContactRefused lets the bridge find the one by halves."""
    try:
        yield
    except CallRefused as refused:
        if len(contacts) == 1 or refused.reason not in _OF_A_CONTACT:
            raise
        raise ContactRefused(detail=refused.detail) from refused


def former_contacts(contact: Contact) -> list[Contact]:
    """The contact under each address that it had before: by `old_address`, and by an id that is old."""
    former = []
    if contact.old_address and contact.old_address.lower() != contact.address.lower():
        former.append(Contact(contact.id, contact.old_address))
    if contact.id_is_old and contact.provider_contact_id:
        former.append(Contact(contact.id, "", provider_contact_id=contact.provider_contact_id))
    return former


async def for_the_rest(
    settled: Mapping[int, Outcome],
    contacts: Sequence[Contact],
    work: Callable[[Sequence[Contact]], Awaitable[list[Outcome]]],
) -> list[Outcome]:
    """The outcomes of all contacts, in order: those of some indices are settled, `work` is asked for the others."""
    rest = [contact for index, contact in enumerate(contacts) if index not in settled]
    told = iter(await work(rest) if rest else [])
    return [settled[index] if index in settled else next(told) for index in range(len(contacts))]


def told_by_report(contacts: Sequence[Contact], refused: Collection[str], detail: str) -> list[Outcome]:
    """The outcomes of a bulk call that went well for all but these addresses, which are in small letters. The address
    is the id. Raises ContactRefused when a refused address is none of theirs: then one of them is refused and unknown.
    """
    if set(refused) - {contact.address.lower() for contact in contacts}:
        raise ContactRefused(detail=detail)
    return [
        Rejected(Reason.INVALID_ADDRESS, detail)
        if contact.address.lower() in refused
        else Delivered(contact.address.lower())
        for contact in contacts
    ]


async def without_refused_rows(
    refused: CallRefused,
    rows: Pattern[bytes],
    contacts: Sequence[Contact],
    work: Callable[[Sequence[Contact]], Awaitable[list[Outcome]]],
) -> list[Outcome]:
    """The outcomes of a bulk call that was refused before it did anything: who is named, by the index that `rows` finds
    in the refusal, is rejected, and `work` is asked for the others. Raises ContactRefused when nobody is named."""
    named = {int(index) for index in rows.findall(refused.answer.body)} & set(range(len(contacts)))
    if not named:
        raise ContactRefused(detail=refused.detail) from refused
    rejected = dict.fromkeys(named, Rejected(Reason.INVALID_ADDRESS, refused.detail))
    return await for_the_rest(rejected, contacts, work)
