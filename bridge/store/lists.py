"""The lists that Planfix knows, and what they are at the ESP."""

import enum
from collections.abc import Sequence
from dataclasses import dataclass

from sqlalchemy import ColumnElement, delete, exists, func, select, update

from bridge.store.database import Database
from bridge.store.tables import contacts, lists, outbox


class ListState(enum.StrEnum):
    """Of a list of Planfix: being made, in use, being moved to another provider, asked to be deleted, gone at the ESP.

    Of a copy, which is another place of such a list: being made, being filled, left a moment ago with its last opt-outs
    not heard, or kept and not in use.
    """

    CREATING = "creating"
    OPEN = "open"
    MOVING = "moving"
    DELETING = "deleting"
    DELETED = "deleted"
    FILLING = "filling"
    LEFT = "left"
    KEPT = "kept"


IN_USE = (ListState.OPEN, ListState.MOVING)
"""Changes are taken."""


@dataclass(frozen=True, slots=True)
class MappedList:
    """One row of the map. `provider_list_id` is None only while the list is being made, `public_id` also of a copy.

    `copy_of` is the row of the list that a copy belongs to; `left_at` the Unix time at which that list moved away from
    here, None where it never was here.
    """

    id: int
    account: str
    public_id: str | None
    provider: str
    provider_list_id: str | None
    name: str
    provider_name: str
    state: ListState
    created_at: float
    copy_of: int | None = None
    left_at: float | None = None


@dataclass(frozen=True, slots=True)
class ListSummary:
    """A list with what the store holds of it, for people. `changed_at` is the Unix time of Planfix's last change of it,
    None before the first."""

    mapped: MappedList
    contacts: int
    pending: int
    changed_at: float | None


_COLUMNS = (
    lists.c.id,
    lists.c.account,
    lists.c.public_id,
    lists.c.provider,
    lists.c.provider_list_id,
    lists.c.name,
    lists.c.provider_name,
    lists.c.state,
    lists.c.created_at,
    lists.c.copy_of,
    lists.c.left_at,
)


class ListMap:
    """Reads and writes `lists`. Every method may raise StoreError."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def by_public_id(self, public_id: str) -> MappedList | None:
        return await self._one(lists.c.public_id == public_id)

    async def by_id(self, list_id: int) -> MappedList:
        found = await self._one(lists.c.id == list_id)
        if found is None:
            raise LookupError(f"no list {list_id} in the store")
        return found

    async def open_intent(
        self, account: str, provider: str, name: str, copy_of: int | None = None
    ) -> MappedList | None:
        """The newest list of this name, or the copy, whose making was begun and never ended."""
        return await self._one(
            lists.c.account == account,
            lists.c.provider == provider,
            lists.c.name == name,
            lists.c.state == ListState.CREATING,
            lists.c.copy_of.is_not_distinct_from(copy_of),
        )

    async def untouched(self, account: str, provider: str, name: str, since: float) -> MappedList | None:
        """The newest open list of this name that was made since then and never had a contact."""
        return await self._one(
            lists.c.account == account,
            lists.c.provider == provider,
            lists.c.name == name,
            lists.c.state == ListState.OPEN,
            lists.c.created_at >= since,
            lists.c.last_seq == 0,
        )

    async def begin(
        self, account: str, provider: str, name: str, provider_name: str, now: float, copy_of: int | None = None
    ) -> int:
        """Writes down that a list is about to be made at the ESP under `provider_name`; the row's id."""
        async with self._database.write() as connection:
            result = await connection.execute(
                lists.insert()
                .values(
                    account=account,
                    provider=provider,
                    name=name,
                    provider_name=provider_name,
                    state=ListState.CREATING,
                    created_at=now,
                    copy_of=copy_of,
                )
                .returning(lists.c.id)
            )
            return int(result.scalar_one())

    async def finish(self, list_id: int, public_id: str | None, provider_list_id: str, now: float) -> bool:
        """The list exists at the ESP: from here on Planfix may be told its id; a copy has none, and may be filled.

        False when the list at the ESP stands for another one: two that made lists of one name took the same.
        """
        twin = lists.alias()
        taken = exists().where(
            twin.c.provider == lists.c.provider,
            twin.c.provider_list_id == provider_list_id,
            twin.c.state != ListState.DELETED,
            twin.c.id != list_id,
        )
        state = ListState.KEPT if public_id is None else ListState.OPEN
        async with self._database.write() as connection:
            finished = await connection.execute(
                update(lists)
                .where(lists.c.id == list_id, ~taken)
                .values(public_id=public_id, provider_list_id=provider_list_id, state=state, created_at=now)
            )
            return bool(finished.rowcount)

    async def abandon(self, list_id: int) -> None:
        """The ESP refused to make the list: the intent is void."""
        async with self._database.write() as connection:
            await connection.execute(delete(lists).where(lists.c.id == list_id, lists.c.state == ListState.CREATING))

    async def adopt(
        self, account: str, public_id: str, provider: str, provider_list_id: str, now: float
    ) -> MappedList | None:
        """Takes over a list that Planfix holds and the store does not know (a lost store).

        None when another account has it.
        """
        values = {
            "account": account,
            "public_id": public_id,
            "provider": provider,
            "provider_list_id": provider_list_id,
            "name": "",
            "provider_name": "",
            "state": ListState.OPEN,
            "created_at": now,
        }
        insert = self._database.insert(lists).values(values)
        async with self._database.write() as connection:
            await connection.execute(insert.on_conflict_do_nothing(index_elements=["public_id"]))
        found = await self.by_public_id(public_id)
        return found if found is not None and found.account == account else None

    async def summaries(self, account: str | None = None) -> list[ListSummary]:
        """All lists of Planfix that are not gone, oldest first, with counts."""
        mapped = select(func.count()).where(contacts.c.list_id == lists.c.id).scalar_subquery()
        pending = select(func.count()).where(outbox.c.list_id == lists.c.id).scalar_subquery()
        query = (
            select(*_COLUMNS, mapped, pending, lists.c.changed_at)
            .where(lists.c.state != ListState.DELETED, lists.c.copy_of.is_(None))
            .order_by(lists.c.id)
        )
        if account is not None:
            query = query.where(lists.c.account == account)
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).all()
        return [ListSummary(_mapped(row[:-3]), *row[-3:]) for row in rows]

    async def with_pending(self, account: str, provider: str) -> dict[int, int]:
        """The lists of an account at a provider that have changes to deliver there, with how many."""
        query = (
            select(lists.c.id, func.count().label("waiting"))
            .join(outbox, outbox.c.list_id == lists.c.id)
            .where(lists.c.account == account, lists.c.provider == provider, lists.c.state != ListState.MOVING)
            .group_by(lists.c.id)
        )
        async with self._database.read() as connection:
            return {row.id: row.waiting for row in await connection.execute(query)}

    async def couriers(self) -> list[tuple[str, str]]:
        """Every (account, provider) that has changes in the outbox."""
        query = select(lists.c.account, lists.c.provider).join(outbox, outbox.c.list_id == lists.c.id).distinct()
        async with self._database.read() as connection:
            return [(account, provider) for account, provider in await connection.execute(query)]

    async def copies(self, account: str | None = None) -> list[MappedList]:
        """The other places of an account's lists, or of all lists; those last that were left last."""
        query = (
            select(*_COLUMNS)
            .where(lists.c.copy_of.is_not(None))
            .order_by(func.coalesce(lists.c.left_at, 0.0), lists.c.id)
        )
        if account is not None:
            query = query.where(lists.c.account == account)
        async with self._database.read() as connection:
            return [_mapped(row) for row in (await connection.execute(query)).all()]

    async def copy_at(self, list_id: int, provider: str) -> MappedList | None:
        """The other place of a list at a provider, made already."""
        return await self._one(
            lists.c.copy_of == list_id, lists.c.provider == provider, lists.c.state != ListState.CREATING
        )

    async def _one(self, *conditions: ColumnElement[bool]) -> MappedList | None:
        query = select(*_COLUMNS).where(*conditions).order_by(lists.c.id.desc()).limit(1)
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
        return None if row is None else _mapped(row)


def _mapped(row: Sequence[object]) -> MappedList:
    *values, state, created_at, copy_of, left_at = row
    return MappedList(*values, ListState(str(state)), created_at, copy_of, left_at)  # type: ignore[arg-type, call-arg]  # as in _COLUMNS
