"""Terms and ascents of the published code: golden/SOURCE.md says how they were made."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from remanent.core.divergence import mean_divergence
from remanent.core.model_inputs import changed_input
from remanent.optim import R3F, SAF, SMART, TRAM

GOLDEN = load_file(Path(__file__).with_name("golden") / "trust_region.safetensors")


def test_trams_divergence_is_smaller_by_batch_and_classes():
    target, current = GOLDEN["kl/target"], GOLDEN["kl/current"]
    for kind in ("forward", "symmetric"):
        ours = mean_divergence(target, current, symmetric=kind == "symmetric")
        torch.testing.assert_close(GOLDEN[f"kl/{kind}"] * target.numel(), ours)


def test_trams_norm_is_the_published_and_its_ascent_has_the_gradient_that_is_missing_there():
    weights = [nn.Parameter(GOLDEN[f"tram/weight{n}"].clone()) for n in range(2)]
    tram = TRAM(weights, torch.optim.SGD, distance=lambda: 0.3, lr=0.1)
    gradients = [GOLDEN[f"tram/gradient{n}"] for n in range(2)]
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient.clone()
    assert tram.first_step()
    for number, (weight, gradient) in enumerate(zip(weights, gradients, strict=True)):
        start, published = GOLDEN[f"tram/weight{number}"], GOLDEN[f"tram/published{number}"]
        torch.testing.assert_close(weight.detach() - start, published * gradient, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(published, 0.3 * start**2 / GOLDEN["tram/norm"], rtol=1e-4, atol=1e-6)
        assert bool((published >= 0).all()), "whatever the gradient says"


def test_safs_term_and_gradient():
    saf = SAF(5, 4, back=1, start=1)
    index, logits = torch.arange(5), GOLDEN["saf/logits"].clone().requires_grad_()
    saf(GOLDEN["saf/past"], index, 0)
    term = saf(logits, index, 1)
    term.backward()
    torch.testing.assert_close(term.detach(), GOLDEN["saf/term"])
    torch.testing.assert_close(logits.grad, GOLDEN["saf/gradient"])


def test_r3fs_term_and_gradients():
    logits, noised = (GOLDEN[f"r3f/{name}"].clone().requires_grad_() for name in ("logits", "noised"))

    class Model(nn.Module):
        def forward(self, inputs):
            return noised + 0 * inputs

    term = R3F(Model())(logits, torch.zeros(5, 4))
    term.backward()
    torch.testing.assert_close(term.detach(), GOLDEN["r3f/term"])
    torch.testing.assert_close(logits.grad, GOLDEN["r3f/logits_gradient"])
    torch.testing.assert_close(noised.grad, GOLDEN["r3f/noised_gradient"])


class Bag(nn.Module):
    """The model of `smart`."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(GOLDEN["smart/table"], freeze=False)
        self.head = nn.Parameter(GOLDEN["smart/head"].clone())

    def get_input_embeddings(self):
        return self.table

    def forward(self, ids):
        return torch.tanh(self.table(ids)).mean(dim=1) @ self.head


@pytest.mark.parametrize(("noise", "beside"), [(1e-2, 1e-12), (1e-2, 1e-6), (1e-5, 1e-6)])
def test_smarts_adversarial_term(noise, beside, monkeypatch):
    """mt-dnn has 1e-6 beside the gradient's size: noise of 1e-5 leaves gradients smaller than that, and steps short."""
    monkeypatch.setattr("remanent.optim.smart._TINY", beside)
    model, ids = Bag(), GOLDEN["smart/ids"]
    seen = []
    logits = model(ids)
    torch.manual_seed(9)
    term = SMART(model, proximity=0.0, noise=noise)(logits, ids)
    assert float(term.detach()) == pytest.approx(float(GOLDEN[f"smart/{noise:g}"]), rel=0.05), "float32 near 0"
    with changed_input(model, lambda value: seen.append(value) or value):
        model(ids)
    assert torch.equal(seen[0], model.table(ids))
