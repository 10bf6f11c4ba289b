"""RMU: representation misdirection. Hidden states of the forget set are steered to one random direction.

L_f = mean over records of the mean over scored tokens of mean_d (h_d - c_d)^2 at one layer, c = steering * u / ||u||
with u uniform in [0, 1); L_r = the same distance from the reference's hidden states, on retain. Nothing above the layer
is run, and only a few matrices below it train.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from remanent.core.activations import decoder_layers, hidden_states, labelled
from remanent.core.batch import Batch, collate
from remanent.core.catalogue import System
from remanent.core.episode import Episode
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.modes import evaluating
from remanent.core.predict import Predict
from remanent.core.selection import Selection
from remanent.errors import InputError

SYSTEM = System(
    name="rmu",
    title="RMU: hidden states steered to a random direction",
    year=2024,
    arxiv="2403.03218",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="local/direct-edits",
    reproduction="tests/reproductions/test_baselines.py",
    needs=("forget", "retain"),
    notes="Scored tokens only, as open-unlearning does; the released code takes all positions. One direction, since a "
    "forget set is one topic. Squares are divided by each record's own length; open-unlearning by every record's.",
)

_BATCH = 16  # records of a pass that measures hidden states


@dataclass(frozen=True)
class RMU(Objective):
    """L_f and L_r as above: squares in float32, mean over width, then a record's tokens, then records.

    Args:
        layer: index of the decoder layer, from 0; negative counts from the end.
        steering: length of the vector that hidden states are steered to, above 0.
        seed: of its direction.

    Source: Li et al., arXiv 2403.03218, section 4; open-unlearning's form.
    """

    layer: int
    steering: float
    seed: int = 0

    terms: ClassVar[Mapping[str, Term]] = {
        "forget": Term("record", ("forget",)),
        "retain": Term("record", ("retain",)),
    }

    def __post_init__(self) -> None:
        if not 0 < self.steering < math.inf:
            raise InputError("steering", self.steering, "a finite number above 0")

    def target(self, width: int) -> Tensor:
        """The vector that hidden states are steered to: float32, (width,), of length `steering`."""
        direction = torch.rand(width, generator=torch.Generator().manual_seed(self.seed))
        return direction.mul_(self.steering / float(torch.linalg.vector_norm(direction)))

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        if "retain" not in batches:
            return {}
        return {"retain": labelled(predict.hidden(batches["retain"], self.layer), batches["retain"])[0]}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        for role, batch in batches.items():
            states, rows = labelled(predict.hidden(batch, self.layer), batch)
            wanted = self.target(states.shape[-1]).to(states.device) if role == "forget" else batch.live
            if wanted is None:
                raise InputError(f"batches['{role}'].live", None, "the reference model's hidden states of each token")
            squares = (states.float() - wanted.float()).square().mean(dim=-1)
            lengths = rows.bincount(minlength=len(batch))
            found[role] = (squares / lengths[rows]).sum()
        return found


@dataclass(frozen=True)
class RMUMethod(Method):
    """RMU's composition.

    Args:
        relative: the steering length is counted in mean lengths of the forget set's hidden states at the start.
        modules: part of the names of the modules that train, in the layers from two below the layer on.
    """

    relative: bool = False
    modules: str = ""

    def begin(self, model: nn.Module, episode: Episode) -> Method:
        """Finds the layer in the model; raises InputError where it has none of that number."""
        objective = self.objective
        assert isinstance(objective, RMU)
        count = len(decoder_layers(model))
        if not -count <= objective.layer < count:
            expected = f"a layer from 0 to {count - 1} of this model, or -1 to {-count}, counted from its last"
            raise InputError("rmu.layer", objective.layer, expected)
        layer = objective.layer % count
        select = self.select
        if self.modules and select.names == _names(objective.layer, self.modules):  # not the user's own
            select = replace(select, names=_names(layer, self.modules))
        if self.relative:
            objective = replace(objective, steering=objective.steering * _mean_length(model, episode, layer))
        return replace(self, objective=replace(objective, layer=layer), select=select, relative=False)


def _names(layer: int, modules: str) -> tuple[str, ...]:
    """Patterns of what trains; of all layers while a model has not yet said which one a negative number is."""
    if layer < 0:
        return (f"*.{modules}.*",)
    return tuple(f"*.{index}.{modules}.*" for index in range(max(0, layer - 2), layer + 1))


@torch.no_grad()
def _mean_length(model: nn.Module, episode: Episode, layer: int) -> float:
    """Mean length of the forget set's hidden states at a layer, over scored tokens, in eval mode."""
    records, device = episode.data["forget"], next(model.parameters()).device
    total, tokens = 0.0, 0
    with evaluating(model):
        for start in range(0, len(records), _BATCH):
            indices = range(start, min(start + _BATCH, len(records)))
            batch = collate(records, list(indices), pad_id=0).to(device)  # the mask hides what fills rows
            states, _ = labelled(hidden_states(model, batch, layer), batch)
            total += float(torch.linalg.vector_norm(states.float(), dim=-1).sum())
            tokens += len(states)
    return total / max(1, tokens)


def method(
    layer: int = 7,
    steering: float = 20.0,
    relative: bool = False,
    modules: str = "mlp.down_proj",
    seed: int = 0,
    forget_weight: float = 1.0,
    retain_weight: float = 1.0,
) -> Method:
    """RMU with the defaults of open-unlearning's class.

    Args:
        layer: index of the decoder layer, from 0; negative counts from the end.
        steering: s, length of the vector that hidden states are steered to.
        relative: count `steering` in mean lengths of the forget set's hidden states at the start.
        modules: what trains, in that layer and the two below it: part of the modules' names.
        seed: of the direction.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    return RMUMethod(
        RMU(layer, steering, seed),
        weights={"forget": forget_weight, "retain": retain_weight},
        select=Selection(names=_names(layer, modules)),
        recipe=Recipe(),
        relative=relative,
        modules=modules,
    )
