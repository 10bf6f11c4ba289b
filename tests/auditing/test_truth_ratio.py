from __future__ import annotations

import math

import numpy as np
import pytest

from remanent.auditing.truth_ratio import cannot_tell, forget_quality, log_truth_ratio
from remanent.errors import InputError


def test_truth_ratio_by_hand():
    # TOFU: wrong answers of probability e^-2 and e^-4 per token, the right one e^-1: e^-3 / e^-1.
    assert log_truth_ratio(1.0, [2.0, 4.0]) == pytest.approx(-2.0)
    assert cannot_tell(-2.0) == cannot_tell(2.0) == pytest.approx(math.exp(-2))
    assert cannot_tell(0.0) == 1.0
    assert cannot_tell(log_truth_ratio(1e5, [1.0])) == 0.0  # a broken model's ratio is finite
    with pytest.raises(InputError, match="wrong"):
        log_truth_ratio(1.0, [])


def test_forget_quality_by_hand():
    # Two and two values that do not overlap: the distance is 1, and 2 of the 6 orders are as extreme: p = 1/3.
    found = forget_quality([0.0, 1.0], [2.0, 3.0])
    assert found.statistic == 1.0
    assert found.log10_p == pytest.approx(math.log10(1 / 3))
    same = forget_quality([0.1, 0.2, 0.3], [0.1, 0.2, 0.3])
    assert (same.statistic, same.log10_p) == (0.0, 0.0)


def test_forget_quality_of_any_rising_transform_is_the_same():
    generator = np.random.default_rng(0)
    one, two = generator.normal(0, 1, 60), generator.normal(0.5, 1, 60)
    assert forget_quality(one, two) == forget_quality(np.exp(one), np.exp(two))


def test_forget_quality_of_equal_models_is_seldom_small_and_saturates():
    generator = np.random.default_rng(1)
    values = [forget_quality(generator.normal(size=80), generator.normal(size=80)).log10_p for _ in range(200)]
    assert np.mean(np.array(values) < math.log10(0.05)) < 0.1
    far = forget_quality(np.zeros(5000), np.ones(5000))
    assert far.statistic == 1.0
    assert math.isfinite(far.log10_p)
    assert far.log10_p < -300
    with pytest.raises(InputError, match="truth ratios"):
        forget_quality([math.nan], [1.0])
