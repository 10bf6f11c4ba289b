"""Who's Harry Potter: fine-tuning on what the model would say had it not read the text.

A reinforced model, the same one trained further on the forget set, shows by what it raises which tokens the text
speaks for. The label at each position is the likeliest token of v = v_base - alpha ReLU(v_reinforced - v_base), v being
logits, and the model is fine-tuned on these labels in the answers' place. They are found once, before the first update.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from remanent.core.batch import IGNORED, Batch, Encoded, collate
from remanent.core.catalogue import System
from remanent.core.displacement import Interpolation, Relearning
from remanent.core.episode import Episode
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.model_inputs import logits_of, one_pass
from remanent.core.modes import evaluating
from remanent.core.predict import Predict
from remanent.core.sampling import Sampler
from remanent.core.weights import Weights
from remanent.errors import InputError

SYSTEM = System(
    name="whp",
    title="Who's Harry Potter: fine-tuning on generic labels from a reinforced model",
    year=2023,
    arxiv="2310.02238",
    card="llm-unlearning-baselines",
    family="unlearning",
    leaf="global/generic-alternatives",
    reproduction="tests/reproductions/test_objectives.py",
    needs=("forget",),
    notes="Reinforcement alone: the paper also replaces names by generic ones, from a list that a larger model writes. "
    "Labels at answer positions only.",
)

_BATCH = 8  # records of a pass that finds labels


@dataclass(frozen=True)
class WHP(Objective):
    """L_f = token mean NLL of the generic labels, given the record's own text before each.

    Args:
        labels: index of the record -> its labels, int64, (scored tokens,); found by `GenericLabels.begin`.

    Source: Eldan and Russinovich, arXiv 2310.02238, section 2.
    """

    labels: Mapping[int, Tensor] = field(default_factory=dict, repr=False, compare=False)

    terms: ClassVar[Mapping[str, Term]] = {"forget": Term("token", ("forget",))}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        batch = batches["forget"]
        records = batch.records.tolist()
        if any(record not in self.labels for record in records):
            raise InputError("labels", f"those of {len(self.labels)} records", "what `begin` finds for the forget set")
        distribution = predict(batch).distribution
        wanted = torch.cat([self.labels[record] for record in records]).to(distribution.device)
        return {"forget": functional.nll_loss(distribution, wanted, reduction="sum")}


@dataclass(frozen=True)
class GenericLabels(Method):
    """Fine-tuning on labels that a reinforced model makes generic.

    Args:
        alpha: how much of what was raised is taken off, at least 0; with 0 the model is taught its own answers.
        reinforce_epochs: passes of the reinforced model over the forget set.
        reinforce_rate: its learning rate.
        seed: of the order of its batches, and of dropout.
    """

    alpha: float = 5.0
    reinforce_epochs: float = 3.0
    reinforce_rate: float = 3e-6
    seed: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.alpha < math.inf:  # NaN is not
            raise InputError("alpha", self.alpha, "a finite number of at least 0")
        for name in ("reinforce_epochs", "reinforce_rate"):
            if not 0 < getattr(self, name) < math.inf:
                raise InputError(name, getattr(self, name), "a finite number above 0")

    def begin(self, model: nn.Module, episode: Episode) -> Method:
        """The same method with its labels. Deterministic: a run that is resumed starts here with the same model.

        No second model: the weights of the reinforced one are kept, and put in for a pass.
        """
        if "forget" not in episode.data:
            raise InputError("data", ", ".join(episode.data) or "none", "records for 'forget', which are relabelled")
        records = episode.data["forget"]
        weights = Weights.of(model).trainable()
        with self._reinforcement(records).at(model):
            reinforced = Interpolation({name: tensor.detach().clone() for name, tensor in weights.items()}, 1.0)
        labels: dict[int, Tensor] = {}
        with evaluating(model):
            for batch in _batches(records, next(model.parameters()).device):
                base = _logits(model, batch)
                with reinforced.at(weights):
                    raised = functional.relu(_logits(model, batch) - base)
                found = (base - self.alpha * raised).argmax(dim=-1).cpu()
                sizes = (batch.labels[:, 1:] != IGNORED).sum(dim=1).tolist()
                labels |= dict(zip(batch.records.tolist(), torch.split(found, sizes), strict=True))
        return replace(self, objective=WHP(labels))

    def passes_beforehand(self, sizes: Mapping[str, int]) -> int:
        """Those of the reinforced model, in whole batches."""
        size, steps = self._reinforced(sizes["forget"])
        return size * steps

    def _reinforced(self, records: int) -> tuple[int, int]:
        """Records of a batch of the reinforced model, and its updates."""
        size = min(self.recipe.batch_size, records)
        return size, max(1, math.ceil(self.reinforce_epochs * records / size))

    def _reinforcement(self, records: Sequence[Encoded]) -> Relearning:
        size, steps = self._reinforced(len(records))
        sampler = Sampler(len(records), size, self.seed, "reinforced")
        batches = [collate(records, sampler.batch(step), 0) for step in range(1, steps + 1)]
        return Relearning(batches, steps, self.reinforce_rate, seed=self.seed)


def _batches(records: Sequence[Encoded], device: torch.device) -> Iterator[Batch]:
    for start in range(0, len(records), _BATCH):
        yield collate(records, range(start, min(start + _BATCH, len(records))), 0).to(device)  # padding is masked


@torch.no_grad()
def _logits(model: nn.Module, batch: Batch) -> Tensor:
    """The logits that scored tokens are predicted by, as the model gives them: float32, (tokens, vocabulary)."""
    output = one_pass(model, batch.input_ids, batch.attention_mask)
    return logits_of(output)[:, :-1][batch.labels[:, 1:] != IGNORED].float()


def method(alpha: float = 5.0, reinforce_epochs: float = 3.0, reinforce_rate: float = 3e-6, seed: int = 0) -> Method:
    """Who's Harry Potter with the paper's settings.

    Args:
        alpha: how much of what was raised is taken off.
        reinforce_epochs: passes of the reinforced model over the forget set.
        reinforce_rate: its learning rate.
        seed: of its training.
    """
    return GenericLabels(
        WHP(),
        recipe=Recipe(learning_rate=1e-6, epochs=2, batch_size=128),
        alpha=alpha,
        reinforce_epochs=reinforce_epochs,
        reinforce_rate=reinforce_rate,
        seed=seed,
    )
