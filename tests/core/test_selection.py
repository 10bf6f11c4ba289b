from __future__ import annotations

import pytest

from remanent.core.selection import EVERYTHING, LINEARS, Selection
from remanent.core.weights import Weights
from remanent.errors import InputError


def test_names_kinds_and_exclusions(tiny_llama):
    weights = Weights.of(tiny_llama(tied=False))
    assert set(EVERYTHING.of(weights)) == set(weights)
    assert {weights.kind(name) for name in LINEARS.of(weights)} == {"linear"}
    second = Selection(("*.layers.[1-9].*",), kinds=("linear",), exclude=("*mlp*",)).of(weights)
    assert sorted(name.split(".")[-2] for name in second) == ["k_proj", "o_proj", "q_proj", "v_proj"]
    assert all(".layers.1." in name for name in second)
    assert len(Selection(("*q_proj*", "*k_proj*")).of(weights)) == 4


def test_the_order_is_the_models(tiny_llama):
    weights = Weights.of(tiny_llama())
    chosen = list(Selection(("*v_proj*", "*embed*")).of(weights))
    assert chosen == [name for name in weights if "v_proj" in name or "embed" in name]


def test_nothing_matches_says_what_there_is(tiny_llama):
    with pytest.raises(
        InputError, match=r"matches a parameter; there are model\.embed_tokens\.weight, .* and \d+ more"
    ):
        Selection(("*layer.7*",)).of(Weights.of(tiny_llama()))


def test_an_unknown_kind_is_named():
    with pytest.raises(InputError, match="did you mean 'linear'"):
        Selection(kinds=("linera",))
