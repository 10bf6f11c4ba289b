"""Sharpness-aware optimizers round a base optimizer, and the loss terms that are compared to them."""

from remanent.optim.mesa import MESA
from remanent.optim.r3f import R3F
from remanent.optim.saf import SAF
from remanent.optim.sam import SAM
from remanent.optim.smart import SMART
from remanent.optim.tram import TRAM
from remanent.optim.tram_fisher import TRAMFisher
from remanent.optim.trust_region import InitialWeights, NoisedInputs, PreviousWeights

__all__ = [
    "MESA",
    "R3F",
    "SAF",
    "SAM",
    "SMART",
    "TRAM",
    "InitialWeights",
    "NoisedInputs",
    "PreviousWeights",
    "TRAMFisher",
]
