"""Probe-geometry alignment, trained: what a probe reads at each depth is made alike for forget and retain.

Every K updates a logistic regression behind a scaler is fitted at each depth to tell the states of the forget records
from those of as many retain records, at the last token of the prompt. Its direction w_d, of length 1 and held fixed
until the next fit, gives the loss

L_a = mean over pairs and depths of ( w_d . (h_d(forget) - h_d(retain)) )^2,

beside the token mean NLL of retain. Gradients flow through both states. What it removes is what a linear probe sees;
whether the model still answers is another question.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from remanent.core.activations import asked_states, decoder_layers, even_depths, states_of
from remanent.core.batch import Batch, Encoded
from remanent.core.catalogue import System
from remanent.core.episode import Episode
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.core.probe import fit_probe
from remanent.errors import InputError

SYSTEM = System(
    name="pga",
    title="Probe-geometry alignment: forget and retain made alike along a probe's direction at each depth",
    year=2026,
    arxiv="2605.01699",
    card="pga",
    family="unlearning",
    leaf="global/representations",
    reproduction="tests/reproductions/test_pga.py",
    needs=("forget", "retain"),
    notes="Pairs are drawn by batch, not fixed. The published accuracies below chance are what leaving one pair out "
    "gives on pure noise once an eraser has seen that pair; the audit here fits erasers without it.",
)


@dataclass(frozen=True)
class PGA(Objective):
    """L_a as above; L_r = token mean NLL of retain. Squares in float32; pairs by their place in the batch.

    Args:
        depths: where states are compared: d is after the d-th layer.
        directions: depth -> w_d, float32, (width,), detached. Filled by the method, and changed by it in place.

    Source: arXiv 2605.01699, the authors' notebooks; divided by pairs and depths, as in their Pythia runs.
    """

    depths: tuple[int, ...] = ()
    directions: dict[int, Tensor] = field(default_factory=dict, compare=False, repr=False)

    terms: ClassVar[Mapping[str, Term]] = {
        "align": Term("record", ("forget", "retain")),
        "retain": Term("token", ("retain",)),
    }

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches and "retain" in batches:
            found["align"] = self.align(batches["forget"], batches["retain"], predict)
        if "retain" in batches:
            found["retain"] = -predict(batches["retain"]).log_probs.sum()
        return found

    def align(self, forget: Batch, retain: Batch, predict: Predict) -> Tensor:
        """Sum over pairs of the mean over depths; records that have no partner in the batch add nothing."""
        if not self.directions:
            raise InputError("directions", "none", "those of a probe, which the method's `begin` fits")
        pairs = min(len(forget), len(retain))
        ours, theirs = (predict.stream(batch, self.depths) for batch in (forget, retain))
        total = torch.zeros((), device=forget.input_ids.device)
        for depth in self.depths:
            apart = (
                asked_states(ours[depth], forget)[:pairs].float() - asked_states(theirs[depth], retain)[:pairs].float()
            )
            total = total + (apart @ self.directions[depth].to(apart.device)).square().sum()
        return total / len(self.depths)

    def counted(self, term: str, batches: Mapping[str, Batch]) -> int:
        if term == "align":
            return min(len(batches["forget"]), len(batches["retain"]))
        return super().counted(term, batches)


@dataclass(frozen=True)
class PGAMethod(Method):
    """PGA's composition, which fits the probes anew every `refit` updates.

    Args:
        count: at how many depths, evenly spaced up to the last layer; 0 at each.
        refit: updates between fits.
        strength: C of the logistic regression.
        records: role -> the records that probes are fitted on, as many of each; set by `begin`.
    """

    count: int = 0
    refit: int = 25
    strength: float = 1.0
    records: Mapping[str, Sequence[Encoded]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, right, expected in (
            ("depths", self.count >= 0, "a number of depths, or 0 for all"),
            ("refit", self.refit >= 1, "at least 1 update"),
            ("strength", 0 < self.strength < float("inf"), "a finite number above 0"),
        ):
            if not right:
                raise InputError(name, self.count if name == "depths" else getattr(self, name), expected)

    def begin(self, model: nn.Module, episode: Episode) -> Method:
        """The same method with the model's depths and its first directions."""
        for role in ("forget", "retain"):
            if role not in episode.data:
                raise InputError("data", ", ".join(episode.data) or "none", f"records for '{role}', for the probes")
        count = min(len(episode.data["forget"]), len(episode.data["retain"]))
        records = {role: _spread(episode.data[role], count) for role in ("forget", "retain")}
        depths = even_depths(len(decoder_layers(model)), self.count)
        objective = PGA(depths, {})
        begun = replace(self, objective=objective, records=records)
        objective.directions.update(begun.fitted(model))
        return begun

    def fitted(self, model: nn.Module) -> dict[int, Tensor]:
        """The direction at each depth, by probes on all of the records, in eval mode."""
        assert isinstance(self.objective, PGA)
        depths = self.objective.depths
        ours, theirs = (states_of(model, self.records[role], depths) for role in ("forget", "retain"))
        positive = torch.arange(2 * len(self.records["forget"])) < len(self.records["forget"])
        return {
            depth: fit_probe(torch.cat([ours[depth], theirs[depth]]), positive, self.strength).direction.float()
            for depth in depths
        }

    def after_update(self, model: nn.Module, step: int) -> None:
        assert isinstance(self.objective, PGA)
        if step % self.refit == 0:
            self.objective.directions.update(self.fitted(model))

    def state_dict(self) -> dict[str, Any]:
        assert isinstance(self.objective, PGA)
        return {"directions": {str(depth): value for depth, value in self.objective.directions.items()}}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        assert isinstance(self.objective, PGA)
        # Cloned, since a file's tensor may lie in memory where a product of it is rounded otherwise.
        self.objective.directions.update({int(depth): value.clone() for depth, value in state["directions"].items()})


def _spread(records: Sequence[Encoded], count: int) -> list[Encoded]:
    return [records[number * len(records) // count] for number in range(count)]


def method(
    depths: int = 0,
    refit: int = 25,
    strength: float = 1.0,
    align_weight: float = 1.0,
    retain_weight: float = 1.0,
) -> Method:
    """PGA with the defaults of the authors' Pythia-70M runs.

    Args:
        depths: at how many depths, evenly spaced up to the last layer; 0 is after every layer.
        refit: K, updates between fits of the probes.
        strength: C of the logistic regressions.
        align_weight: lambda_a.
        retain_weight: lambda_c.
    """
    return PGAMethod(
        PGA(),
        weights={"align": align_weight, "retain": retain_weight},
        recipe=Recipe(
            learning_rate=1e-4,
            steps=200,
            batch_size=8,
            schedule="constant",
            warmup=0.0,
            weight_decay=0.0,
            max_grad_norm=None,
        ),
        count=depths,
        refit=refit,
        strength=strength,
    )
