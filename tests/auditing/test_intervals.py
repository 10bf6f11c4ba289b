from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import norm

from remanent.auditing.intervals import (
    Interval,
    Sample,
    auc_interval,
    difference_interval,
    mean_interval,
    newcombe_interval,
    retention_interval,
    share_interval,
    smallest_detectable_gap,
    true_positive_interval,
    wilson_interval,
)
from remanent.errors import InputError


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def clustered(generator: np.random.Generator, groups: int, size: int = 4, centre: float = 0.0) -> Sample:
    """Records of one group share an effect, so that records are far from independent."""
    effect = generator.normal(centre, 0.4, groups)
    values = np.repeat(effect, size) + generator.normal(0, 0.3, groups * size)
    return Sample(values, [str(group) for group in range(groups) for _ in range(size)])


def test_the_standard_error_by_hand() -> None:
    # Groups a = {1, 3}, b = {6}: mean 10/3, residual sums 4 - 2 * 10/3 = -8/3 and 6 - 10/3 = 8/3,
    # variance = 2/1 * (2 * 64/9) / 9.
    sample = Sample([1.0, 3.0, 6.0], ["a", "a", "b"])
    assert sample.mean == pytest.approx(10 / 3)
    assert sample.standard_error == pytest.approx(math.sqrt(2 * (128 / 9) / 9))
    assert sample.group_count == 2


def test_with_one_record_a_group_the_standard_error_is_the_textbook_one() -> None:
    values = rng().normal(size=20)
    sample = Sample(values, [str(i) for i in range(20)])
    assert sample.standard_error == pytest.approx(values.std(ddof=1) / math.sqrt(20))


def test_weights_count_like_copies() -> None:
    weighted = Sample([1.0, 4.0, 2.0], ["a", "b", "c"], weights=[3, 1, 2])
    copied = Sample([1.0, 1.0, 1.0, 4.0, 2.0, 2.0], ["a", "a", "a", "b", "c", "c"])
    assert weighted.mean == pytest.approx(copied.mean)
    assert weighted.standard_error == pytest.approx(copied.standard_error)
    assert mean_interval(weighted, rng()) == mean_interval(copied, rng())


def test_duplicated_records_tighten_nothing() -> None:
    values = list(rng().normal(size=12))
    groups = [str(i) for i in range(12)]
    once, twice = Sample(values, groups), Sample(values * 2, groups * 2)
    first, second = mean_interval(once, rng(1)), mean_interval(twice, rng(1))
    assert (second.low, second.high) == pytest.approx((first.low, first.high))


def test_the_ends_miss_as_often_as_declared() -> None:
    """Many small audits of 12 and 24 groups with no gap: each end, a bound at 5%, misses about 5% of the time."""
    generator, runs = rng(5), 400
    above = below = 0
    for _ in range(runs):
        found = difference_interval(clustered(generator, 12), clustered(generator, 24), generator, 0.05, 400)
        above += found.low > 0
        below += found.high < 0
    margin = 3 * math.sqrt(0.05 * 0.95 / runs)
    assert abs(above / runs - 0.05) < margin
    assert abs(below / runs - 0.05) < margin


def test_counting_records_as_groups_would_miss_far_more_often() -> None:
    """What the cluster bootstrap is for: the same data, with the groups forgotten."""
    generator, runs = rng(6), 200
    missed = 0
    for _ in range(runs):
        one, two = clustered(generator, 12), clustered(generator, 24)
        loose = [Sample(item.values, [str(i) for i in range(len(item.values))]) for item in (one, two)]
        found = difference_interval(*loose, generator, 0.05, 300)
        missed += found.low > 0 or found.high < 0
    assert missed / runs > 0.2


def test_a_single_group_bounds_nothing() -> None:
    found = mean_interval(Sample([1.0, 2.0], ["a", "a"]), rng())
    assert found == Interval(1.5, -math.inf, math.inf)
    assert smallest_detectable_gap(Sample([1.0, 2.0], ["a", "a"]).standard_error) == math.inf


def test_two_groups_give_finite_estimates_and_no_nan() -> None:
    found = mean_interval(Sample([1.0, 2.0], ["a", "b"]), rng())
    assert found.value == 1.5
    assert found.low <= 1.5 <= found.high


def test_equal_scores_have_no_width() -> None:
    assert mean_interval(Sample([2.0] * 5, list("abcde")), rng()) == Interval(2.0, 2.0, 2.0)


def test_the_same_generator_gives_the_same_interval() -> None:
    sample = clustered(rng(3), 10)
    assert mean_interval(sample, rng(7)) == mean_interval(sample, rng(7))
    assert mean_interval(sample, rng(7)) != mean_interval(sample, rng(8))


def test_many_groups_are_drawn_in_blocks() -> None:
    values = rng().normal(size=5000)
    found = mean_interval(Sample(values, [str(i) for i in range(5000)]), rng(), resamples=1000)
    half = norm.isf(0.05) * values.std(ddof=1) / math.sqrt(5000)
    assert found.low == pytest.approx(values.mean() - half, abs=0.15 * half)
    assert found.high == pytest.approx(values.mean() + half, abs=0.15 * half)


def retention_case(keep: float, generator: np.random.Generator, groups: int = 40) -> tuple[Sample, ...]:
    """Original: retain near 0.2, control near 1.2 nats; the audited model keeps the share `keep` of that gap."""
    retain_original = clustered(generator, groups, centre=0.2)
    control_original = clustered(generator, groups, centre=1.2)
    noise = generator.normal(0, 0.05, len(retain_original.values))
    retain = Sample(retain_original.values + (1 - keep) * 1.0 + noise, retain_original.groups)
    return retain, retain_original, control_original, control_original


def test_retention_by_hand() -> None:
    names = ["a", "b"]
    found = retention_interval(
        Sample([0.5, 0.7], names),  # mean 0.6
        Sample([0.1, 0.3], names),  # mean 0.2
        Sample([1.0, 1.2], names),  # mean 1.1
        Sample([1.1, 1.3], names),  # mean 1.2
        rng(),
    )
    assert found.value == pytest.approx((1.1 - 0.6) / (1.2 - 0.2))


def test_retention_of_the_original_itself_is_one_without_width() -> None:
    _, retain, _, control = retention_case(1.0, rng(1))
    found = retention_interval(retain, retain, control, control, rng())
    assert (found.value, found.low, found.high) == pytest.approx((1.0, 1.0, 1.0))


def test_retention_covers_the_truth_about_as_declared() -> None:
    generator, runs = rng(9), 200
    above = below = 0
    for _ in range(runs):
        found = retention_interval(*retention_case(0.8, generator), generator, 0.05, 300)
        above += found.low > 0.8
        below += found.high < 0.8
    assert above / runs < 0.12
    assert below / runs < 0.12
    assert above + below > 0


def test_retention_draws_both_models_together() -> None:
    """The models share their records' difficulty: an interval that drew them apart would be far wider."""
    found = retention_interval(*retention_case(0.8, rng(2)), rng())
    assert found.high - found.low < 0.2


def test_retention_refuses_samples_of_other_records() -> None:
    one, other = Sample([1.0, 2.0], ["a", "b"]), Sample([1.0, 2.0], ["a", "c"])
    with pytest.raises(InputError, match="retain"):
        retention_interval(one, other, one, one, rng())
    with pytest.raises(InputError, match="control"):
        retention_interval(one, one, one, other, rng())


def test_auc_by_hand() -> None:
    # Pairs: 1 against 0, 2, 2 -> 1 won; 2 against 0, 2, 2 -> 1 + 1/2 + 1/2; together 3 of 6.
    found = auc_interval(Sample([1.0, 2.0], ["a", "b"]), Sample([0.0, 2.0, 2.0], ["c", "c", "d"]), rng())
    assert found.value == pytest.approx(0.5)
    assert 0 <= found.low <= found.value <= found.high <= 1


def test_auc_of_separated_sets_is_one() -> None:
    high, low = Sample([5.0, 6.0, 7.0], list("abc")), Sample([1.0, 2.0, 3.0], list("def"))
    assert auc_interval(high, low, rng()) == Interval(1.0, 1.0, 1.0)
    assert auc_interval(low, high, rng()) == Interval(0.0, 0.0, 0.0)


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.integers(-5, 5), min_size=1, max_size=12),
    st.lists(st.integers(-5, 5), min_size=1, max_size=12),
)
def test_auc_counts_pairs(first: list[int], second: list[int]) -> None:
    one = Sample(first, [str(i % 3) for i in range(len(first))])
    two = Sample(second, [str(i % 4) for i in range(len(second))])
    wins = sum((a > b) + 0.5 * (a == b) for a in first for b in second) / (len(first) * len(second))
    assert auc_interval(one, two, rng(), resamples=20).value == pytest.approx(wins)


@pytest.mark.parametrize(
    ("counts", "low", "high"),
    [  # Newcombe (1998), Table II, method 10, at 95%
        ((56, 70, 48, 80), 0.0524, 0.3339),
        ((9, 10, 3, 10), 0.1705, 0.8090),
        ((6, 7, 2, 7), 0.0582, 0.8062),
        ((5, 56, 0, 29), -0.0381, 0.1926),
        ((0, 10, 0, 20), -0.1611, 0.2775),
        ((0, 10, 0, 10), -0.2775, 0.2775),
        ((10, 10, 0, 20), 0.6791, 1.0),
        ((10, 10, 0, 10), 0.6075, 1.0),
    ],
)
def test_newcombe_against_the_published_table(counts: tuple[int, int, int, int], low: float, high: float) -> None:
    found = newcombe_interval(*counts, alpha=0.025)
    assert found.low == pytest.approx(low, abs=6e-5)
    assert found.high == pytest.approx(high, abs=6e-5)


def test_wilson_against_the_published_cases() -> None:
    # Newcombe (1998), "Two-sided confidence intervals for the single proportion", Table I, method 3, at 95%
    for successes, total, low, high in ((81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611)):
        found = wilson_interval(successes, total, alpha=0.025)
        assert (found.low, found.high) == pytest.approx((low, high), abs=6e-5)
    assert wilson_interval(29, 29, alpha=0.025).high == 1.0


def test_the_detectable_gap_by_hand() -> None:
    assert smallest_detectable_gap(0.1, alpha=0.05) == pytest.approx(0.1 * (1.6449 + 0.8416), abs=1e-4)


def test_the_detectable_gap_is_found_four_times_in_five() -> None:
    generator, runs, found = rng(11), 300, 0
    gap = smallest_detectable_gap(math.hypot(0.4 / math.sqrt(60), 0.4 / math.sqrt(60)), 0.05)
    for _ in range(runs):
        one = Sample(generator.normal(gap, 0.4, 60), [str(i) for i in range(60)])
        two = Sample(generator.normal(0, 0.4, 60), [str(i) for i in range(60)])
        found += difference_interval(one, two, generator, 0.05, 300).low > 0
    assert found / runs == pytest.approx(0.8, abs=0.07)


@pytest.mark.parametrize(
    ("values", "groups", "weights"),
    [([], [], None), ([1.0], ["a", "b"], None), ([float("nan")], ["a"], None), ([1.0], ["a"], [0.0])],
    ids=["empty", "lengths", "nan", "weight"],
)
def test_bad_samples_are_refused(values: list[float], groups: list[str], weights: list[float] | None) -> None:
    with pytest.raises(InputError, match="values"):
        Sample(values, groups, weights)


def test_bad_counts_are_refused() -> None:
    with pytest.raises(InputError, match="successes"):
        wilson_interval(3, 2)


def test_what_was_seen_in_no_group_may_be_in_some() -> None:
    # Groups without it are drawn with a chance of (1 - p)^n, which is alpha at the bound.
    for groups, bound in ((2, 1 - 0.05**0.5), (10, 1 - 0.05**0.1)):
        names = [str(place // 3) for place in range(3 * groups)]
        none, every = (share_interval(Sample([value] * len(names), names), rng()) for value in (0.0, 1.0))
        assert none == Interval(0.0, 0.0, pytest.approx(bound))
        assert every == Interval(1.0, pytest.approx(1 - bound), 1.0)
        above = Sample([9.0] * len(names), names)
        found = true_positive_interval(Sample([0.0] * len(names), names), above, rng())
        assert found == Interval(0.0, 0.0, pytest.approx(bound))


def test_a_bound_on_a_rare_share_misses_as_often_as_it_says() -> None:
    draws, alpha, share = np.random.default_rng(5), 0.05, 0.08
    missed = 0
    for _ in range(400):
        values = (draws.random(10) < share).astype(float)
        found = share_interval(Sample(values, [str(place) for place in range(10)]), rng(), alpha, resamples=200)
        missed += found.high < share
    assert missed / 400 <= 2 * alpha


def test_a_share_stays_a_share() -> None:
    # All groups but one alike: percentile-t would divide by a variance of next to nothing.
    values = [0.5] * 22 + [1.0, 0.9]
    sample = Sample(values, [str(place // 2) for place in range(24)])
    found = share_interval(sample, rng())
    assert found.value == pytest.approx(sum(values) / 24)
    assert 0.5 <= found.low <= found.value <= found.high < 0.7
    assert share_interval(Sample([0.5, 0.7], ["a", "a"]), rng()) == Interval(pytest.approx(0.6), 0.0, 1.0)
