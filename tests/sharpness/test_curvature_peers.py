"""Curvature beside curvlinops and PyHessian, called live where they are installed (`make peers`), in float64."""

from __future__ import annotations

import pytest
import torch
from scipy.sparse.linalg import eigsh
from torch import nn

from remanent.sharpness.eigenvalues import eigenvalues
from remanent.sharpness.hessian import flat_size, hessian_product, split
from remanent.sharpness.trace import trace

from .conftest import dense_hessian

# PyHessian keeps the graph of its gradient on purpose.
pytestmark = pytest.mark.filterwarnings(r"ignore:Using backward\(\) with create_graph")


@pytest.fixture
def curvlinops():
    """A surface's Hessian as an operator of curvlinops."""
    package = pytest.importorskip("curvlinops", reason="curvlinops is not installed: make peers")

    def make(surface):
        model = surface.model.eval()
        return package.HessianLinearOperator(
            model, nn.CrossEntropyLoss(), list(model.parameters()), list(surface.batches)
        )

    return make


@pytest.fixture
def pyhessian():
    """A surface in PyHessian, which draws its vectors in torch's default dtype."""
    package = pytest.importorskip("pyhessian", reason="PyHessian is not installed: make peers")
    torch.set_default_dtype(torch.float64)
    yield lambda surface: package.hessian(
        surface.model, nn.CrossEntropyLoss(), dataloader=list(surface.batches), cuda=False
    )
    torch.set_default_dtype(torch.float32)


def signs_of(size, probes, seed):
    """The vectors that `trace` draws."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, 2, (size,), generator=generator).double() * 2 - 1 for _ in range(probes)]


def test_every_product_is_that_of_curvlinops(classifier, curvlinops):
    surface = classifier()
    dense = dense_hessian(surface)
    identity = torch.eye(len(dense), dtype=torch.float64)
    theirs = curvlinops(surface) @ identity
    with surface.entered() as weights:
        ours = torch.stack([hessian_product(surface, weights, column) for column in identity], dim=1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-10)
    torch.testing.assert_close(ours, dense, rtol=0, atol=1e-10)


def test_a_product_is_that_of_pyhessian(classifier, pyhessian):
    surface = classifier()
    theirs = pyhessian(surface)
    with surface.entered() as weights:
        vector = torch.randn(flat_size(weights), generator=torch.Generator().manual_seed(1), dtype=torch.float64)
        ours = hessian_product(surface, weights, vector)
        parts = list(split(weights, vector).values())
    along, product = theirs.dataloader_hv_product(parts)
    torch.testing.assert_close(ours, torch.cat([part.flatten() for part in product]), rtol=0, atol=1e-10)
    assert float(vector @ ours) == pytest.approx(along, rel=1e-10)


def test_eigenvalues_are_those_of_scipy_on_curvlinops(classifier, curvlinops):
    surface = classifier()
    operator = curvlinops(surface).to_scipy()
    highest = eigsh(operator, k=3, which="LA", return_eigenvectors=False)
    lowest = eigsh(operator, k=1, which="SA", return_eigenvectors=False)
    found = eigenvalues(surface, 3, steps=40)
    assert [item.value for item in found.top] == pytest.approx(sorted(highest, reverse=True), rel=1e-8)
    assert found.lowest == pytest.approx(float(lowest[0]), rel=1e-6)


def test_eigenvalues_are_those_of_pyhessian(classifier, pyhessian):
    """Its power method leaves a vector's length 1e-6 off."""
    surface = classifier()
    torch.manual_seed(0)
    theirs, _ = pyhessian(surface).eigenvalues(maxIter=500, tol=1e-9, top_n=2)
    exact = torch.linalg.eigvalsh(dense_hessian(surface)).flip(0)[:2]
    found = eigenvalues(surface, 2, steps=40)
    ours = [item.value for item in found.top]
    assert ours == pytest.approx(exact.tolist(), rel=1e-8)
    assert ours == pytest.approx(theirs, rel=1e-4)


def test_the_trace_is_that_of_curvlinops_probe_by_probe(classifier, curvlinops):
    surface = classifier()
    found = trace(surface, 8, seed=3)
    signs = torch.stack(signs_of(found.weights, 8, seed=3), dim=1)
    products = curvlinops(surface) @ signs
    assert list(found.probes) == pytest.approx((signs * products).sum(dim=0).tolist(), rel=1e-8)


def test_the_trace_is_that_of_pyhessian(classifier, pyhessian):
    """The same signs give the same probe; each one's own lie within both errors."""
    surface = classifier()
    found = trace(surface, 60, seed=3)
    theirs = pyhessian(surface)
    with surface.entered() as weights:
        signs = list(split(weights, signs_of(found.weights, 1, seed=3)[0]).values())
    assert found.probes[0] == pytest.approx(theirs.dataloader_hv_product(signs)[0], rel=1e-8)
    torch.manual_seed(0)
    drawn = torch.tensor(theirs.trace(maxIter=60, tol=0.0))
    reach = found.trace.high - found.trace.value + 2 * float(drawn.std()) / len(drawn) ** 0.5
    assert len(drawn) == 60
    assert abs(found.trace.value - float(drawn.mean())) < 1.5 * reach
