"""The report in a terminal: the verdict, and one table of every run at every condition."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from rich.box import HORIZONTALS, SIMPLE_HEAD
from rich.console import Console, Group
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from remanent.auditing.evidence import CONTROL, FORGET, RETAIN
from remanent.core.estimate import Estimate
from remanent.report.attacker import AttackerRow, attacker_rows, strongest
from remanent.report.benchmarks import benchmark_rows
from remanent.report.summary import ConditionSummary, RunSummary, summarize
from remanent.report.text import interval, number, percent, visible
from remanent.report.view import FAILED, MARKS, NOT_ASSESSABLE, PASSED, WARNED, RunView
from remanent.report.words import headline, listed, problems

STYLES = {PASSED: "green", WARNED: "yellow", FAILED: "bold red", NOT_ASSESSABLE: "magenta"}
JUDGED_SETS = (FORGET, RETAIN, CONTROL)
WIDE, MIDDLE = 100, 80  # columns of a terminal that hold every figure, and all but the intervals
REASONS = 4


def verdict_panel(run: RunView) -> Panel:
    """The verdict in words, with the lines that did not hold."""
    found = problems(run)
    reasons = Table.grid(padding=(0, 2))
    for problem in found[:REASONS]:
        where = f" at {listed(problem.conditions)}" if problem.conditions else ""
        which = f" Worst at {problem.worst.condition}:" if len(problem.conditions) > 1 else ""
        reason = visible(f"{problem.label}{where}.{which} {problem.worst.reason}")
        reasons.add_row(Text(problem.verdict, STYLES[problem.verdict], no_wrap=True), Text(reason))
    if len(found) > REASONS:
        reasons.add_row("", Text(f"and {len(found) - REASONS} more in the report"))
    title = Text.assemble(visible(run.name, 40), ": ", (run.verdict, STYLES[run.verdict]))
    body = Group(Text(visible(headline(run))), *([reasons] if found else []))
    return Panel(body, title=title, title_align="left", box=HORIZONTALS, border_style="dim", padding=(0, 1))


def comparison_table(runs: Sequence[RunView], width: int = WIDE) -> Table:
    """Every run at every condition.

    Args:
        width: of the terminal, in columns: narrower ones lose the intervals first, then what came back.
    """
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("condition", no_wrap=True, max_width=18)
    labels = _labels(width)
    for label in labels:
        table.add_column(label, justify="right", no_wrap=True)
    table.add_column("lines" if width >= MIDDLE else "", no_wrap=True)
    for run in runs:
        if len(runs) > 1:
            table.add_row(Text(visible(run.name, 18), "bold"))
        for row in summarize(run).conditions:
            verdict = row.verdict or "–"
            lines = Text(verdict if width >= MIDDLE else MARKS.get(verdict, verdict), STYLES.get(verdict, ""))
            table.add_row(Text(visible(row.name, 18)), *(Text(text) for text in _figures(row, width)), lines)
        table.add_section()
    return table


def attacker_table(runs: Sequence[RunView], width: int = WIDE) -> Table | None:
    """What an attacker could tell from each run's model; None where nothing of the kind was measured."""
    found = [(run, strongest(attacker_rows(run.evidence))) for run in runs]
    if not any(rows for _, rows in found):
        return None
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("what an attacker could tell", max_width=30)
    others = ("unseen", "original", "retrained") if width >= MIDDLE else ("unseen",)
    for label in ("at", "audited", *others):
        table.add_column(label, justify="left" if label == "at" else "right", no_wrap=True, max_width=18)
    for run, rows in found:
        if len(runs) > 1 and rows:
            table.add_row(Text(visible(run.name, 18), "bold"))
        for row in rows:
            cells = [_cell(row.audited, width), *(_cell(item, 0) for item in _others(row, len(others)))]
            table.add_row(Text(row.label), Text(visible(row.condition, 18)), *map(Text, cells))
        table.add_section()
    return table


def benchmark_table(runs: Sequence[RunView], width: int = WIDE) -> Table | None:
    """The benchmarks' own figures of each run's model, set by set; None where none was asked."""
    found = [(run, benchmark_rows(run.evidence)) for run in runs]
    if not any(rows for _, rows in found):
        return None
    table = Table(box=SIMPLE_HEAD, pad_edge=False, collapse_padding=True, header_style="dim")
    table.add_column("benchmarks", max_width=30, overflow="fold")
    others = ("original", "retrained", "ideal") if width >= MIDDLE else ()
    table.add_column("of", no_wrap=True)
    table.add_column("at", overflow="fold", max_width=20)  # a task's name stands there
    for label in ("audited", *others):
        table.add_column(label, justify="right", no_wrap=True)
    for run, rows in found:
        if len(runs) > 1 and rows:
            table.add_row(Text(visible(run.name, 18), "bold"))
        for row in rows:
            figures = [_cell(row.audited, width), *(_cell(item, 0) for item in (row.original, row.retrained))]
            cells = [row.records, row.condition, *[*figures, row.ideal][: 1 + len(others)]]
            table.add_row(Text(row.label), *(Text(visible(cell)) for cell in cells))
        table.add_section()
    return table


def plain_lines(runs: Sequence[RunView]) -> list[str]:
    """The same as lines of `key=value` in ASCII figures, for logs and for other programs."""
    lines = []
    for run in runs:
        lines.append(_pairs(run=run.name, verdict=run.verdict, reason=headline(run)))
        for row in summarize(run).conditions:
            sets = {name: row.audited[name].nll.value for name in JUDGED_SETS if name in row.audited}
            gap, kept = (None if item is None else item.value for item in (row.gap, row.retention))
            figures = {**sets, "gap": gap, "retention": kept, "recovery": row.recovery}
            lines.append(_pairs(run=run.name, condition=row.name, **figures, verdict=row.verdict))
        for found in attacker_rows(run.evidence):
            told = {"run": run.name, "condition": found.condition, "measure": found.name}
            others = zip(("control", "original", "retrained"), _others(found, 3), strict=True)
            figures = {name: None if item is None else item.value for name, item in others}
            ends = {"low": found.audited.low, "high": found.audited.high}
            lines.append(_pairs(**told, audited=found.audited.value, **ends, **figures))
        for item in benchmark_rows(run.evidence):
            told = {"run": run.name, "condition": item.condition, "measure": item.name, "records": item.records}
            before = {"original": item.original, "retrained": item.retrained}
            figures = {name: None if other is None else other.value for name, other in before.items()}
            ends = {"low": item.audited.low, "high": item.audited.high}
            lines.append(_pairs(**told, audited=item.audited.value, **ends, **figures))
        for line in run.lines:
            if line.verdict != PASSED:
                place = {"run": run.name, "line": line.name, "condition": line.condition}
                lines.append(_pairs(**place, verdict=line.verdict, figure=line.value, reason=line.reason))
    return lines


def show(runs: Sequence[RunView], console: Console) -> None:
    """Print the verdicts and the table; plain lines where the console is no terminal."""
    if not console.is_terminal:
        for line in plain_lines(runs):
            console.print(Text(line), soft_wrap=True)
        return
    console.print(comparison_table(runs, console.width))
    for table in (attacker_table(runs, console.width), benchmark_table(runs, console.width)):
        if table is not None:
            console.print(table)
    for run in runs:
        console.print(verdict_panel(run))


def report_data(runs: Sequence[RunView]) -> dict[str, list[dict[str, object]]]:
    """The same tables as plain data, for `--json`."""
    return {"runs": [_data(run, summarize(run)) for run in runs]}


def _data(run: RunView, summary: RunSummary) -> dict[str, object]:
    told = [asdict(row) for row in attacker_rows(run.evidence)]
    return {
        **summary.to_dict(),
        "attacker": told,
        "benchmarks": [asdict(row) for row in benchmark_rows(run.evidence)],
        "headline": headline(run),
        "notes": [*run.notes, *run.evidence.notes],
    }


def _labels(width: int) -> list[str]:
    labels = [*JUDGED_SETS, "gap", "retention"]
    return [*labels, "came back"] if width >= MIDDLE else labels


def _figures(row: ConditionSummary, width: int) -> list[str]:
    found = [number(row.audited[name].nll.value) if name in row.audited else "–" for name in JUDGED_SETS]
    for estimate in (row.gap, row.retention):
        text = number(estimate.value) if estimate else "–"
        if estimate and width >= WIDE:
            text = f"{text} {interval(estimate.low, estimate.high)}".rstrip()
        found.append(text)
    return [*found, percent(row.recovery)] if width >= MIDDLE else found


def _others(row: AttackerRow, count: int) -> tuple[Estimate | None, ...]:
    return (row.control, row.original, row.retrained)[:count]


def _cell(found: Estimate | None, width: int) -> str:
    if found is None:
        return "–"
    text = number(found.value)
    return f"{text} {interval(found.low, found.high)}".rstrip() if width >= WIDE else text


def _pairs(**values: str | float | None) -> str:
    return " ".join(f"{key}={_word(value)}" for key, value in values.items())


def _word(value: str | float | None) -> str:
    """A value that a program can take apart: quoted where it is empty or holds a space, a quote or an equals sign."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.4f}"
    shown = visible(value).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{shown}"' if not shown or set(shown) & set(' "=\\') else shown
