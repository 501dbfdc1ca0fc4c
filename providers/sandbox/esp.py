"""The service inside the sandbox: lists, account-wide contacts and opt-outs in one SQLite file."""

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from providers.base import (
    BOUNCED,
    Contact,
    Delivered,
    Member,
    MemberState,
    OptedOut,
    Outcome,
    Reason,
    Refused,
    Rejected,
    Transient,
)

MAX_LISTS: Final = 1000
NAME_CHARS: Final = 100

# A dot in the domain, and not the top-level domain that never exists (RFC 2606).
_ACCEPTED = re.compile(r"[^\s@]+@([^\s@.]+\.)+(?!invalid$)[^\s@.]+")

# `opted_out` says how, null means "gets mail". `caller_id` is the contact's id at Planfix.
_SCHEMA = """
    create table if not exists lists (id integer primary key autoincrement, name text not null unique);
    create table if not exists contacts (
        id integer primary key autoincrement,
        address text not null unique,
        caller_id text,
        first_name text not null default '',
        last_name text not null default '',
        opted_out text
    );
    create table if not exists memberships (
        list_id integer not null references lists on delete cascade,
        contact_id integer not null references contacts on delete cascade,
        primary key (list_id, contact_id)
    ) without rowid;
"""


class SandboxEsp:
    """Every method is one transaction and is called from one thread; other processes may use the file meanwhile.

    Raises Refused as a service does, and Transient when the file cannot be used.
    """

    def __init__(self, path: Path, timeout_s: float) -> None:
        self._path = path
        self._timeout_s = timeout_s
        self._opened: sqlite3.Connection | None = None

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()

    def count_lists(self) -> int:
        with self._transaction() as db:
            return int(db.execute("select count(*) from lists").fetchone()[0])

    def find_list(self, name: str) -> str | None:
        with self._transaction() as db:
            found = db.execute("select id from lists where name = ?", (name,)).fetchone()
            return str(found[0]) if found else None

    def create_list(self, name: str) -> str:
        if len(name) > NAME_CHARS:
            raise Refused(detail=f"a list name of {len(name)} characters")
        if self.count_lists() >= MAX_LISTS:
            raise Refused(Reason.LIST_LIMIT, f"at most {MAX_LISTS} lists")
        with self._transaction() as db:
            made = db.execute("insert or ignore into lists (name) values (?) returning id", (name,)).fetchone()
        if made is None:
            raise Refused(Reason.NAME_TAKEN)
        return str(made[0])

    def delete_list(self, list_id: str) -> None:
        with self._transaction() as db:
            db.execute("delete from lists where id = ?", (list_id,))

    def upsert(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        with self._transaction() as db:
            _require_list(db, list_id)
            return [_upsert(db, list_id, contact) for contact in contacts]

    def remove(self, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        with self._transaction() as db:
            return [_remove(db, list_id, contact) for contact in contacts]

    def members(self, list_id: str, after: str, count: int) -> list[Member]:
        """The next `count` members behind the one whose `provider_contact_id` is `after`; "0" is behind nobody."""
        sql = """
            select id, address, caller_id, first_name, last_name, opted_out
            from memberships join contacts on id = contact_id
            where list_id = ? and id > ? order by id limit ?
        """
        with self._transaction() as db:
            _require_list(db, list_id)
            return [_member(row) for row in db.execute(sql, (list_id, int(after), count))]

    def kept_out(self, after: str, count: int) -> list[Member]:
        """As `members`, whoever opted out, on whatever list."""
        sql = """
            select id, address, caller_id, first_name, last_name, opted_out
            from contacts where opted_out is not null and id > ? order by id limit ?
        """
        with self._transaction() as db:
            return [_member(row) for row in db.execute(sql, (int(after), count))]

    def keep_out(self, contacts: Sequence[Contact]) -> None:
        sql = """
            insert into contacts (address, caller_id, opted_out) values (?, ?, 'unsubscribed')
            on conflict do update set opted_out = coalesce(opted_out, 'unsubscribed')
        """
        with self._transaction() as db:
            db.executemany(sql, [(contact.address.lower(), contact.id) for contact in contacts])

    def opt_out(self, address: str, how: str) -> None:
        sql = "insert into contacts (address, opted_out) values (?, ?) on conflict do update set opted_out = ?"
        with self._transaction() as db:
            db.execute(sql, (address.lower(), how, how))

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        try:
            if self._opened is None:
                self._opened = _open(self._path, self._timeout_s)
            with self._opened as db:
                yield db
        except (sqlite3.Error, OSError) as error:
            raise Transient(f"the sandbox file: {error}") from error


def _open(path: Path, timeout_s: float) -> sqlite3.Connection:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch(mode=0o600)  # SQLite gives the files beside it the same mode
    db = sqlite3.connect(path, timeout=timeout_s, isolation_level="IMMEDIATE")
    db.execute("pragma journal_mode = wal")
    db.execute("pragma foreign_keys = on")
    db.executescript(_SCHEMA)
    return db


def _require_list(db: sqlite3.Connection, list_id: str) -> None:
    if not db.execute("select 1 from lists where id = ?", (list_id,)).fetchone():
        raise Refused(Reason.LIST_GONE, f"no list {list_id}")


def _member(row: Sequence[Any]) -> Member:
    contact_id, address, caller_id, first_name, last_name, opted_out = row
    return Member(
        address=address,
        state=MemberState.OPTED_OUT if opted_out else MemberState.SUBSCRIBED,
        first_name=first_name,
        last_name=last_name,
        id=caller_id,
        provider_contact_id=str(contact_id),
        how=opted_out or "unsubscribed",
    )


def _known(db: sqlite3.Connection, address: str | None, contact_id: str | None) -> tuple[int | None, str | None]:
    """Id and opt-out of the contact that has this address, or else this id; two None for a stranger."""
    sql = "select id, opted_out from contacts where address = ? or id = ? order by address = ? desc limit 1"
    address = address and address.lower()
    return db.execute(sql, (address, contact_id, address)).fetchone() or (None, None)


def _upsert(db: sqlite3.Connection, list_id: str, contact: Contact) -> Outcome:
    address = contact.address.lower()
    if not _ACCEPTED.fullmatch(address):
        return Rejected(Reason.INVALID_ADDRESS)
    old_id, opted_out = _known(db, contact.old_address, contact.provider_contact_id)
    new_id, _ = _known(db, address, None)
    bounced = opted_out == BOUNCED
    if old_id and old_id != new_id and not contact.keep_old:
        if new_id or bounced:
            _take_off(db, list_id, old_id)
        else:
            db.execute("update contacts set address = ? where id = ?", (address, old_id))
    sql = """
        insert into contacts (address, caller_id, first_name, last_name, opted_out)
        values (:address, :caller_id, coalesce(:first_name, ''), coalesce(:last_name, ''), :opted_out)
        on conflict do update set
            caller_id = :caller_id,
            first_name = coalesce(:first_name, first_name),
            last_name = coalesce(:last_name, last_name),
            opted_out = coalesce(opted_out, :opted_out)
        returning id, opted_out
    """
    row = {
        "address": address,
        "caller_id": contact.id,
        "first_name": contact.first_name and contact.first_name[:NAME_CHARS],
        "last_name": contact.last_name and contact.last_name[:NAME_CHARS],
        "opted_out": None if bounced else opted_out,
    }
    contact_id, opted_out = db.execute(sql, row).fetchone()
    db.execute("insert or ignore into memberships values (?, ?)", (list_id, contact_id))
    return _told(contact_id, opted_out)


def _remove(db: sqlite3.Connection, list_id: str, contact: Contact) -> Outcome:
    contact_id, opted_out = _known(db, contact.address, contact.provider_contact_id)
    if contact_id is None:
        return Delivered()
    _take_off(db, list_id, contact_id)
    return _told(contact_id, opted_out)


def _take_off(db: sqlite3.Connection, list_id: str, contact_id: int) -> None:
    db.execute("delete from memberships where list_id = ? and contact_id = ?", (list_id, contact_id))


def _told(contact_id: int, opted_out: str | None) -> Outcome:
    return OptedOut(opted_out, str(contact_id)) if opted_out else Delivered(str(contact_id))
