"""Selective synaptic dampening: scale down the weights that matter far more for the forget set than for all data.

One gradient pass over all data and one over the forget set, no training. With importances I_D and I_f, a weight is
selected where I_f > alpha * I_D, and multiplied by min(lambda * I_D / I_f, 1). An importance is the mean over batches
of the squared gradient of the batch's mean loss, so that alpha depends on the size of the batches and on their order:
both are fixed here, alike for both sets, and stand in the report. Label-free (LFSSD): the loss is the squared norm of
the logits, and the gradients' absolute values take the place of their squares. `dampen` does it to any module.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from remanent.core.batch import Batch, Encoded, collate
from remanent.core.catalogue import System
from remanent.core.displacement import Dampening, Undo
from remanent.core.edit import Edited, EditSettings, refuse_adapter
from remanent.core.importance import (
    SampleLoss,
    answer_nll,
    class_nll,
    fisher,
    importance,
    squared_answer_logits,
    squared_outputs,
    token_nll,
)
from remanent.core.sampling import seed_of
from remanent.core.weights import Weights
from remanent.errors import InputError, did_you_mean

SYSTEM = System(
    name="ssd",
    title="Selective synaptic dampening: scale down what matters for the forget set alone",
    year=2023,
    arxiv="2308.07707",
    card="ssd",
    family="unlearning",
    leaf="local/direct-edits",
    reproduction="tests/reproductions/test_ssd.py",
    needs=("forget", "retain"),
    views=("full",),
    notes="Batches are shuffled by the seed and of one size for both sets; the published loaders are in class order "
    "and may differ in size. Language models: the loss is the mean NLL of a batch's answer tokens.",
)
IMPORTANCES = ("batch", "record")


@dataclass(frozen=True)
class Damped:
    """Which weights are scaled down, and how.

    Args:
        dampening: the displacement.
        counts: weights that are scaled down, those among them that become 0, and all that were looked at.
        largest_ratio: the largest I_f / I_D where I_D is above 0.
    """

    dampening: Dampening
    counts: Mapping[str, int]
    largest_ratio: float


@torch.no_grad()
def damped(
    everything: Mapping[str, Tensor], forget: Mapping[str, Tensor], alpha: float = 10.0, strength: float = 1.0
) -> Damped:
    """SSD's rule on importances that are there already.

    Args:
        everything: I_D: name of the weight -> importance for all data, the forget set among them; reusable.
        forget: I_f, taken in the same way.
        alpha: a weight is selected where I_f > alpha * I_D; above 0.
        strength: lambda: a selected weight is multiplied by min(lambda * I_D / I_f, 1); at least 0.

    Source: arXiv 2308.07707, equations 5 and 6.
    """
    factors: dict[str, Tensor] = {}
    counts = {"damped": 0, "deleted": 0, "weights": 0}
    largest = 0.0
    for name, all_data in everything.items():
        of_forget = forget[name]
        counts["weights"] += all_data.numel()
        known = all_data > 0
        if known.any():
            largest = max(largest, float((of_forget[known] / all_data[known]).max()))
        selected = of_forget > alpha * all_data
        if selected.any():
            factor = torch.ones_like(all_data)
            factor[selected] = (strength * all_data[selected] / of_forget[selected]).clamp(max=1.0)
            counts["damped"] += int((factor < 1).sum())
            counts["deleted"] += int((factor == 0).sum())
            factors[name] = factor
    return Damped(Dampening(factors), counts, largest)


def importances(
    model: nn.Module,
    batches: Iterable[Any],
    loss: SampleLoss | None = None,
    *,
    label_free: bool = False,
    on_batch: Callable[[int], None] | None = None,
) -> dict[str, Tensor]:
    """I_S of a set: name of each weight -> mean over batches of (gradient of the batch's mean loss)^2.

    In eval mode, so that running statistics stay; the model is given back as it was.

    Args:
        model: any module.
        batches: of the set, of one size and in an order that is kept: what `loss` takes, on the model's device.
        loss: (model, batch) -> a loss for each sample, or their mean; default the cross-entropy of batches (inputs,
            labels), or label-free the squared norm of each sample's outputs.
        label_free: the mean of the gradient's absolute value in place of its square.
        on_batch: called after each batch with the number of its samples.

    Source: arXiv 2308.07707, equation 4 as its code has it; label-free: the authors' repository.
    """
    taken = loss or (squared_outputs if label_free else class_nll)
    options: dict[str, Any] = {"weights": Weights.of(model)}
    if not label_free:
        return importance(model, batches, taken, reduce="batch_mean_squared", on_batch=on_batch, **options)
    passed = []

    def count(samples: int) -> None:
        passed.append(samples)
        if on_batch is not None:
            on_batch(samples)

    sums = importance(model, batches, taken, reduce="sum_of_abs", unit="batch", on_batch=count, **options)
    return {name: value / len(passed) for name, value in sums.items()}


def dampen(
    model: nn.Module,
    everything: Iterable[Any] | Mapping[str, Tensor],
    forget: Iterable[Any],
    loss: SampleLoss | None = None,
    *,
    alpha: float = 10.0,
    strength: float = 1.0,
    label_free: bool = False,
    on_warning: Callable[[str], None] = lambda text: None,
) -> Edited:
    """SSD on any module: scale its weights in place; the result's `undo` takes that back, its `report` counts.

    Args:
        model: a classifier, or what `loss` takes.
        everything: batches of all data, the forget set among them, such as a DataLoader; or their `importances`, which
            serve for more than one request.
        forget: batches of the forget set, of the same size.
        loss: as `importances`.
        alpha: a weight is selected where I_f > alpha * I_D; above 0. The paper has 10 for ResNet-18 and 5 for a ViT.
        strength: lambda, at least 0.
        label_free: LFSSD.
        on_warning: called with a sentence.

    Raises:
        InputError: for a number out of range, no batch, or an alpha that selects no weight.
        UnsupportedError: for an adapter or packed weights.
    """
    refuse_adapter(SSD(alpha, strength, label_free=label_free), model)
    sizes: dict[str, list[int]] = {"all": [], "forget": []}
    if isinstance(everything, Mapping):
        of_all = everything
    else:
        of_all = importances(model, everything, loss, label_free=label_free, on_batch=sizes["all"].append)
    of_forget = importances(model, forget, loss, label_free=label_free, on_batch=sizes["forget"].append)
    largest = {name: max(of_set) for name, of_set in sizes.items() if of_set}
    if len(set(largest.values())) > 1:
        on_warning(
            f"batches of all data have {largest['all']} samples, of the forget set {largest['forget']}: alpha compares "
            "batches of one size"
        )
    found, undo = _scaled(model, of_all, of_forget, alpha, strength)
    return Edited({**_counted(found), "batch_size": largest}, undo)


def _scaled(
    model: nn.Module, of_all: Mapping[str, Tensor], of_forget: Mapping[str, Tensor], alpha: float, strength: float
) -> tuple[Damped, Undo]:
    found = damped(of_all, of_forget, alpha, strength)
    if found.counts["damped"] == 0:
        below = f"less: the largest ratio of importances is {found.largest_ratio:.3g}, so that no weight is damped"
        raise InputError("alpha", alpha, below)
    return found, found.dampening.apply(model)


def _counted(found: Damped) -> dict[str, Any]:
    return {
        **found.counts,
        "largest_ratio": found.largest_ratio,
        "by_weight": {name: int((f < 1).sum()) for name, f in found.dampening.factors.items()},
    }


@dataclass(frozen=True)
class SSD:
    """The edit on a language model: importances of the answers' NLL, then the rule.

    Args:
        alpha: as `damped`.
        strength: lambda, as `damped`.
        batch_size: records of a batch of either set; both get the forget set's size where that is smaller.
        importance: "batch", as published; or "record", the Fisher information: mean over records of the squared
            gradient of their own NLL.
        label_free: LFSSD.
    """

    alpha: float = 10.0
    strength: float = 1.0
    batch_size: int = 64
    importance: str = "batch"
    label_free: bool = False

    roles: ClassVar[tuple[str, ...]] = ("forget", "retain")
    refuses_adapter: ClassVar[str] = (
        "ssd scales weights in place: a new adapter's product is 0 however it is scaled, and packed weights cannot be"
    )

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("alpha", 0 < self.alpha < math.inf, "a finite number above 0"),
            ("strength", 0 <= self.strength < math.inf, "a finite number of at least 0"),
            ("batch_size", self.batch_size >= 1, "at least 1 record"),
            ("importance", self.importance in IMPORTANCES, did_you_mean(self.importance, IMPORTANCES)),
            ("label_free", not self.label_free or self.importance == "batch", "false, unless importance is 'batch'"),
        ):
            if not right:
                raise InputError(name, getattr(self, name), expected)

    def passes(self, sizes: Mapping[str, int]) -> int:
        return 2 * sizes["forget"] + sizes["retain"]

    def edit(self, model: nn.Module, data: Mapping[str, Sequence[Encoded]], settings: EditSettings) -> Edited:
        """Raises InputError where no weight is selected, UnsupportedError for an adapter or packed weights."""
        refuse_adapter(self, model)
        forget, everything = list(data["forget"]), [*data["forget"], *data["retain"]]
        size = min(self.batch_size, len(forget))
        if self.importance == "batch" and size < self.batch_size:
            settings.on_warning(
                f"the forget set has {size} records, so batches of both sets have {size} rather than {self.batch_size}"
            )
        most = len(everything) / len(forget)
        if self.importance == "record" and self.alpha >= most:
            settings.on_warning(
                f"alpha {self.alpha:g} selects nothing: by record, the forget set's importance is at most "
                f"{most:.3g} times that of all records, which it is a part of"
            )
        of_all = self._importances(model, everything, size, settings)
        of_forget = self._importances(model, forget, size, settings)
        found, undo = _scaled(model, of_all, of_forget, self.alpha, self.strength)
        report = {
            **_counted(found),
            "importance": self.importance,
            "batch_size": size,
            "batches": {"all": math.ceil(len(everything) / size), "forget": math.ceil(len(forget) / size)},
            "order": f"shuffled, seed {settings.seed}",
        }
        return Edited(report, undo)

    def _importances(
        self, model: nn.Module, records: Sequence[Encoded], size: int, settings: EditSettings
    ) -> dict[str, Tensor]:
        device = next(model.parameters()).device
        generator = torch.Generator().manual_seed(seed_of(settings.seed, "ssd", len(records)))
        order = torch.randperm(len(records), generator=generator).tolist()

        def batch(start: int) -> Batch:
            return collate(records, order[start : start + size], settings.pad_id).to(device)

        batches = map(batch, range(0, len(records), size))
        if self.importance == "record":
            options: dict[str, Any] = {"weights": Weights.of(model), "on_batch": settings.on_batch}
            return fisher(model, batches, answer_nll, on_warning=settings.on_warning, **options)
        loss = squared_answer_logits if self.label_free else token_nll
        return importances(model, batches, loss, label_free=self.label_free, on_batch=settings.on_batch)


def edit(
    alpha: float = 10.0,
    strength: float = 1.0,
    batch_size: int = 64,
    importance: str = "batch",
    label_free: bool = False,
) -> SSD:
    """SSD with the paper's defaults for classes.

    Args:
        alpha: a weight is damped where it matters more than alpha times as much for the forget set as for all data.
        strength: lambda: scales the factor.
        batch_size: records of a batch.
        importance: "batch", as published, or "record".
        label_free: LFSSD: from the logits' norm, without labels.
    """
    return SSD(alpha, strength, batch_size, importance, label_free)
