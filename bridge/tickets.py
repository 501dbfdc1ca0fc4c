"""Tickets: a request waits with one for the outcomes of its changes, and delivery tells outcomes by number. No I/O."""

import asyncio
from bisect import bisect_left, insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from providers.base import Reason, Rejected

REJECTED_SHOWN = 100
"""How many refused contacts one reply names; the rest is only counted."""


@dataclass(slots=True, eq=False)
class Ticket:
    """The changes `first_seq` to `last_seq` of one list, and what is known of them so far.

    `open` are those without an outcome; of them `postponed` are tried again too late to wait for.
    `ended` is set when all outcomes are known, or nobody needs to wait for the rest. `provider` is where they are
    delivered, None while the list is being moved.
    `key_refused`: the ESP refuses the bridge's key; the changes are kept, and a person has to act.
    """

    list_id: int
    first_seq: int
    last_seq: int
    delivered: int = 0
    rejected: list[tuple[str, Reason]] = field(default_factory=list)
    rejected_count: int = 0
    postponed: set[int] = field(default_factory=set)
    key_refused: bool = False
    provider: str | None = None
    ended: asyncio.Event = field(default_factory=asyncio.Event)
    open: set[int] = field(init=False)

    def __post_init__(self) -> None:
        self.open = set(range(self.first_seq, self.last_seq + 1))

    @property
    def pending(self) -> int:
        return len(self.open)

    @property
    def is_postponed(self) -> bool:
        """Whether nothing is left that is worth waiting for."""
        return len(self.open) == len(self.postponed)

    def settle(self, seq: int) -> None:
        """This change has its outcome."""
        self.open.remove(seq)
        self.postponed.discard(seq)
        self.end_if_known()

    def end_if_known(self) -> None:
        if self.is_postponed:
            self.ended.set()


class Tickets:
    """All tickets that are waited for.

    The first outcome of a change counts. It may be told twice: a newer change stands for it as soon as that is stored,
    and then the call that was under way comes back.
    """

    def __init__(self) -> None:
        self._by_list: dict[int, list[Ticket]] = {}

    def open(self, list_id: int, first_seq: int, count: int) -> Ticket:
        """Watches `count` changes. Open it before delivery can see them."""
        ticket = Ticket(list_id, first_seq, first_seq + count - 1)
        insort(self._by_list.setdefault(list_id, []), ticket, key=lambda t: t.first_seq)
        return ticket

    def close(self, ticket: Ticket) -> None:
        """Forgets a ticket that nobody waits for any more."""
        tickets = self._by_list.get(ticket.list_id, [])
        if ticket in tickets:
            tickets.remove(ticket)
        if not tickets:
            self._by_list.pop(ticket.list_id, None)

    def done(self, list_id: int, seqs: Iterable[int]) -> None:
        """These changes are at the ESP, or a newer one stands for them."""
        for seq in seqs:
            ticket = self._of(list_id, seq)
            if ticket is not None:
                ticket.delivered += 1
                ticket.settle(seq)

    def rejected(self, list_id: int, refusals: Sequence[tuple[int, str, Rejected]]) -> None:
        """These changes (number, contact id, outcome) were refused for good."""
        for seq, contact_id, outcome in refusals:
            ticket = self._of(list_id, seq)
            if ticket is not None:
                ticket.rejected_count += 1
                if len(ticket.rejected) < REJECTED_SHOWN:
                    ticket.rejected.append((contact_id, outcome.reason))
                ticket.settle(seq)

    def postponed(self, list_id: int, seqs: Iterable[int]) -> None:
        """These changes are tried again too late to wait for."""
        for seq in seqs:
            ticket = self._of(list_id, seq)
            if ticket is not None:
                ticket.postponed.add(seq)
                ticket.end_if_known()

    def of_list(self, list_id: int) -> list[Ticket]:
        """The tickets that wait for changes of a list."""
        return list(self._by_list.get(list_id, ()))

    def release(self, list_ids: Iterable[int], *, key_refused: bool = False) -> None:
        """Nobody needs to wait for these lists now: the ESP is away, or refuses the key."""
        for list_id in list_ids:
            for ticket in self._by_list.get(list_id, []):
                ticket.key_refused |= key_refused
                ticket.ended.set()

    def release_all(self) -> None:
        """The bridge stops: every request is answered with what is known."""
        self.release(list(self._by_list))

    def _of(self, list_id: int, seq: int) -> Ticket | None:
        """The ticket that waits for the outcome of this change."""
        tickets = self._by_list.get(list_id)
        if not tickets:
            return None
        index = bisect_left(tickets, seq, key=lambda t: t.last_seq)
        return tickets[index] if index < len(tickets) and seq in tickets[index].open else None
