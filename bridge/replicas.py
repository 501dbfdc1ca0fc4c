"""Several processes on one store: who delivers for which provider, and how they tell each other what happened.

On PostgreSQL all replicas keep one connection open for locks and messages. A replica delivers to a provider while it
holds that provider's session lock, so the provider's limit on parallel calls holds over all of them, and the lock of
a replica that died is free as soon as its connection is. Locks and messages go over the same connection on purpose:
whoever may have missed a message has lost its locks too, and reads the outbox anew when it gets them back.

On SQLite there is one process, which a file lock makes sure of.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeAlias

import msgspec
from sqlalchemy import make_url

from bridge.store import Connection, StoreError
from bridge.store.database import lock_file


class ChangesStored(msgspec.Struct, frozen=True, tag=True):
    """Changes of these lists were stored. `lists` holds (list, account, provider, how many)."""

    lists: list[tuple[int, str, str, int]]


class ChangesSettled(msgspec.Struct, frozen=True, tag=True):
    """Changes of this list are not pending any more."""

    list_id: int


class ProviderSeen(msgspec.Struct, frozen=True, tag=True):
    """How the leading replica sees a provider: the words of `bridge.delivery.State`."""

    account: str
    provider: str
    state: str
    since: float
    detail: str


Message: TypeAlias = ChangesStored | ChangesSettled | ProviderSeen
Handler: TypeAlias = Callable[[Message], None]


class Replicas(ABC):
    """Leadership and messages among the processes on one store."""

    @abstractmethod
    async def lead(self, provider: str, work: Callable[[], Awaitable[None]]) -> None:
        """Runs `work` while this process may deliver to the provider, and again whenever it may again; returns when
        `work` does. Cancels `work` when the right is lost."""

    @abstractmethod
    async def leave(self, provider: str) -> None:
        """Gives up the right to deliver to a provider, for which no `lead` is under way here any more."""

    @abstractmethod
    async def tell(self, message: Message, connection: Connection | None = None) -> None:
        """Tells the other processes; with a `connection` when its transaction commits, and only then."""

    @abstractmethod
    async def close(self) -> None:
        """Gives up all leadership."""


async def open_replicas(store_url: str, handler: Handler) -> Replicas:
    """Joins the processes on a store; `handler` gets what others tell. Raises StoreError."""
    url = make_url(store_url)
    if url.get_backend_name() == "postgresql":
        from bridge.postgres_replicas import PostgresReplicas  # asyncpg is imported where it is used only

        replicas = PostgresReplicas(url.render_as_string(hide_password=False), handler)
        await replicas.connect()
        return replicas
    return Alone(Path(f"{url.database}.lock"))


class Alone(Replicas):
    """The only process on a SQLite file. Raises StoreError when there is another one."""

    def __init__(self, path: Path) -> None:
        try:
            self._file = lock_file(path)
        except OSError as error:
            raise StoreError("another bridge runs on this SQLite file; several need PostgreSQL") from error

    async def lead(self, provider: str, work: Callable[[], Awaitable[None]]) -> None:
        await work()

    async def leave(self, provider: str) -> None:
        return

    async def tell(self, message: Message, connection: Connection | None = None) -> None:
        return

    async def close(self) -> None:
        self._file.close()
