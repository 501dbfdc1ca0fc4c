"""Jobs of services whose end was not seen, kept where they outlive the process that started them."""

from collections.abc import Callable, Collection, Sequence
from functools import cache
from typing import Final

from sqlalchemy import bindparam, delete, insert, select, update

from bridge.store.database import Database
from bridge.store.fingerprints import Fingerprints
from bridge.store.tables import under_way
from providers.jobs import Job, UnderWay

_BYTES: Final = 16
"""Of a fingerprint."""

_OF_LIST = select(under_way.c.key, under_way.c.job_id, under_way.c.until, under_way.c.fingerprints).where(
    under_way.c.provider == bindparam("provider"),
    under_way.c.provider_list_id == bindparam("list"),
    under_way.c.until > bindparam("now"),
)
_BY_KEY = under_way.c.key == bindparam("its_key")
_END = delete(under_way).where(_BY_KEY)


class UnderWayInStore(UnderWay):
    """Of one provider, for all processes on the store: a row for each job, which has the fingerprints of its people one
    behind the other. `now` gives the Unix time. Every method may raise StoreError."""

    def __init__(self, database: Database, fingerprints: Fingerprints, provider: str, now: Callable[[], float]) -> None:
        super().__init__()
        self._database = database
        self._fingerprints = fingerprints
        self._provider = provider
        self._now = now

    async def begin(self, key: str, list_id: str, addresses: Sequence[str], longest_s: float) -> None:
        now = self._now()
        row = {"key": key, "provider": self._provider, "provider_list_id": list_id, "until": now + longest_s}
        joined = b"".join(map(self._fingerprints.of, addresses))
        async with self._database.write() as connection:
            await connection.execute(delete(under_way).where(under_way.c.until < now))
            await connection.execute(insert(under_way), [row | {"job_id": None, "fingerprints": joined}])

    async def known_as(self, key: str, job_id: str) -> None:
        async with self._database.write() as connection:
            await connection.execute(update(under_way).where(_BY_KEY).values(job_id=job_id), {"its_key": key})

    async def end(self, key: str) -> None:
        async with self._database.write() as connection:
            await connection.execute(_END, {"its_key": key})

    async def leave_out(self, key: str, addresses: Collection[str]) -> None:
        gone = set(map(self._fingerprints.of, addresses))
        async with self._database.write() as connection:
            held = await connection.scalar(select(under_way.c.fingerprints).where(_BY_KEY), {"its_key": key})
            left = b"".join(each for each in _split(held or b"") if each not in gone)
            await connection.execute(update(under_way).where(_BY_KEY).values(fingerprints=left), {"its_key": key})

    async def of_list(self, list_id: str) -> Sequence[Job]:
        now = self._now()
        values = {"provider": self._provider, "list": list_id, "now": now}
        async with self._database.read() as connection:
            rows = (await connection.execute(_OF_LIST, values)).all()
        return [Job(row.key, row.job_id, row.until - now, self._holder(row.fingerprints)) for row in rows]

    def _holder(self, joined: bytes) -> Callable[[str], bool]:
        people = cache(lambda: frozenset(_split(joined)))  # which most jobs are not asked for
        return lambda address: self._fingerprints.of(address) in people()


def _split(joined: bytes) -> list[bytes]:
    return [joined[start : start + _BYTES] for start in range(0, len(joined), _BYTES)]
