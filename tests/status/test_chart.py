"""Bars of counts: in their box, in their order, and none too low to be seen."""

from collections import Counter
from typing import get_args

from hypothesis import given
from hypothesis import strategies as st

from bridge.metrics import ContactOutcome, RequestOutcome
from bridge.status.activity import CONTACTS, REQUESTS
from bridge.status.chart import HEIGHT, WIDTH, Kind, Part, chart

KINDS: dict[str, Kind] = {"done": "fine", "pending": "waiting", "failed": "trouble"}
COUNTS = st.dictionaries(st.sampled_from(list(KINDS)), st.integers(0, 10**6)).map(Counter)


def test_every_outcome_that_is_counted_has_its_place() -> None:
    assert set(REQUESTS) == set(get_args(RequestOutcome))
    assert set(CONTACTS) == set(get_args(ContactOutcome))


def test_trouble_hangs_below_the_ground_and_the_rest_stands_on_it() -> None:
    drawn = chart([Counter(done=2, pending=1, failed=3)], KINDS, 0)
    by_kind = {part.kind: part for part in drawn.parts}
    assert by_kind["fine"].y + by_kind["fine"].height == drawn.ground
    assert by_kind["waiting"].y + by_kind["waiting"].height == by_kind["fine"].y
    assert by_kind["trouble"].y == drawn.ground
    assert by_kind["trouble"].height == 3 * by_kind["waiting"].height
    assert (drawn.total, drawn.highest) == (6, 6)


def test_nothing_is_drawn_of_nothing() -> None:
    drawn = chart([Counter()] * 60, KINDS, 1.0)
    assert (list(drawn.parts), drawn.ground, drawn.total, drawn.unknown) == ([], HEIGHT, 0, WIDTH)


def test_one_failure_among_a_thousand_can_be_seen() -> None:
    drawn = chart([Counter(done=1000), Counter(failed=1)], KINDS, 0)
    assert min(part.height for part in drawn.parts) >= 2


@given(st.lists(COUNTS, min_size=1, max_size=60), st.floats(-2, 2))
def test_all_bars_are_within_the_box_and_beside_each_other(spans: list[Counter[str]], unknown_share: float) -> None:
    drawn = chart(spans, KINDS, unknown_share)
    for part in drawn.parts:
        assert part.height > 0
        assert part.y >= -0.01
        assert part.y + part.height <= HEIGHT + 0.01
        assert part.x >= 0
        assert part.x + part.width < WIDTH
    assert 0 <= drawn.ground <= HEIGHT
    assert 0 <= drawn.unknown <= WIDTH
    assert not any(overlap(one, other) for one in drawn.parts for other in drawn.parts if one is not other)


def overlap(one: Part, other: Part) -> bool:
    beside = one.x + one.width <= other.x or other.x + other.width <= one.x
    return not beside and one.y + one.height > other.y + 0.02 and other.y + other.height > one.y + 0.02
