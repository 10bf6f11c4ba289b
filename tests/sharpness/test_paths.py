from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from remanent.core.displacement import Interpolation, Then
from remanent.core.importance.losses import token_nll
from remanent.core.selection import EVERYTHING, Selection
from remanent.errors import InputError
from remanent.sharpness import LossSurface
from remanent.sharpness.clip_interpolation import stragglers_by_criticality, stragglers_by_reset
from remanent.sharpness.interpolation import Path, path, weights_of
from remanent.sharpness.layers import layers_of
from remanent.sharpness.layerwise import layerwise
from remanent.sharpness.modern_sharpness import Definition, sharpness
from remanent.sharpness.sparse_update import SparseUpdate
from remanent.sharpness.surface import token_record, token_wrong


def tuned(surface, rate=0.3, steps=40):
    """The weights before, and the surface's model trained."""
    before = weights_of(surface.model)
    optimizer = torch.optim.SGD(surface.model.parameters(), lr=rate)
    for _ in range(steps):
        optimizer.zero_grad()
        surface.loss(surface.model, surface.batches[0]).mean().backward()
        optimizer.step()
    optimizer.zero_grad()
    return before


def test_the_paths_ends_are_the_models_and_weights_come_back(classifier, snapshot, same_bits):
    surface = classifier()
    other = classifier()
    before = tuned(surface)
    kept = snapshot(surface.model)
    found = path(surface, before)
    for model, place in ((other, 0), (surface, -1)):
        losses = torch.cat([model.loss(model.model, batch) for batch in surface.batches]).detach()
        assert found.losses[place].value == pytest.approx(float(losses.mean()), abs=1e-12)
        np.testing.assert_array_equal(found.samples[:, place], losses.numpy())
    assert same_bits(snapshot(surface.model), kept)
    assert surface.model.training
    half = Interpolation(before, 0.5)
    with half.at(surface.model):
        middle = torch.cat([surface.loss(surface.model, batch) for batch in surface.batches]).mean()
    assert found.losses[5].value == pytest.approx(float(middle.detach()), rel=1e-6)


def test_barrier_and_gain_by_hand():
    """A(0) = .6, A(1) = .8, A(.5) = .5: barrier .2. Accuracies .70, .72, .65 gain .02; .70, .68, .40 gain 0."""

    def of(*accuracies):
        wrong = np.stack([np.arange(100) >= 100 * value for value in accuracies], axis=1).astype(float)
        return Path((0.0, 0.5, 1.0), (), (), wrong, wrong)

    assert of(0.6, 0.5, 0.8).barrier("error").value == pytest.approx(0.2)
    assert of(0.7, 0.72, 0.65).gain().value == pytest.approx(0.02)
    assert of(0.7, 0.68, 0.4).gain().value == 0
    interval = of(0.6, 0.5, 0.8).barrier("error")
    assert interval.low < 0.2 < interval.high


def test_tokens_of_a_record_are_drawn_together():
    """20 records of 8 tokens that err together: the interval is that of 20, not of 160 as if each stood alone."""
    wrong = np.stack([np.arange(20) >= 20 * value for value in (0.6, 0.5, 0.8)], axis=1).astype(float)
    tokens, units = wrong.repeat(8, axis=0), np.arange(20).repeat(8)
    grid = (0.0, 0.5, 1.0)
    records = Path(grid, (), (), wrong, wrong)
    whole, apart = Path(grid, (), (), tokens, tokens, units), Path(grid, (), (), tokens, tokens)
    for figure in (lambda found: found.barrier("error"), lambda found: found.barrier(), Path.gain):
        for end in ("value", "low", "high"):
            assert getattr(figure(whole), end) == pytest.approx(getattr(figure(records), end), abs=1e-12)
    assert apart.barrier("error").low > whole.barrier("error").low + 0.05


def test_units_of_a_language_model_reach_paths_and_stragglers(tiny_llama, make_batch):
    model = tiny_llama()
    surface = LossSurface(model, [make_batch(3)], token_nll, token_wrong, units=token_record)
    before = {name: part + 0.05 * torch.randn_like(part) for name, part in weights_of(model).items()}
    units = surface.unit_of_losses()
    batch = surface.batches[0]
    assert units.tolist() == [
        record
        for record, labels in zip(batch.records.tolist(), batch.labels.tolist(), strict=True)
        for label in labels[1:]
        if label != -100
    ]
    found = path(surface, before, (0.0, 1.0))
    np.testing.assert_array_equal(found.units, units)
    one = replace(surface, units=lambda batch: torch.zeros_like(token_record(batch)))  # one unit bounds nothing
    assert path(one, before, (0.0, 1.0)).barrier().low is None
    assert all(item.low is None for item in stragglers_by_reset(one, before).scores.values())


def test_batch_norms_take_their_statistics_anew(classifier, snapshot, same_bits):
    surface = classifier(norm=True)
    before = tuned(surface)
    kept = snapshot(surface.model)
    found = path(surface, before, (0.0, 0.5, 1.0))
    assert same_bits(snapshot(surface.model), kept)
    inputs = torch.cat([batch[0] for batch in surface.batches])
    labels = torch.cat([batch[1] for batch in surface.batches])
    with Interpolation(before, 0.5).at(surface.model):
        hidden = surface.model[0](inputs)
        means = torch.stack([part.mean(dim=0) for part in hidden.split([8, 10, 12])])
        variances = torch.stack([part.var(dim=0) for part in hidden.split([8, 10, 12])])
        norm = surface.model[1]
        scaled = (hidden - means.mean(dim=0)) / (variances.mean(dim=0) + norm.eps).sqrt() * norm.weight + norm.bias
        expected = nn.functional.cross_entropy(surface.model[3](scaled.relu()), labels)
    assert found.losses[1].value == pytest.approx(float(expected.detach()), rel=1e-6)


def test_another_model_must_fit(classifier):
    surface = classifier()
    before = weights_of(surface.model)
    for other, message in (
        ({**before, "0.bias": torch.zeros(5)}, r"0\.bias: shape \(5,\)"),
        ({name: part for name, part in before.items() if name != "2.bias"}, r"2\.bias: nothing of that name"),
    ):
        with pytest.raises(InputError, match=message):
            path(surface, other)
    for grid in ((0.0,), (0.1, 1.0), (0.0, 0.9), (0.0, 0.5, 0.5, 1.0)):
        with pytest.raises(InputError, match="weights_of_model"):
            path(surface, before, grid)
    with pytest.raises(InputError, match="wrong"):
        path(LossSurface(surface.model, surface.batches), before).gain()


def test_layers_are_blocks_and_what_stands_outside(classifier, tiny_llama):
    assert list(layers_of(classifier().model)) == ["0", "2"]
    llama = tiny_llama()
    found = layers_of(llama)
    assert list(found) == ["model.embed_tokens", "model.layers.0", "model.layers.1", "model.norm"]
    from remanent.core.weights import Weights

    names = [name for select in found.values() for name in select.of(Weights.of(llama))]
    assert sorted(names) == sorted(Weights.of(llama))


def test_a_layers_sharpness_is_that_of_its_weights_alone(classifier):
    surface = classifier()
    definition = Definition(0.1, "worst", steps=5)
    found = layerwise(surface, definition)
    for name, part in found.layers.items():
        assert part == sharpness(surface.of(Selection((f"{name}.*",))), definition)
        assert part.loss.value < found.whole.loss.value


def test_sparse_updates_by_hand(snapshot, same_bits):
    model = nn.Linear(3, 1, bias=False)
    before = {"weight": torch.zeros(1, 3)}
    with torch.no_grad():
        model.weight.copy_(torch.tensor([[1.0, -3.0, 0.5]]))
    kept = snapshot(model)

    def at(keep, mode="update"):
        with SparseUpdate(before, keep, EVERYTHING, mode).at(model):
            return model.weight.detach().flatten().tolist()

    assert at(1 / 3) == [0, -3, 0]
    assert at(2 / 3) == [1, -3, 0]
    assert at(0.0) == [0, 0, 0]
    assert at(1.0) == [1, -3, 0.5]
    assert at(1 / 3, "weights") == [0, -3, 0]
    assert sum(value != 0 for value in at(1 / 3, "update-random")) == 1
    with Then(SparseUpdate(before, 1 / 3, EVERYTHING), Interpolation(before, 0.5)).at(model):
        assert model.weight.detach().flatten().tolist() == [0, -1.5, 0]
    undo = SparseUpdate(before, 1 / 3, EVERYTHING).apply(model)
    assert not same_bits(snapshot(model), kept)
    undo.undo()
    assert same_bits(snapshot(model), kept)
    with pytest.raises(InputError, match="keep"):
        SparseUpdate(before, 1.1, EVERYTHING)
    with pytest.raises(InputError, match="did you mean 'update'"):
        SparseUpdate(before, 0.5, EVERYTHING, "updates")


def test_the_layer_that_was_spoilt_is_the_straggler(classifier, snapshot, same_bits):
    surface = classifier()
    model = surface.model
    good = weights_of(model)
    with torch.no_grad():  # labels are what the model answers: it is right everywhere
        surface = replace(surface, batches=[(inputs, model(inputs).argmax(dim=1)) for inputs, _ in surface.batches])
        model[2].weight.mul_(-1)  # the head is spoilt: putting it back helps, putting the other back does nothing
    kept = snapshot(model)
    reset = stragglers_by_reset(surface, good)
    assert reset.first == "2"
    assert reset.scores["2"].low > 0.2
    assert reset.scores["0"].value == 0
    assert same_bits(snapshot(model), kept)
    with torch.no_grad():
        model[2].weight.mul_(-1)
    start = {**good, "0.weight": -good["0.weight"]}  # a path of the first layer through 0
    critical = stragglers_by_criticality(surface, start)
    assert critical.first == "0"
    assert (critical.scores["0"].value > 0.3, critical.scores["2"].value) == (True, 0)


def test_of_layers_that_tie_the_one_that_loses_more_at_the_start_is_the_straggler():
    """Either fails at a = 0.9: the first layer then loses .5 and at 0 .6, the second .2 and .9."""
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        for layer in model:
            layer.weight.fill_(1)

    def wrong(model, batch):
        first, second = (round(layer.weight.item(), 6) for layer in model)
        share = {(1.0, 1.0): 0, (0.0, 1.0): 6, (1.0, 0.0): 9}.get((first, second), 5 if second == 1 else 2)
        return (torch.arange(10) < share).double()

    surface = LossSurface(model, [torch.zeros(10)], wrong=wrong)
    found = stragglers_by_criticality(surface, {name: torch.zeros(1, 1) for name in ("0.weight", "1.weight")})
    assert list(found.scores) == ["1", "0"]
    assert [item.value for item in found.scores.values()] == [1, 1]
