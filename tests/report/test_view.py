from __future__ import annotations

import pytest

from remanent.errors import InputError
from remanent.report.view import RunView

from .conftest import PLAIN, evidence

EVIDENCE = evidence(PLAIN, "x").to_dict()
PASSED = {"verdict": "PASSED", "lines": []}


def test_the_whole_audit_has_no_condition_and_criteria_come_from_the_judgement() -> None:
    line = {"name": "overlap", "condition": "", "verdict": "WARNED", "reason": "One."}
    run = RunView.from_data("r", EVIDENCE, {"verdict": "WARNED", "lines": [line], "criteria": {"epsilon": 0.5}})
    assert run.lines[0].condition is None
    assert run.criteria["epsilon"] == 0.5
    assert run.criteria["upsilon"] == EVIDENCE["settings"]["upsilon"]


@pytest.mark.parametrize(
    ("measured", "judged", "field"),
    [
        ({"schema": "other"}, PASSED, "evidence"),
        ({}, PASSED, "evidence"),
        (EVIDENCE, {}, "judgement.verdict"),
        (EVIDENCE, {"verdict": "FINE"}, "judgement.verdict"),
        (EVIDENCE, {"verdict": "PASSED", "lines": [{"name": "kept", "verdict": "GOOD"}]}, "judgement.lines"),
        (EVIDENCE, {"verdict": "PASSED", "lines": [{"verdict": "PASSED"}]}, "judgement.lines"),
    ],
)
def test_what_is_no_result_is_refused(measured: dict[str, object], judged: dict[str, object], field: str) -> None:
    with pytest.raises(InputError, match=field):
        RunView.from_data("r", measured, judged)
