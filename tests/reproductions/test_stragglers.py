"""Where fine-tuning goes far, interpolation fails out of distribution.

The whole study is `python -m tests.reproductions.stragglers`; here one pretrained model and two fine-tunes. Falsified
if the path fails at the smallest learning rate or not at the largest. Whether straggler layers tell, and whether
making them sparse mends a path at equal accuracy in distribution, is in the study's tables.
"""

from __future__ import annotations

import pytest

from .stragglers import FINDING, REPORTED, Start, between, curve

pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")


@pytest.mark.slow
def test_the_path_fails_where_fine_tuning_went_far():
    start = Start(1)
    near, far = (start.tuned({"rate": rate, "noise": 0.0, "epochs": 10}, 0) for rate in (0.003, 0.15))
    gain, loss = (between(start, model, *FINDING, *REPORTED).gain() for model in (near, far))
    assert gain.low > 0
    assert loss.low <= 0
    kept, lost = (curve(start, model, *FINDING, *REPORTED) for model in (near, far))
    assert kept[5] > lost[5] + 0.1
