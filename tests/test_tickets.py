"""Tickets: what a request is told always adds up, and it waits exactly until there is no more to hear."""

import asyncio
from collections.abc import Sequence
from typing import Literal, TypeAlias

from hypothesis import given
from hypothesis import strategies as st

from bridge.tickets import REJECTED_SHOWN, Ticket, Tickets
from providers.base import Reason, Rejected

REFUSED = Rejected(Reason.INVALID_ADDRESS)
Word: TypeAlias = Literal["done", "rejected", "postponed"]


def tell(tickets: Tickets, word: Word, *seqs: int, list_id: int = 1) -> None:
    if word == "done":
        tickets.done(list_id, seqs)
    elif word == "rejected":
        tickets.rejected(list_id, [(seq, f"contact {seq}", REFUSED) for seq in seqs])
    else:
        tickets.postponed(list_id, seqs)


def known(ticket: Ticket) -> tuple[int, int, int, bool]:
    return ticket.delivered, ticket.rejected_count, ticket.pending, ticket.ended.is_set()


def test_a_ticket_ends_when_the_last_outcome_is_known() -> None:
    tickets = Tickets()
    ticket = tickets.open(1, 5, 3)
    assert known(ticket) == (0, 0, 3, False)
    tell(tickets, "done", 5, 7)
    assert known(ticket) == (2, 0, 1, False)
    tell(tickets, "rejected", 6)
    assert known(ticket) == (2, 1, 0, True)
    assert ticket.rejected == [("contact 6", Reason.INVALID_ADDRESS)]


def test_outcomes_of_other_lists_and_other_requests_are_not_taken_for_ones_own() -> None:
    tickets = Tickets()
    first, second, elsewhere = tickets.open(1, 1, 2), tickets.open(1, 3, 2), tickets.open(2, 1, 2)
    tell(tickets, "done", 3, 4, 5, 0)
    assert [known(each) for each in (first, second, elsewhere)] == [
        (0, 0, 2, False),
        (2, 0, 0, True),
        (0, 0, 2, False),
    ]


def test_a_change_that_a_newer_one_replaced_while_it_was_in_flight_counts_once() -> None:
    tickets = Tickets()
    ticket = tickets.open(1, 1, 2)
    tell(tickets, "done", 1)  # the newer one is stored
    tell(tickets, "rejected", 1)  # the call comes back
    assert known(ticket) == (1, 0, 1, False)
    tell(tickets, "done", 1, 2)
    assert known(ticket) == (2, 0, 0, True)


def test_nobody_waits_for_postponed_changes_and_their_outcome_still_counts() -> None:
    tickets = Tickets()
    ticket = tickets.open(1, 1, 3)
    tell(tickets, "postponed", 1)
    tell(tickets, "postponed", 1)
    tell(tickets, "done", 1)
    assert known(ticket) == (1, 0, 2, False)
    tell(tickets, "postponed", 2)
    tell(tickets, "done", 3)
    assert known(ticket) == (2, 0, 1, True)


def test_the_first_refused_contacts_are_named_and_all_are_counted() -> None:
    tickets = Tickets()
    ticket = tickets.open(1, 1, REJECTED_SHOWN + 50)
    tell(tickets, "rejected", *range(1, REJECTED_SHOWN + 51))
    assert [contact_id for contact_id, _ in ticket.rejected] == [f"contact {n}" for n in range(1, REJECTED_SHOWN + 1)]
    assert known(ticket) == (0, REJECTED_SHOWN + 50, 0, True)


def test_release_lets_go_who_waits_for_these_lists_and_nobody_else() -> None:
    tickets = Tickets()
    here, there = tickets.open(1, 1, 1), tickets.open(2, 1, 1)
    tickets.release([1, 99], key_refused=True)
    assert (here.ended.is_set(), here.key_refused, here.pending) == (True, True, 1)
    assert (there.ended.is_set(), there.key_refused) == (False, False)
    tickets.release_all()
    assert (there.ended.is_set(), there.key_refused) == (True, False)
    assert here.key_refused, "it was told so, whatever came after"


def test_a_closed_ticket_hears_nothing_and_may_be_closed_again() -> None:
    tickets = Tickets()
    closed, other = tickets.open(1, 1, 1), tickets.open(1, 2, 1)
    tickets.close(closed)
    tickets.close(closed)
    tell(tickets, "done", 1, 2)
    assert known(closed) == (0, 0, 1, False)
    assert known(other) == (1, 0, 0, True)


async def test_who_waits_wakes_up() -> None:
    tickets = Tickets()
    ticket = tickets.open(1, 1, 1)
    waiting = asyncio.create_task(ticket.ended.wait())
    await asyncio.sleep(0)
    assert not waiting.done()
    tell(tickets, "done", 1)
    assert await waiting


SIZES = st.lists(st.integers(1, 4), min_size=1, max_size=4)
WORDS: st.SearchStrategy[Word] = st.sampled_from(["done", "rejected", "postponed"])
TOLD = st.lists(st.tuples(WORDS, st.lists(st.integers(0, 17), max_size=4, unique=True)), max_size=30)


@given(sizes=SIZES, told=TOLD, closed=st.sets(st.integers(0, 3)))
def test_whatever_is_told_in_whatever_order_adds_up(
    sizes: Sequence[int], told: Sequence[tuple[Word, Sequence[int]]], closed: set[int]
) -> None:
    tickets = Tickets()
    opened: list[Ticket] = []
    next_seq = 1
    for size in sizes:
        opened.append(tickets.open(1, next_seq, size))
        next_seq += size
    for index in closed & set(range(len(opened))):
        tickets.close(opened[index])
    final: dict[int, Word] = {}
    heard: set[int] = set()
    for word, seqs in told:
        tell(tickets, word, *seqs)
        heard.update(seqs)
        if word != "postponed":
            for seq in seqs:
                final.setdefault(seq, word)  # the first word about a change stands
        for index, ticket in enumerate(opened):
            own = range(ticket.first_seq, ticket.last_seq + 1)
            if index in closed:
                assert known(ticket) == (0, 0, len(own), False)
                continue
            outcomes = [final.get(seq) for seq in own]
            assert known(ticket) == (
                outcomes.count("done"),
                outcomes.count("rejected"),
                outcomes.count(None),
                all(seq in heard for seq in own),
            )
            assert ticket.delivered + ticket.rejected_count + ticket.pending == len(own)
