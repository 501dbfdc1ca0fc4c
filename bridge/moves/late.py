"""Opt-outs that come to light after a list has moved: people may still click "unsubscribe" in a mail of the old one."""

from collections.abc import Mapping

from bridge.changes import Change, Kind
from bridge.clock import Clock
from bridge.moves.move import LEFT, PAGE
from bridge.moves.providers import OpenProviders
from bridge.moves.reading import DiskSet, in_batches
from bridge.store import MappedList, Store
from bridge.store.lists import ListState
from providers.base import BOUNCED, Contact, Member, MemberState, Reason, Refused


async def carry_late_opt_outs(
    store: Store, providers: OpenProviders, clock: Clock, copy: MappedList, original: MappedList
) -> None:
    """Remembers who is out at an old place of a list, and sees to it that they get no mail where it lives now.

    Raises what providers raise; an old list that is gone has nothing to tell.
    """
    old = await providers.get(copy.provider)
    of = store.fingerprints.of
    with DiskSet() as there:
        try:
            async for batch in in_batches(old.members(str(copy.provider_list_id))):
                members = {of(member.address): member for member in batch}
                there.update(members)
                out = {f: member for f, member in members.items() if member.state is MemberState.OPTED_OUT}
                known = await store.memory.opted_out(copy.account, list(out))
                new = {f: member for f, member in out.items() if f not in known}
                await store.memory.remember(copy.account, [(f, m.how) for f, m in new.items()], clock.now())
                if new and original.state is ListState.OPEN:
                    await _keep_out(store, providers, clock, original, new)
        except Refused as error:
            if error.reason is Reason.LIST_GONE:
                return
            raise
        if old.capabilities.forgets_opt_outs:
            await _carry_those_who_left(store, providers, clock, copy, original, there)


async def _keep_out(
    store: Store, providers: OpenProviders, clock: Clock, original: MappedList, out: Mapping[bytes, Member]
) -> None:
    """Members of the old list who are out, away from the list where it lives now. The running bridge takes contacts of
    Planfix off it; nobody else writes the others."""
    provider = await providers.get(original.provider)
    list_id = str(original.provider_list_id)
    holders = await store.moves.holders(original.id, list(out))
    told = {f: m for f, m in out.items() if provider.capabilities.takes_opt_outs and m.how != BOUNCED}
    if told:
        await provider.keep_out(list_id, [Contact((holders.get(f) or [""])[0], m.address) for f, m in told.items()])
    now = clock.now()
    rest = {f: member for f, member in out.items() if f not in told}
    changes = [
        Change(contact_id, Kind.PRESENT, member.address, created_at=now)
        for f, member in rest.items()
        for contact_id in holders.get(f, ())
    ]
    await store.moves.look_again(original.id, changes)
    strangers = [Contact("", member.address) for f, member in rest.items() if f not in holders]
    if strangers:
        await provider.remove(list_id, strangers)


async def _carry_those_who_left(
    store: Store, providers: OpenProviders, clock: Clock, copy: MappedList, original: MappedList, there: DiskSet
) -> None:
    """Contacts whom an old list had that forgets opt-outs, and has no more. Their addresses are not known here."""
    after = ""
    while page := await store.moves.mapped_after(copy.id, after, PAGE):
        after = list(page)[-1]
        left = {
            contact_id: known.fingerprint
            for contact_id, known in page.items()
            if known.provider_contact_id is not None and known.fingerprint not in there
        }
        out = await store.memory.opted_out(copy.account, list(left.values()))
        new = {contact_id: f for contact_id, f in left.items() if f not in out}
        await store.memory.remember(copy.account, [(f, LEFT) for f in new.values()], clock.now())
        if original.state is not ListState.OPEN:
            continue
        now_at = await store.memory.known(original.id, list(new))
        ids = {
            contact_id: known.provider_contact_id
            for contact_id, known in now_at.items()
            if known.provider_contact_id is not None and known.fingerprint == new[contact_id]
        }
        if ids:
            provider = await providers.get(original.provider)
            contacts = [Contact(contact_id, "", provider_contact_id=there_id) for contact_id, there_id in ids.items()]
            await provider.remove(str(original.provider_list_id), contacts)
