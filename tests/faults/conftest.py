from __future__ import annotations

import sys
from pathlib import Path

import pytest

from remanent.data.record import Message, Record

# The runs and the evidence that other rooms' tests made.
sys.path[:0] = [str(Path(__file__).parents[1] / room) for room in ("core", "auditing")]


@pytest.fixture
def tiny_loaded():
    """The smallest model that `models.tiny` makes, with a tokenizer."""
    from remanent.models.tiny import tiny

    records = [Record("a", "a", (Message("user", "Who wrote it?"),), "Ada wrote it. Ada wrote it again.")]
    return tiny(records, hidden=32, layers=1, vocabulary=300)  # with merges, which GGUF needs
