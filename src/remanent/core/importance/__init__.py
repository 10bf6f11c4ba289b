"""How much a weight matters for data: Fisher information, saliency, batch-wise importances."""

from remanent.core.importance.losses import (
    SampleLoss,
    answer_nll,
    class_nll,
    positions_nll,
    sampled_answer_nll,
    sampled_class_nll,
    squared_answer_logits,
    squared_outputs,
    token_nll,
)
from remanent.core.importance.measure import Reduce, Unit, fisher, importance

__all__ = [
    "Reduce",
    "SampleLoss",
    "Unit",
    "answer_nll",
    "class_nll",
    "fisher",
    "importance",
    "positions_nll",
    "sampled_answer_nll",
    "sampled_class_nll",
    "squared_answer_logits",
    "squared_outputs",
    "token_nll",
]
