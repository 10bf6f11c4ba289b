"""SAM's family resists label noise where more training does not: `sam_family_study`, small.

Falsified if, at 40 % wrong labels, an optimizer of the family ends no better than SGD and SGD of twice the epochs.
"""

from __future__ import annotations

import pytest

from tests.reproductions.sam_family_study import SGD_WAYS, WAYS, row
from tests.reproductions.test_sam import beats

QUICK = ["GSAM 0.2, alpha 0.4", "LookSAM 0.2, every 5, alpha 0.7", "ESAM 0.2, beta 0.6, gamma 0.5"]
FAMILY = ["SAM 0.2", "ASAM 2", "mSAM 0.2, micro-batches of 16", "SAM 0.2, ascent on a quarter", *QUICK]


@pytest.fixture(scope="module")
def plain():
    return row("SGD", 0.4, 0)["accuracy"]


@pytest.mark.parametrize("way", QUICK)
def test_at_one_seed(way, plain):
    assert row(way, 0.4, 0)["accuracy"] > plain + 5


@pytest.mark.slow
@pytest.mark.parametrize("way", FAMILY)
def test_over_seeds(way):
    accuracies = {name: [row(name, 0.4, seed)["accuracy"] for seed in range(3)] for name in (way, *SGD_WAYS)}
    assert way in WAYS
    for name in SGD_WAYS:
        assert beats(accuracies[way], accuracies[name]), accuracies
