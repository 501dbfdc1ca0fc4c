"""What the store remembers of delivered contacts: the id map, who opted out, what was refused."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby

from sqlalchemy import BigInteger, Text, bindparam, delete, exists, func, select, update
from sqlalchemy import Connection as SyncConnection

from bridge.changes import Change, Kind
from bridge.store.database import Database, execute_many
from bridge.store.fingerprints import Fingerprints
from bridge.store.lists import IN_USE, ListState, MappedList
from bridge.store.outbox import Outbox, chunks
from bridge.store.tables import contacts, lists, opt_outs, outbox, problems, removals
from providers.base import BOUNCED, Delivered, OptedOut, Outcome, Postponed, Reason, Rejected, redact

# Statements of every batch are built once: building one costs more than running it.
_OF_LIST = bindparam("list", type_=BigInteger)
_IDS = bindparam("ids", type_=Text, expanding=True)
_KNOWN = select(contacts.c.contact_id, contacts.c.provider_contact_id, contacts.c.fingerprint).where(
    contacts.c.list_id == _OF_LIST, contacts.c.contact_id.in_(_IDS)
)
_OPTED_OUT = select(opt_outs.c.fingerprint, opt_outs.c.how).where(
    opt_outs.c.account == bindparam("account"),
    opt_outs.c.fingerprint.in_(bindparam("fingerprints", expanding=True)),
)
_OPTED_OUT_BEFORE = _OPTED_OUT.where(opt_outs.c.seen_at < bindparam("before"))
_PROVIDER_IDS = select(contacts.c.fingerprint, contacts.c.provider_contact_id).where(
    contacts.c.fingerprint.in_(bindparam("fingerprints", expanding=True)),
    contacts.c.list_id + 0 == _OF_LIST,  # the bare column has SQLite read the whole list, by its primary key
    contacts.c.provider_contact_id.is_not(None),
)
_PLACE = (
    select(lists.c.state, lists.c.provider, lists.c.provider_list_id).where(lists.c.id == _OF_LIST).with_for_update()
)
_DELETE_CONTACTS = delete(contacts).where(contacts.c.list_id == _OF_LIST, contacts.c.contact_id.in_(_IDS))
_DELETE_PROBLEMS = delete(problems).where(problems.c.list_id == _OF_LIST, problems.c.contact_id.in_(_IDS))
_HAS_PROBLEMS = select(exists().where(problems.c.list_id == _OF_LIST))
_DELETE_CHANGES = delete(outbox).where(
    outbox.c.list_id == _OF_LIST, outbox.c.seq.between(bindparam("first"), bindparam("last"))
)


@dataclass(frozen=True, slots=True)
class Known:
    """A contact as last delivered: the provider's id of it, and the fingerprint of its address then."""

    provider_contact_id: str | None
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Problem:
    """A change that was refused for good. Holds no address."""

    account: str
    public_id: str
    contact_id: str
    reason: str
    detail: str
    at: float


@dataclass(frozen=True, slots=True)
class Settled:
    """A change of the outbox and what became of it. `known` is what the map held of the contact before."""

    change: Change
    outcome: Outcome
    known: Known | None = None


@dataclass(slots=True)
class _Rows:
    """What a batch of outcomes writes."""

    done_seqs: list[int] = field(default_factory=list)
    done_contacts: list[str] = field(default_factory=list)
    map: list[dict[str, object]] = field(default_factory=list)
    unmapped: list[str] = field(default_factory=list)
    opt_outs: list[dict[str, object]] = field(default_factory=list)
    problems: list[dict[str, object]] = field(default_factory=list)
    postponed: list[tuple[int, float]] = field(default_factory=list)


class Memory:
    """Reads and writes `contacts`, `opt_outs` and `problems`. Every method may raise StoreError."""

    def __init__(self, database: Database, fingerprints: Fingerprints, outbox: Outbox) -> None:
        self._database = database
        self._fingerprints = fingerprints
        self._outbox = outbox
        self._put_contacts = database.upsert(contacts)
        self._put_problems = database.upsert(problems)
        remember = database.insert(opt_outs)
        # What the person said counts for more than that an address bounced.
        self._put_opt_outs = remember.on_conflict_do_update(
            index_elements=["account", "fingerprint"],
            set_={"how": remember.excluded.how, "seen_at": remember.excluded.seen_at},
            where=opt_outs.c.how == BOUNCED,
        )

    async def known(self, list_id: int, contact_ids: Sequence[str]) -> dict[str, Known]:
        """Those of the contacts that are in the map."""
        found: dict[str, Known] = {}
        async with self._database.read() as connection:
            for some in chunks(contact_ids):
                rows = await connection.execute(_KNOWN, {"list": list_id, "ids": some})
                found |= {contact_id: Known(its_id, fingerprint) for contact_id, its_id, fingerprint in rows}
        return found

    async def provider_ids(self, list_id: int, fingerprints: Sequence[bytes]) -> dict[bytes, str]:
        """The provider's ids of a list's contacts with these addresses, where it gave any."""
        found: dict[bytes, str] = {}
        async with self._database.read() as connection:
            for some in chunks(fingerprints):
                rows = await connection.execute(_PROVIDER_IDS, {"list": list_id, "fingerprints": some})
                found |= {row.fingerprint: row.provider_contact_id for row in rows}
        return found

    async def opted_out(
        self, account: str, fingerprints: Sequence[bytes], *, before: float | None = None
    ) -> dict[bytes, OptedOut]:
        """Those of the fingerprints that are to get no mail, and how that came; with `before`, a Unix time, those of
        whom that was known then."""
        found: dict[bytes, OptedOut] = {}
        query = _OPTED_OUT if before is None else _OPTED_OUT_BEFORE.params(before=before)
        async with self._database.read() as connection:
            for some in chunks(fingerprints):
                rows = await connection.execute(query, {"account": account, "fingerprints": some})
                found |= {fingerprint: OptedOut(how) for fingerprint, how in rows}
        return found

    async def users_of(self, account: str, fingerprints: Sequence[bytes]) -> dict[bytes, set[tuple[int, str]]]:
        """Which (list, contact) pairs of the account have an address of these, by the map of its open lists or by the
        outbox. A pair may be there by the map although the outbox already wants it otherwise."""
        users: dict[bytes, set[tuple[int, str]]] = {fingerprint: set() for fingerprint in fingerprints}
        async with self._database.read() as connection:
            for some in chunks(fingerprints):
                mapped = (
                    select(contacts.c.fingerprint, contacts.c.list_id, contacts.c.contact_id)
                    .join(lists, lists.c.id == contacts.c.list_id)
                    .where(contacts.c.fingerprint.in_(some), lists.c.account == account, lists.c.state.in_(IN_USE))
                )
                wanted = (
                    select(outbox.c.fingerprint, outbox.c.list_id, outbox.c.contact_id)
                    .join(lists, lists.c.id == outbox.c.list_id)
                    .where(outbox.c.fingerprint.in_(some), lists.c.account == account, outbox.c.kind == Kind.PRESENT)
                )
                # In this order: a change that is settled meanwhile goes from the outbox to the map.
                for query in (wanted, mapped):
                    for row in await connection.execute(query):
                        users[row.fingerprint].add((row.list_id, row.contact_id))
        return users

    async def settle(self, mapped: MappedList, settled: Sequence[Settled], now: float) -> bool:
        """Records outcomes of a list that was delivered to as `mapped` says, all or none. A newer change of the same
        contact stays in the outbox.

        False when the list is being moved, or is elsewhere by now: then the changes stay, for its new place. What was
        learnt is recorded all the same: who opted out, and what holds at the old place until it is left. Whose opt-out
        is heard after that is looked at once more, for the change may have been delivered to the new place meanwhile.
        """
        rows = _Rows()
        for item in settled:
            self._sort(rows, mapped.account, mapped.id, item, now)
        out = [s.change for s in settled if isinstance(s.outcome, OptedOut) and s.change.kind is Kind.PRESENT]
        async with self._database.write() as connection:
            return await connection.run_sync(self._write, mapped, rows, out)

    def _write(self, connection: SyncConnection, mapped: MappedList, rows: _Rows, out: Sequence[Change]) -> bool:
        state, *place = connection.execute(_PLACE, {"list": mapped.id}).one()
        if rows.opt_outs:
            connection.execute(self._put_opt_outs, rows.opt_outs)
        if place != [mapped.provider, mapped.provider_list_id]:
            if out and state in IN_USE:
                self._outbox.put_again(connection, mapped.id, out)
            return False
        if state == ListState.DELETED:
            return True
        execute_many(connection, self._put_contacts, rows.map)
        for some in chunks(rows.unmapped):
            connection.execute(_DELETE_CONTACTS, {"list": mapped.id, "ids": some})
        if state == ListState.MOVING:
            return False
        self._write_outcomes(connection, mapped.id, rows)
        return True

    def _write_outcomes(self, connection: SyncConnection, list_id: int, rows: _Rows) -> None:
        if connection.scalar(_HAS_PROBLEMS, {"list": list_id}):
            for some in chunks(rows.done_contacts):
                connection.execute(_DELETE_PROBLEMS, {"list": list_id, "ids": some})
        if rows.problems:
            connection.execute(self._put_problems, rows.problems)
        execute_many(
            connection,
            _DELETE_CHANGES,
            [{"list": list_id, "first": first, "last": last} for first, last in _runs(rows.done_seqs)],
        )
        for seq, due_at in rows.postponed:
            connection.execute(
                update(outbox).where(outbox.c.list_id == list_id, outbox.c.seq == seq).values(due_at=due_at)
            )

    async def remember(self, account: str, out: Iterable[tuple[bytes, str]], now: float) -> None:
        """Records who opted out, as fingerprint and how."""
        rows = [
            {"account": account, "fingerprint": fingerprint, "seen_at": now, "how": how} for fingerprint, how in out
        ]
        if rows:
            async with self._database.write() as connection:
                await connection.execute(self._put_opt_outs, rows)

    async def forget_list(self, list_id: int, drop_seq: int) -> None:
        """The list is gone at the ESP: so is all that was known of its contacts, except who opted out."""
        async with self._database.write() as connection:
            # The list's row first: it is what puts writers of one list in order.
            await connection.execute(update(lists).where(lists.c.id == list_id).values(state=ListState.DELETED))
            for table in (contacts, problems, removals):
                await connection.execute(delete(table).where(table.c.list_id == list_id))
            await connection.execute(delete(outbox).where(outbox.c.list_id == list_id, outbox.c.seq == drop_seq))

    async def problems(self, account: str | None = None, limit: int = 1000) -> list[Problem]:
        """What was refused and has not been mended since, newest first."""
        query = (
            select(lists.c.account, lists.c.public_id, problems)
            .join(lists, lists.c.id == problems.c.list_id)
            .order_by(problems.c.at.desc())
            .limit(limit)
        )
        if account is not None:
            query = query.where(lists.c.account == account)
        async with self._database.read() as connection:
            return [
                Problem(r.account, r.public_id, r.contact_id, r.reason, r.detail, r.at)
                for r in await connection.execute(query)
            ]

    async def refused_between(self, list_id: int, first_seq: int, last_seq: int) -> dict[int, tuple[str, Reason]]:
        """Those changes of a list with these numbers that were refused for good: contact and reason by number."""
        query = select(problems.c.seq, problems.c.contact_id, problems.c.reason).where(
            problems.c.list_id == list_id, problems.c.seq.between(first_seq, last_seq)
        )
        async with self._database.read() as connection:
            return {r.seq: (r.contact_id, Reason(r.reason)) for r in await connection.execute(query)}

    async def opt_out_count(self, account: str) -> int:
        async with self._database.read() as connection:
            query = select(func.count()).select_from(opt_outs).where(opt_outs.c.account == account)
            return int(await connection.scalar(query) or 0)

    def _sort(self, rows: _Rows, account: str, list_id: int, settled: Settled, now: float) -> None:
        change, outcome = settled.change, settled.outcome
        fingerprint = self._fingerprints.of(change.address)
        match outcome:
            case Postponed(retry_after_s=wait_s):
                rows.postponed.append((change.seq, now + wait_s))
                return
            case Rejected(reason=reason, detail=detail):
                rows.problems.append(
                    {
                        "list_id": list_id,
                        "contact_id": change.contact_id,
                        "reason": reason.value,
                        "detail": redact(detail)[:500],
                        "at": now,
                        "seq": change.seq,
                    }
                )
            case Delivered() | OptedOut():
                rows.done_contacts.append(change.contact_id)
                if change.kind is Kind.ABSENT:
                    rows.unmapped.append(change.contact_id)
                else:
                    rows.map.append(
                        {
                            "list_id": list_id,
                            "contact_id": change.contact_id,
                            "provider_contact_id": outcome.provider_contact_id,
                            "fingerprint": fingerprint,
                        }
                    )
        if isinstance(outcome, OptedOut):
            addresses = (change.address, *(change.old_addresses if outcome.is_of_person else ()))
            out = {self._fingerprints.of(address) for address in addresses if address}
            if settled.known is not None and outcome.is_of_person:
                out.add(settled.known.fingerprint)
            rows.opt_outs += [
                {"account": account, "fingerprint": fingerprint, "seen_at": now, "how": outcome.how}
                for fingerprint in out
            ]
        rows.done_seqs.append(change.seq)


def _runs(numbers: Iterable[int]) -> Iterator[tuple[int, int]]:
    """The first and last of each run of numbers without a gap: a batch is most often one."""
    for _, run in groupby(enumerate(sorted(numbers)), lambda each: each[1] - each[0]):
        values = [number for _, number in run]
        yield values[0], values[-1]
