"""Losses and gradients are open-unlearning's, to 1e-5: numbers that its code made at one commit (golden/SOURCE.md)."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from remanent.core.batch import Batch
from remanent.core.digest import weights_digest
from remanent.core.divergence import kl_divergence
from remanent.core.method import Objective
from remanent.core.predict import Predict
from remanent.core.scores import answer_scores
from remanent.unlearning.alt_po import AltPO
from remanent.unlearning.ce_u import CEU
from remanent.unlearning.grad_ascent import GradAscent
from remanent.unlearning.grad_diff import GradDiff
from remanent.unlearning.idk_dpo import IdkDPO
from remanent.unlearning.idk_nll import IdkNLL
from remanent.unlearning.kl_min import KLMin
from remanent.unlearning.npo import NPO
from remanent.unlearning.pdu import PDU, Dual
from remanent.unlearning.pdu import method as pdu
from remanent.unlearning.rmu import RMU
from remanent.unlearning.satimp import SatImp
from remanent.unlearning.simnpo import SimNPO
from remanent.unlearning.undial import UndialAndRetain
from remanent.unlearning.wga import WGA

FILE = Path(__file__).parent / "golden" / "open_unlearning.safetensors"
TOLERANCE = 1e-5


@dataclass(frozen=True)
class Case:
    """An objective with its weights, and what it is given where that is not the batch of the role's name; the case of
    the file where that has another name."""

    objective: Objective
    weights: dict[str, float] = field(default_factory=dict)
    batches: dict[str, str] = field(default_factory=dict)
    of: str = ""


CASES = {
    "grad-ascent": Case(GradAscent()),
    "grad-diff": Case(GradDiff(), {"forget": 0.7, "retain": 1.3}),
    "kl-min": Case(KLMin(), batches={"retain": "retain_text"}),
    "npo": Case(NPO(beta=0.1), {"retain": 2.0}),
    "simnpo": Case(SimNPO(beta=4.5, delta=0.5), {"forget": 0.125}),
    "idk-dpo": Case(IdkDPO(beta=0.1), batches={"refusal": "other"}),
    "alt-po": Case(AltPO(beta=0.1), batches={"alternative": "other"}, of="idk-dpo"),
    "idk-nll": Case(IdkNLL(), {"forget": -0.7, "retain": 1.3}, {"refusal": "forget"}, of="grad-diff"),
    "wga": Case(WGA(beta=0.5)),
    "satimp": Case(SatImp(beta1=5.0, beta2=1.0), {"retain": 0.1}),
    "satimp-slow": Case(SatImp(beta1=0.5, beta2=2.0), {"retain": 0.1}),
    "undial": Case(UndialAndRetain(beta=10.0), {"retain": 0.5}, {"forget": "forget_text"}),
    "ce-u": Case(CEU(skip=1)),
    "ce-u-all-tokens": Case(CEU(skip=0)),
    "pdu": Case(PDU(0.3, Dual(100.0)), {"retain": 0.0}),
    "rmu": Case(RMU(1, 4.0, seed=3), {"retain": 1.5}, {"forget": "forget_even", "retain": "retain_even"}),
}


@pytest.fixture(scope="module")
def golden():
    with safe_open(FILE, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118


@pytest.fixture(scope="module")
def models(tiny_llama, golden):
    """The model and its reference: those that the numbers were made with."""
    model, reference = tiny_llama(seed=0), tiny_llama(seed=1)
    assert weights_digest(model) == golden[1]["model"]
    assert weights_digest(reference) == golden[1]["reference"]
    return model, reference


def batch_of(golden, name):
    parts = [golden[0][f"batches/{name}/{part}"] for part in ("input_ids", "attention_mask", "labels")]
    return Batch(*parts, records=torch.arange(len(parts[0])))


def given(case, golden, reference):
    """The case's batches, with what its objective wants of the reference."""
    roles = dict.fromkeys(role for term in case.objective.terms.values() for role in term.roles)
    batches = {role: batch_of(golden, case.batches.get(role, role)) for role in roles}
    with torch.no_grad():
        for role in case.objective.needs_reference:
            batches[role] = replace(batches[role], reference=answer_scores(reference, batches[role]).nll)
        live = case.objective.at_reference(batches, Predict(reference))
    return {role: replace(batch, live=live.get(role)) for role, batch in batches.items()}


def total(case, batches, model):
    """The weighted loss, each term divided by what it is a mean over."""
    losses = case.objective.losses(batches, Predict(model))
    assert set(losses) == set(case.objective.terms)
    means = {name: value / case.objective.counted(name, batches) for name, value in losses.items()}
    return sum(case.weights.get(name, 1.0) * value for name, value in means.items())


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient(name, golden, models):
    case, (model, reference) = CASES[name], models
    wanted = {part: golden[0][f"{case.of or name}/{part}"] for part in ("loss", "embeddings", "queries", "norms")}
    model.zero_grad()
    loss = total(case, given(case, golden, reference), model)
    loss.backward()
    # Absolutely, since ascent and descent may all but cancel out.
    assert loss.item() == pytest.approx(wanted["loss"].item(), rel=TOLERANCE, abs=1e-6)
    found = {"embeddings": model.model.embed_tokens.weight, "queries": model.model.layers[0].self_attn.q_proj.weight}
    for part, weight in found.items():
        assert wanted[part].norm() > 1e-3
        assert (weight.grad - wanted[part]).norm() <= TOLERANCE * wanted[part].norm(), part
    norms = [torch.zeros(()) if weight.grad is None else weight.grad.norm() for weight in model.parameters()]
    torch.testing.assert_close(torch.stack(norms), wanted["norms"], rtol=TOLERANCE, atol=1e-6)


def test_the_dual_variable_moves_as_theirs(golden, models):
    chosen = pdu(limit=0.3, dual=100.0, dual_step=5.0, dual_warmup=0.0)
    retained = CASES["pdu"].objective.losses({"retain": batch_of(golden, "retain")}, Predict(models[0]))["retain"]
    mean = float(retained) / batch_of(golden, "retain").units("token")
    chosen.observe({"retain@full": mean}, step=1, steps=10)
    assert chosen.constrained.dual.value == pytest.approx(golden[0]["pdu/dual"].item(), rel=TOLERANCE)


def test_pdu_differs_by_one_position(golden, models):
    """Theirs reads the logits where the answer stands: with labels moved one further, ours are the same."""
    case, (model, reference) = CASES["pdu"], models
    batches = given(case, golden, reference)
    theirs = golden[0]["pdu-one-further/loss"].item()
    assert abs(total(case, batches, model).item() - theirs) > 1e-3
    forget = batches["forget"]
    column = forget.labels[:, :1]
    assert column.eq(-100).all()
    moved = replace(
        forget,
        input_ids=torch.cat([forget.input_ids, torch.zeros_like(column)], dim=1),
        attention_mask=torch.cat([forget.attention_mask, torch.zeros_like(column)], dim=1),
        labels=torch.cat([column, forget.labels], dim=1),
    )
    assert total(case, {**batches, "forget": moved}, model).item() == pytest.approx(theirs, rel=TOLERANCE)


def test_kl_min_differs_by_the_positions_of_its_mean(golden, models):
    """Theirs is a mean over all positions of the batch: prompts, last tokens and padding too."""
    model, reference = models
    theirs = golden[0]["kl-min-all-positions/loss"].item()
    case = Case(KLMin())
    batches = given(case, golden, reference)
    assert abs(total(case, batches, model).item() - theirs) > 1e-2
    retain = batches["retain"]
    with torch.no_grad():
        before, now = (
            each(input_ids=retain.input_ids, attention_mask=retain.attention_mask).logits.log_softmax(dim=-1)
            for each in (reference, model)
        )
        ascent = total(Case(GradAscent()), {"forget": batches["forget"]}, model).item()
    everywhere = kl_divergence(before.flatten(0, 1), now.flatten(0, 1)).mean().item()
    assert ascent + everywhere == pytest.approx(theirs, rel=TOLERANCE)


def test_rmu_differs_where_answers_have_unequal_lengths(golden, models):
    """Theirs divides every record's sum by every record's length: the mean of sums times the mean of 1 / length."""
    model, reference = models
    objective = RMU(1, 4.0, seed=3)
    case = Case(objective, {"retain": 1.5})
    batches = given(case, golden, reference)
    theirs = golden[0]["rmu-unequal-lengths/loss"].item()
    assert abs(total(case, batches, model).item() - theirs) > 1.0
    found = 0.0
    for role, weight in (("forget", 1.0), ("retain", 1.5)):
        lengths = (batches[role].labels != -100).sum(dim=1).double()
        each = [
            objective.losses({role: replace(piece, live=live)}, Predict(model))[role].item()
            for piece, live in zip(
                batches[role].split(1),
                [None] * len(lengths) if role == "forget" else batches[role].live.split(lengths.int().tolist()),
                strict=True,
            )
        ]
        found += weight * float((torch.tensor(each) * lengths).mean() * (1 / lengths).mean())
    assert found == pytest.approx(theirs, rel=TOLERANCE)
