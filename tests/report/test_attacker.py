from __future__ import annotations

import io
import shlex
from dataclasses import replace

import pytest
from rich.console import Console

from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETRAINED, Measure
from remanent.report.attacker import attacker_rows, strongest
from remanent.report.html import render
from remanent.report.terminal import attacker_table, plain_lines, report_data
from remanent.report.view import RunView


def measure(name: str, value: float | None, subject: str = AUDITED, records: str = FORGET, at: str = "full") -> Measure:
    ends = (None, None) if value is None else (value - 0.125, value + 0.125)
    return Measure(subject, at, records, name, value, *ends, 40)


MEASURES = (
    measure("membership-loss", 0.61),
    measure("membership-loss", 0.98, ORIGINAL),
    measure("membership-loss", 0.52, RETRAINED),
    measure("membership-zlib", 0.27),
    measure("membership-zlib-tpr", 0.04),
    measure("membership-min-k", None),
    measure("extraction-strength", 0.33),
    measure("extraction-strength", 0.07, records=CONTROL),
    measure("membership-loss", 0.91, at="int4-row"),
)


@pytest.fixture
def run(plain: RunView) -> RunView:
    return replace(plain, evidence=replace(plain.evidence, measures=MEASURES))


def test_each_figure_stands_beside_the_other_models(run: RunView) -> None:
    rows = {(row.condition, row.name): row for row in attacker_rows(run.evidence)}
    loss = rows["full", "membership-loss"]
    assert (loss.audited.value, loss.control, loss.ideal) == (0.61, None, "0.5")
    assert loss.original is not None
    assert loss.retrained is not None
    assert (loss.original.value, loss.retrained.value) == (0.98, 0.52)
    strength = rows["full", "extraction-strength"]
    assert strength.control is not None
    assert (strength.audited.value, strength.control.value, strength.original) == (0.33, 0.07, None)
    assert ("full", "membership-min-k") not in rows  # no value, no row
    assert [row.condition for row in attacker_rows(run.evidence)] == ["full"] * 4 + ["int4-row"]


def test_the_strongest_attack_is_the_one_furthest_from_chance(run: RunView) -> None:
    shown = [(row.condition, row.name) for row in strongest(attacker_rows(run.evidence))]
    # 0.27 tells more than 0.61: a hole marks the records too.
    assert shown == [
        ("full", "membership-zlib"),
        ("full", "extraction-strength"),
        ("int4-row", "membership-loss"),
    ]


def test_page_terminal_and_lines_show_it(run: RunView, plain: RunView) -> None:
    page = render([run], "One run")
    assert "What an attacker could tell" in page
    assert "0.98" in page.split("What an attacker could tell")[2].split("</section>")[0]
    assert "What an attacker could tell" not in render([plain], "One run")
    console = Console(file=io.StringIO(), width=120)
    table = attacker_table([run], 120)
    assert table is not None
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    assert "0.27 [0.15, 0.40]" in console.file.getvalue()
    assert attacker_table([plain]) is None
    lines = [dict(part.split("=", 1) for part in shlex.split(line)) for line in plain_lines([run])]
    wanted = {"measure": "membership-loss", "condition": "int4-row"}
    (found,) = [line for line in lines if wanted.items() <= line.items()]
    assert (float(found["audited"]), found["original"]) == (0.91, "none")
    assert len(report_data([run])["runs"][0]["attacker"]) == 5  # type: ignore[arg-type]


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_figure_is_cut_off(run: RunView, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    table = attacker_table([run], width)
    assert table is not None
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert "0.33" in text
    assert "0.07" in text
