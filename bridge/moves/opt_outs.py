"""Opt-outs that no reading of a list for its move shows: of people on no list whom the old account keeps out, and those
that come to light after the turn; people may still click "unsubscribe" in a mail of the old service."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from bridge.changes import Change, Kind
from bridge.clock import Clock
from bridge.moves.providers import OpenProviders
from bridge.moves.reading import DiskSet, OldListGone, in_batches, members_of
from bridge.store import Known, ListState, MappedList, Store
from providers.base import BOUNCED, Contact, Member, MemberState, Provider, ProviderError, Refused

LEFT = "left"
"""How somebody opted out who is not at a service any more that forgets opt-outs."""

PAGE = 1000


async def remember_kept_out(store: Store, account: str, old: Provider[Any], now: float) -> None:
    """Whoever the old account keeps out is out, also who is on no list of it any more and may be put back."""
    of = store.fingerprints.of
    async for batch in in_batches(old.kept_out()):
        await store.memory.remember(account, [(of(member.address), member.how) for member in batch], now)


@dataclass(slots=True)
class Heard:
    """What an old place of the list `original` told: how many are out there of whom nobody knew; `error` is what kept
    it from telling all. `new` is the provider where the list lives, None where nothing is to be changed there."""

    copy: MappedList
    original: MappedList
    new: Provider[Any] | None
    count: int = 0
    error: ProviderError | None = None


class LateOptOuts:
    """Hears old places that are kept: each list, and then each account once for all of them.

    With `change`, whoever is out there is remembered. Who was not known to be out before `since`, a Unix time, gets no
    mail where the list lives now: 0 repeats that for everybody, as an earlier hearing may have been killed in between.
    """

    def __init__(
        self, store: Store, providers: OpenProviders, clock: Clock, *, since: float = 0.0, change: bool = True
    ) -> None:
        self._store = store
        self._providers = providers
        self._clock = clock
        self._since = since
        self._change = change
        self._heard: list[Heard] = []
        self._counted: set[tuple[int, bytes]] = set()

    async def hear(self, copies: Sequence[MappedList]) -> list[Heard]:
        """What each of these places told."""
        for copy in copies:
            await self.hear_list(copy)
        return await self.hear_accounts()

    async def hear_list(self, copy: MappedList) -> None:
        """Those who are out on the list there, or not on it any more where opt-outs are forgotten. A list that is gone
        has nothing to tell."""
        original = await self._store.lists.by_id(int(copy.copy_of or 0))
        heard = Heard(copy, original, None)
        self._heard.append(heard)
        try:
            if self._change and original.state is ListState.OPEN:
                if original.provider not in self._providers:
                    raise Refused(detail=f"{original.provider} is not in the settings; put it back there")
                heard.new = await self._providers.get(original.provider)
            old = await self._providers.get(copy.provider)
            with DiskSet() as there:
                async for batch in in_batches(members_of(old, copy)):
                    members = {self._store.fingerprints.of(member.address): member for member in batch}
                    there.update(members)
                    out = {f: member for f, member in members.items() if member.state is MemberState.OPTED_OUT}
                    await self._carry(heard, out, await self._learn(copy.account, out))
                if old.capabilities.forgets_opt_outs:
                    await self._carry_those_who_left(heard, there)
        except OldListGone:
            return
        except ProviderError as error:
            heard.error = error

    async def hear_accounts(self) -> list[Heard]:
        """Whoever the accounts of the lists heard keep out is out, also who left a list before and may be on it again
        by now. What all told."""
        for name in dict.fromkeys(heard.copy.provider for heard in self._heard):
            there = [heard for heard in self._heard if heard.copy.provider == name and heard.error is None]
            try:
                await self._hear_account(name, there)
            except ProviderError as error:
                for heard in there:
                    heard.error = error
        for heard in self._heard:
            if self._change and heard.error is None:
                await self._store.moves.heard(heard.copy.id)
        return self._heard

    async def _hear_account(self, name: str, there: Sequence[Heard]) -> None:
        if not there:
            return
        old = await self._providers.get(name)
        async for batch in in_batches(old.kept_out()):
            out = {self._store.fingerprints.of(member.address): member for member in batch}
            unknown = await self._learn(there[0].copy.account, out)
            for heard in there:
                here = await self._store.moves.holders(heard.original.id, list(out))
                await self._carry(heard, {f: out[f] for f in here}, unknown & here.keys())

    async def _learn(self, account: str, out: Mapping[bytes, Member]) -> set[bytes]:
        """Remembers who is out; those of whom nobody knew."""
        unknown = out.keys() - await self._known(account, out)
        await self._remember(account, {f: out[f].how for f in unknown})
        return unknown

    async def _known(self, account: str, out: Collection[bytes], before: float | None = None) -> set[bytes]:
        return set(await self._store.memory.opted_out(account, list(out), before=before))

    async def _remember(self, account: str, out: Mapping[bytes, str]) -> None:
        if self._change:
            await self._store.memory.remember(account, out.items(), self._clock.now())

    async def _carry(self, heard: Heard, out: Mapping[bytes, Member], unknown: set[bytes]) -> None:
        """Counts those of whom nobody knew, and sees to it that the others of `out` get no mail either."""
        self._count(heard, unknown)
        asked = out.keys() - await self._known(heard.copy.account, out, self._since)
        if asked and heard.new is not None:
            await self._keep_out(heard.original, heard.new, {f: out[f] for f in asked})

    def _count(self, heard: Heard, unknown: Collection[bytes]) -> None:
        """Both a list and its account may tell of somebody."""
        fresh = {(heard.copy.id, fingerprint) for fingerprint in unknown} - self._counted
        self._counted |= fresh
        heard.count += len(fresh)

    async def _keep_out(self, original: MappedList, new: Provider[Any], out: Mapping[bytes, Member]) -> None:
        """Contacts of Planfix are looked at again by the running bridge, which takes them off the list. Nobody else
        writes the others."""
        list_id = str(original.provider_list_id)
        holders = await self._store.moves.holders(original.id, list(out))
        told = {f: m for f, m in out.items() if new.capabilities.takes_opt_outs and m.how != BOUNCED}
        if told:
            await new.keep_out(list_id, [Contact((holders.get(f) or [""])[0], m.address) for f, m in told.items()])
        now = self._clock.now()
        rest = {f: member for f, member in out.items() if f not in told}
        changes = [
            Change(contact_id, Kind.PRESENT, member.address, created_at=now)
            for f, member in rest.items()
            for contact_id in holders.get(f, ())
        ]
        await self._store.moves.look_again(original.id, changes)
        strangers = [Contact("", member.address) for f, member in rest.items() if f not in holders]
        if strangers:
            await new.remove(list_id, strangers)

    async def _carry_those_who_left(self, heard: Heard, there: DiskSet) -> None:
        """Contacts whom an old list had that forgets opt-outs, and has no more. Their addresses are not known here."""
        account, after = heard.copy.account, ""
        while page := await self._store.moves.mapped_after(heard.copy.id, after, PAGE):
            after = list(page)[-1]
            left = {
                contact_id: known.fingerprint
                for contact_id, known in page.items()
                if known.provider_contact_id is not None and known.fingerprint not in there
            }
            unknown = set(left.values()) - await self._known(account, left.values())
            self._count(heard, unknown)
            await self._remember(account, dict.fromkeys(unknown, LEFT))
            known = await self._known(account, left.values(), self._since)
            off = {contact_id: f for contact_id, f in left.items() if f not in known}
            if off and heard.new is not None:
                await self._take_off(heard.original, heard.new, off)

    async def _take_off(self, original: MappedList, new: Provider[Any], left: Mapping[str, bytes]) -> None:
        on_map: Mapping[str, Known] = await self._store.memory.known(original.id, list(left))
        contacts = [
            Contact(contact_id, "", provider_contact_id=known.provider_contact_id)
            for contact_id, known in on_map.items()
            if known.provider_contact_id is not None and known.fingerprint == left[contact_id]
        ]
        if contacts:
            await new.remove(str(original.provider_list_id), contacts)
