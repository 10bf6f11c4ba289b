"""Membership inference: scores by hand, AUC and TPR against scikit-learn, and models that were taught or were not."""

from __future__ import annotations

import math
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from remanent.auditing.intervals import Interval, Sample, auc_interval, auc_pair_interval, true_positive_interval
from remanent.auditing.membership import calibrated, lowest_mean, member_likeness, priv_leak
from remanent.core.token_scores import TokenScores
from remanent.errors import InputError


def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def sample(values, per_group: int = 1, prefix: str = "g") -> Sample:
    return Sample(values, [f"{prefix}{index // per_group}" for index in range(len(values))])


def test_scores_by_hand():
    tokens = TokenScores(
        log_probs=torch.tensor([-1.0, -3.0, -0.5, -2.0, -0.1]),
        hits=torch.tensor([True] * 5),
        means=torch.tensor([-1.0, -2.0, -0.5, -1.0, -0.1]),
        deviations=torch.tensor([1.0, 0.5, 1.0, 2.0, 0.0]),
    )
    found = member_likeness(tokens, "Paris")
    assert found["loss"] == pytest.approx(-6.6 / 5)
    assert found["zlib"] == pytest.approx(-6.6 / 5 / len(zlib.compress(b"Paris")))
    assert found["min-k"] == pytest.approx((-3 - 2) / 2)  # floor(0.4 * 5) = 2 of the lowest
    # Standardized: 0, -2, 0, -0.5, 0.
    assert found["min-k++"] == pytest.approx((-2 - 0.5) / 2)
    assert calibrated(1.0, 3.0) == 2.0  # much better known here than to the reference


def test_at_least_one_token_counts():
    assert lowest_mean(torch.tensor([-5.0, -1.0])) == -5.0  # floor(0.8) is 0
    assert lowest_mean(torch.tensor([-5.0, -1.0, -3.0]), 1.0) == pytest.approx(-3.0)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(-6, 6), min_size=2, max_size=40),
    st.lists(st.integers(-6, 6), min_size=2, max_size=40),
    st.sampled_from([0.01, 0.05, 0.2, 0.5]),
)
def test_auc_and_tpr_are_those_of_scikit_learn(forget, control, rate):
    metrics = pytest.importorskip("sklearn.metrics")
    labels, scores = [1] * len(forget) + [0] * len(control), [*forget, *control]
    one, two = sample(forget, 2, "f"), sample(control, 2, "c")
    assert auc_interval(one, two, rng(), resamples=20).value == pytest.approx(metrics.roc_auc_score(labels, scores))
    false, true, _ = metrics.roc_curve(labels, scores, drop_intermediate=False)
    expected = max(tpr for fpr, tpr in zip(false, true, strict=True) if fpr <= rate)
    assert true_positive_interval(one, two, rng(), rate, resamples=20).value == pytest.approx(expected)


def test_tpr_by_hand():
    control = sample([float(value) for value in range(200)], 4, "c")
    forget = sample([198.5, 197.5, 196.5, 0.0], 1, "f")
    # 1 % of 200 are two: 199 and 198 may stand above the bound, which is 197.
    found = true_positive_interval(forget, control, rng())
    assert found.value == pytest.approx(0.5)
    assert 0 <= found.low <= 0.5 <= found.high <= 1


def test_two_groups_bound_no_auc():
    """Of two all draws of one alone are half: of pure noise a third would be told apart."""
    two, three = (sample([float(value) for value in range(2 * count)], 2) for count in (2, 3))
    assert auc_interval(two, three, rng()) == Interval(pytest.approx(auc_interval(two, three, rng()).value), 0.0, 1.0)
    assert auc_interval(three, three, rng()).low > 0


def test_one_group_bounds_nothing():
    one, two = Sample([1.0, 2.0], ["a", "a"]), sample([0.0, 0.5, 1.5])
    assert auc_interval(one, two, rng()) == Interval(pytest.approx(5 / 6), 0.0, 1.0)
    assert true_positive_interval(one, two, rng()) == Interval(0.5, 0.0, 1.0)
    assert auc_pair_interval((one, two), (one, two), np.subtract, rng()) == Interval(0.0, -math.inf, math.inf)


def test_pairs_share_their_draws():
    generator = np.random.default_rng(2)
    hard = generator.normal(size=40)
    forget, control = sample(hard[:20], 2, "f"), sample(hard[20:], 2, "c")
    nearly = sample(hard[:20] + 1e-9, 2, "f")
    found = auc_pair_interval((forget, control), (nearly, control), np.subtract, rng())
    assert found == Interval(
        0.0, 0.0, 0.0
    )  # two models that rank alike do not differ, however wide each AUC's interval
    alone = auc_interval(forget, control, rng())
    assert alone.high - alone.low > 0.2
    with pytest.raises(InputError, match="groups"):
        auc_pair_interval((forget, control), (control, control), np.subtract, rng())


def test_the_interval_of_two_like_sets_covers_one_half():
    """Two sided at 90 %: with 20 groups a side about one in ten misses; records of a group resemble each other."""
    generator, missed = np.random.default_rng(3), 0
    for _ in range(200):
        one, two = (generator.normal(size=20).repeat(4) + generator.normal(0, 0.3, 80) for _ in range(2))
        found = auc_interval(sample(one, 4, "f"), sample(two, 4, "c"), generator, resamples=300)
        missed += not found.low <= 0.5 <= found.high
    assert 0.04 < missed / 200 < 0.18


def test_priv_leak_by_hand():
    control = sample([0.0, 1.0, 2.0, 3.0], 1, "c")
    known, unseen, hole = (sample([level, level], 1, "f") for level in (9.0, 1.5, -9.0))
    # AUC 1, 1/2, 0: A = 0, 1/2, 1 against the retrained model's 1/2.
    found = [priv_leak((forget, control), (unseen, control), rng()).value for forget in (known, unseen, hole)]
    assert found == pytest.approx([-100.0, 0.0, 100.0])
