"""Several tasks' gradients to one, by weights that follow from their inner products."""

from remanent.core.gradient_rules.aligned_mtl import AlignedMTL
from remanent.core.gradient_rules.cagrad import CAGrad
from remanent.core.gradient_rules.fairgrad import FairGrad
from remanent.core.gradient_rules.gramian import conflict, gramian, weighted_sum
from remanent.core.gradient_rules.imtl_g import IMTLG
from remanent.core.gradient_rules.linear_scalarization import LinearScalarization
from remanent.core.gradient_rules.mgda import MGDA
from remanent.core.gradient_rules.nash_mtl import NashMTL
from remanent.core.gradient_rules.pcgrad import PCGrad
from remanent.core.gradient_rules.rule import GradientRule
from remanent.core.gradient_rules.upgrad import UPGrad

__all__ = [
    "IMTLG",
    "MGDA",
    "AlignedMTL",
    "CAGrad",
    "FairGrad",
    "GradientRule",
    "LinearScalarization",
    "NashMTL",
    "PCGrad",
    "UPGrad",
    "conflict",
    "gramian",
    "weighted_sum",
]
