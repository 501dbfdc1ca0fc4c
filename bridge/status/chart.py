"""Small charts: counts over time as bars, in the units of an SVG's view box.

What went well or still waits stands on the ground line, trouble hangs below it: so colour is not all that tells them
apart.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

Kind: TypeAlias = Literal["fine", "waiting", "trouble"]

WIDTH: Final = 240.0
HEIGHT: Final = 60.0
_GAP: Final = 1.0
_LEAST: Final = 2.0
"""The height of a part that would be too low to be seen: one failure among a thousand must not vanish."""
_SCALED: Final = HEIGHT - 3 * _LEAST  # leaves room for parts that are drawn higher than they are


@dataclass(frozen=True, slots=True)
class Part:
    """One kind of outcome in one bar; `y` is its upper edge."""

    kind: Kind
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True, slots=True)
class Chart:
    """`unknown` is the width, from the left, of the time before anything was counted; `ground` the line's `y`."""

    parts: Sequence[Part]
    ground: float
    total: int
    highest: int
    unknown: float


def chart(spans: Sequence[Counter[str]], kinds: Mapping[str, Kind], unknown_share: float) -> Chart:
    """Bars of these spans of time, one beside the other; `kinds` sorts the outcomes that are counted."""
    bars = [_by_kind(span, kinds) for span in spans]
    most_up = max(bar["fine"] + bar["waiting"] for bar in bars)
    most_down = max(bar["trouble"] for bar in bars)
    unit = _SCALED / max(1, most_up + most_down)
    ground = HEIGHT - max(_LEAST, most_down * unit) if most_down else HEIGHT
    step = WIDTH / len(bars)
    parts: list[Part] = []
    for number, bar in enumerate(bars):
        upper = ground
        for kind, count in bar.items():
            height = round(max(_LEAST, count * unit), 2)
            if kind == "trouble":
                y = ground
            else:
                y = upper = upper - height
            parts.append(Part(kind, number * step, round(y, 2), step - _GAP, height))
    unknown = WIDTH * min(1.0, max(0.0, unknown_share))
    return Chart(
        parts,
        round(ground, 2),
        sum(bar.total() for bar in bars),
        max(bar.total() for bar in bars),
        round(unknown, 2),
    )


def _by_kind(span: Counter[str], kinds: Mapping[str, Kind]) -> Counter[Kind]:
    """The kinds that occurred, in the order in which `kinds` names them."""
    summed: Counter[Kind] = Counter()
    for outcome, kind in kinds.items():
        if span[outcome]:
            summed[kind] += span[outcome]
    return summed
