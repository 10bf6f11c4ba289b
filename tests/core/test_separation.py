"""Held-out groups: what pure noise gives, what a signal gives, and what an eraser that saw the held-out group does."""

from __future__ import annotations

import pytest
import torch

from remanent.core.probe import fit_probe
from remanent.core.separation import paired, separation
from remanent.errors import InputError

PAIRS, WIDTH = 9, 128  # as the paper's toy has them
POSITIVE = torch.arange(2 * PAIRS) < PAIRS
GROUPS = [f"pair{number}" for number in range(PAIRS)] * 2


def noise(seed):
    return torch.randn(2 * PAIRS, WIDTH, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def without(states, direction):
    return states - torch.outer(states @ direction, direction)


def test_a_signal_is_found_and_is_no_chance():
    states = noise(0)
    states[POSITIVE, :16] += 3.0
    found = separation(states, POSITIVE, GROUPS, permutations=49)
    assert (found.accuracy, found.auc, found.distance) == (1.0, 1.0, 1.0)
    assert (found.low, found.high) == (1.0, 1.0)
    assert found.p <= 0.04
    assert found.groups == dict.fromkeys(sorted(set(GROUPS)), 1.0)


def test_noise_is_told_apart_by_chance_only():
    found = [separation(noise(seed), POSITIVE, GROUPS, permutations=0) for seed in range(8)]
    assert sum(item.accuracy for item in found) / 8 == pytest.approx(0.5, abs=0.12)
    assert separation(noise(0), POSITIVE, GROUPS, permutations=19).p > 0.05


def test_an_eraser_that_saw_the_held_out_pair_drives_noise_below_chance():
    """The published statistic, on data without any information: far below one half. |2 accuracy - 1| shows it, and an
    eraser that was fitted without the pair does not."""
    seen, unseen = [], []
    for seed in range(6):
        states = noise(seed)
        seen.append(
            separation(without(states, fit_probe(states, POSITIVE).direction), POSITIVE, GROUPS, permutations=0)
        )

        def fold(name, states=states):
            rest = torch.tensor([group != name for group in GROUPS])
            return without(states, fit_probe(states[rest], POSITIVE[rest]).direction)

        unseen.append(separation(fold, POSITIVE, GROUPS, permutations=0))
    assert sum(item.accuracy for item in seen) / 6 < 0.1
    assert sum(item.distance for item in seen) / 6 > 0.9
    assert sum(item.accuracy for item in unseen) / 6 == pytest.approx(0.5, abs=0.15)


def test_unequal_numbers_of_rows_are_no_accuracy():
    """Twice as many rows of one kind: calling all of them that kind is right for one half."""
    states = torch.cat([noise(0), noise(1)[:PAIRS]])
    positive, groups = torch.cat([POSITIVE, POSITIVE[:PAIRS]]), [*GROUPS, *GROUPS[:PAIRS]]
    assert separation(states * 0, positive, groups, permutations=0).accuracy == 0.5


def test_pairs_hold_out_whole_groups():
    assert paired(["a", "a", "b"], ["x", "y", "z"]) == ["pair0", "pair0", "pair1", "pair0", "pair1", "pair0"]


def test_what_is_wrong_is_named():
    with pytest.raises(InputError, match="at least 3"):
        separation(noise(0)[:4], torch.tensor([True, False] * 2), ["a", "a", "b", "b"])
    with pytest.raises(InputError, match="rows of both kinds"):
        separation(noise(0), POSITIVE, [str(number) for number in range(2 * PAIRS)])
    with pytest.raises(InputError, match="one for each"):
        separation(noise(0), POSITIVE, GROUPS[1:])
