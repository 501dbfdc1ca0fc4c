"""The outbox: changes that were promised and are not delivered yet."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from sqlalchemy import BigInteger, Integer, bindparam, case, delete, exists, func, select, update
from sqlalchemy import Connection as SyncConnection

from bridge.changes import DROP_CONTACT_ID, HELD, Change, Kind, coalesce
from bridge.store.database import Connection, Database, execute_many
from bridge.store.fingerprints import Fingerprints
from bridge.store.lists import IN_USE, ListState
from bridge.store.tables import lists, meta, outbox

CHUNK = 500
"""Values in one IN (…): under every limit on parameters of either database."""

_REVISION = "outbox_revision"

RELEASE_SEEN_WITHIN_S = 5.0
"""How often delivery looks whether a person has released what is held."""

T = TypeVar("T")


def chunks(values: Sequence[T], size: int = CHUNK) -> Iterator[Sequence[T]]:
    return (values[start : start + size] for start in range(0, len(values), size))


# Statements of every batch are built once: building one costs more than running it.
_OF_LIST = bindparam("list", type_=BigInteger)
_CHANGE = (
    outbox.c.contact_id,
    outbox.c.kind,
    outbox.c.address,
    outbox.c.first_name,
    outbox.c.last_name,
    outbox.c.old_addresses,
    outbox.c.seq,
    outbox.c.created_at,
    outbox.c.due_at,
)
_NEXT_NUMBERS = (
    update(lists)
    .where(lists.c.id == _OF_LIST, lists.c.state.in_(IN_USE))
    .values(last_seq=lists.c.last_seq + bindparam("count"), changed_at=bindparam("at"))
    .returning(lists.c.last_seq, lists.c.provider, lists.c.state)
)
_LOCK_LIST = select(lists.c.id).where(lists.c.id == _OF_LIST).with_for_update()
_ANY_CHANGE = select(outbox.c.seq).where(outbox.c.list_id == _OF_LIST).limit(1)
_UNDELIVERED = select(*_CHANGE).where(
    outbox.c.list_id == _OF_LIST, outbox.c.contact_id.in_(bindparam("ids", expanding=True))
)
_DUE = (
    select(*_CHANGE)
    .where(outbox.c.list_id == _OF_LIST, outbox.c.seq > bindparam("after"), outbox.c.due_at <= bindparam("now"))
    .order_by(outbox.c.seq)
    .limit(bindparam("limit", type_=Integer))
)


class ListClosed(Exception):
    """The list was deleted: no change of it can be promised any more."""


@dataclass(frozen=True, slots=True)
class Stored:
    """What `put` did: the changes got the numbers from `first_seq` on, in order; `superseded` will never be delivered
    because a newer change of the same contact stands for them; `held` wait until a person releases them, or until the
    list has moved. `provider` is where they are delivered, None while the list is being moved."""

    first_seq: int
    superseded: list[int]
    held: list[int] = field(default_factory=list)
    provider: str | None = None


@dataclass(frozen=True, slots=True)
class Depth:
    """How much waits for one account, and since when the oldest of it (Unix time)."""

    account: str
    pending: int
    oldest_at: float


class Outbox:
    """Reads and writes `outbox`. Methods with a `connection` are part of the caller's transaction."""

    def __init__(self, database: Database, fingerprints: Fingerprints) -> None:
        self._database = database
        self._fingerprints = fingerprints
        self._put_rows = database.upsert(outbox)

    async def put(self, connection: Connection, list_id: int, changes: Sequence[Change]) -> Stored:
        """Adds changes, at least one, in order; each replaces an undelivered older one of its contact.

        Raises ListClosed.
        """
        return await connection.run_sync(self._put, list_id, changes)

    def _put(self, connection: SyncConnection, list_id: int, changes: Sequence[Change]) -> Stored:
        values = {"list": list_id, "count": len(changes), "at": changes[-1].created_at}
        taken = connection.execute(_NEXT_NUMBERS, values).first()
        if taken is None:
            raise ListClosed
        last_seq, provider, state = taken
        moving = state == ListState.MOVING
        first_seq = int(last_seq) - len(changes) + 1
        undelivered = self._undelivered(connection, list_id, [change.contact_id for change in changes])
        newest = {contact_id: (change.seq, change) for contact_id, change in undelivered.items()}
        superseded: list[int] = []
        for seq, change in enumerate(changes, first_seq):
            older = newest.get(change.contact_id)
            if older is not None:
                superseded.append(older[0])
            newest[change.contact_id] = (seq, coalesce(older and older[1], change))
        rows = [(seq, change) for seq, change in newest.values() if seq >= first_seq]
        for some in chunks(rows, 5000):
            execute_many(connection, self._put_rows, [self._row(list_id, seq, change) for seq, change in some])
        held = [seq for seq, change in rows if moving or change.due_at == HELD]
        return Stored(first_seq, superseded, held, None if moving else provider)

    async def put_drop(self, connection: Connection, list_id: int, now: float) -> Stored:
        """Asks for the end of a list, in place of all its undelivered changes. Raises ListClosed when it is gone."""
        numbered = await connection.execute(
            update(lists)
            .where(lists.c.id == list_id, lists.c.state.in_((*IN_USE, ListState.DELETING)))
            .values(state=ListState.DELETING, last_seq=lists.c.last_seq + 1, changed_at=now)
            .returning(lists.c.last_seq, lists.c.provider)
        )
        taken = numbered.first()
        if taken is None:
            raise ListClosed
        seq, provider = taken
        gone = await connection.scalars(delete(outbox).where(outbox.c.list_id == list_id).returning(outbox.c.seq))
        superseded = list(gone)
        drop = Change(DROP_CONTACT_ID, Kind.DROP, created_at=now)
        await connection.execute(outbox.insert(), [self._row(list_id, int(seq), drop)])
        return Stored(int(seq), superseded, provider=provider)

    async def put_behind(self, connection: Connection, list_id: int, changes: Sequence[Change]) -> None:
        """Adds changes of contacts that have none waiting; of others what waits is newer. Raises ListClosed."""
        await connection.run_sync(self._put_behind, list_id, changes)

    def _put_behind(self, connection: SyncConnection, list_id: int, changes: Sequence[Change]) -> None:
        connection.execute(_LOCK_LIST, {"list": list_id})
        waiting = self._undelivered(connection, list_id, [change.contact_id for change in changes])
        behind = [change for change in changes if change.contact_id not in waiting]
        if behind:
            self._put(connection, list_id, behind)
            self._revise(connection)

    def put_again(self, connection: SyncConnection, list_id: int, changes: Sequence[Change]) -> None:
        """Has these contacts looked at once more, whatever is under way: by the change that waits, else by this one.
        Raises ListClosed."""
        connection.execute(_LOCK_LIST, {"list": list_id})
        waiting = self._undelivered(connection, list_id, [change.contact_id for change in changes])
        self._put(connection, list_id, [waiting.get(change.contact_id, change) for change in changes])
        self._revise(connection)

    async def revise(self, connection: Connection) -> None:
        """Tells the bridges on this store, when the transaction commits, to look anew at what is to be delivered."""
        await connection.run_sync(self._revise)

    def _revise(self, connection: SyncConnection) -> None:
        sign = {"name": _REVISION, "value": secrets.token_bytes(8)}
        connection.execute(self._database.upsert(meta), [sign])

    async def revision(self) -> bytes | None:
        """Another value after each `revise`."""
        async with self._database.read() as connection:
            value = await connection.scalar(select(meta.c.value).where(meta.c.name == _REVISION))
        return None if value is None else bytes(value)

    async def due(self, list_id: int, after_seq: int, limit: int, now: float) -> list[Change]:
        """Up to `limit` changes of a list that are due and come after `after_seq`, in order."""
        values = {"list": list_id, "after": after_seq, "now": now, "limit": limit}
        async with self._database.read() as connection:
            return await connection.run_sync(lambda sync: [_change(*row) for row in sync.execute(_DUE, values)])

    async def waiting_between(self, list_id: int, first_seq: int, last_seq: int) -> dict[int, float]:
        """Those changes of a list with these numbers that are not delivered: when each is due, by number."""
        query = select(outbox.c.seq, outbox.c.due_at).where(
            outbox.c.list_id == list_id, outbox.c.seq.between(first_seq, last_seq)
        )
        async with self._database.read() as connection:
            return {row.seq: row.due_at for row in await connection.execute(query)}

    async def is_due_between(self, list_id: int, first_seq: int, last_seq: int, now: float) -> bool:
        """Whether any of these is due and not delivered."""
        query = select(
            exists().where(
                outbox.c.list_id == list_id, outbox.c.seq.between(first_seq, last_seq), outbox.c.due_at <= now
            )
        )
        async with self._database.read() as connection:
            return bool(await connection.scalar(query))

    async def next_due_at(self, account: str, provider: str, now: float) -> float | None:
        """When to look again for changes of an account at a provider: the first postponed one is due, or a held one may
        have been released. None when there is neither."""
        look_at = case((outbox.c.due_at == HELD, now + RELEASE_SEEN_WITHIN_S), else_=outbox.c.due_at)
        query = (
            select(func.min(look_at))
            .join(lists, lists.c.id == outbox.c.list_id)
            .where(lists.c.account == account, lists.c.provider == provider, outbox.c.due_at > now)
        )
        async with self._database.read() as connection:
            found = await connection.scalar(query)
        return None if found is None else float(found)

    async def depths(self) -> list[Depth]:
        """What waits, for each account that has anything waiting."""
        query = (
            select(lists.c.account, func.count(), func.min(outbox.c.created_at))
            .join(lists, lists.c.id == outbox.c.list_id)
            .group_by(lists.c.account)
        )
        async with self._database.read() as connection:
            return [Depth(account, count, oldest) for account, count, oldest in await connection.execute(query)]

    async def wanted_fingerprints(self, list_id: int, contact_ids: Sequence[str]) -> dict[str, bytes | None]:
        """What the outbox wants of these contacts: the fingerprint they shall be present with, None for absent."""
        wanted: dict[str, bytes | None] = {}
        async with self._database.read() as connection:
            for some in chunks(contact_ids):
                rows = await connection.execute(
                    select(outbox.c.contact_id, outbox.c.kind, outbox.c.fingerprint).where(
                        outbox.c.list_id == list_id, outbox.c.contact_id.in_(some)
                    )
                )
                wanted |= {r.contact_id: r.fingerprint if r.kind == Kind.PRESENT else None for r in rows}
        return wanted

    def _undelivered(self, connection: SyncConnection, list_id: int, contact_ids: Sequence[str]) -> dict[str, Change]:
        """The outbox rows of these contacts. One cheap look spares a first import all the others."""
        if connection.scalar(_ANY_CHANGE, {"list": list_id}) is None:
            return {}
        found: dict[str, Change] = {}
        for some in chunks(contact_ids):
            for row in connection.execute(_UNDELIVERED, {"list": list_id, "ids": some}):
                found[row.contact_id] = _change(*row)
        return found

    def _row(self, list_id: int, seq: int, change: Change) -> dict[str, object]:
        return {
            "list_id": list_id,
            "contact_id": change.contact_id,
            "seq": seq,
            "kind": change.kind.value,
            "address": change.address,
            "fingerprint": self._fingerprints.of(change.address),
            "first_name": change.first_name,
            "last_name": change.last_name,
            "old_addresses": "\n".join(change.old_addresses),
            "created_at": change.created_at,
            "due_at": change.due_at,
        }


def _change(
    contact_id: str,
    kind: str,
    address: str,
    first_name: str | None,
    last_name: str | None,
    old_addresses: str,
    seq: int,
    created_at: float,
    due_at: float,
) -> Change:
    """The change of a row of _CHANGE."""
    old = tuple(old_addresses.split("\n")) if old_addresses else ()
    return Change(contact_id, Kind(kind), address, first_name, last_name, old, seq, created_at, due_at)
