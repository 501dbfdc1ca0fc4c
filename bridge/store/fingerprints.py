"""Addresses that the store must recognise and must not hold: kept as keyed hashes."""

import hashlib
import secrets
from functools import lru_cache

from sqlalchemy import select

from bridge.store.database import Database
from bridge.store.tables import meta

_KEY_NAME = "fingerprint_key"


class Fingerprints:
    """Turns an address into 16 bytes that say nothing without the store's own key. Case does not matter."""

    def __init__(self, key: bytes) -> None:
        self._key = key
        # A batch on its way asks for each of its addresses half a dozen times.
        self.of = lru_cache(maxsize=10_000)(self._of)

    @classmethod
    async def of_store(cls, database: Database) -> "Fingerprints":
        """Reads the store's key; the first caller makes it."""
        insert = database.insert(meta).values(name=_KEY_NAME, value=secrets.token_bytes(32))
        async with database.write() as connection:
            await connection.execute(insert.on_conflict_do_nothing(index_elements=["name"]))
            key = await connection.execute(select(meta.c.value).where(meta.c.name == _KEY_NAME))
            return cls(bytes(key.scalar_one()))

    def _of(self, address: str) -> bytes:
        return hashlib.blake2b(address.strip().lower().encode(), digest_size=16, key=self._key).digest()
