"""Making a list at the ESP exactly once, and finding the list that an id of Planfix means."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

import structlog

from bridge.clock import Clock
from bridge.config import Account
from bridge.store import ListState, MappedList, Store
from providers.base import Provider, Reason, Refused, Unsupported

SAME_LIST_WITHIN_S: Final = 600.0
"""A createList repeated within this time is the same wish, if the list has had no contact yet."""

NAMES_TRIED: Final = 50

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Lists:
    """The lists of all accounts. Methods may raise StoreError and what providers raise."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._making: dict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._open: dict[str, MappedList] = {}

    async def create(self, account: Account, provider: Provider[Any], name: str) -> str:
        """The id for Planfix of a list of this name: an unused one made just now by the same wish, or a new one.

        The name is written down before the ESP is called. When a call breaks off, the next try looks the name up
        first and takes the list that it finds.
        """
        wish = _Wish(account.name, account.provider, name)
        async with self._one_at_a_time(account.name):
            since = self._clock.now() - SAME_LIST_WITHIN_S
            same = await self._store.lists.untouched(account.name, account.provider, name, since)
            if same is not None and same.public_id is not None:
                return same.public_id
            return f"{account.provider}:{await self._made(wish, provider)}"

    async def copy_at(self, original: MappedList, provider_name: str, provider: Provider[Any]) -> MappedList:
        """The other place of a list at a provider, ready to be filled: the one that is there, or a new one."""
        async with self._one_at_a_time(original.account):
            copy = await self._store.lists.copy_at(original.id, provider_name)
            if copy is None:
                name = original.name or str(original.public_id)
                await self._made(_Wish(original.account, provider_name, name, original.id), provider)
                copy = await self._store.lists.copy_at(original.id, provider_name)
                assert copy is not None, "a list was made and is not there"  # noqa: S101 - as the line before says
            return copy

    @asynccontextmanager
    async def _one_at_a_time(self, account: str) -> AsyncIterator[None]:
        async with self._making[account], self._store.database.exclusive(f"lists of {account}"):
            yield

    async def resolve(self, account: Account, public_id: str) -> MappedList | None:
        """The list of an id that Planfix sent, None when the account has none such.

        An id that the store does not know is read from its own text: `<provider>:<id there>`.

        An open list is read once. That it is still open is for the transaction to see that stores its changes
        (ListClosed); `forget` it then.
        """
        found = self._open.get(public_id) or await self._store.lists.by_public_id(public_id)
        if found is not None:
            if found.state is ListState.OPEN:
                self._open[public_id] = found
            return found if found.account == account.name else None
        provider_name, colon, provider_list_id = public_id.partition(":")
        if provider_name != account.provider or not colon or not provider_list_id:
            return None
        log.warning("list_adopted", account=account.name, list=public_id)
        return await self._store.lists.adopt(
            account.name, public_id, provider_name, provider_list_id, self._clock.now()
        )

    def forget(self, mapped: MappedList) -> None:
        """The list is not as it was: read it again when it is next asked for."""
        self._open.pop(str(mapped.public_id), None)

    async def _made(self, wish: "_Wish", provider: Provider[Any]) -> str:
        """The provider's id of the list that was wished for."""
        return await self._resume(wish, provider) or await self._make(wish, provider)

    async def _resume(self, wish: "_Wish", provider: Provider[Any]) -> str | None:
        """Ends an earlier making of this name that broke off, if there is one."""
        intent = await self._store.lists.open_intent(wish.account, wish.provider, wish.name, wish.copy_of)
        if intent is None:
            return None
        found = await provider.find_list(intent.provider_name)
        if found is None:
            found = await self._call_create(provider, intent.id, intent.provider_name)
        return None if found is None else await self._finish(wish, intent.id, found)

    async def _make(self, wish: "_Wish", provider: Provider[Any]) -> str:
        for number in range(1, NAMES_TRIED + 1):
            provider_name = provider.list_name(wish.name, number)
            if await provider.find_list(provider_name) is not None:
                continue
            intent = await self._store.lists.begin(
                wish.account, wish.provider, wish.name, provider_name, self._clock.now(), wish.copy_of
            )
            made = await self._call_create(provider, intent, provider_name)
            if made is not None and await self._finish(wish, intent, made):
                return made
        raise Refused(Reason.NAME_TAKEN, f"{NAMES_TRIED} lists of this name exist")

    async def _call_create(self, provider: Provider[Any], intent: int, provider_name: str) -> str | None:
        """The id of the new list, None when its name turned out to be taken."""
        try:
            return await provider.create_list(provider_name)
        except (Refused, Unsupported) as error:
            await self._store.lists.abandon(intent)
            if isinstance(error, Refused) and error.reason is Reason.NAME_TAKEN:
                return None
            raise

    async def _finish(self, wish: "_Wish", intent: int, provider_list_id: str) -> str | None:
        """The provider's id, None when the list stands for another one already; then the wish is still open."""
        public_id = f"{wish.provider}:{provider_list_id}" if wish.copy_of is None else None
        if not await self._store.lists.finish(intent, public_id, provider_list_id, self._clock.now()):
            await self._store.lists.abandon(intent)
            return None
        log.info("list_created", account=wish.account, list=f"{wish.provider}:{provider_list_id}")
        return provider_list_id


@dataclass(frozen=True, slots=True)
class _Wish:
    """A list that must be there: a new one for Planfix, or the copy of one that moves."""

    account: str
    provider: str
    name: str
    copy_of: int | None = None
