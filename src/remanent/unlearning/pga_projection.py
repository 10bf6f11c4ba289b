"""Probe-geometry erasure without training: a probe's direction at each depth is projected out of the residual stream.

At each depth a logistic regression tells the states of forget records from those of as many retain records, and its
direction is erased. With `rounds` an attacker fits again on what is left, and each direction that it finds is erased
too, until no probe of a held-out record does better than 55 %. `spectral` takes instead the leading eigenvectors of

(m_f - m_r)(m_f - m_r)^T + S_f - S_r

over all tokens. `erase` gives hooks, one subspace for each depth; the edit writes the union of them all into the
weights, so that nothing writes along it up to the last of those depths.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from remanent.core.activations import asked_states, decoder_layers, even_depths, every_state, states_of
from remanent.core.batch import Batch, Encoded
from remanent.core.catalogue import System
from remanent.core.displacement import Erasure, Subspace, UnwrittenDirections
from remanent.core.displacement.erasure import install
from remanent.core.edit import Edited, EditSettings, refuse_adapter
from remanent.core.intervention import put_on
from remanent.core.probe import Scaler, fit_probe
from remanent.core.separation import paired, separation
from remanent.errors import InputError, UnsupportedError, did_you_mean

SYSTEM = System(
    name="pga-projection",
    title="Probe-geometry erasure: a probe's directions projected out of the residual stream",
    year=2026,
    arxiv="2605.01699",
    card="pga",
    family="unlearning",
    leaf="architecture/linear-transformation",
    reproduction="tests/reproductions/test_pga.py",
    needs=("forget", "retain"),
    notes="The paper has hooks; the change of weights is ours, and clears the union of all depths' directions. "
    "Directions are found among the states as they are, not in the scaled space of the paper.",
)
DIRECTIONS = ("probe", "spectral")
_FOUND = 0.55  # accuracy on held-out records at which an attacker has found nothing
_NEW = 1e-4  # length of a new direction beside those erased already
_CLEAR = 1e-3  # of the stream's own length: what float32 leaves along a direction that nothing writes


@dataclass(frozen=True)
class Found:
    """Directions to erase.

    Args:
        subspaces: depth -> directions and mean.
        rounds: how often an attacker fitted again.
        accuracy: depth -> the last attacker's accuracy on held-out records; empty without rounds.
    """

    subspaces: Mapping[int, Subspace]
    rounds: int
    accuracy: Mapping[int, float]


@dataclass(frozen=True, eq=False)
class ErasedStream:
    """The hooks as an intervention, to be saved beside the weights.

    Args:
        subspaces: depth -> directions and mean.
    """

    subspaces: Mapping[int, Subspace]

    kind: ClassVar[str] = "pga-projection"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {"depths": list(self.subspaces)}

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {
            f"{depth}.{name}": getattr(item, name)
            for depth, item in self.subspaces.items()
            for name in ("basis", "mean")
        }

    def install(self, model: nn.Module) -> Callable[[], None]:
        return install(model, self.subspaces)


def restored(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> ErasedStream:
    """The intervention of what was saved."""
    return ErasedStream(
        {depth: Subspace(tensors[f"{depth}.basis"], tensors[f"{depth}.mean"]) for depth in settings["depths"]}
    )


@dataclass(frozen=True)
class PGAProjection:
    """The edit.

    Args:
        depths: at how many depths, evenly spaced up to the last layer; 0 after every layer.
        directions: "probe", or "spectral", the paper's MD-PGA.
        rank: directions at each depth; of "probe" it must be 1, more come by `rounds`.
        rounds: most fits of an attacker after the first.
        strength: C of the logistic regressions.
        hooks: put hooks round the model, an intervention, in the place of changing its weights.
    """

    depths: int = 0
    directions: str = "probe"
    rank: int = 1
    rounds: int = 0
    strength: float = 1.0
    hooks: bool = False

    roles: ClassVar[tuple[str, ...]] = ("forget", "retain")

    def __post_init__(self) -> None:
        if self.directions not in DIRECTIONS:
            raise InputError("directions", self.directions, did_you_mean(self.directions, DIRECTIONS))
        for name, right, expected in (
            ("depths", self.depths >= 0, "a number of depths, or 0 for all"),
            ("rank", self.rank >= 1, "at least 1 direction"),
            ("rank", self.rank == 1 or self.directions == "spectral", "1 with directions 'probe'; rounds add more"),
            ("rounds", self.rounds >= 0, "at least 0"),
            ("strength", 0 < self.strength < float("inf"), "a finite number above 0"),
        ):
            if not right:
                raise InputError(name, getattr(self, name), expected)

    @property
    def refuses_adapter(self) -> str:
        if self.hooks:
            return ""
        return (
            "pga-projection changes the matrices that write into the residual stream, which an adapter does not hold "
            "and packing closes; with hooks=true it changes none"
        )

    def passes(self, sizes: Mapping[str, int]) -> int:
        return 2 * min(sizes["forget"], sizes["retain"]) * (1 + self.rounds)

    def find(
        self,
        model: nn.Module,
        forget: Sequence[Encoded],
        retain: Sequence[Encoded],
        on_batch: Callable[[int], None] = lambda records: None,
    ) -> Found:
        """The directions, by depth. As many records of each kind are used as the smaller set has."""
        count = min(len(forget), len(retain))
        ours, theirs = forget[:count], [retain[number * len(retain) // count] for number in range(count)]
        depths = even_depths(len(decoder_layers(model)), self.depths)
        positive = torch.arange(2 * count) < count
        groups = paired([record.group for record in ours], [record.group for record in theirs])

        def both(taken: Callable[[Tensor, Batch], Tensor] = asked_states) -> dict[int, tuple[Tensor, Tensor]]:
            found = [states_of(model, records, depths, taken, on_batch=on_batch) for records in (ours, theirs)]
            return {depth: (found[0][depth], found[1][depth]) for depth in depths}

        subspaces: dict[int, Subspace] = {}
        scalers: dict[int, Scaler] = {}
        for depth, (one, two) in both(asked_states if self.directions == "probe" else every_state).items():
            rows = torch.cat([one, two])
            scalers[depth] = Scaler.of(rows)
            if self.directions == "spectral":
                basis = spectral(one, two, self.rank)
            else:
                basis = fit_probe(rows, positive, self.strength).direction[:, None]
            subspaces[depth] = Subspace(basis.float(), rows.mean(dim=0))
        accuracy: dict[int, float] = {}
        for number in range(self.rounds):
            with Erasure(subspaces).at(model):
                rest = {depth: torch.cat(pair) for depth, pair in both().items()}
            accuracy = {
                depth: separation(rows, positive, groups, strength=self.strength, permutations=0).accuracy
                for depth, rows in rest.items()
            }
            if max(accuracy.values()) < _FOUND:
                return Found(subspaces, number, accuracy)
            for depth, rows in rest.items():
                again = fit_probe(rows, positive, self.strength, scalers[depth]).direction[:, None].float()
                subspaces[depth] = _with(subspaces[depth], again)
        return Found(subspaces, self.rounds, accuracy)

    def erase(self, model: nn.Module, forget: Sequence[Encoded], retain: Sequence[Encoded]) -> Erasure:
        """Hooks, for `with erasure.at(model):`. The weights stay."""
        return Erasure(self.find(model, forget, retain).subspaces)

    def edit(self, model: nn.Module, data: Mapping[str, Sequence[Encoded]], settings: EditSettings) -> Edited:
        """Raises UnsupportedError where something else than the known matrices writes into the stream, and without
        hooks for an adapter or packed weights."""
        refuse_adapter(self, model)
        found = self.find(model, data["forget"], data["retain"], settings.on_batch)
        by_depth = {str(depth): item.rank for depth, item in found.subspaces.items()}
        attackers = {str(depth): value for depth, value in found.accuracy.items()}
        report: dict[str, Any] = {"by_depth": by_depth, "rounds": found.rounds, "attackers_accuracy": attackers}
        if self.hooks:
            made = ErasedStream(found.subspaces)
            return Edited({"intervention": made.kind, "weights_changed": 0, **report}, put_on(model, made))
        union = joined(found.subspaces)
        deepest = max(found.subspaces)
        undo = UnwrittenDirections(union, deepest).apply(model)
        try:
            left = _left(model, [*data["forget"][:4], *data["retain"][:4]], union, deepest)
            if left > _CLEAR:
                raise UnsupportedError(
                    f"{left:.2g} of the residual stream still lies along directions that no known matrix writes: "
                    "something else writes into it, so that only hooks can erase them (Erasure)"
                )
        except BaseException:
            undo.undo()
            raise
        return Edited({"directions": union.rank, **report, "left_along_them": left}, undo)


def spectral(ours: Tensor, theirs: Tensor, rank: int) -> Tensor:
    """The eigenvectors of (m_1 - m_2)(m_1 - m_2)^T + S_1 - S_2 whose eigenvalues are largest in size: (width, rank).

    Args:
        ours, theirs: (rows, width); the larger set is thinned evenly to as many rows as the smaller has.
        rank: at most the width.
    """
    count = min(len(ours), len(theirs))
    one, two = (rows[torch.arange(count) * len(rows) // count].double() for rows in (ours, theirs))
    if not 1 <= rank <= one.shape[1]:
        raise InputError("rank", rank, f"from 1 to {one.shape[1]}, the width")
    apart = one.mean(dim=0) - two.mean(dim=0)
    values, vectors = torch.linalg.eigh(torch.outer(apart, apart) + one.T.cov(correction=0) - two.T.cov(correction=0))
    chosen: Tensor = vectors[:, values.abs().argsort(descending=True)[:rank]]
    return chosen


def joined(subspaces: Mapping[int, Subspace]) -> Subspace:
    """The span of all depths' directions, and the mean over depths of their means."""
    vectors = torch.cat([item.basis for item in subspaces.values()], dim=1).double()
    left, values, _ = torch.linalg.svd(vectors, full_matrices=False)
    basis = left[:, values > _NEW * values[0]]
    return Subspace(basis.float(), torch.stack([item.mean for item in subspaces.values()]).mean(dim=0))


def _with(subspace: Subspace, direction: Tensor) -> Subspace:
    """One direction more, where it is one beside those that are there."""
    for _ in range(2):  # once more, since the first subtraction leaves rounding errors
        direction = direction - subspace.basis @ (subspace.basis.T @ direction)
    length = torch.linalg.vector_norm(direction)
    if length < _NEW:
        return subspace
    return Subspace(torch.cat([subspace.basis, direction / length], dim=1), subspace.mean)


def _left(model: nn.Module, records: Sequence[Encoded], subspace: Subspace, deepest: int) -> float:
    """What of the stream lies along the directions, beside the constant: the largest share over all depths."""
    shares = []
    for states in states_of(model, records, range(deepest + 1), every_state).values():
        apart = (states - subspace.mean) @ subspace.basis
        shares.append(float(torch.linalg.vector_norm(apart) / torch.linalg.vector_norm(states)))
    return max(shares)


def edit(
    depths: int = 0,
    directions: str = "probe",
    rank: int = 1,
    rounds: int = 0,
    strength: float = 1.0,
    hooks: bool = False,
) -> PGAProjection:
    """The edit with one direction at each depth.

    Args:
        depths: at how many depths, evenly spaced up to the last layer; 0 is after every layer.
        directions: "probe" or "spectral".
        rank: directions at each depth.
        rounds: most fits of an attacker on what is left, each of whose directions is erased too.
        strength: C of the logistic regressions.
        hooks: hooks round the model, saved beside its weights, which stay as they are.
    """
    return PGAProjection(depths, directions, rank, rounds, strength, hooks)
