from __future__ import annotations

import io
import json
import re
import shlex
from dataclasses import replace

import pytest
from rich.cells import cell_len
from rich.console import Console

from remanent.report.terminal import comparison_table, plain_lines, report_data, show, verdict_panel
from remanent.report.view import Line, RunView

ESCAPE = re.compile(r"\x1b\[[0-9;]*m")


def printed(runs: list[RunView], width: int, terminal: bool = True) -> str:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, color_system="standard")
    show(runs, console)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [60, 80, 100, 140])
def test_no_figure_is_cut_off(plain: RunView, durable: RunView, width: int) -> None:
    text = ESCAPE.sub("", printed([plain, durable], width))
    assert max(cell_len(line) for line in text.splitlines()) <= width
    table = text.split("─ plain:")[0]
    assert "…" not in table
    for figure in ("−0.78", "0.82", "1.24", "int4-row", "relearning"):
        assert figure in table
    assert ("85%" in table) == (width >= 80)
    assert ("[−0.86, −0.69]" in table) == (width >= 100)


def test_the_panel_says_what_failed_and_where(plain: RunView, durable: RunView) -> None:
    console = Console(file=io.StringIO(), width=200)
    console.print(verdict_panel(plain))
    console.print(verdict_panel(durable))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "Forgotten, against unseen at int4-g32, int4-row and nf4" in text
    assert "durable: PASSED" in text


def test_plain_lines_can_be_taken_apart(plain: RunView, durable: RunView) -> None:
    rows = [dict(part.split("=", 1) for part in shlex.split(line)) for line in plain_lines([plain, durable])]
    worst = next(row for row in rows if (row["run"], row.get("condition")) == ("plain", "int4-row"))
    assert float(worst["gap"]) == pytest.approx(-0.78, abs=1e-4)
    assert float(worst["recovery"]) == pytest.approx((1.62 - 0.82) / (1.62 - 0.68), abs=1e-4)
    assert worst["verdict"] == "FAILED"
    assert next(row for row in rows if row.get("condition") == "full")["recovery"] == "none"
    assert printed([plain], 80, terminal=False).splitlines() == plain_lines([plain])


def test_nothing_from_outside_steers_the_terminal(plain: RunView) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07[bold]x[/bold]\r\n\u202e"
    info = replace(plain.evidence.conditions[0], name=evil)
    measured = tuple(
        replace(item, condition=evil) if item.condition == "full" else item for item in plain.evidence.measurements
    )
    evidence = replace(plain.evidence, conditions=(info, *plain.evidence.conditions[1:]), measurements=measured)
    lines = (Line("kept", evil, "FAILED", 0.1, reason=evil), Line(evil, None, "WARNED", reason=evil))
    run = replace(plain, name=evil, evidence=evidence, lines=lines)
    for text in (printed([run, plain], 120), printed([run], 80, terminal=False)):
        bare = ESCAPE.sub("", text)
        assert not set(bare) & set("\x1b\x07\r\u202e")
        assert "[bold]" in bare
    assert len(plain_lines([run])) == 1 + 6 + 2


def test_one_run_needs_no_name_in_the_table(plain: RunView) -> None:
    assert comparison_table([plain]).row_count == 6


def test_the_data_are_json(plain: RunView) -> None:
    data = json.loads(json.dumps(report_data([plain]), allow_nan=False))
    assert data["runs"][0]["verdict"] == "FAILED"
    assert data["runs"][0]["conditions"][3]["recovery"] == pytest.approx((1.62 - 0.82) / (1.62 - 0.68))
