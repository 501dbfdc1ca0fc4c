"""The way into the outbox: changes of requests that arrive together are committed together.

While one commit is under way new changes gather; the next commit takes them all. A request goes on when its changes
are durable, so `success` is never said of anything that a crash could lose.
"""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from bridge.changes import Change, Kind
from bridge.guard import RemovalGuard
from bridge.replicas import ChangesSettled, ChangesStored, Replicas
from bridge.store import Connection, ListClosed, MappedList, Store, Stored
from bridge.store.outbox import chunks
from bridge.tickets import Ticket, Tickets

LISTS_A_MESSAGE = 50
"""PostgreSQL carries 8,000 bytes in a message."""


@dataclass(slots=True, eq=False)
class _Entry:
    """What one request wants of one list. `changes` is all contacts' changes, or one DROP."""

    mapped: MappedList
    changes: Sequence[Change]
    accepted: asyncio.Future[Ticket]

    @property
    def list_id(self) -> int:
        return self.mapped.id

    @property
    def is_drop(self) -> bool:
        return bool(self.changes) and self.changes[0].kind is Kind.DROP


class Intake:
    """Commits changes in order of arrival and opens their tickets. `on_stored(list, count)` wakes delivery."""

    def __init__(
        self,
        store: Store,
        tickets: Tickets,
        replicas: Replicas,
        on_stored: Callable[[MappedList, int], None],
        guard: RemovalGuard | None = None,
    ) -> None:
        self._store = store
        self._tickets = tickets
        self._replicas = replicas
        self._on_stored = on_stored
        self.guard = guard
        self._entries: list[_Entry] = []
        self._committing: asyncio.Task[None] | None = None

    async def put(self, mapped: MappedList, changes: Sequence[Change]) -> Ticket:
        """Returns when the changes are durable. Raises ListClosed or StoreError: then nothing was stored."""
        entry = _Entry(mapped, changes, asyncio.get_running_loop().create_future())
        self._entries.append(entry)
        if self._committing is None:
            self._committing = asyncio.create_task(self._commit_all())
        return await entry.accepted

    async def _commit_all(self) -> None:
        """Delivery is woken after every second commit, and when nothing waits for one: of requests that come together
        the first is committed alone, and need not make a call of its own."""
        stored: list[tuple[MappedList, int]] = []
        try:
            while self._entries:
                entries, self._entries = self._entries, []
                gathered = bool(stored)
                stored += await self._commit(entries)
                if gathered or not self._entries:
                    self._wake(stored)
                    stored = []
        finally:
            self._wake(stored)
            self._committing = None

    def _wake(self, stored: Sequence[tuple[MappedList, int]]) -> None:
        for mapped, count in stored:
            self._on_stored(mapped, count)

    async def _commit(self, entries: Sequence[_Entry]) -> Sequence[tuple[MappedList, int]]:
        """What was stored and may be delivered: lists, as they are now, and how many changes."""
        opened: list[tuple[_Entry, Ticket]] = []
        stored_runs: list[tuple[int, Stored]] = []
        try:
            async with self._store.database.write() as connection:
                for run in _runs(entries):
                    try:
                        stored = await self._put(connection, run)
                    except ListClosed as error:
                        _refuse(run, error)
                        continue
                    stored_runs.append((run[0].list_id, stored))
                    first_seq = stored.first_seq
                    for entry in run:
                        ticket = self._tickets.open(entry.list_id, first_seq, len(entry.changes))
                        ticket.provider = stored.provider
                        opened.append((entry, ticket))
                        first_seq += len(entry.changes)
                await self._tell_others(connection, opened, stored_runs)
        except BaseException as error:
            for _, ticket in opened:
                self._tickets.close(ticket)
            _refuse(entries, error)
            if not isinstance(error, Exception):
                raise
            return ()
        for list_id, stored in stored_runs:
            self._tickets.done(list_id, stored.superseded)
            self._tickets.postponed(list_id, stored.held)
        for entry, ticket in opened:
            if entry.accepted.done():  # its request was cancelled meanwhile
                self._tickets.close(ticket)
            else:
                entry.accepted.set_result(ticket)
        return [
            (_at(entry.mapped, ticket.provider), len(entry.changes))
            for entry, ticket in opened
            if ticket.provider is not None
        ]

    async def _tell_others(
        self,
        connection: Connection,
        opened: Sequence[tuple[_Entry, Ticket]],
        stored_runs: Sequence[tuple[int, Stored]],
    ) -> None:
        """Told with the commit: so the replica that delivers cannot miss what was stored."""
        stored = [
            (entry.list_id, entry.mapped.account, ticket.provider, len(entry.changes))
            for entry, ticket in opened
            if ticket.provider is not None
        ]
        for some in chunks(stored, LISTS_A_MESSAGE):
            await self._replicas.tell(ChangesStored(list(some)), connection)
        for list_id, put in stored_runs:
            if put.superseded:
                await self._replicas.tell(ChangesSettled(list_id), connection)

    async def _put(self, connection: Connection, run: Sequence[_Entry]) -> Stored:
        outbox = self._store.outbox
        if run[0].is_drop:
            return await outbox.put_drop(connection, run[0].list_id, run[0].changes[0].created_at)
        changes: Sequence[Change] = [change for entry in run for change in entry.changes]
        if self.guard is not None:
            changes = await self.guard.judge(connection, run[0].mapped, changes)
        return await outbox.put(connection, run[0].list_id, changes)


def _runs(entries: Sequence[_Entry]) -> list[list[_Entry]]:
    """Entries of one list side by side, in order of arrival; a DROP stands alone.

    Lists come in the order of their ids, so that two replicas never wait for each other's rows.
    """
    runs: list[list[_Entry]] = []
    current: dict[int, list[_Entry]] = {}
    for entry in entries:
        run = current.get(entry.list_id)
        if run is None or entry.is_drop or run[0].is_drop:
            run = current[entry.list_id] = []
            runs.append(run)
        run.append(entry)
    return sorted(runs, key=lambda run: run[0].list_id)


def _at(mapped: MappedList, provider: str) -> MappedList:
    """The list where it lives: its request may have found it elsewhere."""
    return mapped if mapped.provider == provider else replace(mapped, provider=provider)


def _refuse(entries: Sequence[_Entry], error: BaseException) -> None:
    for entry in entries:
        if isinstance(error, asyncio.CancelledError):
            entry.accepted.cancel()
        elif not entry.accepted.done():
            entry.accepted.set_exception(error)
