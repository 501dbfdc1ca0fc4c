"""What the cases found: rows of numbers, targets, and curves."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True, slots=True)
class Target:
    """What was to be reached. `found` and `wanted` are in the same unit; `at_most` tells which side is good."""

    what: str
    found: float
    wanted: float
    at_most: bool = True

    @property
    def met(self) -> bool:
        return self.found <= self.wanted if self.at_most else self.found >= self.wanted


@dataclass(frozen=True, slots=True)
class Curve:
    """Lines of one plot: label → (x, y) pairs."""

    title: str
    x: str
    y: str
    lines: dict[str, list[tuple[float, float]]]
    log_x: bool = True


@dataclass(slots=True)
class Case:
    """One section of the report."""

    title: str
    about: str
    columns: Sequence[str] = ()
    rows: list[Sequence[Any]] = field(default_factory=list)
    targets: list[Target] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def row(self, *cells: Any) -> None:
        self.rows.append(cells)

    def target(self, what: str, found: float, wanted: float, *, at_most: bool = True) -> None:
        self.targets.append(Target(what, found, wanted, at_most))


def median(values: Sequence[float]) -> float:
    return float(statistics.median(values))
