"""The guard: of a mass removal only a share goes at once, the rest waits until a person has looked.

A filter that is edited by mistake takes thousands of people off a list in minutes. Additions and updates are no danger,
and neither is `deleteList`: a person asked for exactly that, and Planfix forgets the list with it, so a list that was
held back would never be kept in step again and would go on mailing people who have left.

Removals are judged as they are stored, not as they are delivered. Then the hour that counts is Planfix's: a backlog of
quiet days that goes out after an outage is no mass removal. Every removal asked for counts, of contacts too that the
store does not know; a lost store is a reason for care.
"""

from collections.abc import Sequence
from decimal import Decimal

import structlog
from msgspec.structs import replace

from bridge.changes import HELD, Change, Kind
from bridge.clock import Clock
from bridge.config import Guard
from bridge.store import Connection, MappedList, Removals

log: structlog.stdlib.BoundLogger = structlog.get_logger()


class RemovalGuard:
    """Judges the changes of a list before they are stored, in the transaction that stores them."""

    def __init__(self, removals: Removals, settings: Guard, clock: Clock) -> None:
        self._removals = removals
        self._share = Decimal(str(settings.removals_share))  # as it is written: 0.29 of 100 contacts are 29
        self._settings = settings
        self._clock = clock

    async def judge(self, connection: Connection, mapped: MappedList, changes: Sequence[Change]) -> Sequence[Change]:
        """The same changes; the removals among them that are too many are HELD. While one of a list is held, so is
        every further one."""
        asked = sum(change.kind is Kind.ABSENT for change in changes)
        if not asked:
            return changes
        now = self._clock.now()
        lately = await self._removals.lately(connection, mapped.id, now - self._settings.within_s)
        left = 0 if lately.holding else max(0, self._most(lately.list_size) - lately.let_go)
        let_go = min(asked, left)
        await self._removals.note(connection, mapped.id, let_go, lately.list_size, now)
        if let_go < asked and not lately.holding:
            log.warning("removals_held", account=mapped.account, list=mapped.public_id)
        judged: list[Change] = []
        for change in changes:
            if change.kind is not Kind.ABSENT:
                judged.append(change)
            elif let_go:
                judged.append(change)
                let_go -= 1
            else:
                judged.append(replace(change, due_at=HELD))
        return judged

    def _most(self, list_size: int) -> int:
        return max(self._settings.removals_free, int(self._share * list_size))
