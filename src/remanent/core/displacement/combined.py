"""Displacements made of displacements: one after the other, or one of several."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor, nn

from remanent.core.displacement.base import Context, Displacement
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError


class Then(Displacement):
    """First one displacement, then another from there: relearn, then round.

    Args:
        first: moves first.
        second: moves from where `first` ends.
    """

    def __init__(self, first: Displacement, second: Displacement) -> None:
        self.first, self.second = first, second
        self._by_first: frozenset[str] = frozenset()
        self._by_second: frozenset[str] = frozenset()
        self._owners: dict[str, nn.Module] = {}
        self.needs: frozenset[str] = first.needs | second.needs  # type: ignore[misc]

    @property
    def local(self) -> bool:
        return self.first.local and self.second.local

    @property
    def pulls_back_by_weight(self) -> bool:
        return self.first.pulls_back_by_weight or self.second.pulls_back_by_weight

    @property
    def held(self) -> int:
        return max(self.first.held, self.second.held)

    def resolve(self, step: int) -> Displacement:
        return Then(self.first.resolve(step), self.second.resolve(step))

    def moving(self, weights: Weights) -> Weights:
        moved = {**self.first.moving(weights), **self.second.moving(weights)}
        return weights.only(name for name in weights if name in moved)

    def move(self, weights: Weights, context: Context) -> None:
        # Each chooses from the whole model, but only what is kept may move: a part of it, or one layer.
        parts = self._parts(weights) if context.model is None else context.once(self._chosen)
        for displacement, names in zip((self.first, self.second), parts, strict=True):
            displacement.move(weights.only(name for name in weights if name in names), context)

    def _chosen(self, context: Context) -> tuple[frozenset[str], ...]:
        assert context.model is not None
        return self._parts(Weights.of(context.model))

    def _parts(self, weights: Weights) -> tuple[frozenset[str], ...]:
        return tuple(frozenset(displacement.moving(weights)) for displacement in (self.first, self.second))

    def pulls_back(self, weights: Weights) -> Weights:
        self._by_first, self._by_second = (
            frozenset(displacement.pulls_back(weights)) for displacement in (self.first, self.second)
        )
        self._owners = {name: owner for name in weights if (owner := weights.owner(name)) is not None}
        return weights.only(name for name in weights if name in self._by_first | self._by_second)

    def pullback(self, name: str, gradient: Tensor, weight: Tensor) -> Tensor:
        first = name in self._by_first
        if name in self._by_second:
            between = self._between(name, weight) if first and self.second.pulls_back_by_weight else weight
            gradient = self.second.pullback(name, gradient, between)
        return self.first.pullback(name, gradient, weight) if first else gradient

    def _between(self, name: str, weight: Tensor) -> Tensor:
        if not self.first.local:
            raise UnsupportedError(
                f"{self.second} masks its gradient by the weight it moves from, which {self.first} does not determine "
                "from that weight alone; look there, or learn at each of the two"
            )
        alone = Weights({name: weight.detach().clone()}, self._owners)
        with torch.no_grad():
            self.first.move(alone, Context())
        return alone[name]

    def __str__(self) -> str:
        return f"{self.first}-then-{self.second}"


class OneOf(Displacement):
    """Another of several displacements at each update, in turn.

    In turn and not at random, so that each gets its share in short runs and a resumed run goes on where it was.

    Args:
        displacements: at least one.
    """

    def __init__(self, *displacements: Displacement) -> None:
        if not displacements:
            raise InputError("displacements", displacements, "at least one displacement")
        self.displacements = displacements
        self.needs = frozenset().union(*(item.needs for item in displacements))  # type: ignore[misc]

    needs: ClassVar[frozenset[str]] = frozenset()

    @property
    def held(self) -> int:
        return max(item.held for item in self.displacements)

    def resolve(self, step: int) -> Displacement:
        return self.displacements[step % len(self.displacements)].resolve(step)

    def moving(self, weights: Weights) -> Weights:
        return self.resolve(0).moving(weights)

    def move(self, weights: Weights, context: Context) -> None:
        self.resolve(context.step).move(weights, context)

    def __str__(self) -> str:
        return "one-of(" + ", ".join(map(str, self.displacements)) + ")"
