"""Sharpness-aware optimizers round a base optimizer, and the loss terms that are compared to them."""

from remanent.optim.asam import ASAM
from remanent.optim.esam import ESAM
from remanent.optim.fmtl import FMTL
from remanent.optim.gsam import GSAM
from remanent.optim.look_sam import LookSAM
from remanent.optim.mesa import MESA
from remanent.optim.msam import MSAM
from remanent.optim.r3f import R3F
from remanent.optim.saf import SAF
from remanent.optim.sam import SAM
from remanent.optim.samo import SAMO
from remanent.optim.smart import SMART
from remanent.optim.tram import TRAM
from remanent.optim.tram_fisher import TRAMFisher
from remanent.optim.trust_region import InitialWeights, NoisedInputs, PreviousWeights

__all__ = [
    "ASAM",
    "ESAM",
    "FMTL",
    "GSAM",
    "MESA",
    "MSAM",
    "R3F",
    "SAF",
    "SAM",
    "SAMO",
    "SMART",
    "TRAM",
    "InitialWeights",
    "LookSAM",
    "NoisedInputs",
    "PreviousWeights",
    "TRAMFisher",
]
