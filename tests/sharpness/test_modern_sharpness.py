from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional

from remanent.core.displacement import AutoPGD, Rounding, Then
from remanent.core.importance.losses import class_nll, token_nll
from remanent.core.selection import Selection
from remanent.errors import DivergedError, InputError, UnsupportedError
from remanent.sharpness import LossSurface
from remanent.sharpness.logits import normalized, normalized_class_nll, normalized_token_nll
from remanent.sharpness.modern_sharpness import Definition, sharpness
from remanent.sharpness.surface import ADAPTERS, class_wrong, token_wrong

# L = (4 a^2 + b^2) / 2 at (1, 2), rho 0.1. An average is half of rho^2 times the curvature in units of the scale where
# the gradient is 0, so its centre is moved there.
BY_HAND = [
    ("average", "l2", "none", 0.025),
    ("average", "l2", "element", 0.04),
    ("average", "linf", "none", 0.00833),
    ("average", "linf", "element", 0.01333),
    ("worst", "linf", "none", 0.625),
    ("worst", "linf", "element", 0.84),
    ("worst", "l2", "element", 0.5857),
]


@pytest.mark.parametrize(("case", "norm", "scale", "expected"), BY_HAND)
def test_the_quadratic_by_hand(quadratic, case, norm, scale, expected):
    average = case == "average"
    surface = quadratic(centre=(1.0, 2.0)) if average else quadratic()
    found = sharpness(surface, Definition(0.1, case, norm, scale, 400 if average else 20))
    assert found.loss.value == pytest.approx(expected, rel=0.2 if average else 2e-4)


@pytest.mark.parametrize("scale", ["none", "tensor", "row", "element"])
@pytest.mark.parametrize("norm", ["l2", "linf"])
def test_the_worst_point_is_in_the_ball_and_worse_than_here(classifier, norm, scale):
    found = sharpness(classifier(), Definition(0.05, "worst", norm, scale, 8))
    assert all(value >= -1e-12 for value in found.batches)
    assert found.loss.value > 0
    if (norm, scale) == ("l2", "none"):
        assert found.distance <= 0.05 * (1 + 1e-6)


def test_weights_at_zero_do_not_move_and_do_not_spoil_the_projection(classifier):
    surface = classifier()
    with torch.no_grad():
        surface.model[0].bias.zero_()
    start = surface.model[0].bias.clone()
    for projection in ("scaled", "euclidean"):
        with AutoPGD(0.5, scale="element", projection=projection).at(surface.model, surface.closures()):
            assert torch.equal(surface.model[0].bias, start)
            length = sum(
                float(((weight.detach() - START[name]) / START[name]).square().sum())
                for name, weight in surface.model.named_parameters()
                if name != "0.bias"
            )
            assert 0.49 < math.sqrt(length) < 0.501


def test_a_model_comes_back_bit_for_bit_with_modes_gradients_and_statistics(classifier, snapshot, same_bits):
    surface = classifier(norm=True, frozen=True)
    before, grad = snapshot(surface.model), torch.ones(6, 4).double()
    surface.model[0].weight.requires_grad_(True)
    surface.model[0].weight.grad = grad
    for case in ("worst", "average"):
        sharpness(surface, Definition(0.1, case, steps=3))
    assert same_bits(snapshot(surface.model), before)
    assert surface.model.training
    assert surface.model[0].weight.grad is grad
    assert not surface.model[3].weight.requires_grad


def test_only_selected_weights_move(classifier):
    surface = classifier()
    head = surface.of(Selection(("2.*",)))
    with head.entered() as weights, AutoPGD(0.5).at(weights, head.closures()):
        moved = {name for name, weight in surface.model.named_parameters() if not torch.equal(weight, START[name])}
    assert moved == {"2.weight", "2.bias"}


START = {}


@pytest.fixture(autouse=True)
def start(classifier):
    START.clear()
    START.update({name: weight.detach().clone() for name, weight in classifier().model.named_parameters()})


def test_on_a_lora_alone_on_the_forget_loss_at_four_bits(tiny_llama, lora, make_batch, snapshot, same_bits):
    model = lora(tiny_llama())
    before = snapshot(model)
    forget = make_batch(4, seed=3)
    surface = LossSurface(model, [forget], token_nll, token_wrong, ADAPTERS, Rounding("int4-row"))
    found = sharpness(surface, Definition(0.5, steps=4))
    with Rounding("int4-row").at(model):
        rounded = float(token_nll(model, forget).mean().detach())
    assert found.clean == pytest.approx(rounded, rel=1e-6)
    assert found.loss.value > 0
    assert found.error is not None
    assert same_bits(snapshot(model), before)
    point = Then(Rounding("int4-row"), AutoPGD(0.5, steps=4))
    for weight in model.parameters():
        weight.requires_grad_(any(weight is other for name, other in model.named_parameters() if "lora_" in name))
    with point.at(model, lambda: token_nll(model, forget).mean()):
        assert float(token_nll(model, forget).mean().detach()) == pytest.approx(rounded + found.loss.value, rel=1e-5)


def test_batches_are_measured_by_themselves(classifier):
    surface = classifier()
    whole = (torch.cat([batch[0] for batch in surface.batches]), torch.cat([batch[1] for batch in surface.batches]))
    small = sharpness(surface, Definition(0.2)).loss
    large = sharpness(LossSurface(surface.model, [whole]), Definition(0.2)).loss
    assert small.value > large.value
    assert small.low < small.value < small.high
    assert large.low is None


def test_normalized_logits_by_hand():
    logits = torch.tensor([[3.0, 1.0, -1.0]])
    torch.testing.assert_close(normalized(logits), torch.tensor([[0.70711, 0.0, -0.70711]]), atol=1e-4, rtol=0)
    loss = nn.functional.cross_entropy(normalized(logits), torch.tensor([0]))
    assert float(loss) == pytest.approx(0.5517, abs=1e-4)
    for form in ("code", "paper"):
        assert torch.allclose(normalized(3 * logits, form), normalized(logits, form), atol=1e-6)
    ratio = normalized(logits, "paper").std(unbiased=False) / normalized(logits).std(unbiased=False)
    assert float(ratio) == pytest.approx(math.sqrt(3), rel=1e-5)


def test_a_normalized_definition_is_of_normalized_logits(classifier, tiny_llama, make_batch):
    surface = classifier()
    found = sharpness(surface, Definition.parse("worst-l2-element-0.5-normalized"))
    scaled = replace(surface, loss=normalized_class_nll())
    assert found.batches == sharpness(scaled, Definition.parse("worst-l2-element-0.5")).batches
    with torch.no_grad():
        for weight in surface.model[2].parameters():
            weight.mul_(7.0)  # larger logits, the same model to an adaptive definition
    again = sharpness(surface, Definition.parse("worst-l2-element-0.5-normalized"))
    assert again.loss.value == pytest.approx(found.loss.value, rel=1e-6)
    model, batch = tiny_llama(), make_batch(2)
    tokens = sharpness(LossSurface(model, [batch], token_nll), Definition(0.1, normalized=True))
    assert tokens.clean == pytest.approx(float(normalized_token_nll()(model, batch).mean().detach()))
    with pytest.raises(InputError, match="class_nll or token_nll"):
        sharpness(scaled, Definition(0.1, normalized=True))


def test_names_and_what_is_wrong_with_them(tiny_llama, make_batch):
    for name in (
        "worst-l2-0.05-normalized",
        "worst-l2-0.05",
        "average-linf-element-0.1",
        "worst-linf-row-1e-05",
        "worst-l2-1e-05",
    ):
        assert str(Definition.parse(name)) == name
    for name, message in (
        ("worst-l3-0.1", "norm"),
        ("wurst-l2-0.1", "did you mean 'worst'"),
        ("worst-l2-elements-0.1", "did you mean 'element'"),
        ("worst-l2", "a name such as"),
        ("worst-l2-x", "a name such as"),
        ("worst-l2-0", "above 0"),
    ):
        with pytest.raises(InputError, match=message):
            Definition.parse(name)
    with pytest.raises(InputError, match="batch"):
        LossSurface(tiny_llama(), [])
    half = LossSurface(tiny_llama(dtype=torch.bfloat16), [make_batch(2)], token_nll)
    with pytest.raises(UnsupportedError, match="float32"):
        sharpness(half, Definition(0.1))
    plain = LossSurface(tiny_llama(), [make_batch(2)], token_nll, select=ADAPTERS)
    with pytest.raises(InputError, match="selection"):
        sharpness(plain, Definition(0.1))


def test_a_loss_that_is_not_finite_is_said(classifier):
    from remanent.sharpness.eigenvalues import eigenvalues

    surface = classifier()
    with torch.no_grad():
        surface.model[0].weight[0, 0] = math.nan
    with pytest.raises(DivergedError, match="batch 0"):
        sharpness(surface, Definition(0.1))
    with pytest.raises(DivergedError, match="Hessian"):
        eigenvalues(surface)


def test_a_transformers_classifier_is_as_good_as_a_module_that_returns_its_logits():
    from transformers import ViTConfig, ViTForImageClassification

    torch.manual_seed(0)
    shape = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    model = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=3, **shape)).eval()
    batch = (torch.randn(5, 3, 8, 8), torch.tensor([0, 1, 2, 0, 1]))
    with torch.no_grad():
        logits = model(batch[0]).logits
        for loss, of_logits in (
            (class_wrong, (logits.argmax(dim=1) != batch[1]).float()),
            (normalized_class_nll(), functional.cross_entropy(normalized(logits), batch[1], reduction="none")),
            (class_nll, functional.cross_entropy(logits, batch[1], reduction="none")),
        ):
            assert torch.equal(loss(model, batch), of_logits)
    surface = LossSurface(model, [batch], normalized_class_nll(), class_wrong)
    found = sharpness(surface, Definition.parse("worst-l2-0.05", 2))
    assert math.isfinite(found.loss.value)
