"""The step that the NPO benchmark is measured against finds what ours finds."""

from __future__ import annotations

from dataclasses import replace

from benchmarks.npo import apart, batches_of


def test_loss_and_gradient_are_those_of_the_peer(tiny_llama):
    model = tiny_llama().train()
    batches = batches_of(model, 3)
    assert apart(model, batches) <= 1e-5
    # The comparison sees scores of another reference.
    wrong = replace(batches["forget"], reference=batches["forget"].reference + 1)
    assert apart(model, batches | {"forget": wrong}) > 1e-3


def test_it_leaves_the_model_as_it_was(tiny_llama, snapshot, same_bits):
    model = tiny_llama().train()
    before = snapshot(model)
    apart(model, batches_of(model, 3))
    assert same_bits(snapshot(model), before)
    assert all(weight.grad is None for weight in model.parameters())
