"""The rules make of the same gradients what TorchJD and LibMTL make of them: golden/SOURCE.md."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from remanent.core.gradient_rules import (
    IMTLG,
    MGDA,
    AlignedMTL,
    CAGrad,
    FairGrad,
    NashMTL,
    PCGrad,
    UPGrad,
    gramian,
    weighted_sum,
)

GOLDEN = json.loads(Path(__file__).with_name("golden").joinpath("peers.json").read_text())
RULES = {
    "CAGrad-0.4": CAGrad(0.4, rescale=0),
    "CAGrad-0.5": CAGrad(0.5, rescale=1),
    "IMTLG": IMTLG(),
    "AlignedMTL": AlignedMTL(),
    "FairGrad-1": FairGrad(1.0),
    "FairGrad-2": FairGrad(2.0),
    "NashMTL": NashMTL(),
    "PCGrad": PCGrad(),
    "MGDA": MGDA(),
    "UPGrad": UPGrad(),
}
CASES = [
    (peer, case, rule) for peer in ("torchjd", "libmtl") for case in GOLDEN["gradients"] for rule in GOLDEN[peer][case]
]


@pytest.mark.parametrize(("peer", "case", "rule"), CASES)
def test_a_peer_finds_the_same(peer, case, rule):
    rows = torch.tensor(GOLDEN["gradients"][case], dtype=torch.float64)
    theirs = torch.tensor(GOLDEN[peer][case][rule], dtype=torch.float64)
    parts = [{"w": row} for row in rows]
    ours = RULES[rule].combined(parts)["w"]
    tolerance = 1e-6 if peer == "torchjd" else 1e-5
    if rule == "NashMTL" and case == "card-2":
        assert not torch.allclose(ours, theirs, atol=0.1), "the peers' stay at w = 1"
        return
    if rule == "NashMTL" and peer == "torchjd":
        ours = ours / ours.norm()
    if rule == "AlignedMTL" and peer == "torchjd":
        ours = ours / len(rows)
    if rule == "UPGrad":
        products = gramian(parts)
        regular = products / products.trace() + 1e-4 * torch.eye(len(rows), dtype=torch.float64)
        torch.testing.assert_close(weighted_sum(parts, UPGrad().weights(regular))["w"], theirs, rtol=0, atol=tolerance)
        tolerance = 2e-3
    if rule == "MGDA":
        assert float(ours.norm()) <= float(theirs.norm()) + 1e-7
        tolerance = 1e-2
    if rule.startswith("CAGrad"):
        tolerance = 1e-5 if peer == "torchjd" else 2e-4
    torch.testing.assert_close(ours, theirs, rtol=0, atol=tolerance)


def test_every_rule_is_held_to_both():
    for peer in ("torchjd", "libmtl"):
        found = {rule.partition("-")[0] for case in GOLDEN["gradients"] for rule in GOLDEN[peer][case]}
        assert found == {rule.partition("-")[0] for rule in RULES}


@pytest.mark.parametrize("seed", range(20))
def test_a_live_peer(seed):
    """With TorchJD installed, as in an environment of peers."""
    theirs = pytest.importorskip("torchjd.aggregation")
    generator = torch.Generator().manual_seed(seed)
    count = 2 + seed % 5
    rows = torch.randn(count, 9, generator=generator, dtype=torch.float64)
    rows *= torch.rand(count, 1, generator=generator, dtype=torch.float64) * 3
    parts = [{"w": row} for row in rows]
    for ours, peer in (
        (IMTLG(), theirs.IMTLG()),
        (AlignedMTL(), theirs.AlignedMTL(pref_vector=torch.ones(count, dtype=torch.float64))),
        (FairGrad(2.0), theirs.FairGrad(2.0)),
    ):
        torch.testing.assert_close(ours.combined(parts)["w"], peer(rows), rtol=1e-4, atol=1e-5)
    ours, peer = CAGrad(0.3, rescale=0).combined(parts)["w"], theirs.CAGrad(0.3)(rows)
    torch.testing.assert_close(ours, peer, rtol=0, atol=1e-2)
    assert float((rows @ ours).min()) >= float((rows @ peer).min()) - 1e-6, "the worst off is served no worse"
