"""Probes as conditions: the measures by hand, the choice of the best probe, and judged like any other measure."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from remanent.auditing import cross_sequence as module
from remanent.auditing.condition import parse_conditions
from remanent.auditing.cross_sequence import BATTERY, cross_sequence
from remanent.auditing.evidence import AUDITED, CONTROL, FORGET, ORIGINAL, RETRAINED, ConditionInfo, Evidence
from remanent.auditing.judgement import FAILED, PASSED, Criteria
from remanent.auditing.measure import AuditSet, Measurer
from remanent.auditing.measures import measures
from remanent.auditing.probes import DEPTHS, Probes, probe_intervals
from remanent.auditing.required_line import required_lines
from remanent.auditing.text_score import TextScore
from remanent.core.displacement import Rounding
from remanent.data.authors import author_sets
from remanent.errors import InputError
from remanent.models.tiny import tiny
from remanent.report.attacker import attacker_rows

SETS = author_sets(3, forget=6, retain=1, control=13, questions=4)
NAMED = {FORGET: list(SETS.forget), CONTROL: list(SETS.control)}
AT = "probe"


@pytest.fixture(scope="module")
def loaded():
    return tiny([*SETS.forget, *SETS.control], hidden=32)


def measured(loaded, name=AT, subject=AUDITED, named=NAMED):
    parts = {role: AuditSet.of(part, loaded.tokenizer, lambda text: f"#{text}") for role, part in named.items()}
    (_, condition) = parse_conditions(name)
    look = condition.look.given(named)
    passed = []
    measurer = Measurer(subject, loaded.model, loaded.tokenizer, parts, on_batch=passed.append)
    found = look(measurer, condition, 5)
    assert 0 < sum(passed) <= look.passes(named)
    return {(subject, name, role): scores for role, scores in found.items()}


def figures(found):
    made = measures(found, Criteria(bootstrap_resamples=300))
    return {(item.subject, item.records, item.name): item for item in made}


def pairs(*accuracies):
    return [
        TextScore(f"g{row}", f"g{row}", {f"probed-linear/{depth}": value for depth, value in enumerate(values)})
        for row, values in enumerate(accuracies)
    ]


def test_the_measures_by_hand():
    """Forgotten: 1 by the first depth, turned round by the third; unseen: half right, the second at 3/4 on average."""
    taught = pairs((1.0, 0.5, 0.0), (1.0, 0.5, 0.0), (1.0, 0.5, 0.5))
    unseen = pairs((0.5, 1.0, 0.5), (0.5, 1.0, 0.5), (0.5, 0.25, 0.5))
    found = probe_intervals(taught, unseen, np.random.default_rng(0), 0.05, 500)
    assert found[FORGET, "probe-distance"].value == 1.0
    assert found[CONTROL, "probe-distance"].value == pytest.approx(0.5)
    assert found[FORGET, "probe-gap"].value == pytest.approx(0.5)
    assert found[FORGET, "probe-gap-mean"].value == pytest.approx((1 + 0 + 2 / 3) / 3 - 0.5 / 3)
    gap = found[FORGET, "probe-gap"]
    assert gap.low < gap.value < gap.high <= 1.0
    assert probe_intervals((), unseen, np.random.default_rng(0), 0.05, 10) == {}
    lost = probe_intervals(pairs((math.nan,)), unseen[:1], np.random.default_rng(0), 0.05, 10)
    assert math.isnan(lost[FORGET, "probe-gap"].value)


def test_the_best_of_many_is_held_against_the_best_of_as_many():
    """Coins in the place of accuracies: the largest of 12 is far from 0, the difference of two such is 0 on average."""
    generator = np.random.default_rng(0)
    coins = generator.integers(0, 2, (200, 2, 8, 12)).astype(float)
    found = [probe_intervals(*(pairs(*side) for side in world), generator, 0.05, 2) for world in coins]
    best, gap = (np.array([item[FORGET, name].value for item in found]) for name in ("probe-distance", "probe-gap"))
    assert best.mean() > 0.5
    assert abs(gap.mean()) < 3 * gap.std() / math.sqrt(len(gap))


def test_figures_are_those_of_the_function(loaded):
    found = measured(loaded)
    forget, control = found[AUDITED, AT, FORGET], found[AUDITED, AT, CONTROL]
    assert [score.group for score in forget] == [f"#{name}" for name in dict.fromkeys(r.group for r in SETS.forget)]
    unseen = list(dict.fromkeys(record.group for record in SETS.control))
    assert [score.group for score in control] == [f"#{name}" for name in unseen[:6]]  # 12 of 13, in two halves
    three = [
        record
        for part in NAMED.values()
        for group in dict.fromkeys(r.group for r in part)
        for record in [r for r in part if r.group == group][:3]
    ]
    kept = [record for record in three if record in SETS.forget], [r for r in three if r.group in unseen[:12]]
    for gap in cross_sequence(loaded.model, loaded.tokenizer, *kept, depths=(1, 2), permutations=0):
        for side, scores in ((gap.taught, forget), (gap.unseen, control)):
            own = [score.values[f"probed-linear/{gap.depth}"] for score in scores]
            assert own == pytest.approx([side.groups[f"pair{place}"] for place in range(6)])
    assert all(len(score.values) == 2 for score in forget)  # the tiny model's two layers


def test_a_planted_trace_fails_a_limit_and_none_does_not(loaded, monkeypatch):
    """States put in the place of a model's: all are 0, but that of forgotten groups after the second layer of one."""
    whose = {}

    def states(model, tokenizer, records, contexts, depths, **how):
        known = torch.tensor([float(record in SETS.forget) for record in records for _ in contexts])
        return {depth: known[:, None] * torch.eye(4)[1] * whose["trace"] * (depth == 2) for depth in depths}

    monkeypatch.setattr(module, "_states", states)
    found = {}
    for subject, trace in ((AUDITED, 0), (ORIGINAL, 1), (RETRAINED, 0)):
        whose["trace"] = trace
        parts = {role: AuditSet.of(part, loaded.tokenizer, str) for role, part in NAMED.items()}
        look = Probes().given(NAMED)
        (_, condition) = parse_conditions(AT)
        for role, scores in look(Measurer(subject, loaded.model, loaded.tokenizer, parts), condition, 5).items():
            found[subject, AT, role] = scores
    made = measures(found, Criteria(bootstrap_resamples=300))
    by = {(item.subject, item.records, item.name): item for item in made}
    for subject, gap in ((AUDITED, 0), (ORIGINAL, 1), (RETRAINED, 0)):
        assert by[subject, FORGET, "probe-distance"].value == by[subject, FORGET, "probe-gap"].value == gap
        assert by[subject, CONTROL, "probe-distance"].value == 0
        assert by[subject, FORGET, "probe-gap-mean"].value == gap / 2
    assert by[ORIGINAL, FORGET, "probe-gap"].n == 6
    evidence = Evidence((ConditionInfo(AT, "other", ""),), (), measures=made)
    row = next(row for row in attacker_rows(evidence) if row.name == "probe-distance")
    assert None not in (row.control, row.original, row.retrained)
    told = [item for item in made if item.subject == ORIGINAL]
    turned = [type(item)(AUDITED, *[getattr(item, name) for name in item.__slots__[1:]]) for item in told]
    [line] = required_lines(turned, ["probe-gap<=0.05"])
    assert (line.verdict, line.condition) == (FAILED, AT)
    [line] = required_lines(made, ["probe-gap<=0.05"])
    assert line.verdict == PASSED


def test_states_that_are_not_finite_have_no_figure(loaded, monkeypatch):
    monkeypatch.setattr(
        module,
        "_states",
        lambda model, tokenizer, records, contexts, depths, **how: dict.fromkeys(
            depths, torch.full((len(records) * len(contexts), 4), math.nan)
        ),
    )
    parts = {role: AuditSet.of(part, loaded.tokenizer, str) for role, part in NAMED.items()}
    (_, condition) = parse_conditions(AT)
    found = condition.look(Measurer(AUDITED, loaded.model, loaded.tokenizer, parts), condition, 5)
    made = figures({(AUDITED, AT, role): scores for role, scores in found.items()})
    gap = made[AUDITED, FORGET, "probe-gap"]
    assert (gap.value, gap.low, gap.high) == (None, None, None)


def test_too_few_groups_are_refused_before_any_model():
    few = author_sets(3, forget=5, retain=1, control=14, questions=1)
    with pytest.raises(InputError, match=r"forget of 5 and control of 14 groups.*at least 6 groups"):
        Probes().given({FORGET: list(few.forget), CONTROL: list(few.control)})
    with pytest.raises(InputError, match=r"control of 11.*at least 12"):
        Probes(battery=True).given({FORGET: NAMED[FORGET], CONTROL: list(few.control)[:11]})


def test_names_of_conditions():
    found = {item.info.name: item for item in parse_conditions("probe,probe-battery+int4-row")}
    assert found["probe"].look == Probes()
    assert found["probe-battery+int4-row"].look == Probes(battery=True)
    assert found["probe-battery+int4-row"].displacement == Rounding("int4-row")
    assert list(found["probe-battery+int4-row"].look.fits) == list(BATTERY)
    assert Probes(battery=True).passes(NAMED) == 6 * (3 * 3 * 8 + 2 * DEPTHS * 5)
    with pytest.raises(InputError, match="at"):
        parse_conditions("probe+relearning")
