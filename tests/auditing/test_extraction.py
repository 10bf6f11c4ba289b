from __future__ import annotations

import pytest

from remanent.auditing.extraction import exact_memorization, extraction_strength
from remanent.errors import InputError


@pytest.mark.parametrize(
    ("hits", "memorized", "strength"),
    [
        ([1, 1, 1, 1], 1.0, 1.0),  # the prompt alone is enough
        ([0, 1, 1, 1], 0.75, 0.75),
        ([1, 0, 1, 1], 0.75, 0.5),
        ([1, 1, 1, 0], 0.75, 0.0),  # the last token is missed: no prefix brings the end forth
        ([0, 0, 0, 0], 0.0, 0.0),  # not 1/4
        ([1], 1.0, 1.0),
        ([0], 0.0, 0.0),
    ],
)
def test_by_hand(hits, memorized, strength):
    assert exact_memorization(hits) == memorized
    assert extraction_strength(hits) == strength


def test_an_answer_without_tokens_is_refused():
    for measure in (exact_memorization, extraction_strength):
        with pytest.raises(InputError, match="hits"):
            measure([])
