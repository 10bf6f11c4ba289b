from __future__ import annotations

import numpy as np
import pytest
import torch

from remanent.core.displacement import Rounding
from remanent.core.importance.losses import class_nll, token_nll
from remanent.core.selection import Selection
from remanent.errors import InputError
from remanent.sharpness import LossSurface
from remanent.sharpness.eigenvalues import eigenvalues
from remanent.sharpness.fisher_trace import fisher_trace
from remanent.sharpness.gradient_norm import gradient_norm
from remanent.sharpness.landscape import filter_normalized, landscape
from remanent.sharpness.spectral_density import spectral_density
from remanent.sharpness.surface import ADAPTERS
from remanent.sharpness.trace import trace

from .conftest import dense_hessian


def test_the_quadratic_has_eigenvalues_4_and_1(quadratic):
    found = eigenvalues(quadratic(), 2, steps=5)
    assert [item.value for item in found.top] == pytest.approx([4, 1])
    assert found.lowest == pytest.approx(1)
    assert found.loss == pytest.approx(4)
    assert eigenvalues(quadratic().of(Selection(("b",))), steps=5).top[0].value == pytest.approx(1)


def test_eigenvalues_trace_and_density_are_those_of_the_dense_hessian(classifier):
    surface = classifier()
    dense = dense_hessian(surface)
    exact = torch.linalg.eigvalsh(dense)
    found = eigenvalues(surface, 3, steps=40)
    assert [item.value for item in found.top] == pytest.approx(exact.flip(0)[:3].tolist(), rel=1e-6)
    assert found.lowest == pytest.approx(float(exact[0]), rel=1e-6)
    assert all(item.low < item.value < item.high for item in found.top)
    few = eigenvalues(surface, 1, steps=6, tolerance=0)
    assert float((exact - few.top[0].value).abs().min()) <= few.residuals[0] + 1e-9
    total = trace(surface, 200)
    assert total.trace.low < float(dense.trace()) < total.trace.high
    assert total.weights == len(dense)
    density = spectral_density(surface, 30, 25)
    for power, exactly in ((1, exact.mean()), (2, exact.square().mean())):
        moment = density.moment(power)
        assert moment.low < float(exactly) < moment.high
    above = density.share_above(0.35)
    assert above.low < float((exact > 0.35).double().mean()) < above.high
    grid, heights = density.curve()
    assert np.trapezoid(heights, grid) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_what_is_below_zero_by_rounding_is_not_negative(dtype):
    """f = w x over 8 inputs of 40 numbers: squares have 32 eigenvalues of 0 and none below, their negative 8 of 40."""
    torch.manual_seed(1)
    model = torch.nn.Linear(40, 1, bias=False).to(dtype)
    inputs = torch.randn(8, 40, dtype=dtype)
    up = spectral_density(LossSurface(model, [inputs], lambda model, batch: model(batch)[:, 0] ** 2))
    assert up.nodes.min() < 0  # rounding, where most eigenvalues are
    assert up.to_dict()["negative"] == {"value": 0, "low": 0, "high": 0}
    down = spectral_density(LossSurface(model, [inputs], lambda model, batch: -(model(batch)[:, 0] ** 2)), 30)
    assert down.negative().low < 8 / 40 < down.negative().high


def test_on_a_lora_at_a_precision_products_are_finite_differences_of_gradients(
    tiny_llama, lora, make_batch, snapshot, same_bits
):
    model = lora(tiny_llama(dtype=torch.float64))
    before = snapshot(model)
    batch = make_batch(4)
    surface = LossSurface(model, [batch], token_nll, select=ADAPTERS, at=Rounding("int8"))
    top = eigenvalues(surface, 1, steps=25, tolerance=1e-6)
    assert top.top[0].value > 0
    assert same_bits(snapshot(model), before)
    line = landscape(surface, [-1e-3, 0.0, 1e-3], directions=[_top_direction(surface)])
    low, middle, high = (item.value for item in line.losses)
    assert (low + high - 2 * middle) / 1e-6 == pytest.approx(top.top[0].value, rel=2e-2)


def _top_direction(surface):
    from remanent.sharpness.hessian import hessian_product, lanczos, random_direction, split

    with surface.entered() as weights:
        start = random_direction(weights, torch.Generator().manual_seed(0))
        found = lanczos(lambda vector: hessian_product(surface, weights, vector), start, 25)
        return {name: part.clone() for name, part in split(weights, found.vector(len(found.values) - 1)).items()}


def test_fisher_and_gradient_are_those_of_single_backward_passes(classifier):
    surface = classifier()
    surface.model.eval()
    lengths, total = [], None
    for inputs, labels in surface.batches:
        for place in range(len(inputs)):
            loss = class_nll(surface.model, (inputs[place : place + 1], labels[place : place + 1])).sum()
            gradient = torch.cat(
                [part.flatten() for part in torch.autograd.grad(loss, list(surface.model.parameters()))]
            )
            lengths.append(float(gradient.square().sum()))
            total = gradient if total is None else total + gradient
    fisher = fisher_trace(surface)
    assert fisher.trace.value == pytest.approx(sum(lengths) / len(lengths), rel=1e-6)
    assert (fisher.records, fisher.trace.low is None) == (30, False)
    norm = gradient_norm(surface).norm
    assert norm.value == pytest.approx(float(total.norm()) / len(lengths), rel=1e-9)
    assert norm.low < norm.value < norm.high


def test_directions_are_as_long_as_the_filters_and_vectors_stay(classifier, snapshot, same_bits):
    surface = classifier()
    before = snapshot(surface.model)
    with surface.entered() as weights:
        direction = filter_normalized(weights, 3)
    assert set(direction) == {"0.weight", "2.weight"}
    for name, part in direction.items():
        torch.testing.assert_close(part.norm(dim=1), surface.model.get_parameter(name).norm(dim=1))
    line = landscape(surface, [-0.5, 0, 0.5], seed=3)
    plane = landscape(surface, [-0.5, 0, 0.5], dimensions=2, seed=3)
    assert [item.value for item in line.losses] == pytest.approx([row[1].value for row in plane.losses])
    assert same_bits(snapshot(surface.model), before)
    scaled = classifier()
    with torch.no_grad():  # a ReLU net whose scale is moved from one layer to the next is the same function
        scaled.model[0].weight.mul_(4)
        scaled.model[0].bias.mul_(4)
        scaled.model[2].weight.div_(4)
    same = landscape(scaled, [-0.5, 0, 0.5], seed=3)
    assert [item.value for item in same.losses] == pytest.approx([item.value for item in line.losses])


def test_bad_settings_are_named(classifier):
    surface = classifier()
    for call, field in (
        (lambda: eigenvalues(surface, 0), "count"),
        (lambda: eigenvalues(surface, 4, steps=4), "steps"),
        (lambda: trace(surface, 1), "probes"),
        (lambda: spectral_density(surface, 1), "probes"),
        (lambda: landscape(surface, []), "distances"),
        (lambda: landscape(surface, [0], dimensions=3), "dimensions"),
        (lambda: landscape(surface.of(Selection(("0.bias",))), [0]), "select"),
    ):
        with pytest.raises(InputError, match=field):
            call()


def test_attention_is_differentiated_twice(tiny_llama, make_batch):
    found = eigenvalues(LossSurface(tiny_llama(), [make_batch(3)], token_nll), steps=3, tolerance=0)
    assert np.isfinite(found.top[0].value)
