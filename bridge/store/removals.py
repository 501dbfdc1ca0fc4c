"""Removals of late, and those that the guard holds until a person releases them."""

from dataclasses import dataclass

from sqlalchemy import delete, exists, func, select, update

from bridge.changes import HELD
from bridge.store.database import Connection, Database
from bridge.store.tables import contacts, lists, outbox, removals


@dataclass(frozen=True, slots=True)
class Lately:
    """What the guard judges by: removals that were let go, the most contacts that the list had in that time, and
    whether removals are held."""

    let_go: int
    list_size: int
    holding: bool


@dataclass(frozen=True, slots=True)
class Held:
    """The held removals of one list. `since` is the Unix time of the oldest."""

    list_id: int
    account: str
    public_id: str
    name: str
    removals: int
    since: float


class Removals:
    """Reads and writes `removals`, and what is held in `outbox`. Methods with a `connection` are part of the caller's
    transaction. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def lately(self, connection: Connection, list_id: int, since: float) -> Lately:
        """Counts, forgets what was before `since`, and makes other writers of the list wait for this transaction."""
        await connection.execute(select(lists.c.id).where(lists.c.id == list_id).with_for_update())
        await connection.execute(delete(removals).where(removals.c.list_id == list_id, removals.c.at < since))
        noted = select(
            func.coalesce(func.sum(removals.c.contacts), 0), func.coalesce(func.max(removals.c.list_size), 0)
        )
        let_go, most = (await connection.execute(noted.where(removals.c.list_id == list_id))).one()
        size = await connection.scalar(select(func.count()).where(contacts.c.list_id == list_id))
        held = select(exists().where(outbox.c.list_id == list_id, outbox.c.due_at == HELD))
        return Lately(int(let_go), max(int(most), int(size or 0)), bool(await connection.scalar(held)))

    async def note(self, connection: Connection, list_id: int, contacts: int, list_size: int, now: float) -> None:
        """So many removals were let go."""
        if contacts:
            values = {"list_id": list_id, "at": now, "contacts": contacts, "list_size": list_size}
            await connection.execute(removals.insert().values(values))

    async def held(self, account: str | None = None) -> list[Held]:
        """The lists with held removals."""
        query = (
            select(
                lists.c.id,
                lists.c.account,
                lists.c.public_id,
                lists.c.name,
                func.count(),
                func.min(outbox.c.created_at),
            )
            .join(outbox, outbox.c.list_id == lists.c.id)
            .where(outbox.c.due_at == HELD)
            .group_by(lists.c.id)
            .order_by(lists.c.id)
        )
        if account is not None:
            query = query.where(lists.c.account == account)
        async with self._database.read() as connection:
            return [Held(*row) for row in await connection.execute(query)]

    async def release(self, list_id: int) -> int:
        """Lets all held removals of a list go, and tells how many; what was let go before does not count any more.
        A running bridge sees it within `outbox.RELEASE_SEEN_WITHIN_S`."""
        async with self._database.write() as connection:
            released = await connection.execute(
                update(outbox).where(outbox.c.list_id == list_id, outbox.c.due_at == HELD).values(due_at=0.0)
            )
            await connection.execute(delete(removals).where(removals.c.list_id == list_id))
            return int(released.rowcount)
