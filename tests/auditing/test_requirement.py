"""Limits on measures: what is asked, what is refused before work, and that each can hold, fail and stay open."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from synthetic import evidence, forgotten, original

from remanent.auditing import measure_names, measures
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETAIN, Evidence, Measure
from remanent.auditing.judge import judge
from remanent.auditing.judgement import FAILED, NOT_ASSESSABLE, PASSED, WARNED, Criteria, Judgement
from remanent.auditing.required_line import required_lines
from remanent.auditing.requirement import SETS, Requirement, check_conditions
from remanent.auditing.tofu import FURTHER
from remanent.errors import InputError
from remanent.report.words import words_of


def made(name: str, value: float | None, width: float | None = 0.1, **other: str) -> Measure:
    place = {"subject": AUDITED, "condition": "tofu", "records": RETAIN, **other}
    ends = (None, None) if width is None or value is None else (value - width, value + width)
    return Measure(**place, name=name, value=value, low=ends[0], high=ends[1], n=40)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model-utility>=0.5", Requirement("model-utility", "", "", True, 0.5)),
        ("model-utility@tofu >= 0.5", Requirement("model-utility", "tofu", "", True, 0.5)),
        ("knowledge@muse+int4-row/retain>=.4", Requirement("knowledge", "muse+int4-row", "retain", True, 0.4)),
        ("knowledge/retain<=4e-1", Requirement("knowledge", "", "retain", False, 0.4)),
        ("forget-quality>=-1.3", Requirement("forget-quality", "", "", True, -1.3)),
        ("benchmark@lm-eval:my/task.yaml<=0.3", Requirement("benchmark", "lm-eval:task.yaml", "", False, 0.3)),
        ("benchmark@lm-eval:a/b.yaml/forget<=0.3", Requirement("benchmark", "lm-eval:b.yaml", "forget", False, 0.3)),
        ("membership-min-k++-beyond@full<=0.1", Requirement("membership-min-k++-beyond", "full", "", False, 0.1)),
    ],
)  # fmt: skip
def test_what_is_asked(text: str, expected: Requirement) -> None:
    assert Requirement.parse(text) == expected
    assert Requirement.parse(expected.line) == replace(expected, condition="")
    assert Criteria(require=(text,)).require == (str(expected),)
    assert Requirement.parse(str(expected)) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model-utillity>=0.5", "did you mean 'model-utility'"),
        ("tofu:model-utility>=0.5", "did you mean 'model-utility'"),
        ("relearn-time@anamnesis>=20", "another measure: what is not regained"),
        ("anamnesis-index<=1", "another measure: what is not regained"),
        ("anamnesis-against-unseen/forget>=1", "another measure: what is not regained"),
        ("knowledge/retian>=0.5", "did you mean 'retain'"),
        ("model-utility>0.5", "then >= or <= and a number"),
        ("model-utility>=half", "then >= or <= and a number"),
        ("model-utility>=nan", "then >= or <= and a number"),
        ("model-utility@>=0.5", "a condition behind the '@'"),
        (">=0.5", "then >= or <= and a number"),
    ],
)
def test_what_is_not_known_is_refused(text: str, expected: str) -> None:
    with pytest.raises(InputError, match=f"require: .*{expected}"):
        Criteria(require=(text,))


def test_a_condition_that_is_not_audited_is_refused() -> None:
    check_conditions(["model-utility@tofu>=0.5", "exposure>=1"], ["full", "tofu"])
    with pytest.raises(InputError, match=r"require: got 'model-utility@tofo>=0.5'.*did you mean 'tofu'"):
        check_conditions(["model-utility@tofo>=0.5"], ["full", "tofu"])


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("model-utility>=0.5", PASSED),
        ("model-utility>=0.52", WARNED),
        ("model-utility>=0.69", WARNED),
        ("model-utility>=0.75", FAILED),
        ("model-utility<=0.75", PASSED),
        ("model-utility<=0.65", WARNED),
        ("model-utility<=0.4", FAILED),
        ("model-utility@tofu>=0.75", FAILED),
        ("model-utility@tofu+int4-row>=0.5", NOT_ASSESSABLE),
        ("exposure<=2", NOT_ASSESSABLE),
        ("knowledge>=0.5", NOT_ASSESSABLE),  # of the forget set
        ("knowledge/retain>=0.1", NOT_ASSESSABLE),  # without a value
    ],
)
def test_the_end_of_the_interval_decides(text: str, verdict: str) -> None:
    others = [made("model-utility", 0.9, subject=ORIGINAL), made("knowledge", None)]
    (line,) = required_lines([made("model-utility", 0.6), *others], [text])
    assert (line.verdict, line.threshold) == (verdict, Requirement.parse(text).limit)
    assert (line.value is None) == (verdict == NOT_ASSESSABLE)
    assert line.reason.endswith(".")


@pytest.mark.parametrize("limit", ["0.5000001", "0.5000002", "1234567.5", "-1e-07", "0.1", "3", "1e+300"])
def test_a_limit_is_told_to_its_last_digit(limit: str) -> None:
    (line,) = required_lines([made("model-utility", 0.6)], [f"model-utility>={limit}"])
    assert line.name == f"model-utility>={limit}"
    assert f"must reach {limit}:" in line.reason
    assert words_of(line.name).failed.endswith(f" {limit}")
    assert Requirement.parse(line.name).limit == line.threshold == float(limit)


def test_limits_that_differ_late_are_two_lines() -> None:
    asked = ["model-utility>=0.5000001", "model-utility>=0.5000002", "model-utility>=0.50000020"]
    lines = required_lines([made("model-utility", 0.50000015, 0.0)], asked)
    assert [(line.threshold, line.verdict) for line in lines] == [(0.5000001, PASSED), (0.5000002, FAILED)]


def test_each_condition_has_its_line_and_each_measure_its_set() -> None:
    found = [
        made("model-utility", 0.6),
        made("model-utility", 0.3, condition="tofu+int4-row"),
        made("benchmark", 0.6, records=FORGET, condition="lm-eval:wmdp_bio"),
        made("benchmark", 0.6, condition="lm-eval:mmlu"),
        made("probability", 0.1, records=FORGET),
        made("probability", 0.9),
        made("probability", 0.2, records=CONTROL),
    ]
    lines = required_lines(
        found, ["model-utility>=0.45", "benchmark<=0.4", "probability<=0.3", "probability/control<=0"]
    )
    assert [(line.name, line.condition, line.verdict) for line in lines] == [
        ("model-utility>=0.45", "tofu", PASSED),
        ("model-utility>=0.45", "tofu+int4-row", FAILED),
        ("benchmark<=0.4", "lm-eval:wmdp_bio", FAILED),
        ("benchmark<=0.4", "lm-eval:mmlu", FAILED),
        ("probability<=0.3", "tofu", PASSED),
        ("probability/control<=0", "tofu", FAILED),
    ]
    assert len(required_lines(found, ["model-utility>=0.45", "model-utility@tofu>=0.45"])) == 2


def test_without_bounds_only_the_outcome_of_a_test_decides() -> None:
    (open_end,) = required_lines([made("model-utility", 0.9, None)], ["model-utility>=0.5"])
    assert open_end.verdict == WARNED
    few = replace(made("forget-quality", -1.0, None, records=FORGET, condition="full"), n=3)
    (line,) = required_lines([few], ["forget-quality>=-1.3"])  # of 3 and 3 records no p is below 0.1
    assert (line.verdict, "3 cannot give less than -1.3" in line.reason) == (WARNED, True)
    assert required_lines([replace(few, n=4)], ["forget-quality>=-1.3"])[0].verdict == PASSED
    quality = made("forget-quality", -4.2, None, records=FORGET, condition="full")
    assert [line.verdict for line in required_lines([quality], ["forget-quality>=-1.3", "forget-quality>=-5"])] == [
        FAILED,
        PASSED,
    ]


def limited(*required: str) -> Evidence:
    found = evidence(original(), forgotten())
    return replace(
        found, measures=(made("model-utility", 0.6),), settings={**found.settings, "require": list(required)}
    )


def test_a_limit_decides_the_verdict_and_goes_through_json() -> None:
    before = judge(limited())
    assert judge(limited("model-utility>=0.4")).verdict == before.verdict
    failed = judge(limited("model-utility>=0.4", "model-utility>=0.8"))
    assert failed.verdict == FAILED
    assert judge(limited("exposure<=2")).verdict == NOT_ASSESSABLE
    assert failed.lines[: len(before.lines)] == before.lines
    back = Judgement.from_dict(json.loads(json.dumps(failed.to_dict())))
    assert back == failed
    assert back.criteria.require == ("model-utility>=0.4", "model-utility>=0.8")
    again = judge(Evidence.from_dict(json.loads(json.dumps(limited("model-utility>=0.8").to_dict()))))
    assert again.lines[-1] == failed.lines[-1]
    with pytest.raises(InputError, match="require"):
        Criteria(require="model-utility>=0.4")  # type: ignore[arg-type]


def test_every_measure_has_a_name_and_every_set_is_known() -> None:
    known = set(measure_names.NAMES)
    assert {*measures.MEANS, *measures.UNBOUNDED} <= known
    assert len(known) == len(measure_names.NAMES)
    assert set(FURTHER) <= set(SETS)


def test_the_report_has_words_for_it() -> None:
    words = words_of("knowledge/retain>=0.4")
    assert (words.label, words.bound) == ("knowledge, retain", "≥")
    assert "≥ 0.4" in words.failed
    assert words_of("of-another-version").label == "of-another-version"
