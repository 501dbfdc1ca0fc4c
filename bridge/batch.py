"""What a batch of changes of one list needs of the ESP: which calls, in which order, and for whom none at all.

Three rules live here. Who opted out is not sent again, under no address that the contact ever had, and is taken off the
list if we put them there. An address that another contact still uses is neither removed nor renamed. And every address
that a contact left goes off the list.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from bridge.changes import Change, Kind
from bridge.store import Known, MappedList, Settled, Store
from providers.base import Contact, Delivered, OptedOut, Outcome, Postponed, Rejected


@dataclass(slots=True)
class Step:
    """One change on its way: addresses to take off the list first, the upsert if any, addresses to take off last.

    `outcome` settles the change; None until it is known.
    """

    change: Change
    known: Known | None
    removals: list[Contact] = field(default_factory=list)
    upsert: Contact | None = None
    removals_after: list[Contact] = field(default_factory=list)
    outcome: Outcome | None = None

    def settled(self) -> Settled:
        return Settled(self.change, self.outcome or Delivered(), self.known)

    def removed(self, contact: Contact, outcome: Outcome) -> None:
        """Takes in what one removal before the upsert brought. An opt-out, or a wish to wait, settles the change; all
        else does where nothing follows."""
        if isinstance(outcome, OptedOut) and not outcome.is_of_person and contact.address != self.change.address:
            outcome = Delivered()  # an address that the contact leaves has bounced: the contact is not kept out
        if self.upsert is None and self.change.kind is Kind.PRESENT:
            if isinstance(outcome, Postponed | Rejected):  # who is out is still on the list
                self.outcome = outcome
        elif self.upsert is None or isinstance(outcome, OptedOut | Postponed):
            self.outcome = max(self.outcome or outcome, outcome, key=_weight)


def _weight(outcome: Outcome) -> int:
    """Of several removals for one change the heaviest outcome counts."""
    return (Delivered, Rejected, Postponed, OptedOut).index(type(outcome))


async def plan(store: Store, mapped: MappedList, changes: Sequence[Change]) -> list[Step]:
    """Looks up what the store knows of these changes and decides. Raises StoreError."""
    facts = await _Facts.read(store, mapped, changes)
    reached = facts.carry_opt_outs(changes)
    return [_step(facts, change, reached) for change in changes]


def _step(facts: "_Facts", change: Change, reached: set[bytes]) -> Step:
    known = facts.known.get(change.contact_id)
    step = Step(change, known)
    if change.kind is Kind.ABSENT:
        step.removals = facts.removable(change, known, (change.address, *change.old_addresses))
        if not step.removals:
            step.outcome = Delivered()
    elif (opt_out := facts.opt_out_of(change, known)) is not None:
        step.removals = facts.removable(change, known, change.old_addresses)
        present = facts.fingerprint(change.address)
        if present in facts.ids or present in reached:  # it may be on the list, as this contact's or another's
            step.removals.append(Contact(change.contact_id, change.address))
        step.outcome = OptedOut(opt_out.how)  # without an id from now on: we have nobody there
    else:
        _plan_upsert(facts, step)
    return step


def _plan_upsert(facts: "_Facts", step: Step) -> None:
    change, known = step.change, step.known
    old = next(
        (a for a in change.old_addresses if known is not None and facts.fingerprint(a) == known.fingerprint),
        change.old_addresses[0] if change.old_addresses else None,
    )
    own_id = None if known is None else known.provider_contact_id
    present = facts.fingerprint(change.address)
    # What the upsert leaves: the old address and, by the ESP's id, the one of the map.
    left = {facts.fingerprint(old): Contact(change.contact_id, old)} if old is not None else {}
    if known is not None and own_id and known.fingerprint != present:
        by_id = Contact(change.contact_id, "", provider_contact_id=own_id)
        left.setdefault(known.fingerprint, by_id)
    used_here = {fingerprint for fingerprint in left if facts.used_here(change, fingerprint)}
    keep_old = bool(used_here) or any(facts.used_elsewhere(change, fingerprint) for fingerprint in left)
    step.removals = [
        Contact(change.contact_id, address)
        for address in change.old_addresses
        if address != old and not facts.used_here(change, facts.fingerprint(address))
    ]
    step.upsert = Contact(
        id=change.contact_id,
        address=change.address,
        first_name=change.first_name,
        last_name=change.last_name,
        old_address=old,
        keep_old=keep_old,
        # To the ESP, contacts with one address are one. Where it forgets opt-outs, the id tells that somebody left.
        provider_contact_id=own_id or facts.ids.get(present),
        id_is_old=own_id is not None and known is not None and known.fingerprint != present,
    )
    if keep_old:
        step.removals_after = [contact for fingerprint, contact in left.items() if fingerprint not in used_here]


@dataclass(frozen=True, slots=True)
class _Facts:
    """All that the decisions rest on, read at once for the whole batch."""

    store: Store
    mapped: MappedList
    known: dict[str, Known]
    out: dict[bytes, OptedOut]
    ids: dict[bytes, str]  # the ESP's ids on this list by fingerprint: of contacts without an id, of who is out
    users: dict[bytes, set[tuple[int, str]]]
    wanted: dict[str, bytes | None]

    @classmethod
    async def read(cls, store: Store, mapped: MappedList, changes: Sequence[Change]) -> "_Facts":
        known = await store.memory.known(mapped.id, [change.contact_id for change in changes])
        of = store.fingerprints.of
        every = {of(a) for change in changes for a in (change.address, *change.old_addresses) if a}
        every |= {k.fingerprint for k in known.values()}
        # Only an address that somebody leaves can be taken from somebody else.
        left = {of(a) for change in changes for a in change.old_addresses}
        left |= {of(change.address) for change in changes if change.kind is Kind.ABSENT and change.address}
        for change in changes:
            contact = known.get(change.contact_id)
            if contact is not None and (change.kind is Kind.ABSENT or contact.fingerprint != of(change.address)):
                left.add(contact.fingerprint)
        users = await store.memory.users_of(mapped.account, list(left))
        out = await store.memory.opted_out(mapped.account, list(every))
        has_id = {contact_id for contact_id, contact in known.items() if contact.provider_contact_id is not None}
        present = {change.contact_id: of(change.address) for change in changes if change.kind is Kind.PRESENT}
        of_interest = [f for contact_id, f in present.items() if contact_id not in has_id or f in out]
        here = {contact for pairs in users.values() for list_id, contact in pairs if list_id == mapped.id}
        return cls(
            store,
            mapped,
            known,
            out,
            await store.memory.provider_ids(mapped.id, of_interest),
            users,
            await store.outbox.wanted_fingerprints(mapped.id, list(here)),
        )

    def fingerprint(self, address: str) -> bytes:
        return self.store.fingerprints.of(address)

    def opt_out_of(self, change: Change, known: Known | None) -> OptedOut | None:
        """Why the contact is not sent: the person opted out under any address, or the present one bounced."""
        if not self.out:
            return None
        present = self.fingerprint(change.address)
        had = [self.fingerprint(address) for address in change.old_addresses]
        had += [known.fingerprint] if known is not None else []
        of_person = (self.out[f] for f in (present, *had) if f in self.out and self.out[f].is_of_person)
        return next(of_person, self.out.get(present))

    def carry_opt_outs(self, changes: Sequence[Change]) -> set[bytes]:
        """Lets people take their opt-outs along to their present addresses, for every contact of the batch; the
        addresses that were not out before."""
        reached: set[bytes] = set()
        while True:
            new = {
                self.fingerprint(change.address): opt_out
                for change in changes
                if change.kind is Kind.PRESENT
                and self.fingerprint(change.address) not in self.out
                and (opt_out := self.opt_out_of(change, self.known.get(change.contact_id))) is not None
            }
            if not new:
                return reached
            self.out.update(new)
            reached |= new.keys()

    def used_here(self, change: Change, fingerprint: bytes) -> bool:
        """Another contact of this list has the address and is not about to leave it."""
        return any(
            list_id == self.mapped.id
            and contact_id != change.contact_id
            and self.wanted.get(contact_id, fingerprint) == fingerprint
            for list_id, contact_id in self.users.get(fingerprint, ())
        )

    def used_elsewhere(self, change: Change, fingerprint: bytes) -> bool:
        """Another contact has the address on another list of the account."""
        return any(
            list_id != self.mapped.id and contact_id != change.contact_id
            for list_id, contact_id in self.users.get(fingerprint, ())
        )

    def removable(self, change: Change, known: Known | None, addresses: Iterable[str]) -> list[Contact]:
        """The contact under each of these addresses and, by the ESP's id, under the one of the map: where it is
        nobody else's on this list, or nobody's because it is out."""
        by_fingerprint = {
            self.fingerprint(address): Contact(change.contact_id, address) for address in addresses if address
        }
        kept = self.fingerprint(change.address) if change.kind is Kind.PRESENT else None
        if known is not None and known.provider_contact_id and known.fingerprint != kept:
            by_fingerprint.setdefault(
                known.fingerprint, Contact(change.contact_id, "", provider_contact_id=known.provider_contact_id)
            )
        return [
            contact
            for fingerprint, contact in by_fingerprint.items()
            if fingerprint in self.out or not self.used_here(change, fingerprint)
        ]
