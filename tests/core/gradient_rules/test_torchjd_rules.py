"""The rules beside TorchJD's own, called live where it is installed (`make peers`), in float64."""

from __future__ import annotations

import pytest
import torch

from remanent.core.gradient_rules import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    FairGrad,
    LinearScalarization,
    NashMTL,
    PCGrad,
    UPGrad,
    gramian,
)

peer = pytest.importorskip("torchjd.aggregation", reason="TorchJD is not installed: make peers")
projectors = pytest.importorskip("torchjd.linalg", reason="TorchJD is not installed: make peers")


def jacobian(seed):
    """2 to 6 tasks of unlike lengths over 9 weights."""
    generator = torch.Generator().manual_seed(seed)
    count = 2 + seed % 5
    lengths = 3 * torch.rand(count, 1, generator=generator, dtype=torch.float64)
    return torch.randn(count, 9, generator=generator, dtype=torch.float64) * lengths


def of_two_tensors(rows):
    return [{"first": row[:4], "second": row[4:].view(5, 1)} for row in rows]


def flat(combined):
    return torch.cat([combined["first"], combined["second"].flatten()])


def same_rules(count):
    """Ours and TorchJD's, as an aggregator of gradients and as weights of a Gramian, where they are one definition."""
    ones = torch.ones(count, dtype=torch.float64)  # its preferences are 1 / tasks, ours 1
    exact = projectors.QuadprogProjector(norm_eps=0.0, reg_eps=0.0)  # it adds 1e-4 of the identity, ours nothing
    return {
        "sum": (LinearScalarization(), peer.Sum(), peer.SumWeighting()),
        "IMTLG": (IMTLG(), peer.IMTLG(), peer.IMTLGWeighting()),
        "AlignedMTL": (AlignedMTL(), peer.AlignedMTL(ones), peer.AlignedMTLWeighting(ones)),
        "FairGrad-1": (FairGrad(1.0), peer.FairGrad(1.0), peer.FairGradWeighting(1.0)),
        "FairGrad-2": (FairGrad(2.0), peer.FairGrad(2.0), peer.FairGradWeighting(2.0)),
        "UPGrad": (UPGrad(), peer.UPGrad(projector=exact), peer.UPGradWeighting(projector=exact)),
    }


@pytest.mark.parametrize("seed", range(15))
@pytest.mark.parametrize("name", same_rules(2))
def test_one_definition(name, seed):
    rows = jacobian(seed)
    ours, aggregator, weighting = same_rules(len(rows))[name]
    parts = of_two_tensors(rows)
    torch.testing.assert_close(flat(ours.combined(parts)), aggregator(rows), rtol=0, atol=1e-6)
    products = gramian(parts)
    torch.testing.assert_close(ours.weights(products), weighting(products), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("seed", range(15))
def test_pcgrad_in_the_same_orders(seed):
    """Both draw one order a task; its from torch's default generator."""
    rows = jacobian(seed)
    ours = PCGrad().combined(of_two_tensors(rows), torch.Generator().manual_seed(seed))
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        theirs = peer.PCGrad()(rows)
    torch.testing.assert_close(flat(ours), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("seed", range(15))
def test_mgda_is_as_near_as_its_frank_wolfe_has_come(seed):
    """Of a convex set's shortest g and any other h of it: |h - g|^2 <= |h|^2 - |g|^2. Of two tasks its first step is
    exact."""
    rows = jacobian(seed)
    ours = flat(MGDA().combined(of_two_tensors(rows)))
    theirs = peer.MGDA(epsilon=1e-9, max_iters=200)(rows)
    assert float((theirs - ours).square().sum()) <= float(theirs.square().sum() - ours.square().sum()) + 1e-9
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-6 if len(rows) == 2 else 5e-2)


@pytest.mark.parametrize("c", [0.1, 0.4, 0.9])
@pytest.mark.parametrize("seed", range(5))
def test_cagrad_reaches_the_dual_that_clarabel_reaches(seed, c):
    """Its solver ends with the value right to 1e-6, the gradient to some 1e-4."""
    rows = jacobian(seed)
    scale = float(rows.square().sum(dim=1).mean())
    parts = of_two_tensors(rows)
    theirs = peer.CAGrad(c, norm_eps=1e-9)
    torch.testing.assert_close(flat(CAGrad(c, rescale=0).combined(parts)), theirs(rows), rtol=0, atol=5e-4)
    products = gramian(parts)
    mean = torch.full((len(rows),), 1 / len(rows), dtype=torch.float64)

    def dual(weights):
        point = weights - mean
        point = point / point.sum()
        assert float(point.min()) > -1e-6, "of the simplex"
        radius = c * float(mean @ products @ mean) ** 0.5
        return (float(point @ products @ mean) + radius * float(point @ products @ point) ** 0.5) / scale

    found, reached = dual(CAGrad(c, rescale=0).weights(products)), dual(theirs.gramian_weighting(products))
    assert found <= reached + 1e-8
    assert found == pytest.approx(reached, abs=1e-6)


@pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")
def test_nash_mtl_where_its_iteration_ends():
    """Without its clip of the length; where it stays near w = 1 ours is the solution, w_i (A w)_i = 1."""
    ended = 0
    for seed in range(10):
        rows = jacobian(seed)
        parts = of_two_tensors(rows)
        products = gramian(parts)
        weights = NashMTL().weights(products)
        assert float((weights * (products @ weights) - 1).abs().max()) < 1e-6
        theirs = peer.NashMTL(len(rows), max_norm=0.0, optim_niter=100).weighting(rows)
        if float((theirs * (products @ theirs) - 1).abs().max()) < 1e-5:
            ended += 1
            torch.testing.assert_close(flat(NashMTL().combined(parts)), theirs @ rows, rtol=0, atol=1e-5)
    assert ended >= 7
