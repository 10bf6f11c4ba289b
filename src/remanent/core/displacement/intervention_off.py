"""The model without the interventions that it wears."""

from __future__ import annotations

from dataclasses import dataclass

from remanent.core.displacement.base import Context, Displacement
from remanent.core.intervention import taken_off, worn
from remanent.core.weights import Weights
from remanent.errors import InputError


@dataclass(frozen=True)
class InterventionOff(Displacement):
    """Every intervention taken off, as whoever has the weights has them. No weight moves.

    Raises InputError where the model wears none.
    """

    def moving(self, weights: Weights) -> Weights:
        if weights.model is None or not worn(weights.model):
            raise InputError("displacement", "intervention-off", "a model that wears one; this one does not")
        return weights.only(())

    def move(self, weights: Weights, context: Context) -> None:
        assert context.model is not None
        context.passing = True
        context.cleanup.enter_context(taken_off(context.model))

    def __str__(self) -> str:
        return "intervention-off"
