"""The report: RESULTS.md with all cases, and a plot of each curve as SVG."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.results import Case, Curve

mpl.rcParams["svg.hashsalt"] = "planfix-bridge"  # the same figures give the same file


def write(folder: Path, machine: Mapping[str, str], cases: Sequence[Case], minutes: float) -> None:
    """Writes `RESULTS.md` and `plots/*.svg` into the folder."""
    parts = [
        "# Benchmark results",
        "Written by `make bench`. The bridge has one core for itself; the fake services and the load share the other, "
        "in a process of their own. Ratios are of one run on one machine; times of another machine are different.",
        "\n".join(f"- {name}: {value}" for name, value in machine.items()) + f"\n- this run took {minutes:.0f} minutes",
        "## Targets",
        _table(
            ("what", "found", "wanted", ""),
            [
                (
                    t.what,
                    _number(t.found),
                    f"{'≤' if t.at_most else '≥'} {_number(t.wanted)}",
                    "met" if t.met else "**missed**",
                )
                for case in cases
                for t in case.targets
            ],
        ),
    ]
    for case in cases:
        parts += [f"## {case.title}", case.about, _table(case.columns, case.rows)]
        parts.append("\n".join(f"- {note}" for note in case.notes))
        for curve in case.curves:
            name = re.sub(r"\W+", "-", curve.title.lower()) + ".svg"
            _plot(curve, folder / "plots" / name)
            parts.append(f"![{curve.title}](plots/{name})")
    (folder / "RESULTS.md").write_text("\n\n".join(filter(None, parts)) + "\n")


def _table(columns: Sequence[str], rows: Sequence[Sequence[Any]]) -> str:
    lines = [columns, ("---",) * len(columns), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def _number(value: float) -> str:
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:g}"


def _plot(curve: Curve, file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    for label, points in curve.lines.items():
        axes.plot([x for x, _ in points], [y for _, y in points], marker="o", markersize=3, label=label)
    axes.set(title=curve.title, xlabel=curve.x, ylabel=curve.y, xscale="log" if curve.log_x else "linear")
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    figure.savefig(file, format="svg", metadata={"Date": None})
