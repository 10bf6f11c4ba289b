"""Other points near a model's weights: rounded, noisy, adversarial, fine-tuned, interpolated."""

from remanent.core.displacement.adapter_off import AdapterOff
from remanent.core.displacement.ascent import Ascent
from remanent.core.displacement.auto_pgd import AutoPGD
from remanent.core.displacement.base import Context, Displacement, Here, PointGradient, Undo, gradient_at
from remanent.core.displacement.combined import OneOf, Then
from remanent.core.displacement.dampening import Dampening
from remanent.core.displacement.erasure import Erasure, Subspace, UnwrittenDirections
from remanent.core.displacement.interpolation import Interpolation
from remanent.core.displacement.intervention_off import InterventionOff
from remanent.core.displacement.layer_off import LayerOff
from remanent.core.displacement.noise import Noise
from remanent.core.displacement.pruning import Pruning
from remanent.core.displacement.relearning import Relearning
from remanent.core.displacement.restored import Restored
from remanent.core.displacement.rounding import Rounding, roundings_in_turn

__all__ = [
    "AdapterOff",
    "Ascent",
    "AutoPGD",
    "Context",
    "Dampening",
    "Displacement",
    "Erasure",
    "Here",
    "Interpolation",
    "InterventionOff",
    "LayerOff",
    "Noise",
    "OneOf",
    "PointGradient",
    "Pruning",
    "Relearning",
    "Restored",
    "Rounding",
    "Subspace",
    "Then",
    "Undo",
    "UnwrittenDirections",
    "gradient_at",
    "roundings_in_turn",
]
