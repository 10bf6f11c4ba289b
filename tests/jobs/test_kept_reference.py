"""What is kept of the reference, against what objectives really take of a model."""

from __future__ import annotations

import pytest
import torch

from remanent.core.batch import collate
from remanent.core.catalogue import build, edits, unlearners
from remanent.core.passes import reference_passes
from remanent.core.predict import Predict
from remanent.jobs.kept_reference import kept_of_reference

WIDTH, VOCABULARY = 32, 48  # of tiny_llama
GIVEN = {"rmu": {"layer": 1}, "gu": {"objective": "npo"}}


@pytest.mark.parametrize("name", sorted(unlearners().keys() - edits().keys()))
def test_every_method_keeps_what_it_takes_of_a_model(name, make_records, tiny_llama):
    """For each scored token a distribution, or a hidden state; of NPO with KL, FIT's, one NLL of each forget record."""
    method = build(name, GIVEN.get(name, {}))
    kept = kept_of_reference(method, 4, VOCABULARY, WIDTH)
    records = make_records(4)
    batches = {role: collate(records, range(4), 0) for role in reference_passes(method, 4)}
    with torch.no_grad():
        taken = method.objective.at_reference(batches, Predict(tiny_llama()))
    assert kept.keys() == taken.keys()
    for role, values in taken.items():
        units = batches[role].units("token") if values.dim() == 2 else len(batches[role])
        assert values.numel() == kept[role] * units > 0


@pytest.mark.parametrize(
    ("name", "kept"),
    [("npo", {}), ("kl-min", {"retain": VOCABULARY}), ("rmu", {"retain": WIDTH}),
     ("as-stranger", {"stranger": VOCABULARY, "retain": VOCABULARY})],
)  # fmt: skip
def test_some_by_hand(name, kept):
    assert kept_of_reference(build(name, {}), 4, VOCABULARY, WIDTH) == kept
