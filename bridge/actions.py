"""What each of Planfix's four actions means for lists and contacts."""

import asyncio
from collections.abc import Iterable, Sequence
from itertools import islice
from typing import Final

from bridge.changes import DROP_CONTACT_ID, Change, Kind
from bridge.clock import Clock
from bridge.config import Account
from bridge.couriers import Couriers
from bridge.delivery import Courier, State
from bridge.elsewhere import Elsewhere
from bridge.intake import Intake
from bridge.lists import Lists
from bridge.planfix import (
    CreateList,
    DeleteList,
    ImportContacts,
    Request,
    UpdateContact,
)
from bridge.provider_pool import ProviderMissing, ProviderPool
from bridge.replies import (
    Failure,
    ListCreated,
    Outcome,
    Refusal,
    Tally,
    Unavailable,
)
from bridge.store import IN_USE, ListClosed, ListState, MappedList
from bridge.tickets import REJECTED_SHOWN, Ticket, Tickets
from providers.base import AuthFailed, Reason, Refused, Transient, Unsupported

ASYNCHRONOUS_REPLY_S: Final = 1.0
"""How long an answer waits for a provider that works changes off later: long enough to hear that a key is refused.
Planfix sends one request at a time; waiting out every job would stall its account."""

STORED_AT_ONCE: Final = 1000
"""About so many contacts of an import go into one commit: other requests are stored in between."""


class Actions:
    """Carries out requests. Raises StoreError when a change could not be stored: it must not be answered `success`."""

    def __init__(
        self,
        *,
        lists: Lists,
        intake: Intake,
        tickets: Tickets,
        providers: ProviderPool,
        couriers: Couriers,
        elsewhere: Elsewhere,
        clock: Clock,
        reply_within_s: float,
    ) -> None:
        self._lists = lists
        self._intake = intake
        self._tickets = tickets
        self._providers = providers
        self._couriers = couriers
        self._elsewhere = elsewhere
        self._clock = clock
        self.reply_within_s = reply_within_s
        self._creating: dict[tuple[str, str], asyncio.Task[Outcome]] = {}

    async def handle(self, account: Account, request: Request) -> Outcome:
        """The outcome within `reply_within_s`, and the time that the store takes."""
        match request:
            case CreateList():
                return await self._create_list(account, request.list_name)
            case DeleteList():
                return await self._delete_list(account, request.list_id)
            case ImportContacts():
                return await self._import(account, request)
            case UpdateContact():
                return await self._update(account, request)

    async def close(self) -> None:
        """Waits for lists that are being made; a list without its id would have to be looked for."""
        await asyncio.gather(*self._creating.values(), return_exceptions=True)

    async def _create_list(self, account: Account, name: str) -> Outcome:
        try:
            courier = self._couriers.of(account.name, account.provider)
        except ProviderMissing:  # the settings changed while the request was read
            return Failure("provider_missing")
        if courier.health.state is State.DOWN:
            courier.nudge()  # somebody waits for this list: the next try may find the provider back
            return Unavailable()
        # The making outlives an answer that cannot wait for it: the repeated request then gets the id.
        key = (account.name, name)
        making = self._creating.get(key)
        if making is None:
            making = self._creating[key] = asyncio.create_task(self._make_list(account, name, courier))
            making.add_done_callback(lambda _: self._creating.pop(key, None))
        try:
            async with asyncio.timeout(self.reply_within_s):
                return await asyncio.shield(making)
        except TimeoutError:
            return Unavailable()

    async def _make_list(self, account: Account, name: str, courier: Courier) -> Outcome:
        try:
            async with self._providers.using(account.provider) as provider:
                public_id = await self._lists.create(account, provider, name)
        except ProviderMissing:
            return Failure("provider_missing")
        except Transient:
            return Unavailable()
        except AuthFailed:
            return Failure("auth_failed")
        except Refused as error:
            return Failure(error.reason, error.detail if error.reason is Reason.REQUEST_REFUSED else "")
        except Unsupported as error:
            return Failure("unsupported", error.detail)
        courier.nudge()
        return ListCreated(public_id)

    async def _delete_list(self, account: Account, list_id: str) -> Outcome:
        mapped = await self._lists.resolve(account, list_id)
        if mapped is None or mapped.state is ListState.DELETED:
            return Tally()
        drop = Change(DROP_CONTACT_ID, Kind.DROP, created_at=self._clock.now())
        try:
            return await self._carry_out(mapped, [drop], [])
        except ListClosed:
            return Tally()
        finally:
            self._lists.forget(mapped)

    async def _import(self, account: Account, request: ImportContacts) -> Outcome:
        refusals = [Refusal(contact_id, problem) for contact_id, problem in request.refused]
        now = self._clock.now()
        changes = (
            Change(each.id, Kind.PRESENT, each.address, each.first_name, each.last_name, created_at=now)
            for each in request.contacts
        )
        return await self._change(account, request.list_id, changes, refusals)

    async def _update(self, account: Account, request: UpdateContact) -> Outcome:
        contact = request.contact
        present = request.change != "delete"
        if present and contact.problem is Reason.INVALID_ADDRESS:
            return await self._change(account, request.list_id, (), [Refusal(contact.id, contact.problem)])
        change = Change(
            contact.id,
            # A contact whose address was emptied in Planfix has nothing to be mailed to any more.
            Kind.PRESENT if present and contact.address else Kind.ABSENT,
            contact.address,
            contact.first_name,
            contact.last_name,
            old_addresses=(request.old_address,) if request.old_address else (),
            created_at=self._clock.now(),
        )
        return await self._change(account, request.list_id, [change], [])

    async def _change(
        self, account: Account, list_id: str, changes: Iterable[Change], refusals: Sequence[Refusal]
    ) -> Outcome:
        mapped = await self._lists.resolve(account, list_id)
        if mapped is None:
            return Failure("unknown_list")
        if mapped.state not in IN_USE:
            return Failure("list_deleted")
        try:
            return await self._carry_out(mapped, changes, refusals)
        except ListClosed:
            self._lists.forget(mapped)
            return Failure("list_deleted")

    async def _carry_out(self, mapped: MappedList, changes: Iterable[Change], refusals: Sequence[Refusal]) -> Outcome:
        """Stores the changes part by part, waits a while for their outcomes, and says what is known then. Raises
        ListClosed."""
        tickets: list[Ticket] = []
        rest, size = iter(changes), self._stored_at_once(mapped)
        try:
            while part := list(islice(rest, size)):
                tickets.append(await self._intake.put(mapped, part))
            failure = await self._wait(mapped, tickets) if tickets else None
        finally:
            for ticket in tickets:
                self._tickets.close(ticket)
        told = [Refusal(contact_id, reason) for ticket in tickets for contact_id, reason in ticket.rejected]
        return Tally(
            delivered=sum(ticket.delivered for ticket in tickets),
            pending=sum(ticket.pending for ticket in tickets),
            rejected=(*refusals, *told[:REJECTED_SHOWN]),
            rejected_count=len(refusals) + sum(ticket.rejected_count for ticket in tickets),
            failure=failure,
        )

    def _stored_at_once(self, mapped: MappedList) -> int:
        """How many changes go into one commit: full batches, for delivery begins with the first."""
        try:
            batch_size = self._providers.get(mapped.provider).limits.batch_size
        except ProviderMissing:
            return STORED_AT_ONCE
        return batch_size * max(1, STORED_AT_ONCE // batch_size)

    async def _wait(self, mapped: MappedList, tickets: Sequence[Ticket]) -> Failure | None:
        provider = tickets[-1].provider
        if provider != mapped.provider:
            self._lists.forget(mapped)  # it has moved, or is about to
        if provider is None or all(ticket.is_postponed for ticket in tickets):
            return None
        try:
            courier = self._couriers.of(mapped.account, provider)
        except ProviderMissing:
            return Failure("provider_missing")
        if courier.health.state is State.KEY_REFUSED:
            return Failure("auth_failed")
        if courier.health.state is State.UP:
            asynchronous = self._providers.get(provider).capabilities.asynchronous
            wait_s = min(self.reply_within_s, ASYNCHRONOUS_REPLY_S) if asynchronous else self.reply_within_s
            until = self._clock.now() + wait_s
            for ticket in tickets:
                if (left_s := until - self._clock.now()) > 0:
                    await self._clock.wait(ticket.ended, left_s)
        if not courier.is_leading:
            for ticket in tickets:
                if ticket.pending:
                    await self._elsewhere.refresh(ticket)
        return Failure("auth_failed") if any(ticket.key_refused for ticket in tickets) else None
