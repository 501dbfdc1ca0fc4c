"""Reading lists of any length: members in batches, and a set that does not grow in memory."""

import sqlite3
from collections.abc import AsyncIterable, AsyncIterator, Iterable
from types import TracebackType
from typing import Any, Final, Self, TypeVar

from bridge.store import MappedList
from providers.base import Member, Provider, Reason, Refused

T = TypeVar("T")

BATCH_MAX: Final = 5000
"""Members that are held in memory at one time."""


async def in_batches(items: AsyncIterable[T], size: int = BATCH_MAX) -> AsyncIterator[list[T]]:
    """`items` in order, in lists of at most `size`."""
    batch: list[T] = []
    async for item in items:
        batch.append(item)
        if len(batch) == size:
            yield batch
            batch = []
    if batch:
        yield batch


class DiskSet:
    """A set of fingerprints in a temporary file, which is gone when the block ends."""

    def __enter__(self) -> Self:
        self._db = sqlite3.connect("")  # SQLite's name for a file of its own
        self._db.execute("create table seen (fingerprint blob primary key) without rowid")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def update(self, fingerprints: Iterable[bytes]) -> None:
        self._db.executemany("insert or ignore into seen values (?)", ((each,) for each in fingerprints))

    def __contains__(self, fingerprint: bytes) -> bool:
        found = self._db.execute("select 1 from seen where fingerprint = ?", (fingerprint,)).fetchone()
        return found is not None


class OldListGone(Exception):
    """There is no such list at the old provider: nobody can be read from it."""


async def members_of(old: Provider[Any], mapped: MappedList) -> AsyncIterator[Member]:
    """The members of a list at a provider that it leaves or has left. Raises OldListGone, and what providers raise."""
    try:
        async for member in old.members(str(mapped.provider_list_id)):
            yield member
    except Refused as error:
        if error.reason is not Reason.LIST_GONE:
            raise
        raise OldListGone(mapped.public_id) from error
