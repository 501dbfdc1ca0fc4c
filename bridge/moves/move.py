"""The move of one list: its members are read from the old provider, written to the new one, and then the list turns.

Every step may be repeated. What became of each contact is written down as it is known; a move that broke off, by a kill
too, reads the list again and writes only what is missing.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from bridge.changes import Change, Kind
from bridge.clock import Clock
from bridge.halves import in_halves
from bridge.moves.opt_outs import LEFT, PAGE
from bridge.moves.reading import BATCH_MAX, DiskSet, in_batches, members_of
from bridge.store import Copied, MappedList, Result, Store
from providers.base import (
    BOUNCED,
    Contact,
    Delivered,
    Member,
    MemberState,
    OptedOut,
    Outcome,
    Postponed,
    Provider,
    Reason,
    Rejected,
    Transient,
)

_THERE: Final = (Result.SENT, Result.MOVED)


@dataclass(frozen=True, slots=True)
class _Person:
    """A member of the old list; `how` they opted out, None when they get mail. `contact_ids` are Planfix's contacts
    with the address, one empty id where it knows none."""

    fingerprint: bytes
    member: Member
    contact_ids: Sequence[str]
    how: str | None

    def rows(self, result: Result, **more: Any) -> list[Copied]:
        return [Copied(contact_id, self.fingerprint, result, **more) for contact_id in self.contact_ids]


class Move:
    """One list on its way from the provider `old` to its `copy` at `new`. `watch` hears how many members were looked
    at: all of them twice."""

    def __init__(
        self,
        mapped: MappedList,
        copy: MappedList,
        old: Provider[Any],
        new: Provider[Any],
        *,
        store: Store,
        clock: Clock,
        watch: Callable[[int], None],
    ) -> None:
        self._mapped = mapped
        self._copy = copy
        self._old = old
        self._new = new
        self._store = store
        self._clock = clock
        self._watch = watch
        self._had_contacts = False

    async def run(self, report: Callable[[Sequence[Copied]], None]) -> dict[Result, int]:
        """How many there are of each result; the list lives at the new provider then. `report` gets everybody.

        Raises NotMoving when Planfix deleted the list meanwhile, OldListGone, and what providers raise; Refused with
        LIST_GONE is of the copy.
        """
        moves = self._store.moves
        await moves.begin(self._mapped.id, self._copy.id)
        self._had_contacts = bool(await moves.mapped_after(self._copy.id, "", 1))
        await self._read()
        if self._had_contacts:
            await self._take_off()
        # Somebody may have opted out since: what the list says right before the turn is what counts.
        with DiskSet() as still_there:
            await self._read(still_there)
            await self._missing(still_there)
        counts = await moves.counts(self._copy.id)
        after = ("", b"")
        while page := await moves.copied_after(self._copy.id, after, PAGE):
            report(page)
            after = page[-1].contact_id, page[-1].fingerprint
        await moves.turn(self._mapped, self._copy, self._clock.now())
        return counts

    # Reading the old list

    async def _read(self, still_there: DiskSet | None = None) -> None:
        """Carries over whoever is not yet, or has opted out since."""
        size = max(PAGE, min(self._new.limits.batch_size, BATCH_MAX))
        async for batch in in_batches(members_of(self._old, self._mapped), size):
            members: dict[bytes, Member] = {}
            for member in batch:
                fingerprint = self._store.fingerprints.of(member.address)
                if fingerprint not in members or member.state is MemberState.OPTED_OUT:
                    members[fingerprint] = member
            if still_there is not None:
                still_there.update(members)
            await self._carry(members)
            self._watch(len(batch))

    async def _carry(self, members: Mapping[bytes, Member]) -> None:
        fingerprints = list(members)
        done = await self._store.moves.results(self._copy.id, fingerprints)
        out = await self._store.memory.opted_out(self._mapped.account, fingerprints)
        holders = await self._store.moves.holders(self._mapped.id, fingerprints)
        leaving: list[_Person] = []
        waiting: list[_Person] = []
        going: list[_Person] = []
        for fingerprint, member in members.items():
            how = member.how if member.state is MemberState.OPTED_OUT else None
            how = how or (out[fingerprint].how if fingerprint in out else None)
            person = _Person(fingerprint, member, holders.get(fingerprint) or [member.id or ""], how)
            result = done.get(fingerprint)
            if how is not None:
                if result is not Result.OPTED_OUT:
                    leaving.append(person)
            elif result in (None, Result.SENT, Result.MISSING):
                (waiting if member.state is MemberState.PENDING else going).append(person)
        if leaving:
            await self._put_out(leaving, {p.fingerprint for p in leaving if done.get(p.fingerprint) in _THERE})
        if going:
            await self._upsert(going)
        unconfirmed = Reason.UNCONFIRMED.value
        await self._record([row for p in waiting for row in p.rows(Result.REFUSED, reason=unconfirmed)])

    async def _put_out(self, people: Sequence[_Person], moved: set[bytes]) -> None:
        """Nobody of these gets mail at the new provider, now or later; those `moved` are on the list there already."""
        known = await self._store.memory.known(
            self._mapped.id, [contact_id for person in people for contact_id in person.contact_ids if contact_id]
        )
        await self._remember(
            (fingerprint, str(person.how))
            for person in people
            for fingerprint in _addresses_of(person, [known[i].fingerprint for i in person.contact_ids if i in known])
        )
        kept_out = [p for p in people if self._new.capabilities.takes_opt_outs and p.how != BOUNCED]
        off = [p for p in people if p not in kept_out and (self._had_contacts or p.fingerprint in moved)]
        if kept_out:
            await self._new.keep_out(self._list_id, [self._contact(person) for person in kept_out])
        await self._remove([self._contact(person) for person in off])
        await self._record([row for person in people for row in person.rows(Result.OPTED_OUT)])

    async def _upsert(self, people: Sequence[_Person]) -> None:
        strangers = [person.fingerprint for person in people if not person.contact_ids[0]]
        users = await self._store.memory.users_of(self._mapped.account, strangers)
        known = await self._store.memory.known(self._copy.id, [person.contact_ids[0] for person in people])
        contacts = []
        for person in people:
            # Somebody whom Planfix does not know on this list may be one of its contacts on another.
            contact_id = person.contact_ids[0] or next((i for _, i in sorted(users[person.fingerprint])), "")
            before = known.get(person.contact_ids[0])  # on an old list that comes back
            contacts.append(
                self._contact(
                    person,
                    id=contact_id,
                    provider_contact_id=before.provider_contact_id if before else None,
                    id_is_old=before is not None and before.fingerprint != person.fingerprint,
                )
            )
        # Should the answer not be seen, these count as being there: who leaves meanwhile is taken off.
        await self._record([row for person in people for row in person.rows(Result.SENT)])
        outcomes = await in_halves(self._new.upsert, self._list_id, contacts)
        rows: list[Copied] = []
        later: list[Change] = []
        out: list[tuple[bytes, str]] = []
        for person, contact, outcome in zip(people, contacts, outcomes, strict=True):
            rows += self._told(person, outcome)
            if isinstance(outcome, OptedOut):
                out.append((person.fingerprint, outcome.how))
            elif isinstance(outcome, Postponed):
                later += self._later(person, contact, outcome)
        await self._remember(out)
        await self._record(rows, later)

    def _told(self, person: _Person, outcome: Outcome) -> list[Copied]:
        match outcome:
            case Delivered(provider_contact_id=provider_contact_id):
                return person.rows(Result.MOVED, provider_contact_id=provider_contact_id)
            case OptedOut():
                return person.rows(Result.OPTED_OUT)
            case Postponed() if person.contact_ids[0]:
                return person.rows(Result.LATER, reason=outcome.reason.value, detail=outcome.detail)
            case Postponed() | Rejected():
                return person.rows(Result.REFUSED, reason=outcome.reason.value, detail=outcome.detail)

    def _later(self, person: _Person, contact: Contact, outcome: Postponed) -> list[Change]:
        now = self._clock.now()
        return [
            Change(
                contact_id,
                Kind.PRESENT,
                contact.address,
                contact.first_name,
                contact.last_name,
                created_at=now,
                due_at=now + outcome.retry_after_s,
            )
            for contact_id in person.contact_ids
            if contact_id
        ]

    # What the old list does not show

    async def _missing(self, still_there: DiskSet) -> None:
        """Contacts by the map whom the old list does not have. Where opt-outs are forgotten, they have opted out."""
        account, after = self._mapped.account, ""
        while page := await self._store.moves.mapped_after(self._mapped.id, after, PAGE):
            after = list(page)[-1]
            copied = await self._store.moves.copied_of(self._copy.id, list(page))
            out = await self._store.memory.opted_out(account, [known.fingerprint for known in page.values()])
            left = {
                contact_id
                for contact_id, known in page.items()
                if self._old.capabilities.forgets_opt_outs
                and known.provider_contact_id is not None
                and known.fingerprint not in still_there
            }
            await self._remember((page[contact_id].fingerprint, LEFT) for contact_id in left)
            moved = [copied[i] for i in left if i in copied and copied[i].provider_contact_id]
            await self._remove(
                [Contact(each.contact_id, "", provider_contact_id=each.provider_contact_id) for each in moved]
            )
            await self._record(
                [
                    Copied(
                        contact_id,
                        known.fingerprint,
                        Result.OPTED_OUT if contact_id in left or known.fingerprint in out else Result.MISSING,
                    )
                    for contact_id, known in page.items()
                    if contact_id in left or contact_id not in copied or copied[contact_id].result is Result.SENT
                ]
            )

    async def _take_off(self) -> None:
        """Of an old list that comes back: takes off who was removed since, and hears who opted out there."""
        of = self._store.fingerprints.of
        async for batch in in_batches(self._new.members(self._list_id)):
            members = {of(member.address): member for member in batch}
            fingerprints = list(members)
            await self._remember(
                (fingerprint, member.how)
                for fingerprint, member in members.items()
                if member.state is MemberState.OPTED_OUT
            )
            out = await self._store.memory.opted_out(self._mapped.account, fingerprints)
            copied = await self._store.moves.results(self._copy.id, fingerprints)
            wanted = await self._store.moves.holders(self._mapped.id, fingerprints)
            ours = await self._store.moves.holders(self._copy.id, fingerprints)
            off = []
            for fingerprint, member in members.items():
                removed = fingerprint not in copied and fingerprint not in wanted and (fingerprint in ours or member.id)
                if member.state is not MemberState.OPTED_OUT and (removed or fingerprint in out):
                    off.append(Contact(member.id or "", member.address, provider_contact_id=member.provider_contact_id))
            await self._remove(off)

    # Calls and records

    @property
    def _list_id(self) -> str:
        return str(self._copy.provider_list_id)

    def _contact(self, person: _Person, **more: Any) -> Contact:
        first, last = self._names(person.member)
        fields = {"id": person.contact_ids[0], "address": person.member.address, "first_name": first, "last_name": last}
        return Contact(**fields | more)

    def _names(self, member: Member) -> tuple[str, str]:
        """Of one name the last word is the last name, where the new provider has a place for it."""
        if not self._old.capabilities.one_name or self._new.capabilities.one_name or member.last_name:
            return member.first_name, member.last_name
        first, _, last = member.first_name.rpartition(" ")
        return (first, last) if first else (last, "")

    async def _remove(self, contacts: Sequence[Contact]) -> None:
        if not contacts:
            return
        outcomes = await in_halves(self._new.remove, self._list_id, contacts)
        if waits := [outcome for outcome in outcomes if isinstance(outcome, Postponed)]:
            raise Transient(waits[0].detail, waits[0].retry_after_s)

    async def _remember(self, out: Iterable[tuple[bytes, str]]) -> None:
        if known := list(out):
            await self._store.memory.remember(self._mapped.account, known, self._clock.now())

    async def _record(self, rows: Sequence[Copied], later: Sequence[Change] = ()) -> None:
        await self._store.moves.record(self._mapped, self._copy, rows, later)


def _addresses_of(person: _Person, mapped: Sequence[bytes]) -> list[bytes]:
    """Which addresses an opt-out is of: of the person's, those that the map knows besides; of a bounce, the one."""
    return [person.fingerprint] if person.how == BOUNCED else list({person.fingerprint, *mapped})
