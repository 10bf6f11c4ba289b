"""What a method passes before its first update, counted by the passes that it really makes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from remanent.continual import learning_with_forgetting
from remanent.core.episode import Episode
from remanent.core.loop import with_settings
from remanent.core.method import Method
from remanent.unlearning import fit, npo, rmu, salun, sure, whp

MADE: dict[str, tuple[Callable[[], Method], int]] = {
    "npo": (npo.method, 0),
    "rmu, relative": (lambda: rmu.method(layer=1, relative=True), 0),  # forward passes alone
    "salun": (salun.method, 6),
    "salun, everything": (lambda: salun.method(share=1.0), 0),
    "salun, DurableUn's": (lambda: salun.method("durableun"), 6),
    "sure": (sure.method, 6),
    "fit": (lambda: fit.method(layers=1), 6),
    # Batches of 4 out of 6 records, 3 epochs: 18 records in 5 batches.
    "whp": (whp.method, 20),
    # 7 batches of 4, 8 records of the Fisher information, 6 confidences.
    "learning-with-forgetting": (learning_with_forgetting.method, 7 * 4 + 8 + 6),
}
CHECKED = {"learning-with-forgetting": 2}  # records on which the Fisher information's factors are checked


@pytest.mark.parametrize("name", MADE)
def test_what_begin_passes_backward_is_what_it_says(name, make_records, tiny_llama):
    make, expected = MADE[name]
    method = with_settings(make(), steps=7, batch_size=4)
    counts = {"forget": 6, "retain": 8, "task": 8}
    data = {role: make_records(count, seed=number) for number, (role, count) in enumerate(counts.items())}
    model, seen = tiny_llama(), []

    def count(module, inputs, named):
        if torch.is_grad_enabled():
            seen.append(len(named["input_ids"]))

    model.register_forward_pre_hook(count, with_kwargs=True)
    method.begin(model, Episode("one", "erase", data))
    assert sum(seen) - CHECKED.get(name, 0) == method.passes_beforehand(counts) == expected
