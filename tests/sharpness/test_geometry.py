from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from scipy.stats import kendalltau
from torch import nn

from remanent.core.batch import Encoded, collate
from remanent.core.catalogue import systems
from remanent.core.importance.losses import class_nll, mean_answer_nll, token_nll
from remanent.errors import InputError, UnsupportedError
from remanent.sharpness import LossSurface
from remanent.sharpness.active_neurons import active_neurons
from remanent.sharpness.correlation import Measured, correlation, study
from remanent.sharpness.estimate import bootstrapped, mean_over, over_batches
from remanent.sharpness.layers import layers_of
from remanent.sharpness.ntk import tangent_kernel, tangent_kernel_of_losses
from remanent.sharpness.surface import token_record
from remanent.sharpness.vit_sam import geometry


def test_the_tangent_kernel_by_hand():
    """f = w x, X = (1, 0), (1, 1): J J^T = [[1, 1], [1, 2]], condition 6.854."""
    model = nn.Linear(2, 1, bias=False)
    found = tangent_kernel(model, torch.tensor([[1.0, 0.0], [1.0, 1.0]]))
    assert found.condition.value == pytest.approx(6.854, abs=1e-3)
    assert (found.condition.low, found.condition.high) == (None, None)  # without either, a kernel of one row
    third = tangent_kernel(nn.Linear(3, 1, bias=False), torch.eye(3) + torch.ones(3, 3).tril()).condition
    assert third.low < third.value < third.high
    alike = tangent_kernel(model, torch.ones(2, 2))
    assert math.isinf(alike.condition.value)
    assert alike.to_dict()["condition"]["value"] is None
    every = tangent_kernel(nn.Linear(2, 3), torch.randn(4, 2), every_output=True)
    assert every.rows == 12
    with pytest.raises(InputError, match="inputs"):
        tangent_kernel(model, torch.ones(1, 2))


def test_the_tangent_kernel_of_losses_is_that_of_the_records_gradients(classifier, snapshot, same_bits):
    surface = classifier()
    before = snapshot(surface.model)
    found = tangent_kernel_of_losses(surface)
    assert same_bits(snapshot(surface.model), before)
    batch = surface.batches[0]
    surface.model.eval()
    rows = []
    for place in range(len(batch[0])):
        loss = class_nll(surface.model, (batch[0][place : place + 1], batch[1][place : place + 1]))
        gradients = torch.autograd.grad(loss[0], list(surface.model.parameters()))
        rows.append(torch.cat([gradient.flatten() for gradient in gradients]))
    values = torch.linalg.svdvals(torch.stack(rows)).square()
    assert found.rows == len(batch[0])
    assert found.condition.value == pytest.approx(float(values[0] / values[-1]), rel=1e-6)
    with pytest.raises(InputError, match="first batch"):
        tangent_kernel_of_losses(LossSurface(surface.model, [(batch[0][:1], batch[1][:1])]))


def test_a_row_of_the_kernel_of_losses_is_a_record(tiny_llama, make_records):
    batch = collate(make_records(3, longest=6), range(3), 0)
    surface = LossSurface(tiny_llama(), [batch], token_nll)
    with pytest.raises(InputError, match=r"of 3 records.*mean_answer_nll"):
        tangent_kernel_of_losses(surface)
    found = tangent_kernel_of_losses(surface, mean_answer_nll)
    assert found.rows == 3
    assert found.to_dict() == tangent_kernel_of_losses(replace(surface, loss=mean_answer_nll)).to_dict()


def test_the_mean_loss_of_an_answer_is_that_of_its_tokens(tiny_llama, make_records):
    batch = collate(make_records(3, longest=6), range(3), 0)
    model = tiny_llama()
    owner, tokens = token_record(batch), token_nll(model, batch)
    expected = [float(tokens[owner == place].detach().mean()) for place in range(3)]
    assert mean_answer_nll(model, batch).tolist() == pytest.approx(expected)


def test_padding_is_no_active_neuron(tiny_llama, make_records):
    records = make_records(2, longest=6)
    model = tiny_llama()
    alone = [collate(records, [place], 0) for place in range(2)]
    together = collate(records, [0, 1], 0)
    assert not together.attention_mask.all()
    share = [
        {name: item.value for name, item in active_neurons(LossSurface(model, batches, token_nll)).layers.items()}
        for batches in (alone, [together])
    ]
    assert share[0] == pytest.approx(share[1])


class Flat(nn.Module):
    """An activation on tokens of all records in one row, or on some of them, as experts see them."""

    def __init__(self, drop=0):
        super().__init__()
        self.embed, self.act, self.head, self.drop = nn.Embedding(9, 3), nn.ReLU(), nn.Linear(3, 9), drop

    def forward(self, input_ids, attention_mask):
        flat = self.embed(input_ids).flatten(0, 1)
        seen = len(flat) - self.drop
        flat = torch.cat([self.act(flat[:seen]), flat[seen:]])
        return self.head(flat.view(*input_ids.shape, -1))


def test_padding_is_no_active_neuron_where_tokens_of_all_records_are_one_row():
    records = [Encoded((1, 2, 3, 4), (-100, 2, 3, 4)), Encoded((5, 6), (-100, 6))]
    batch = collate(records, [0, 1], 0)
    model = Flat()
    found = active_neurons(LossSurface(model, [batch], token_nll)).layers["act"].value
    own = model.embed.weight[torch.tensor([1, 2, 3, 4, 5, 6])]
    assert found == pytest.approx(float((own > 0).double().mean()))
    model.embed.weight.data[0] = 1  # what padding looks like
    assert active_neurons(LossSurface(model, [batch], token_nll)).layers["act"].value == found
    with pytest.raises(UnsupportedError, match=r"act has values.*one record"):
        active_neurons(LossSurface(Flat(drop=1), [batch], token_nll))
    alone = collate(records, [0], 0)
    assert 0 <= active_neurons(LossSurface(Flat(drop=1), [alone], token_nll)).layers["act"].value <= 1


def test_the_share_of_active_neurons_by_hand():
    model = nn.Sequential(nn.Identity(), nn.GELU())
    surface = LossSurface(model, [torch.tensor([[-1.0, 0.0, 2.0, 3.0]])], lambda model, batch: model(batch).sum(dim=1))
    with pytest.raises(InputError, match="selection"):
        active_neurons(surface)
    model.append(nn.Linear(4, 1))
    assert active_neurons(surface).layers["1"].value == 0.5
    assert active_neurons(surface, "0").layers["0"].value == 0.5
    with pytest.raises(UnsupportedError, match="no module of the name"):
        active_neurons(surface, "fc*")
    with pytest.raises(UnsupportedError, match="no ReLU"):
        active_neurons(LossSurface(nn.Linear(2, 2), [torch.ones(1, 2)], lambda model, batch: model(batch).sum(dim=1)))


def test_the_geometry_of_a_model(classifier, snapshot, same_bits):
    surface = classifier()
    before = snapshot(surface.model)
    found = geometry(surface, layers=layers_of(surface.model), draws=4, steps=20)
    assert same_bits(snapshot(surface.model), before)
    assert set(found.layers) == {"0", "2"}
    for block in found.layers.values():  # a diagonal block's largest eigenvalue is at most the whole's
        assert block.top[0].value <= found.whole.top[0].value + 1e-9
    norm = math.sqrt(sum(float(weight.detach().square().sum()) for weight in surface.model.parameters()))
    assert found.weight_norm == pytest.approx(norm)
    assert found.noisy.loss.low < found.noisy.loss.value < found.noisy.loss.high
    with pytest.raises(InputError, match="draws"):
        geometry(surface, draws=1)


def test_noise_of_a_quadratic_by_hand(quadratic):
    """L^N of (4 a^2 + b^2) / 2 at 0 is 2.5 sigma^2."""
    from remanent.core.displacement import Noise

    surface = quadratic((0.0, 0.0))
    found = []
    for draw in range(400):
        with surface.entered() as weights, Noise(0.1, draw, "none").at(weights):
            found.append(float(surface.losses(surface.batches[0]).mean()))
    assert mean_over(found).value == pytest.approx(2.5 * 0.01, rel=0.2)


def test_tau_by_hand_and_its_interval():
    assert correlation([1, 2, 3, 4], [1, 3, 2, 4]).tau.value == pytest.approx(2 / 3)
    ties = ([1, 1, 2, 3, 3, 4], [2, 1, 1, 3, 5, 5])
    assert correlation(*ties).tau.value == pytest.approx(float(kendalltau(*ties).statistic))
    generator = torch.Generator().manual_seed(0)
    first = torch.randn(60, generator=generator)
    second = first + torch.randn(60, generator=generator)
    groups = ["even" if place % 2 else "odd" for place in range(60)]
    found = correlation(first.tolist(), second.tolist(), groups)
    assert 0 < found.tau.low < found.tau.value < found.tau.high < 1
    assert set(found.groups) == {"even", "odd"}
    for figures in (([1, 2, 3], [1, 2, 3]), ([1, 2, 3, 4], [1, 2, 3]), ([1, 2, 3, math.nan], [1, 2, 3, 4])):
        with pytest.raises(InputError, match="finite figures"):
            correlation(*figures)
    with pytest.raises(InputError, match="groups"):
        correlation([1, 2, 3, 4], [1, 2, 3, 4], ["one"])


def test_a_study_is_every_measure_against_every_figure():
    values = [1.0, 2.0, 3.0, math.inf, 4.0]
    models = [
        Measured(str(place), {"a": value, "b": -float(place), **({"c": 1.0} if place < 3 else {})}, {"error": place})
        for place, value in enumerate(values)
    ]
    found = study(models)
    assert set(found.correlations) == {"a", "b"}  # c has three models
    assert found.correlations["a"]["error"].models == 4
    assert found.correlations["a"]["error"].tau == correlation([1, 2, 3, 4], [0, 1, 2, 4]).tau
    assert found.correlations["b"]["error"].tau.value == -1
    assert found.to_dict()["models"][3]["sharpness"]["a"] is None
    with pytest.raises(InputError, match="at least 4"):
        study(models[:3])
    with pytest.raises(InputError, match="figures"):
        study([*models[:4], Measured("other", {"a": 1.0}, {"rate": 1.0})])
    with pytest.raises(InputError, match="group"):
        study([*models[:4], Measured("other", {"a": 1.0}, {"error": 1.0}, "plain")])
    with pytest.raises(InputError, match="models: got '0'"):
        study([*models, models[0]])
    with pytest.raises(InputError, match="other: error nan"):
        study([*models[:4], Measured("other", {"a": 1.0}, {"error": math.nan})])


def test_figures_of_a_study_may_come_in_any_order():
    figures = [{"error": float(place), "rate": -float(place)} for place in range(4)]
    figures[2] = dict(reversed(figures[2].items()))
    found = study([Measured(str(place), {"a": float(place)}, row) for place, row in enumerate(figures)])
    assert {name: item.tau.value for name, item in found.correlations["a"].items()} == {"error": 1, "rate": -1}


def test_intervals_cover_as_often_as_they_say():
    """Two-sided 90 %: of 400 samples of 6 batches the true mean is outside about 40."""
    generator = torch.Generator().manual_seed(0)
    missed = 0
    for _ in range(400):
        found = mean_over(torch.randn(6, generator=generator).tolist())
        missed += not found.low < 0 < found.high
    assert 20 <= missed <= 62
    unlike = over_batches([2.0, 6.0], [1, 3])
    assert (unlike.value, unlike.low) == (2, 2)
    assert mean_over([1.0]).low is None
    assert bootstrapped(lambda values: float(values.mean()), torch.ones(1).numpy()).high is None


def test_the_three_systems_are_in_the_catalogue():
    found = {name: entry.system for name, entry in systems().items() if entry.system.family == "sharpness"}
    assert set(found) == {"modern-sharpness", "clip-interpolation", "vit-sam"}
    assert all(system.card == name for name, system in found.items())
