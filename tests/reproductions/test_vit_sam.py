"""SAM converges to flatter points than AdamW at equal epochs, and answers noisy images better than twice as many.

The whole study is `python -m tests.reproductions.vit_sam`. Falsified if the largest eigenvalue or the loss under noise
does not halve at equal epochs, or accuracy on noisy images does not beat both; the card's own test, mixers, two seeds.
"""

from __future__ import annotations

import statistics

import pytest

from .vit_sam import WAYS, measured

pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")


@pytest.mark.slow
def test_sam_is_flatter_and_more_robust():
    found = {way: [measured("mixer", way, seed) for seed in range(2)] for way in WAYS}
    mean = {
        way: {key: statistics.fmean(row[key] for row in rows) for key in ("top", "moved_loss", "noisy")}
        for way, rows in found.items()
    }
    assert mean["sam"]["top"] < mean["adamw"]["top"] / 2, mean
    assert mean["sam"]["moved_loss"] < mean["adamw"]["moved_loss"] / 2, mean
    assert mean["sam"]["noisy"] > max(mean["adamw"]["noisy"], mean["adamw twice"]["noisy"]) + 3, mean
