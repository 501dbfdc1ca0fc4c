"""What other replicas tell: changes to deliver, outcomes that a request here waits for, how a provider is."""

import asyncio

import structlog

from bridge.clock import Clock
from bridge.couriers import Couriers
from bridge.delivery import Courier, Health, State
from bridge.provider_pool import ProviderMissing
from bridge.replicas import ChangesSettled, ChangesStored, Message, ProviderSeen
from bridge.store import Store, StoreError
from bridge.tickets import Ticket, Tickets
from providers.base import Rejected

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class Elsewhere:
    """Takes in messages. The store is asked for outcomes: what a message says is only that something changed."""

    def __init__(self, store: Store, tickets: Tickets, couriers: Couriers, clock: Clock) -> None:
        self._store = store
        self._tickets = tickets
        self._couriers = couriers
        self._clock = clock
        self._looking: dict[int, asyncio.Task[None]] = {}
        self._again: set[int] = set()

    def heard(self, message: Message) -> None:
        match message:
            case ChangesStored(lists=lists):
                for list_id, account, provider, count in lists:
                    if courier := self._courier(account, provider):
                        courier.add(list_id, count)
            case ProviderSeen():
                if courier := self._courier(message.account, message.provider):
                    courier.told(Health(State(message.state), message.since, message.detail))
            case ChangesSettled(list_id=list_id):
                self._look(list_id)

    async def refresh(self, ticket: Ticket) -> None:
        """Brings a ticket up to date from the store. Raises StoreError."""
        span = (ticket.list_id, ticket.first_seq, ticket.last_seq)
        waiting = await self._store.outbox.waiting_between(*span)
        refused = await self._store.memory.refused_between(*span)
        known = ticket.open - waiting.keys()
        self._tickets.rejected(
            ticket.list_id,
            [(seq, refused[seq][0], Rejected(refused[seq][1])) for seq in sorted(known & refused.keys())],
        )
        self._tickets.done(ticket.list_id, sorted(known - refused.keys()))
        now = self._clock.now()
        self._tickets.postponed(ticket.list_id, [seq for seq, due_at in waiting.items() if due_at > now])

    async def close(self) -> None:
        """Ends looks that are under way."""
        for task in self._looking.values():
            task.cancel()
        await asyncio.gather(*self._looking.values(), return_exceptions=True)

    def _courier(self, account: str, provider: str) -> Courier | None:
        try:
            return self._couriers.of(account, provider)
        except ProviderMissing:
            log.warning("provider_missing", account=account, provider=provider)
            return None

    def _look(self, list_id: int) -> None:
        """Looks for outcomes that somebody here waits for; one look at a time for each list."""
        if not self._tickets.of_list(list_id):
            return
        if list_id in self._looking:
            self._again.add(list_id)
            return
        task = self._looking[list_id] = asyncio.create_task(self._look_once(list_id))
        task.add_done_callback(lambda _: self._looked(list_id))

    def _looked(self, list_id: int) -> None:
        del self._looking[list_id]
        if list_id in self._again:
            self._again.discard(list_id)
            self._look(list_id)

    async def _look_once(self, list_id: int) -> None:
        try:
            for ticket in self._tickets.of_list(list_id):
                span = (list_id, ticket.first_seq, ticket.last_seq)
                # Most messages come in the middle of a large import: reading it all each time would be too dear.
                if not await self._store.outbox.is_due_between(*span, self._clock.now()):
                    await self.refresh(ticket)
        except StoreError as error:
            log.warning("outcomes_not_read", detail=str(error))
