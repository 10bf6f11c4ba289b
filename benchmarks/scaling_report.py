"""What `benchmarks.scaling` found: exponents with their intervals, a table and a plot."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import stats


@dataclass(frozen=True)
class Cell:
    """One place on an axis.

    Args:
        at: where: parameters, tokens of a batch, or displacements.
        times: CPU seconds of each repetition.
        memory: bytes.
    """

    at: int
    times: tuple[float, ...]
    memory: int

    @property
    def time(self) -> float:
        """The median, in seconds."""
        return statistics.median(self.times)


@dataclass(frozen=True)
class Exponent:
    """The b of y = a * x ** b.

    Args:
        value: of all cells, by least squares on a log scale.
        low: lower end of its 95% interval.
        high: upper end.
        last: between the last two cells, where what is fixed weighs least.
    """

    value: float
    low: float
    high: float
    last: float

    def __str__(self) -> str:
        return f"{self.value:.2f} ({self.low:.2f} to {self.high:.2f}); {self.last:.2f}"


@dataclass(frozen=True)
class Line:
    """One job along one axis, its cells in order."""

    axis: str
    job: str
    cells: tuple[Cell, ...]


def exponent(x: Sequence[float], y: Sequence[float]) -> Exponent:
    """Fit a power law to at least three points above 0. The interval is Student's, of the slope."""
    over, up = np.log(x), np.log(y)
    apart = over - over.mean()
    slope = float(apart @ up / (apart @ apart))
    left = up - up.mean() - slope * apart
    half = float(stats.t.ppf(0.975, len(x) - 2) * np.sqrt(left @ left / (len(x) - 2) / (apart @ apart)))
    last = (up[-1] - up[-2]) / (over[-1] - over[-2])
    return Exponent(slope, slope - half, slope + half, float(last))


def table(lines: Sequence[Line], introduction: str) -> str:
    """Exponents, then every cell."""
    text = [
        introduction,
        "",
        "Exponent b of y = a x^b over all cells, with its 95% interval; then between the last two cells alone. 1 is "
        "linear. Below 1 over all cells and nearer to 1 at the end means a fixed part.",
        "",
        "| against | job | time | memory |",
        "| --- | --- | --- | --- |",
    ]
    for line in lines:
        at = [cell.at for cell in line.cells]
        fits = (exponent(at, values) for values in ([c.time for c in line.cells], [c.memory for c in line.cells]))
        text.append(f"| {line.axis} | {line.job} | " + " | ".join(map(str, fits)) + " |")
    text += ["", "| against | job | at | seconds (least to most) | MB |", "| --- | --- | --- | --- | --- |"]
    for line in lines:
        for cell in line.cells:
            spread = f"{cell.time:.3f} ({min(cell.times):.3f} to {max(cell.times):.3f})"
            text.append(f"| {line.axis} | {line.job} | {cell.at:,} | {spread} | {cell.memory / 1e6:.1f} |")
    return "\n".join(text) + "\n"


def plot(lines: Sequence[Line], file: Path) -> None:
    """Time above, memory below, one column per axis."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot, ticker

    axes = list(dict.fromkeys(line.axis for line in lines))
    jobs = list(dict.fromkeys(line.job for line in lines))
    figure, panels = pyplot.subplots(2, len(axes), figsize=(4 * len(axes), 6.4), sharey="row", squeeze=False)
    for line in lines:
        at = [cell.at for cell in line.cells]
        colour, mark = f"C{jobs.index(line.job)}", "os^"[jobs.index(line.job) % 3]
        for row, values in enumerate(([c.time for c in line.cells], [c.memory / 1e6 for c in line.cells])):
            found = exponent(at, values)
            panels[row][axes.index(line.axis)].plot(
                at, values, color=colour, marker=mark, label=f"{line.job}: {found.value:.2f}"
            )
    for row, name in enumerate(("CPU seconds", "peak memory, MB")):
        for column, axis in enumerate(axes):
            panel = panels[row][column]
            panel.set(xscale="log", yscale="log")
            if axis != "parameters":  # too few decades for powers of ten
                panel.set_xticks(sorted({cell.at for line in lines if line.axis == axis for cell in line.cells}))
                panel.xaxis.set_major_formatter(ticker.ScalarFormatter())
                panel.xaxis.set_minor_locator(ticker.NullLocator())
            panel.grid(True, which="major", alpha=0.3)
            panel.legend(title="exponent", fontsize=8, title_fontsize=8)
            if row == 1:
                panel.set_xlabel("tokens of a batch" if axis == "tokens" else axis)
        panels[row][0].set_ylabel(name)
    figure.tight_layout()
    figure.savefig(file, dpi=110, metadata={"Software": ""})
    pyplot.close(figure)
