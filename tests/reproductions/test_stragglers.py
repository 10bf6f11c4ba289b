"""Where fine-tuning goes far, interpolation fails out of distribution.

The whole study is `python -m tests.reproductions.stragglers`; here one pretrained model and six fine-tunes. Falsified
if the path fails at the smallest learning rate or not at the large ones. Whether straggler layers tell, and whether
making them sparse mends a path at equal accuracy in distribution, is in the study's tables.
"""

from __future__ import annotations

import pytest

from .stragglers import SETTINGS, Start, gain, measured

pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn")


@pytest.mark.slow
def test_the_path_fails_where_fine_tuning_went_far():
    start = Start(0)
    rows = [measured(start, setting, 0) for setting in SETTINGS if setting["epochs"] == 10 and not setting["noise"]]
    gains = {row["rate"]: gain(row) for row in rows}
    assert gains[0.003] > 0
    assert gains[0.06] <= 0
    assert gains[0.15] <= 0
