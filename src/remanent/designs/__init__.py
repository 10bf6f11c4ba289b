"""Offline optimization: designs that should score higher than those of a table, from the table alone."""

from remanent.designs.bo_qei import BOqEI
from remanent.designs.cma_es import CMAES
from remanent.designs.coms import COMs
from remanent.designs.gradient_ascent import GradientAscent
from remanent.designs.ignite import IGNITE
from remanent.designs.propose import Proposal, propose
from remanent.designs.reinforce import REINFORCE
from remanent.designs.roma import RoMA

SEARCHES = {
    "gradient-ascent": GradientAscent,
    "coms": COMs,
    "roma": RoMA,
    "bo-qei": BOqEI,
    "cma-es": CMAES,
    "reinforce": REINFORCE,
}

__all__ = [
    "CMAES",
    "IGNITE",
    "REINFORCE",
    "SEARCHES",
    "BOqEI",
    "COMs",
    "GradientAscent",
    "Proposal",
    "RoMA",
    "propose",
]
