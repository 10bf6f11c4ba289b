"""The peak is of what came since, and of all of it."""

from __future__ import annotations

import sys

import pytest
import torch

from remanent.core.peak_memory import peak_memory

MEBI = 1 << 20


@pytest.mark.skipif(sys.platform != "linux" or torch.cuda.is_available(), reason="sets a process's mark back")
def test_what_was_freed_before_is_not_counted_and_what_is_held_is():
    large = torch.ones(200 * MEBI, dtype=torch.uint8)
    whole = peak_memory()()
    del large
    before = peak_memory()()
    assert before < whole - 150 * MEBI
    peak = peak_memory()
    held = torch.ones(100 * MEBI, dtype=torch.uint8)
    del held
    assert peak() - before == pytest.approx(100 * MEBI, abs=30 * MEBI)
