"""The benchmark's memory figures see what is taken: a copy too many breaks the bound."""

from __future__ import annotations

import pytest
import torch

from benchmarks.looks import sizes
from benchmarks.memory import peak
from benchmarks.subject import model

MEBI = 1 << 20


def taken(mebibytes, before=0):
    """A job that frees one tensor before it is measured, and then holds another."""
    torch.ones(before * MEBI, dtype=torch.uint8)

    def work():
        return int(torch.ones(mebibytes * MEBI, dtype=torch.uint8)[-1])

    return work


def test_a_peak_is_of_the_work_alone_and_of_all_of_it():
    job = "tests.speed.test_peaks:taken"
    nothing, more = peak(job, mebibytes=1), peak(job, mebibytes=101, before=300)  # what was freed before hides nothing
    assert nothing.found == 1
    assert more.memory - nothing.memory == pytest.approx(100 * MEBI, abs=4 * MEBI)


def test_a_copy_too_many_is_seen():
    moves, _ = sizes(model(tiny=True))
    kinds = ({}, {"look": "whole"}, {"look": "whole", "copies": 1})
    nothing, whole, wasteful = (peak("benchmarks.looks:look", tiny=True, **kind).memory for kind in kinds)
    assert whole - nothing <= 1.2 * moves
    assert wasteful - whole == pytest.approx(moves, rel=0.1)


def test_a_process_that_fails_says_why():
    with pytest.raises(AttributeError, match="no_such_job"):
        peak("tests.speed.test_peaks:no_such_job")
