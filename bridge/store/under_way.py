"""What a job of a service may yet put on a list, kept where it outlives the process that started the job."""

from collections.abc import Callable, Sequence

from sqlalchemy import bindparam, delete, select

from bridge.store.database import Database, execute_many
from bridge.store.fingerprints import Fingerprints
from bridge.store.outbox import chunks
from bridge.store.tables import under_way
from providers.jobs import UnderWay

_PLACE = (
    under_way.c.provider == bindparam("provider"),
    under_way.c.provider_list_id == bindparam("list"),
    under_way.c.fingerprint.in_(bindparam("fingerprints", expanding=True)),
)
_UNTIL = select(under_way.c.fingerprint, under_way.c.until).where(*_PLACE)
_END = delete(under_way).where(*_PLACE)


class UnderWayInStore(UnderWay):
    """Of one provider, for all processes on the store. `now` gives the Unix time. Every method may raise StoreError."""

    def __init__(self, database: Database, fingerprints: Fingerprints, provider: str, now: Callable[[], float]) -> None:
        self._database = database
        self._fingerprints = fingerprints
        self._provider = provider
        self._now = now
        self._put_rows = database.upsert(under_way)

    async def begin(self, list_id: str, addresses: Sequence[str], longest_s: float) -> None:
        now = self._now()
        place = {"provider": self._provider, "provider_list_id": list_id, "until": now + longest_s}
        rows = [place | {"fingerprint": self._fingerprints.of(address)} for address in addresses]
        async with self._database.write() as connection:
            await connection.execute(delete(under_way).where(under_way.c.until < now))
            await connection.run_sync(execute_many, self._put_rows, rows)

    async def end(self, list_id: str, addresses: Sequence[str]) -> None:
        async with self._database.write() as connection:
            for some in chunks(addresses):
                await connection.execute(_END, self._at(list_id, some))

    async def left_s(self, list_id: str, addresses: Sequence[str]) -> dict[str, float]:
        now = self._now()
        until: dict[bytes, float] = {}
        async with self._database.read() as connection:
            for some in chunks(addresses):
                rows = await connection.execute(_UNTIL, self._at(list_id, some))
                until |= {row.fingerprint: row.until for row in rows}
        if not until:
            return {}
        of = self._fingerprints.of
        return {address.lower(): until[of(address)] - now for address in addresses if of(address) in until}

    def _at(self, list_id: str, addresses: Sequence[str]) -> dict[str, object]:
        fingerprints = [self._fingerprints.of(address) for address in addresses]
        return {"provider": self._provider, "list": list_id, "fingerprints": fingerprints}
