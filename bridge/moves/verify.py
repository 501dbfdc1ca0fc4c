"""Comparing the map with the provider, list by list, and putting right what can be.

The bridge holds no addresses. What it cannot find again it names by Planfix id: Planfix sends the address when the
contact is saved. Repairs are changes of the outbox like any other, so whoever opted out stays out.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass, field

from bridge.changes import Change, Kind
from bridge.clock import Clock
from bridge.moves.opt_outs import LEFT, PAGE, Heard, LateOptOuts
from bridge.moves.providers import OpenProviders
from bridge.moves.reading import DiskSet, in_batches
from bridge.store import Known, ListClosed, ListState, MappedList, Store
from providers.base import Member, MemberState, ProviderError, Reason, Refused


@dataclass(slots=True)
class Difference:
    """What was found of one list. Contacts are Planfix ids; a change that waits for a contact is no difference.

    `missing` are on the map and not at the provider; `extra` bear a Planfix id there that the list does not know;
    `by_hand` counts members without one; `opted_out` counts people who are out there and were not known to be;
    `late` counts those who opted out at an old place of the list, which was kept, since the last look at it;
    `subscribed_there` counts those whom the bridge keeps out and the provider does not. `brought_back` are those of the
    missing whose addresses were found, `repaired` counts all that was put right or queued. `detail` says why nothing
    could be compared.
    """

    mapped: MappedList
    members: int = 0
    missing: list[str] = field(default_factory=list)
    extra: list[str] = field(default_factory=list)
    by_hand: int = 0
    opted_out: int = 0
    late: int = 0
    subscribed_there: int = 0
    renamed: bool = False
    gone: bool = False
    brought_back: list[str] = field(default_factory=list)
    repaired: int = 0
    detail: str = ""

    @property
    def is_well(self) -> bool:
        return not (self.missing or self.extra or self.opted_out or self.late or self.gone or self.detail)


class Verify:
    """Compares the lists of an account. With `repair` it records opt-outs, queues the removal of those whom Planfix
    does not have, and queues those who are missing where an old list that was kept still tells their address."""

    def __init__(self, store: Store, providers: OpenProviders, clock: Clock, *, repair: bool) -> None:
        self._store = store
        self._providers = providers
        self._clock = clock
        self._repair = repair

    async def run(self, account: str) -> AsyncIterator[Difference]:
        """One difference for each list of the account, as it is known."""
        there = [item.mapped for item in await self._store.lists.summaries(account)]
        late = await self._hear_old_places(account, there)
        for mapped in there:
            if mapped.state in (ListState.OPEN, ListState.MOVING):
                yield await self._compare(mapped, [heard for heard in late if heard.original.id == mapped.id])

    async def _hear_old_places(self, account: str, there: Sequence[MappedList]) -> list[Heard]:
        open_here = {m.id for m in there if m.state is ListState.OPEN and m.provider in self._providers}
        late = LateOptOuts(self._store, self._providers, self._clock, change=self._repair)
        return await late.hear(
            [
                copy
                for copy in await self._store.lists.copies(account)
                if copy.copy_of in open_here and copy.left_at is not None and copy.provider in self._providers
            ]
        )

    async def _compare(self, mapped: MappedList, late: Sequence[Heard]) -> Difference:
        found = Difference(mapped)
        for heard in late:
            found.late += heard.count
            found.repaired += heard.count * self._repair
            if heard.error:
                found.detail = f"{type(heard.error).__name__}: {heard.error.detail}"
        if mapped.state is ListState.MOVING:
            found.detail = "it is being moved"
        elif mapped.provider not in self._providers:
            found.detail = f"{mapped.provider} is not in the settings; put it back there"
        elif not found.detail:
            try:
                await self._compare_members(found)
                await self._compare_name(found)
            except Refused as error:
                found.gone = error.reason is Reason.LIST_GONE
                found.detail = "" if found.gone else f"{type(error).__name__}: {error.detail}"
            except ProviderError as error:
                found.detail = f"{type(error).__name__}: {error.detail}"
        return found

    async def _compare_members(self, found: Difference) -> None:
        mapped = found.mapped
        provider = await self._providers.get(mapped.provider)
        with DiskSet() as seen:
            async for batch in in_batches(provider.members(str(mapped.provider_list_id))):
                members = {self._store.fingerprints.of(member.address): member for member in batch}
                seen.update(members)
                found.members += len(members)
                await self._look_at(found, members)
            missing = await self._missing(found, seen)
        if missing and self._repair:
            await self._bring_back(found, missing)

    async def _look_at(self, found: Difference, members: Mapping[bytes, Member]) -> None:
        mapped, fingerprints = found.mapped, list(members)
        known_out = await self._store.memory.opted_out(mapped.account, fingerprints)
        holders = await self._store.moves.holders(mapped.id, fingerprints)
        strangers = {f: m for f, m in members.items() if f not in holders and m.state is not MemberState.OPTED_OUT}
        ids = [member.id for member in strangers.values() if member.id]
        on_map = await self._store.memory.known(mapped.id, ids)
        waiting = await self._store.outbox.wanted_fingerprints(mapped.id, ids)
        out: list[tuple[bytes, str]] = []
        extra: dict[str, Member] = {}
        for fingerprint, member in members.items():
            if member.state is MemberState.OPTED_OUT:
                if fingerprint not in known_out:
                    out.append((fingerprint, member.how))
            elif fingerprint in known_out:
                found.subscribed_there += 1
            elif fingerprint in strangers:
                if not member.id:
                    found.by_hand += 1
                elif member.id not in waiting and member.id not in on_map:
                    extra[member.id] = member
        found.opted_out += len(out)
        found.extra += extra
        if self._repair and out:
            await self._remember(found, out)
        if self._repair and extra:
            await self._queue(found, [self._change(i, Kind.ABSENT, member) for i, member in extra.items()], extra)

    async def _missing(self, found: Difference, seen: DiskSet) -> dict[bytes, list[str]]:
        """Contacts by fingerprint that should be on the list and are not. Where opt-outs are forgotten, they left."""
        mapped, after = found.mapped, ""
        missing: dict[bytes, list[str]] = {}
        forgets = (await self._providers.get(mapped.provider)).capabilities.forgets_opt_outs
        while page := await self._store.moves.mapped_after(mapped.id, after, PAGE):
            after = list(page)[-1]
            absent = {i: known for i, known in page.items() if known.fingerprint not in seen}
            out = await self._store.memory.opted_out(mapped.account, [known.fingerprint for known in absent.values()])
            waiting = await self._store.outbox.wanted_fingerprints(mapped.id, list(absent))
            absent = {i: known for i, known in absent.items() if known.fingerprint not in out and i not in waiting}
            left = {i: known for i, known in absent.items() if forgets and known.provider_contact_id is not None}
            found.opted_out += len(left)
            if self._repair and left:
                await self._remember(found, [(known.fingerprint, LEFT) for known in left.values()])
            for contact_id, known in absent.items():
                if contact_id not in left:
                    found.missing.append(contact_id)
                    missing.setdefault(known.fingerprint, []).append(contact_id)
        return missing

    async def _bring_back(self, found: Difference, missing: Mapping[bytes, Sequence[str]]) -> None:
        """Looks for the addresses of those who are missing on the old lists that were kept, the latest last."""
        of = self._store.fingerprints.of
        for copy in await self._store.lists.copies(found.mapped.account):
            if copy.copy_of != found.mapped.id or copy.provider not in self._providers or not copy.provider_list_id:
                continue
            old = await self._providers.get(copy.provider)
            try:
                async for batch in in_batches(old.members(copy.provider_list_id)):
                    members = {of(member.address): member for member in batch}
                    there = {f: member for f, member in members.items() if f in missing}
                    await self._bring(found, there, missing)
            except Refused as error:
                if error.reason is not Reason.LIST_GONE:
                    raise

    async def _bring(
        self, found: Difference, there: Mapping[bytes, Member], missing: Mapping[bytes, Sequence[str]]
    ) -> None:
        back = {
            contact_id: member
            for f, member in there.items()
            if member.state is MemberState.SUBSCRIBED
            for contact_id in missing[f]
            if contact_id not in found.brought_back
        }
        if back:
            await self._queue(found, [self._change(i, Kind.PRESENT, member) for i, member in back.items()], back)
            found.brought_back += back

    # Repairs

    def _change(self, contact_id: str, kind: Kind, member: Member) -> Change:
        names = (member.first_name, member.last_name) if kind is Kind.PRESENT else (None, None)
        return Change(contact_id, kind, member.address, names[0], names[1], created_at=self._clock.now())

    async def _queue(self, found: Difference, changes: Sequence[Change], of: Mapping[str, Member]) -> None:
        """Has those changed that are still as they were when they were looked at."""
        now_on_map: Mapping[str, Known] = await self._store.memory.known(found.mapped.id, list(of))
        still = [change for change in changes if (change.contact_id in now_on_map) is (change.kind is Kind.PRESENT)]
        try:
            await self._store.moves.queue(found.mapped.id, still)
        except ListClosed:
            return
        found.repaired += len(still)

    async def _remember(self, found: Difference, out: Sequence[tuple[bytes, str]]) -> None:
        await self._store.memory.remember(found.mapped.account, out, self._clock.now())
        found.repaired += len(out)

    async def _compare_name(self, found: Difference) -> None:
        """Whether the list still has the name that it was made under. Lists of before this store have none here."""
        name = found.mapped.provider_name
        if name:
            provider = await self._providers.get(found.mapped.provider)
            found.renamed = await provider.find_list(name) != found.mapped.provider_list_id
