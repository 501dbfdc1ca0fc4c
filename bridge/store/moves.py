"""Lists on their way to another provider: the copy that is filled, who was copied, and the turn.

A list of Planfix keeps its row, its id for Planfix and its outbox. Where it lives is exchanged with the row of its copy
in one transaction, the turn; then the copy's row names the old place, which is kept.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import BigInteger, Double, Select, delete, exists, func, literal, select, update

from bridge.changes import HELD, Change
from bridge.store.database import Connection, Database
from bridge.store.lists import ListState, MappedList
from bridge.store.memory import Known
from bridge.store.outbox import Outbox, chunks
from bridge.store.tables import contacts, copied, lists, outbox, problems
from providers.base import redact


class NotMoving(Exception):
    """The list is not being moved any more: Planfix deleted it, or somebody gave the move up."""


class Result(enum.StrEnum):
    """What became of somebody on a list that is moved."""

    SENT = "sent"  # to the new provider; what it answered is not known yet
    MOVED = "moved"
    OPTED_OUT = "opted_out"
    REFUSED = "refused"  # by the new provider, for good
    LATER = "later"  # refused for now: a change of the outbox
    MISSING = "missing"  # on the map, not at the old provider


@dataclass(frozen=True, slots=True)
class Copied:
    """One contact of a list and what became of it; `contact_id` is empty for somebody whom Planfix does not know.

    `provider_contact_id` is the new provider's id; `reason` a code of `bridge.texts`, `detail` the provider's words.
    """

    contact_id: str
    fingerprint: bytes
    result: Result
    provider_contact_id: str | None = None
    reason: str = ""
    detail: str = ""


class Moves:
    """Reads and writes what a move needs. Every method may raise StoreError; what changes a list that is not being
    moved raises NotMoving."""

    def __init__(self, database: Database, outbox: Outbox) -> None:
        self._database = database
        self._outbox = outbox

    async def begin(self, list_id: int, copy_id: int) -> None:
        """From now on the list's changes wait, until it has turned or the move is given up.

        A move to this copy that broke off goes on where it was. A new one forgets who was copied; they count as
        contacts of the copy, like those of an old list that is moved back to.
        """
        async with self._database.write() as connection:
            state = await connection.scalar(select(lists.c.state).where(lists.c.id == list_id).with_for_update())
            going_on = select(exists().where(lists.c.id == copy_id, lists.c.state == ListState.FILLING))
            if state == ListState.MOVING and await connection.scalar(going_on):
                return
            if state != ListState.OPEN:
                raise NotMoving
            there = _map_of(copy_id, copy_id, Result.SENT, Result.MOVED)
            await connection.execute(self._database.upsert(contacts, there))
            await connection.execute(delete(copied).where(copied.c.list_id == copy_id))
            await self._set_state(connection, list_id, ListState.MOVING)
            await self._set_state(connection, copy_id, ListState.FILLING)

    async def give_up(self, list_id: int) -> bool:
        """The list stays where it is, and its changes go on; False when it was not being moved."""
        async with self._database.write() as connection:
            reopened = await connection.execute(
                update(lists)
                .where(lists.c.id == list_id, lists.c.state == ListState.MOVING)
                .values(state=ListState.OPEN)
            )
            if not reopened.rowcount:
                return False
            await connection.execute(
                update(lists)
                .where(lists.c.copy_of == list_id, lists.c.state == ListState.FILLING)
                .values(state=ListState.KEPT)
            )
            await self._outbox.revise(connection)
            return True

    async def turn(self, mapped: MappedList, copy: MappedList, now: float) -> None:
        """The list lives where its copy was filled; the copy is the old place from here on, LEFT until `heard`. What
        waits goes at once."""
        async with self._database.write() as connection:
            await self._require(connection, mapped.id)
            await connection.execute(
                update(lists).where(lists.c.id == mapped.id).values(_place_of(copy, ListState.OPEN))
            )
            await connection.execute(
                update(lists).where(lists.c.id == copy.id).values(_place_of(mapped, ListState.LEFT) | {"left_at": now})
            )
            await connection.execute(delete(contacts).where(contacts.c.list_id == copy.id))
            await connection.execute(update(contacts).where(contacts.c.list_id == mapped.id).values(list_id=copy.id))
            new_map = _map_of(copy.id, mapped.id, *(set(Result) - {Result.SENT}))
            await connection.execute(self._database.upsert(contacts, new_map))
            refused = select(
                literal(mapped.id, BigInteger),
                copied.c.contact_id,
                copied.c.reason,
                copied.c.detail,
                literal(now, Double),
                literal(0, BigInteger),
            ).where(copied.c.list_id == copy.id, copied.c.contact_id != "", copied.c.result == Result.REFUSED)
            await connection.execute(self._database.upsert(problems, refused))
            await connection.execute(delete(copied).where(copied.c.list_id == copy.id))
            # What was postponed was so by the old provider.
            await connection.execute(
                update(outbox).where(outbox.c.list_id == mapped.id, outbox.c.due_at != HELD).values(due_at=0.0)
            )
            await self._outbox.revise(connection)

    async def heard(self, copy_id: int) -> None:
        """Whoever was out at an old place when the list left it is out."""
        async with self._database.write() as connection:
            await connection.execute(
                update(lists).where(lists.c.id == copy_id, lists.c.state == ListState.LEFT).values(state=ListState.KEPT)
            )

    async def record(
        self,
        mapped: MappedList,
        copy: MappedList,
        rows: Sequence[Copied],
        later: Sequence[Change] = (),
    ) -> None:
        """Writes down what became of contacts; `later` are changes that the new provider must be asked for again."""
        if not rows:
            return
        async with self._database.write() as connection:
            await self._require(connection, mapped.id)
            for some in chunks(rows):
                ids = [row.contact_id for row in some if row.contact_id]
                same = copied.c.contact_id.in_(ids) | copied.c.fingerprint.in_([row.fingerprint for row in some])
                await connection.execute(delete(copied).where(copied.c.list_id == copy.id, same))
            await connection.execute(self._database.upsert(copied), [_row(copy.id, each) for each in rows])
            await self._outbox.put_behind(connection, mapped.id, later)

    async def queue(self, list_id: int, changes: Sequence[Change]) -> None:
        """Has changes delivered by a running bridge, where nothing newer waits. Raises ListClosed."""
        async with self._database.write() as connection:
            await self._outbox.put_behind(connection, list_id, changes)

    async def look_again(self, list_id: int, changes: Sequence[Change]) -> None:
        """Has a running bridge look at contacts of whom something has come to light. Raises ListClosed."""
        if changes:
            async with self._database.write() as connection:
                await connection.run_sync(self._outbox.put_again, list_id, changes)

    async def results(self, copy_id: int, fingerprints: Sequence[bytes]) -> dict[bytes, Result]:
        """What became of these in the present move, as far as it has come."""
        found: dict[bytes, Result] = {}
        async with self._database.read() as connection:
            for some in chunks(fingerprints):
                query = select(copied.c.fingerprint, copied.c.result).where(
                    copied.c.list_id == copy_id, copied.c.fingerprint.in_(some)
                )
                found |= {row.fingerprint: Result(row.result) for row in await connection.execute(query)}
        return found

    async def holders(self, list_id: int, fingerprints: Sequence[bytes]) -> dict[bytes, list[str]]:
        """The contacts of a list, or of a copy, by the map, that have these addresses."""
        found: dict[bytes, list[str]] = {}
        async with self._database.read() as connection:
            for some in chunks(fingerprints):
                query = select(contacts.c.fingerprint, contacts.c.contact_id).where(
                    contacts.c.list_id == list_id, contacts.c.fingerprint.in_(some)
                )
                for row in await connection.execute(query):
                    found.setdefault(row.fingerprint, []).append(row.contact_id)
        return found

    async def mapped_after(self, list_id: int, after: str, limit: int) -> dict[str, Known]:
        """The next contacts of a list by the map, in the order of their ids."""
        query = (
            select(contacts.c.contact_id, contacts.c.provider_contact_id, contacts.c.fingerprint)
            .where(contacts.c.list_id == list_id, contacts.c.contact_id > after)
            .order_by(contacts.c.contact_id)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return {
                row.contact_id: Known(row.provider_contact_id, row.fingerprint)
                for row in await connection.execute(query)
            }

    async def copied_after(self, copy_id: int, after: tuple[str, bytes], limit: int) -> list[Copied]:
        """The next of those who were copied, in the order of contact id and fingerprint."""
        contact_id, fingerprint = after
        behind = (copied.c.contact_id > contact_id) | (
            (copied.c.contact_id == contact_id) & (copied.c.fingerprint > fingerprint)
        )
        query = (
            select(copied)
            .where(copied.c.list_id == copy_id, copied.c.result != Result.SENT, behind)
            .order_by(copied.c.contact_id, copied.c.fingerprint)
            .limit(limit)
        )
        async with self._database.read() as connection:
            return [_copied(row._asdict()) for row in await connection.execute(query)]

    async def copied_of(self, copy_id: int, contact_ids: Sequence[str]) -> dict[str, Copied]:
        """What became of these contacts."""
        found: dict[str, Copied] = {}
        async with self._database.read() as connection:
            for some in chunks(contact_ids):
                query = select(copied).where(copied.c.list_id == copy_id, copied.c.contact_id.in_(some))
                found |= {row.contact_id: _copied(row._asdict()) for row in await connection.execute(query)}
        return found

    async def counts(self, copy_id: int) -> dict[Result, int]:
        """How many there are of each result."""
        of_copy = (copied.c.list_id == copy_id, copied.c.result != Result.SENT)
        query = select(copied.c.result, func.count()).where(*of_copy).group_by(copied.c.result)
        async with self._database.read() as connection:
            return {Result(result): count for result, count in await connection.execute(query)}

    async def forget(self, copy_id: int) -> None:
        """The copy is gone at the ESP."""
        async with self._database.write() as connection:
            for table in (contacts, copied):
                await connection.execute(delete(table).where(table.c.list_id == copy_id))
            await connection.execute(delete(lists).where(lists.c.id == copy_id, lists.c.copy_of.is_not(None)))

    async def _require(self, connection: Connection, list_id: int) -> None:
        """Makes other writers of the list wait for this transaction. Raises NotMoving."""
        state = await connection.scalar(select(lists.c.state).where(lists.c.id == list_id).with_for_update())
        if state != ListState.MOVING:
            raise NotMoving

    @staticmethod
    async def _set_state(connection: Connection, list_id: int, state: ListState) -> None:
        await connection.execute(update(lists).where(lists.c.id == list_id).values(state=state))


def _place_of(mapped: MappedList, state: ListState) -> dict[str, Any]:
    return {
        "provider": mapped.provider,
        "provider_list_id": mapped.provider_list_id,
        "provider_name": mapped.provider_name,
        "state": state,
    }


def _map_of(copy_id: int, list_id: int, *results: Result) -> Select[Any]:
    """Rows of the map of `list_id`: Planfix's contacts among those who were copied, with these results."""
    return select(
        literal(list_id, BigInteger), copied.c.contact_id, copied.c.provider_contact_id, copied.c.fingerprint
    ).where(copied.c.list_id == copy_id, copied.c.contact_id != "", copied.c.result.in_(results))


def _row(copy_id: int, each: Copied) -> dict[str, object]:
    return {
        "list_id": copy_id,
        "contact_id": each.contact_id,
        "fingerprint": each.fingerprint,
        "provider_contact_id": each.provider_contact_id,
        "result": each.result.value,
        "reason": each.reason,
        "detail": redact(each.detail)[:500],
    }


def _copied(row: dict[str, Any]) -> Copied:
    row.pop("list_id")
    return Copied(**row | {"result": Result(row["result"])})
