"""Elastic weight consolidation: while a model learns something new, each weight is held by how much it mattered before.

L = L_task + lambda / 2 * sum over past tasks t and weights i of F_t,i (w_i - w_t,i)^2. F_t is the diagonal of the
Fisher information at the end of task t, w_t the weights there. A sum of quadratics is one quadratic: it is kept as one
curvature and one anchor, exactly, so that neither memory nor time grows with the tasks. `online` forgets old tasks by a
factor instead and anchors at the newest.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from remanent.core.batch import Batch, Encoded, collate
from remanent.core.catalogue import System
from remanent.core.episode import Episode
from remanent.core.importance import SampleLoss, answer_nll, fisher, sampled_answer_nll
from remanent.core.method import Method, Pull
from remanent.core.sampling import seed_of
from remanent.core.task import teach
from remanent.core.weights import Weights
from remanent.errors import InputError, did_you_mean

SYSTEM = System(
    name="ewc",
    title="Elastic weight consolidation: hold each weight by how much it mattered",
    year=2016,
    arxiv="1612.00796",
    card="cl-baselines",
    family="continual",
    reproduction="tests/reproductions/test_ewc.py",
    needs=("task",),
    notes="All past tasks are folded into one quadratic, exactly. A language model's Fisher information is that of "
    "whole answers, its labels drawn token by token.",
)
LABELS = ("sampled", "given")


class Consolidation(Pull):
    """lambda / 2 * sum over tasks of F_t (w - w_t)^2, as one quadratic: H = sum F_t, c = sum F_t w_t / H, a constant.

    The constant is what the best w still costs; it is part of the loss, and has no gradient. Curvature and anchor are
    float32 (float64 where the weights are) on the weights' device: 8 bytes a weight, whatever the number of tasks.

    Args:
        strength: lambda, at least 0.
        decay: gamma in [0, 1] of the online variant, F* <- gamma F* + F at the newest anchor, where gamma multiplies F*
            in the penalty too; None keeps every task.

    Sources: Kirkpatrick et al. (arXiv:1612.00796), equation 3; online: Schwarz et al. (arXiv:1805.06370), section 4.
    """

    def __init__(self, strength: float, decay: float | None = None) -> None:
        if not 0 <= strength < math.inf:
            raise InputError("strength", strength, "a finite number of at least 0")
        if decay is not None and not 0 <= decay <= 1:
            raise InputError("decay", decay, "a number from 0 to 1, or None")
        self.strength, self.decay = strength, decay
        self.curvature: dict[str, Tensor] = {}
        self.anchor: dict[str, Tensor] = {}
        self.constant, self.tasks = 0.0, 0

    @torch.no_grad()
    def fold(self, importance: Mapping[str, Tensor], weights: Mapping[str, Tensor]) -> None:
        """Add a task.

        Args:
            importance: name of the weight -> its Fisher information; kept and changed in place.
            weights: the weights at the end of the task, those of `importance` among them.
        """
        for name, new in importance.items():
            here = weights[name].detach().to(new.dtype)
            if name not in self.curvature:
                self.curvature[name], self.anchor[name] = new, here.clone()
                continue
            old, anchor = self.curvature[name].to(new.device), self.anchor[name].to(new.device)
            if self.decay is not None:
                self.curvature[name], self.anchor[name] = new.add_(old, alpha=self.decay), here.clone()
                continue
            total, apart = old + new, here - anchor
            # Where nothing mattered yet the anchor has no meaning; 0 / 0 is kept out.
            share = torch.where(total > 0, new / total, torch.zeros_like(total))
            self.constant += float((old * share * apart.square()).sum(dtype=torch.float64))
            self.curvature[name], self.anchor[name] = total, torch.addcmul(anchor, share, apart)
        self.tasks += 1

    @torch.no_grad()
    def add_gradient(self, weights: Weights) -> Tensor:
        total = torch.zeros(())
        factor = self.strength * (1.0 if self.decay is None else self.decay)
        for name, weight in weights.items():
            if name not in self.curvature or not weight.requires_grad:
                continue
            if self.curvature[name].device != weight.device:
                self.curvature[name] = self.curvature[name].to(weight.device)
                self.anchor[name] = self.anchor[name].to(weight.device)
            apart = weight.detach() - self.anchor[name]
            gradient = self.curvature[name] * apart
            total = total.to(weight.device) + torch.dot(apart.flatten(), gradient.flatten())
            if weight.grad is None:
                weight.grad = gradient.mul_(factor).to(weight.dtype)
            else:
                weight.grad.add_(gradient.to(weight.dtype), alpha=factor)
        return factor / 2 * (total + self.constant)

    def state_dict(self) -> dict[str, Any]:
        return {
            "curvature": dict(self.curvature),
            "anchor": dict(self.anchor),
            "constant": self.constant,
            "tasks": self.tasks,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.curvature, self.anchor = dict(state["curvature"]), dict(state["anchor"])
        self.constant, self.tasks = state["constant"], state["tasks"]


@dataclass(frozen=True)
class EWC(Method):
    """Teaching, with the pull of every episode that this object saw end.

    Args:
        labels: "sampled": drawn from the model, the Fisher information; "given": the records' own, the empirical one.
        records_per_pass: records of a forward and backward pass while importances are taken.
        seed: draws labels, together with the episode's name.
    """

    labels: str = "sampled"
    records_per_pass: int = 8
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.labels not in LABELS:
            raise InputError("labels", self.labels, did_you_mean(self.labels, LABELS))
        if self.records_per_pass < 1:
            raise InputError("records_per_pass", self.records_per_pass, "at least 1 record")
        if not isinstance(self.pull, Consolidation):
            raise InputError("pull", self.pull, "a Consolidation")

    @property
    def consolidation(self) -> Consolidation:
        """What holds the weights."""
        assert isinstance(self.pull, Consolidation)
        return self.pull

    def remember(self, model: nn.Module, name: str, records: Sequence[Encoded]) -> None:
        """Hold from now on what the model knows of these records, as if it had just been taught them.

        Args:
            model: at the weights that are to be held; one forward and backward pass over the records.
            name: of what is held; with `seed` it decides the labels drawn.
            records: what it knows: a past task, or text of the kind that it must not lose.
        """
        generator = torch.Generator().manual_seed(seed_of(self.seed, "ewc", name))
        loss: SampleLoss = sampled_answer_nll(generator) if self.labels == "sampled" else answer_nll
        device = next(model.parameters()).device

        def batches() -> Iterator[Batch]:
            for start in range(0, len(records), self.records_per_pass):
                chosen = range(start, min(start + self.records_per_pass, len(records)))
                yield collate(records, chosen, 0).to(device)

        held = self.select.of(Weights.of(model).trainable())
        self.consolidation.fold(fisher(model, batches(), loss, weights=held), held)

    def end(self, model: nn.Module, episode: Episode) -> None:
        self.remember(model, episode.name, episode.data["task"])

    def state_dict(self) -> dict[str, Any]:
        return self.consolidation.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.consolidation.load_state_dict(state)


def method(strength: float = 100.0, online: bool = False, decay: float = 1.0, labels: str = "sampled") -> EWC:
    """EWC on plain teaching.

    Args:
        strength: lambda, of which the penalty takes half.
        online: one anchor, the newest, instead of every task.
        decay: gamma of the online variant.
        labels: "sampled" or "given".
    """
    taught = teach()
    return EWC(
        taught.objective,
        pull=Consolidation(strength, decay if online else None),
        recipe=taught.recipe,
        labels=labels,
    )
