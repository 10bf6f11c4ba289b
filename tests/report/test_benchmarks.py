"""The benchmarks' own figures by set of records: TOFU's sets, MUSE's utility, and what a benchmark's ideal is."""

from __future__ import annotations

import io
import shlex
from dataclasses import replace

import pytest
from rich.console import Console

from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    FORGET,
    ORIGINAL,
    RETAIN,
    RETRAINED,
    ConditionInfo,
    Measure,
)
from remanent.report.attacker import attacker_rows
from remanent.report.benchmarks import benchmark_rows
from remanent.report.html import render
from remanent.report.terminal import benchmark_table, plain_lines, report_data
from remanent.report.view import RunView

WMDP, MMLU = "lm-eval:wmdp_bio+int4-row", "lm-eval:mmlu"
OWN = "lm-eval:about-wmdp/three_choices.yaml:forget"


def measure(at: str, records: str, name: str, value: float | None, subject: str = AUDITED) -> Measure:
    ends = (None, None) if value is None else (value - 0.125, value + 0.125)
    return Measure(subject, at, records, name, value, *ends, 40)


MEASURES = (
    measure("muse", RETAIN, "knowledge", 0.52),
    measure("muse", FORGET, "knowledge", 0.31),
    measure("muse", CONTROL, "knowledge", 0.29),
    measure("muse", RETAIN, "knowledge", 0.55, ORIGINAL),
    measure("muse", RETAIN, "knowledge", 0.54, RETRAINED),
    measure("tofu", "world-facts", "true-better", 0.47),
    measure("tofu", "real-authors", "probability", 0.43),
    measure("tofu", RETAIN, "model-utility", 0.61),
    measure("tofu", RETAIN, "recall", None),
    measure(WMDP, FORGET, "benchmark", 0.64),
    measure(MMLU, RETAIN, "benchmark", 0.58),
    measure(MMLU + ":forget", FORGET, "benchmark", 0.41),
    measure(OWN, FORGET, "benchmark", 0.33),
    measure("muse", FORGET, "membership-loss", 0.6),
)


@pytest.fixture
def run(plain: RunView) -> RunView:
    asked = tuple(ConditionInfo(name, "other", "") for name in ("tofu", "muse", WMDP, MMLU, MMLU + ":forget", OWN))
    found = replace(plain.evidence, measures=MEASURES, conditions=(*plain.evidence.conditions, *asked))
    return replace(plain, evidence=found)


def test_every_set_has_its_row(run: RunView) -> None:
    rows = benchmark_rows(run.evidence)
    assert [(row.condition, row.records, row.name, row.audited.value, row.ideal) for row in rows] == [
        ("tofu", RETAIN, "model-utility", 0.61, "as original"),
        ("tofu", "world-facts", "true-better", 0.47, "as original"),
        ("tofu", "real-authors", "probability", 0.43, "as original"),
        ("muse", RETAIN, "knowledge", 0.52, "as original"),
        ("muse", FORGET, "knowledge", 0.31, "as unseen"),
        ("muse", CONTROL, "knowledge", 0.29, "–"),
        (WMDP, FORGET, "benchmark", 0.64, "0.25"),
        (MMLU, RETAIN, "benchmark", 0.58, "as original"),
        (MMLU + ":forget", FORGET, "benchmark", 0.41, "chance"),
        (OWN, FORGET, "benchmark", 0.33, "chance"),
    ]
    utility = rows[3]
    assert utility.original is not None
    assert utility.retrained is not None
    assert (utility.original.value, utility.retrained.value) == (0.55, 0.54)
    assert {row.name for row in attacker_rows(run.evidence)} == {"membership-loss"}


def test_page_terminal_lines_and_data_show_it(run: RunView, plain: RunView) -> None:
    page = render([run], "One run")
    section = page.split('-benchmarks">')[2].split("</section>")[0]
    assert "True answer likelier than false ones" in section
    assert "0.52" in section
    assert "-benchmarks" not in render([plain], "One run")
    lines = [dict(part.split("=", 1) for part in shlex.split(line)) for line in plain_lines([run])]
    (found,) = [line for line in lines if line.get("condition") == WMDP and "measure" in line]
    assert (found["records"], float(found["audited"]), found["original"]) == (FORGET, 0.64, "none")
    assert len(report_data([run])["runs"][0]["benchmarks"]) == 10  # type: ignore[arg-type]
    assert benchmark_table([plain]) is None


@pytest.mark.parametrize("width", [60, 80, 100])
def test_no_figure_is_cut_off(run: RunView, width: int) -> None:
    console = Console(file=io.StringIO(), width=width)
    table = benchmark_table([run], width)
    assert table is not None
    console.print(table)
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "…" not in text
    assert all(figure in text for figure in ("0.61", "0.47", "0.43", "0.52", "0.64"))
