"""USEFUL: records without what is learnt first are told apart by an early model's output, and repeated once.

Per class, 2-means on the outputs of a model of a few epochs; the cluster with the higher mean loss is slow, and each of
its records stands `factor` times in the data on which training starts again from the same weights.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.cluster.vq import ClusterError, kmeans2
from torch import Tensor, nn
from torch.utils.data import Dataset, RandomSampler, Sampler, Subset

from remanent.core.catalogue import System
from remanent.core.files import read_json, write_json
from remanent.core.modes import evaluating
from remanent.errors import InputError, IntegrityError

SYSTEM = System(
    name="useful",
    title="Upsample early for uniform learning: what is learnt late is repeated once",
    year=2024,
    arxiv="2404.17768",
    card="useful",
    family="data",
    reproduction="tests/reproductions/test_useful.py",
    needs=("class labels", "a model of a few epochs"),
    notes="No official code could be read: k-means++ of 10 restarts, on logits. A class of fewer than 3 records, or "
    "whose outputs are all alike, is left as it is and named.",
)

_LEAST = 3  # records of a class that is clustered
_RESTARTS, _ITERATIONS = 10, 100
_FORMAT = "remanent-useful-1"


@dataclass(frozen=True)
class ClassClusters:
    """The two clusters of one class.

    Args:
        label: the class.
        records: in it.
        slow: of them, with the higher mean loss; 0 where the class was left as it is.
        fast_loss: mean loss of the cluster learnt early, in nats; None where the class was left as it is.
        slow_loss: of the other.
        reason: why it was; "" where it was not.
    """

    label: int
    records: int
    slow: int = 0
    fast_loss: float | None = None
    slow_loss: float | None = None
    reason: str = ""


@dataclass(frozen=True)
class Useful:
    """Which records to repeat.

    Args:
        records: in the data set.
        slow: their indices, ascending, from 0.
        factor: how often each slow record stands in the new data, at least 1; the others stand there once.
        classes: one for each label.
    """

    records: int
    slow: tuple[int, ...]
    factor: int = 2
    classes: tuple[ClassClusters, ...] = ()

    def __post_init__(self) -> None:
        if self.factor < 1:
            raise InputError("factor", self.factor, "a whole number of at least 1")

    @property
    def indices(self) -> list[int]:
        """Every index once, then the slow ones factor - 1 times more: to be shuffled, not read in order."""
        return [*range(self.records), *self.slow * (self.factor - 1)]

    def dataset(self, dataset: Dataset[Any]) -> Subset[Any]:
        """A view of a data set with the repeats, without a copy; each repeat is augmented by itself."""
        self._check(dataset)
        return Subset(dataset, self.indices)

    def sampler(self, dataset: Dataset[Any], generator: torch.Generator | None = None) -> Sampler[int]:
        """Indices of a data set in a new random order each epoch, repeats included, for `DataLoader(sampler=...)`.

        With a factor of 1 the order is that of `DataLoader(shuffle=True)`, bit for bit.
        """
        self._check(dataset)
        return _Upsampled(self.indices, generator)

    def save(self, file: Path) -> None:
        """Write as JSON."""
        write_json(file, {"format": _FORMAT, **asdict(self)})

    @classmethod
    def load(cls, file: Path) -> Useful:
        """Read what `save` wrote. Raises IntegrityError where it is something else."""
        data = read_json(file)
        if not isinstance(data, dict) or data.get("format") != _FORMAT:
            raise IntegrityError(f"{file}: is no list of records to repeat ({_FORMAT})")
        classes = tuple(ClassClusters(**item) for item in data["classes"])
        return cls(data["records"], tuple(data["slow"]), data["factor"], classes)

    def _check(self, dataset: Any) -> None:
        if len(dataset) != self.records:
            raise InputError("dataset", f"{len(dataset)} records", f"the {self.records} that were clustered")


class _Upsampled(Sampler[int]):
    def __init__(self, indices: Sequence[int], generator: torch.Generator | None) -> None:
        self.indices = indices
        self.order = RandomSampler(indices, generator=generator)

    def __iter__(self) -> Iterator[int]:
        return (self.indices[place] for place in self.order)

    def __len__(self) -> int:
        return len(self.indices)


def useful(outputs: Tensor, labels: Tensor, *, losses: Tensor | None = None, factor: int = 2, seed: int = 0) -> Useful:
    """Cluster each class by the output of a model that was trained for a few epochs, and choose what to repeat.

    Args:
        outputs: of every record in the data set's order, in eval mode and without augmentation: logits,
            (records, classes), or any other output, (records, numbers).
        labels: int64, (records,).
        losses: (records,), in nats; None is the cross entropy of `outputs` as logits.
        factor: how often a slow record stands in the new data, at least 1; the paper's best is 2.
        seed: of k-means.

    Of two clusters with the same mean loss the smaller is slow.

    Raises InputError for shapes that do not fit, or numbers that are not finite.

    Source: arXiv 2404.17768, Algorithm 1.
    """
    if outputs.dim() != 2 or labels.shape != outputs.shape[:1]:
        found = f"outputs {tuple(outputs.shape)}, labels {tuple(labels.shape)}"
        raise InputError("outputs", found, "(records, numbers) and (records,)")
    if losses is None:
        if labels.dtype != torch.int64 or not 0 <= int(labels.min()) <= int(labels.max()) < outputs.shape[1]:
            expected = f"int64 from 0 to {outputs.shape[1] - 1}, or losses of your own"
            raise InputError("labels", f"{labels.dtype}, up to {int(labels.max())}", expected)
        losses = nn.functional.cross_entropy(outputs.double(), labels, reduction="none")
    if losses.shape != labels.shape:
        raise InputError("losses", tuple(losses.shape), f"({len(labels)},)")
    for name, values in (("outputs", outputs), ("losses", losses)):
        if not bool(torch.isfinite(values).all()):
            raise InputError(name, "a number that is not finite", "finite numbers")
    points, costs = outputs.detach().double().cpu().numpy(), losses.detach().double().cpu().numpy()
    draws = np.random.default_rng(seed)
    classes: list[ClassClusters] = []
    chosen: list[int] = []
    for label in labels.unique().tolist():  # type: ignore[no-untyped-call]
        rows = np.flatnonzero(labels.cpu().numpy() == label)
        sides, reason = _two_means(points[rows], draws)
        if sides is None:
            classes.append(ClassClusters(label, len(rows), reason=reason))
            continue
        means = [float(costs[rows][sides == side].mean()) for side in (0, 1)]
        smaller = int((sides == 1).sum() <= (sides == 0).sum())
        slow = smaller if means[0] == means[1] else int(means[1] > means[0])
        picked = rows[sides == slow]
        chosen += picked.tolist()
        classes.append(ClassClusters(label, len(rows), len(picked), means[1 - slow], means[slow]))
    return Useful(len(labels), tuple(sorted(chosen)), factor, tuple(classes))


def early_outputs(model: nn.Module, batches: Iterable[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """A model's outputs and the labels, of every record: float32 and int64, on the CPU.

    The model is in eval mode meanwhile, and afterwards as it was.

    Args:
        model: returns the output, or an object with `logits`.
        batches: (inputs, labels) on the model's device, in the data set's order: a DataLoader without shuffling, over
            the data without augmentation.
    """
    outputs, labels = [], []
    with evaluating(model), torch.no_grad():
        for inputs, classes in batches:
            made = model(inputs)
            outputs.append(getattr(made, "logits", made).float().cpu())
            labels.append(classes.cpu())
    return torch.cat(outputs), torch.cat(labels)


def elbow(errors: Sequence[float]) -> int:
    """The epoch, from 1, after which the training error falls slowly: farthest below the line from first to last.

    Args:
        errors: training error after each epoch of a plain run.

    Raises InputError for fewer than 3 epochs.
    """
    if len(errors) < 3:
        raise InputError("errors", len(errors), "at least 3 epochs")
    line = np.linspace(errors[0], errors[-1], len(errors))
    return int(np.argmax(line - np.asarray(errors))) + 1


def _two_means(points: Any, draws: np.random.Generator) -> tuple[Any, str]:
    """Side of each point, 0 or 1; None, with the reason, where there are no two clusters."""
    if len(points) < _LEAST:
        return None, f"fewer than {_LEAST} records"
    if np.ptp(points, axis=0).max() == 0:
        return None, "outputs all alike"
    best, least = None, np.inf
    for _ in range(_RESTARTS):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                centers, sides = kmeans2(points, 2, iter=_ITERATIONS, minit="++", missing="raise", seed=draws)
        except ClusterError:  # a cluster ran empty; another start may do better
            continue
        spread = float(((points - centers[sides]) ** 2).sum())
        if spread < least and 0 < sides.sum() < len(sides):
            best, least = sides, spread
    return best, "" if best is not None else "one cluster always ran empty"
