"""Counts by the minute: what falls into which span, and what is forgotten."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from bridge.history import DAY_MINUTES, MINUTE_S, History
from tests.clock import DrivenClock


def total(history: History, minutes: int = DAY_MINUTES) -> Counter[str]:
    return sum(history.spans(minutes, 1), Counter())


def test_a_span_holds_its_minutes_and_the_last_one_the_present() -> None:
    clock = DrivenClock()
    history = History(clock)
    for minute in range(4):
        history.count("done", times=minute + 1)
        clock.advance(MINUTE_S)
    history.count("failed")
    assert history.spans(4, 2) == [Counter(done=2 + 3), Counter(done=4, failed=1)]
    assert history.spans(4, 4)[-1] == Counter(failed=1)


def test_what_is_older_than_a_day_is_forgotten() -> None:
    clock = DrivenClock()
    history = History(clock)
    history.count("done")
    clock.advance((DAY_MINUTES - 1) * MINUTE_S)
    history.count("done")
    assert total(history) == Counter(done=2)
    clock.advance(MINUTE_S)
    assert total(history) == Counter(done=1)
    clock.advance(DAY_MINUTES * MINUTE_S)
    assert total(history) == Counter()


def test_a_clock_that_is_set_back_loses_and_doubles_nothing_of_the_time_it_shows() -> None:
    clock = DrivenClock()
    history = History(clock)
    history.count("done")
    clock.advance(-3600)
    history.count("done")
    assert total(history) == Counter(done=1), "what is of the future is not shown"
    clock.advance(3600)
    assert total(history) == Counter(done=2)


@given(st.lists(st.integers(0, 3 * DAY_MINUTES), max_size=50))
def test_the_counts_are_those_of_the_last_day(waits: list[int]) -> None:
    clock = DrivenClock()
    history = History(clock)
    counted = []
    for minutes in waits:
        clock.advance(minutes * MINUTE_S)
        history.count("done")
        counted.append(clock.now())
    last_day = [at for at in counted if clock.now() - at < DAY_MINUTES * MINUTE_S]
    assert total(history)["done"] == len(last_day)
    assert sum(history.spans(DAY_MINUTES, 48), Counter())["done"] == len(last_day)
