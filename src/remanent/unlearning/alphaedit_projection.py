"""Ascent off the retain gradient's subspace: the baseline that DurableUn calls AlphaEdit, which is not AlphaEdit.

The forget gradient of each matrix is multiplied by (I - V V^T), V being the 128 leading right singular vectors of the
retain gradient. AlphaEdit itself (arXiv 2410.02355) edits facts in closed form, and projects the change onto the null
space of the keys, the layer's inputs, of what is to be kept. Neither is done here.
"""

from __future__ import annotations

from remanent.core.catalogue import System
from remanent.core.combine import OffSubspace
from remanent.core.method import Method
from remanent.unlearning.grad_diff import DURABLEUN, GradDiff

SYSTEM = System(
    name="alphaedit-projection",
    title="Ascent off the retain gradient's subspace: DurableUn's baseline, not AlphaEdit",
    year=2026,
    arxiv="2605.02196",
    card="durableun",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_confined.py",
    needs=("forget", "retain"),
    notes="The subspace is that of the update's own retain batch. The released code takes it once, from ten batches, "
    "which is no option here, and has no retain loss (`retain_loss=false`). A LoRA's second factor has as many columns "
    "as its rank, so that 128 vectors leave nothing of the forget gradient there.",
)


def method(rank: int = 128, retain_loss: bool = True, forget_weight: float = 1.0, retain_weight: float = 1.0) -> Method:
    """The projection with DurableUn's training settings.

    Args:
        rank: most vectors of the subspace, of each matrix.
        retain_loss: descend on the retain loss as well; without it its gradient gives the subspace alone.
        forget_weight: gamma.
        retain_weight: alpha, above 0.
    """
    return Method(
        GradDiff(),
        weights={"forget": forget_weight, "retain": retain_weight},
        combine=OffSubspace(rank=rank, add=retain_loss),
        recipe=DURABLEUN,
    )
