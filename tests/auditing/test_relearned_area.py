"""The area under what comes back over the steps of an attack, by hand and out of an audit."""

from __future__ import annotations

import hashlib
import math
from dataclasses import replace

import pytest

from remanent.auditing.audit import audit
from remanent.auditing.condition import parse_conditions
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETRAINED, Measurement, RecordScore
from remanent.auditing.judge import judge
from remanent.auditing.judgement import NOT_ASSESSABLE, Criteria
from remanent.auditing.plan import AuditData, AuditPlan
from remanent.auditing.relearned_area import check_asked, relearned_areas
from remanent.data.authors import author_sets
from remanent.errors import InputError
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny

CRITERIA = Criteria(bootstrap_resamples=300)
AT = parse_conditions("blur-relearning-hi-10,blur-relearning-hi-50", seeds=(0,))
NAMES = ("full", "blur-relearning-hi-10", "blur-relearning-hi-50")


def measured(records, rows, seed=0, subject=AUDITED):
    """Measurements of a set: record -> its NLL at full precision, after 10 and after 50 steps."""
    made = []
    for place, name in enumerate(NAMES):
        scores = tuple(RecordScore(key, f"group of {key}", nll[place], 3, 1) for key, nll in rows.items())
        made.append(Measurement(subject, name, records, scores, None if name == "full" else seed))
    return made


# By trapezoids over 50 steps: f1 (0.5 * 10 + 2 * 40) / 50 = 1.7, f2 2 * 40 / 50 = 1.6; c1 0.4, c2 0.9.
FORGOTTEN = {"f1": (4, 3, 1), "f2": (6, 6, 2)}
UNSEEN = {"c1": (5, 5, 4), "c2": (5, 4, 4)}


def test_the_area_by_hand():
    (found,) = relearned_areas(AT, measured(FORGET, FORGOTTEN) + measured(CONTROL, UNSEEN), CRITERIA)
    assert found.value == pytest.approx(1.65 - 0.65)
    assert (found.condition, found.records, found.n) == ("blur-relearning-hi-50", FORGET, 2)
    more = {f"{key}{copy}": nll for key, nll in FORGOTTEN.items() for copy in range(6)}
    (bounded,) = relearned_areas(AT, measured(FORGET, more) + measured(CONTROL, UNSEEN), CRITERIA)
    assert bounded.value == pytest.approx(1.0)
    assert bounded.low is not None
    assert bounded.low < 1.0
    still = measured(FORGET, {"f1": (4, 4, 4), "f2": (2, 2, 2)}) + measured(CONTROL, {"c": (3, 3, 3), "d": (1, 1, 1)})
    assert relearned_areas(AT, still, CRITERIA)[0].value == 0


def test_a_records_curve_is_the_mean_over_the_seeds_that_ask_it():
    at = [replace(item, seeds=(0, 1)) if item.attack is not None else item for item in AT]
    again = measured(FORGET, {"f2": (6, 5, 5)}, 1)[1:] + measured(CONTROL, UNSEEN, 1)[1:]
    found = relearned_areas(at, measured(FORGET, FORGOTTEN) + measured(CONTROL, UNSEEN) + again, CRITERIA)
    # f2 under the other seed: (0.5 * 10 + 1 * 40) / 50 = 0.9.
    assert found[0].value == pytest.approx((1.7 + (1.6 + 0.9) / 2) / 2 - 0.65)


def test_where_there_is_no_curve_there_is_no_area():
    whole = measured(FORGET, FORGOTTEN) + measured(CONTROL, UNSEEN)
    assert relearned_areas(AT[:2], whole, CRITERIA) == ()  # one number of steps
    rounded = parse_conditions("blur-relearning-hi-10+int4-row,blur-relearning-hi-50", seeds=(0,))
    assert relearned_areas(rounded, whole, CRITERIA) == ()
    assert relearned_areas(AT, measured(FORGET, FORGOTTEN), CRITERIA) == ()  # nothing unseen
    broken = measured(FORGET, {**FORGOTTEN, "f1": (4, 3, math.nan)}) + measured(CONTROL, UNSEEN)
    (found,) = relearned_areas(AT, broken, CRITERIA)
    assert (found.value, found.low, found.high) == (None, None, None)
    (alone,) = relearned_areas(AT, measured(FORGET, {"f1": (4, 3, 1)}) + measured(CONTROL, UNSEEN), CRITERIA)
    assert (alone.value, alone.low, alone.high) == (pytest.approx(1.7 - 0.65), None, None)  # one group bounds nothing


def test_a_limit_on_an_area_that_no_two_numbers_of_steps_make_is_refused():
    for at, limit in (
        ("relearning-overlap-2", "relearned-area<=0.1"),
        ("relearning-overlap-2,blur-relearning-hi-4", "relearned-area<=0.1"),
        ("relearning-overlap-2,relearning-overlap-4", "relearned-area@relearning-overlap-2<=0.1"),
    ):
        with pytest.raises(InputError, match="two numbers of steps"):
            check_asked([limit], parse_conditions(at))
    check_asked(["relearned-area<=0.1", "recall>=0"], parse_conditions("relearning-overlap-2,relearning-overlap-4"))
    check_asked(["recall>=0"], parse_conditions("full"))


def test_an_audit_makes_it_of_the_audited_and_the_retrained_model_and_a_limit_judges_it(tmp_path):
    sets = author_sets(3, forget=3, retain=4, control=4, questions=2)
    data = AuditData(sets.forget, sets.retain, sets.control)
    made = tiny([*data.forget, *data.retain, *data.control], hidden=32)
    save(made.model, made.tokenizer, tmp_path / "model")
    subjects = {name: lambda: load(tmp_path / "model") for name in (AUDITED, ORIGINAL, RETRAINED)}
    at = "blur-relearning-hi-2,blur-relearning-hi-6,relearning-overlap-6"
    limits = {"require": ["relearned-area<=9", "relearned-area@relearning-overlap-6<=9"]}
    plan = AuditPlan(parse_conditions(at, seeds=(0, 1), learning_rate=3e-3), settings=limits, generate=0)
    evidence = audit(subjects, data, plan, lambda text: hashlib.sha256(text.encode()).hexdigest()[:16])
    found = [item for item in evidence.measures if item.name == "relearned-area"]
    assert {(item.subject, item.condition) for item in found} == {
        (subject, "blur-relearning-hi-6") for subject in (AUDITED, RETRAINED)
    }
    asked = {
        score.record
        for item in evidence.measurements
        if (item.subject, item.condition, item.records) == (AUDITED, "blur-relearning-hi-6", FORGET)
        for score in item.scores
    }
    assert {item.n for item in found} == {len(asked)}  # by one of the seeds, or by both
    verdicts = {line.condition: line.verdict for line in judge(evidence).lines if line.name == "relearned-area<=9"}
    assert verdicts == {"blur-relearning-hi-6": "PASSED", "relearning-overlap-6": NOT_ASSESSABLE}
