"""Opt-outs that come to light after a list has moved: people may still click "unsubscribe" in a mail of the old one."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from bridge.changes import Change, Kind
from bridge.clock import Clock
from bridge.moves.move import LEFT, PAGE
from bridge.moves.providers import OpenProviders
from bridge.moves.reading import DiskSet, in_batches
from bridge.store import ListState, MappedList, Store
from providers.base import BOUNCED, Contact, Member, MemberState, Provider, Reason, Refused


async def carry_late_opt_outs(
    store: Store,
    providers: OpenProviders,
    clock: Clock,
    copy: MappedList,
    original: MappedList,
    *,
    change: bool = True,
    again: bool = False,
) -> int:
    """How many are out at `copy`, an old place of the list `original`, of whom nobody knew. With `change` they are
    remembered, and get no mail where the list lives now; with `again` whoever is remembered already too, for an earlier
    hearing may have been killed in between.

    Raises what providers raise; an old list that is gone has nothing to tell.
    """
    old = await providers.get(copy.provider)
    new = await providers.get(original.provider) if change and original.state is ListState.OPEN else None
    late = _Late(store, clock, copy, original, new, change, again)
    try:
        count = await late.carry(old)
    except Refused as error:
        if error.reason is not Reason.LIST_GONE:
            raise
        count = 0
    if change:
        await store.moves.heard(copy.id)
    return count


@dataclass(frozen=True, slots=True)
class _Late:
    """`new` is the provider where the list lives, None where nothing is to be changed there."""

    store: Store
    clock: Clock
    copy: MappedList
    original: MappedList
    new: Provider[Any] | None
    change: bool
    again: bool

    async def carry(self, old: Provider[Any]) -> int:
        of = self.store.fingerprints.of
        count = 0
        with DiskSet() as there:
            async for batch in in_batches(old.members(str(self.copy.provider_list_id))):
                members = {of(member.address): member for member in batch}
                there.update(members)
                out = {f: member for f, member in members.items() if member.state is MemberState.OPTED_OUT}
                unknown = await self._unknown(out)
                count += len(unknown)
                await self._remember({f: member.how for f, member in unknown.items()})
                kept_out = out if self.again else unknown
                if kept_out and self.new is not None:
                    await self._keep_out(self.new, kept_out)
            if old.capabilities.forgets_opt_outs:
                count += await self._carry_those_who_left(there)
        return count + await self._carry_account(old)

    async def _carry_account(self, old: Provider[Any]) -> int:
        """Whoever the old account keeps out is out, also who left the list before and may be on it again by now."""
        count = 0
        async for batch in in_batches(old.kept_out()):
            out = {self.store.fingerprints.of(member.address): member for member in batch}
            unknown = await self._unknown(out)
            await self._remember({f: member.how for f, member in unknown.items()})
            asked = out if self.again else unknown
            here = await self.store.moves.holders(self.original.id, list(asked))
            count += len(here.keys() & unknown.keys())
            if here and self.new is not None:
                await self._keep_out(self.new, {f: asked[f] for f in here})
        return count

    async def _unknown(self, out: Mapping[bytes, Member]) -> dict[bytes, Member]:
        known = await self.store.memory.opted_out(self.copy.account, list(out))
        return {f: member for f, member in out.items() if f not in known}

    async def _remember(self, out: Mapping[bytes, str]) -> None:
        if self.change:
            await self.store.memory.remember(self.copy.account, out.items(), self.clock.now())

    async def _keep_out(self, new: Provider[Any], out: Mapping[bytes, Member]) -> None:
        """Contacts of Planfix are looked at again by the running bridge, which takes them off the list. Nobody else
        writes the others."""
        list_id = str(self.original.provider_list_id)
        holders = await self.store.moves.holders(self.original.id, list(out))
        told = {f: m for f, m in out.items() if new.capabilities.takes_opt_outs and m.how != BOUNCED}
        if told:
            await new.keep_out(list_id, [Contact((holders.get(f) or [""])[0], m.address) for f, m in told.items()])
        now = self.clock.now()
        rest = {f: member for f, member in out.items() if f not in told}
        changes = [
            Change(contact_id, Kind.PRESENT, member.address, created_at=now)
            for f, member in rest.items()
            for contact_id in holders.get(f, ())
        ]
        await self.store.moves.look_again(self.original.id, changes)
        strangers = [Contact("", member.address) for f, member in rest.items() if f not in holders]
        if strangers:
            await new.remove(list_id, strangers)

    async def _carry_those_who_left(self, there: DiskSet) -> int:
        """Contacts whom an old list had that forgets opt-outs, and has no more. Their addresses are not known here."""
        count, after = 0, ""
        while page := await self.store.moves.mapped_after(self.copy.id, after, PAGE):
            after = list(page)[-1]
            left = {
                contact_id: known.fingerprint
                for contact_id, known in page.items()
                if known.provider_contact_id is not None and known.fingerprint not in there
            }
            out = await self.store.memory.opted_out(self.copy.account, list(left.values()))
            unknown = {contact_id: f for contact_id, f in left.items() if f not in out}
            count += len(unknown)
            await self._remember(dict.fromkeys(unknown.values(), LEFT))
            off = left if self.again else unknown
            if off and self.new is not None:
                await self._take_off(self.new, off)
        return count

    async def _take_off(self, new: Provider[Any], left: Mapping[str, bytes]) -> None:
        contacts = [
            Contact(contact_id, "", provider_contact_id=known.provider_contact_id)
            for contact_id, known in (await self.store.memory.known(self.original.id, list(left))).items()
            if known.provider_contact_id is not None and known.fingerprint == left[contact_id]
        ]
        if contacts:
            await new.remove(str(self.original.provider_list_id), contacts)
