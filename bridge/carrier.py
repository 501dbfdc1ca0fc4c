"""One batch on its way: the calls that it needs, and what came of them recorded, told and counted."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeAlias, get_args

import structlog

from bridge.batch import Step, plan
from bridge.changes import Change, Kind
from bridge.clock import Clock
from bridge.halves import ContactCall, in_halves
from bridge.metrics import ContactOutcome, Metrics
from bridge.replicas import ChangesSettled, Replicas
from bridge.store import MappedList, Settled, Store
from bridge.tickets import Tickets
from providers.base import (
    Contact,
    ContactRefused,
    Delivered,
    OptedOut,
    Outcome,
    Postponed,
    Provider,
    Reason,
    Refused,
    Rejected,
    Unsupported,
)

Recorded: TypeAlias = Callable[[float | None], Awaitable[None]]


class Carrier:
    """Carries batches of changes to a provider.

    `recorded` is called whenever outcomes were recorded, with the Unix time of the first postponed change among them.
    """

    def __init__(
        self,
        *,
        store: Store,
        tickets: Tickets,
        metrics: Metrics,
        clock: Clock,
        replicas: Replicas,
        log: structlog.stdlib.BoundLogger,
        recorded: Recorded,
    ) -> None:
        self._store = store
        self._tickets = tickets
        self._metrics = metrics
        self._clock = clock
        self._replicas = replicas
        self._log = log
        self._recorded = recorded

    async def carry(self, provider: Provider[Any], mapped: MappedList, changes: Sequence[Change]) -> bool:
        """Delivers changes of one list, or its one DROP. Raises what kept it from that; what is not recorded stays.

        False when the list began to move meanwhile: its changes stay, for its new place.
        """
        if changes[0].kind is Kind.DROP:
            await self._drop(provider, mapped, changes[0])
            return True
        return await self._deliver_contacts(provider, mapped, changes)

    async def _drop(self, provider: Provider[Any], mapped: MappedList, change: Change) -> None:
        try:
            await provider.delete_list(str(mapped.provider_list_id))
        except (Refused, Unsupported) as error:
            reason = error.reason if isinstance(error, Refused) else Reason.REQUEST_REFUSED
            await self._settle(mapped, [Settled(change, Rejected(reason, error.detail))])
            return
        await self._store.memory.forget_list(mapped.id, change.seq)
        await self._recorded(None)
        self._tickets.done(mapped.id, [change.seq])
        await self._replicas.tell(ChangesSettled(mapped.id))
        self._log.info("list_deleted", list=mapped.public_id)

    async def _deliver_contacts(self, provider: Provider[Any], mapped: MappedList, changes: Sequence[Change]) -> bool:
        list_id = str(mapped.provider_list_id)
        steps = await plan(self._store, mapped, changes)
        removals = [(step, contact) for step in steps for contact in step.removals]
        if removals:
            outcomes = await self._call(provider.remove, list_id, [contact for _, contact in removals])
            for (step, contact), outcome in zip(removals, outcomes, strict=True):
                step.removed(contact, outcome)
            # An opt-out that a removal told would not be told again: it is recorded before anything else happens.
            await self._settle(mapped, [step.settled() for step in steps if step.outcome is not None])
            steps = [step for step in steps if step.outcome is None]
        upserts = [(step, step.upsert) for step in steps if step.upsert is not None and step.outcome is None]
        if upserts:
            outcomes = await self._call(provider.upsert, list_id, [contact for _, contact in upserts])
            for (step, _), outcome in zip(upserts, outcomes, strict=True):
                step.outcome = outcome
        after = [contact for step in steps if _on_list(step) for contact in step.removals_after]
        if after:
            await self._call(provider.remove, list_id, after)
        return await self._settle(mapped, [step.settled() for step in steps])

    async def _call(self, call: ContactCall, list_id: str, contacts: Sequence[Contact]) -> list[Outcome]:
        """One outcome per contact, whatever the provider refused for good; other errors pass."""

        async def told(list_id: str, some: Sequence[Contact]) -> list[Outcome]:
            try:
                return await call(list_id, some)
            except ContactRefused:
                raise
            except Refused as error:
                self._log.warning("batch_refused", contacts=len(some), reason=error.reason, detail=error.detail)
                return [Rejected(error.reason, error.detail)] * len(some)
            except Unsupported as error:
                return [Rejected(Reason.REQUEST_REFUSED, error.detail)] * len(some)

        return await in_halves(told, list_id, contacts)

    async def _settle(self, mapped: MappedList, settled: Sequence[Settled]) -> bool:
        """Records outcomes and tells them; False when the changes stay because the list is being moved."""
        if not settled:
            return True
        now = self._clock.now()
        if not await self._store.memory.settle(mapped, settled, now):
            self._tickets.postponed(mapped.id, [item.change.seq for item in settled])
            self._log.info("batch_kept", list=mapped.public_id, contacts=len(settled))
            return False
        waits_s = [item.outcome.retry_after_s for item in settled if isinstance(item.outcome, Postponed)]
        await self._recorded(now + min(waits_s) if waits_s else None)
        done: list[int] = []
        rejected: list[tuple[int, str, Rejected]] = []
        postponed: list[int] = []
        counts: dict[ContactOutcome, int] = dict.fromkeys(get_args(ContactOutcome), 0)
        for item in settled:
            change = item.change
            match item.outcome:
                case Rejected() as outcome:
                    rejected.append((change.seq, change.contact_id, outcome))
                    counts["rejected"] += 1
                case Postponed():
                    postponed.append(change.seq)
                    counts["postponed"] += 1
                case outcome:
                    done.append(change.seq)
                    counts["opted_out" if isinstance(outcome, OptedOut) else "delivered"] += 1
        self._tickets.done(mapped.id, done)
        self._tickets.rejected(mapped.id, rejected)
        self._tickets.postponed(mapped.id, postponed)
        await self._replicas.tell(ChangesSettled(mapped.id))
        self._metrics.delivery_s.labels(mapped.account).observe(now - min(item.change.created_at for item in settled))
        self._metrics.settled(mapped.account, counts)
        self._log.info("batch_settled", list=mapped.public_id, **counts)
        return True


def _on_list(step: Step) -> bool:
    return isinstance(step.outcome, Delivered | OptedOut)
