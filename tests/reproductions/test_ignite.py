"""IGNITE on offline tasks: `ignite_study`, small.

Falsified if ||grad h|| does not fall, or the mean paired gain over tasks, lengths and settings is 0 or less.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.reproductions.ignite_study import PAPERS, RECIPE, bowl, found, row, tf8_like, verdict

SMALL = replace(RECIPE, hidden=(64, 64), epochs=30)


@pytest.mark.parametrize("task", [bowl, tf8_like])
def test_the_norm_falls_and_the_search_leaves_the_known_designs_behind(task):
    rows = {way: row(task, way, 0, SMALL) for way in ("none", "IGNITE-2", "IGNITE-2, lambda 0.1")}
    assert rows["none"]["norm"] > rows["IGNITE-2"]["norm"] > rows["IGNITE-2, lambda 0.1"]["norm"]
    assert all(item["200"] > item["known"] for item in rows.values())


@pytest.mark.slow
def test_over_tasks_and_seeds():
    """From the rows of the study, which are made where they are missing."""
    ascents, _ = found(5)
    falls, means = verdict(ascents)
    assert falls
    assert len(means) == 5
    assert set(PAPERS) < set(next(iter(ascents.values())))
