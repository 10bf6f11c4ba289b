"""The paper's code, curvlinops and PyHessian on the same weights and data: golden/sharpness.json has versions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from remanent.core.importance.losses import class_nll
from remanent.sharpness import LossSurface
from remanent.sharpness.eigenvalues import eigenvalues
from remanent.sharpness.hessian import hessian_product
from remanent.sharpness.logits import normalized_class_nll
from remanent.sharpness.modern_sharpness import Definition, sharpness
from remanent.sharpness.surface import class_wrong
from remanent.sharpness.trace import trace

GOLDEN = Path(__file__).with_name("golden")
PEERS = json.loads((GOLDEN / "sharpness.json").read_text())
TENSORS = load_file(GOLDEN / "sharpness.safetensors")


def surface(loss=class_nll):
    model = nn.Sequential(nn.Linear(64, 12), nn.ReLU(), nn.Linear(12, 10))
    model.load_state_dict({name: TENSORS[name] for name in model.state_dict()})
    size = PEERS["paper"]["batch"]
    batches = list(zip(TENSORS["inputs"].split(size), TENSORS["labels"].split(size), strict=True))
    return LossSurface(model, batches, loss, class_wrong)


def named(row):
    return "-".join(str(row[key]) for key in ("case", "norm", "adaptive", "normalized"))


@pytest.mark.parametrize("row", PEERS["paper"]["rows"], ids=named)
def test_every_definition_is_that_of_the_papers_code(row):
    scale = "element" if row["adaptive"] else "none"
    definition = Definition(
        row["rho"], row["case"], row["norm"], scale, PEERS["paper"]["steps"], projection="euclidean"
    )
    found = sharpness(surface(normalized_class_nll() if row["normalized"] else class_nll), definition)
    assert found.loss.value == pytest.approx(row["loss"], rel=2e-3)
    assert found.error is not None
    assert found.error.value == pytest.approx(row["error"], abs=1.01 / len(TENSORS["labels"]))
    if row["case"] == "worst":
        assert found.distance == pytest.approx(row["distance"], rel=2e-3)


@pytest.mark.parametrize("row", [row for row in PEERS["paper"]["rows"] if row["case"] == "worst"], ids=named)
def test_searching_in_units_of_the_scale_finds_what_the_papers_code_finds_or_more(row):
    scale = "element" if row["adaptive"] else "none"
    found = sharpness(
        surface(normalized_class_nll() if row["normalized"] else class_nll),
        Definition(row["rho"], "worst", row["norm"], scale),
    )
    assert found.loss.value > 0.98 * row["loss"]


def test_products_with_the_hessian_are_those_of_curvlinops():
    flat = surface()
    with flat.entered() as weights:
        ours = hessian_product(flat, weights, TENSORS["vector"])
    torch.testing.assert_close(ours, TENSORS["curvlinops_product"], rtol=1e-4, atol=1e-5)


def test_eigenvalues_are_those_of_curvlinops_and_of_pyhessian():
    found = eigenvalues(surface(), 3, steps=60)
    values = [item.value for item in found.top]
    assert values == pytest.approx(PEERS["curvlinops"]["top"], rel=1e-4)
    assert values[:2] == pytest.approx(PEERS["pyhessian"]["top"], rel=1e-2)


def test_the_trace_is_that_of_pyhessian_within_both_errors():
    found = trace(surface(), 100).trace
    assert found.low is not None
    reach = found.value - found.low + 2 * PEERS["pyhessian"]["trace_error"]
    assert abs(found.value - PEERS["pyhessian"]["trace"]) < 1.5 * reach
