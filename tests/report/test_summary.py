from __future__ import annotations

import json
import math
import subprocess
import sys

import pytest

from remanent.auditing.evidence import (
    AUDITED,
    CONTROL,
    FORGET,
    ORIGINAL,
    RETAIN,
    TEXT,
    ConditionInfo,
    Evidence,
    Measurement,
    RecordScore,
)
from remanent.report.summary import recovery_of, summarize
from remanent.report.view import Line, RunView

from .conftest import DURABLE, PLAIN, TAUGHT

FULL, INT4 = ConditionInfo("full", "full", ""), ConditionInfo("int4", "precision", "")
ATTACK = ConditionInfo("relearning", "attack", "", random=True)


def scored(subject: str, condition: str, records: str, *nlls: float, seed: int | None = None) -> Measurement:
    found = tuple(RecordScore(f"{records}{n}", f"g{n}", nll, 4, 4 - n % 2, 0.5) for n, nll in enumerate(nlls))
    return Measurement(subject, condition, records, found, seed)


def run(*measurements: Measurement, lines: tuple[Line, ...] = ()) -> RunView:
    infos = tuple(i for i in (FULL, INT4, ATTACK) if any(m.condition == i.name for m in measurements))
    return RunView("r", Evidence(infos, measurements), "PASSED", lines=lines)


def test_figures_by_hand() -> None:
    summary = summarize(
        run(
            scored(ORIGINAL, "full", FORGET, 0.0, 0.2),
            scored(ORIGINAL, "full", RETAIN, 0.5, 0.5),
            scored(ORIGINAL, "full", CONTROL, 1.5, 1.5),
            scored(AUDITED, "full", FORGET, 2.0, 2.0),
            scored(AUDITED, "full", RETAIN, 1.0, 1.0),
            scored(AUDITED, "full", CONTROL, 1.0, 2.0),
            scored(AUDITED, "full", TEXT, 1.0, 3.0),
            scored(ORIGINAL, "int4", FORGET, 0.5, 0.5),
            scored(AUDITED, "int4", FORGET, 1.0, 1.0),
        )
    )
    full, int4 = summary.conditions
    assert full.audited[FORGET].nll.value == 2.0
    assert full.audited[FORGET].token_accuracy == 7 / 8
    assert full.audited[FORGET].whole == 0.5
    assert full.audited[FORGET].rouge_l == 0.5
    assert full.audited[TEXT].perplexity == pytest.approx(math.exp(2.0))
    assert full.gap is not None
    assert full.gap.value == pytest.approx(2.0 - 1.5)
    assert full.retention is not None
    assert full.retention.value == pytest.approx((1.5 - 1.0) / (1.5 - 0.5))
    assert full.recovery is None  # nothing can come back at full precision
    assert int4.recovery == pytest.approx((2.0 - 1.0) / (2.0 - 0.5))
    assert int4.gap is None
    assert int4.retention is None
    assert summary.examples[0].worst == "int4"
    assert (summary.examples[0].before, summary.examples[0].after) == (0.0, 2.0)


@pytest.mark.parametrize(
    ("full", "here", "original", "share"),
    [(2.0, 2.0, 0.0, 0.0), (2.0, 0.0, 0.0, 1.0), (2.0, 3.0, 0.0, 0.0), (2.0, -1.0, 0.0, 1.0), (1.0, 0.5, 1.0, None)],
)
def test_recovery_is_held_to_shares(full: float, here: float, original: float, share: float | None) -> None:
    assert recovery_of(full, here, original) == share


def test_recovery_compares_the_records_that_an_attack_scored() -> None:
    summary = summarize(
        run(
            scored(AUDITED, "full", FORGET, 2.0, 100.0),
            scored(ORIGINAL, "relearning", FORGET, 0.0, seed=0),
            scored(AUDITED, "relearning", FORGET, 1.0, seed=0),
        )
    )
    assert summary.conditions[1].recovery == 0.5


def test_judged_figures_stand_as_judged() -> None:
    judged = Line("forgotten-relative", "full", "FAILED", -0.7, -0.9, -0.5)
    kept = Line("kept", "full", "PASSED", 0.95, 0.9, 1.0)
    summary = summarize(
        run(scored(AUDITED, "full", FORGET, 1.0), scored(AUDITED, "full", CONTROL, 1.0), lines=(kept, judged))
    )
    row = summary.conditions[0]
    assert row.gap is not None
    assert row.retention is not None
    assert (row.gap.value, row.gap.low, row.retention.high, row.verdict) == (-0.7, -0.9, 1.0, "FAILED")
    assert [line.verdict for line in summary.lines] == ["FAILED", "PASSED"]


def test_the_worst_seed_is_shown() -> None:
    summary = summarize(
        run(
            *(scored(AUDITED, "relearning", FORGET, nll, seed=seed) for seed, nll in enumerate((3.0, 1.0, 2.0))),
            *(scored(AUDITED, "relearning", CONTROL, 2.0, seed=seed) for seed in range(3)),
        )
    )
    row = summary.conditions[0]
    assert row.seeds == 3
    assert row.audited[FORGET].nll.value == 1.0


def test_what_is_not_finite_has_no_interval_and_stays_out_of_json() -> None:
    summary = summarize(run(scored(AUDITED, "full", FORGET, math.inf, 1.0), scored(AUDITED, "full", CONTROL, 1.0, 1.0)))
    row = summary.conditions[0]
    assert row.gap is None
    assert row.audited[FORGET].nll.low is None
    json.dumps(summary.to_dict(), allow_nan=False)


def test_an_original_that_knows_nothing_has_no_retention() -> None:
    sets = [scored(subject, "full", name, 1.0, 1.2) for subject in (AUDITED, ORIGINAL) for name in (RETAIN, CONTROL)]
    assert summarize(run(*sets)).conditions[0].retention is None


def test_the_runs_show_what_they_were_made_of(plain: RunView, durable: RunView) -> None:
    for view, figures in ((plain, PLAIN), (durable, DURABLE)):
        summary = summarize(view)
        for row in summary.conditions[:-1]:
            forget, retain, control = figures[row.name]
            assert row.audited[FORGET].nll.value == pytest.approx(forget)
            assert row.audited[RETAIN].nll.value == pytest.approx(retain)
            assert row.gap is not None
            assert row.gap.value == pytest.approx(forget - control)
            assert row.original[FORGET].nll.value == pytest.approx(TAUGHT[row.name][0])
            low, high = row.audited[FORGET].nll.low, row.audited[FORGET].nll.high
            assert low is not None
            assert high is not None
            assert low < forget < high
    worst = summarize(plain).smallest_gap
    assert worst is not None
    assert worst.name == "int4-row"


def test_the_same_run_gives_the_same_summary(plain: RunView) -> None:
    assert summarize(plain).to_dict() == summarize(plain).to_dict()


def test_reading_results_needs_no_torch() -> None:
    code = "import sys, remanent.report.html, remanent.report.terminal; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
