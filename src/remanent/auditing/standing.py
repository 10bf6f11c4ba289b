"""A model at a condition: moved in place and moved back, or opened anew by a real quantizer."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn
from transformers import PreTrainedTokenizerBase

from remanent.auditing.condition import Condition
from remanent.models.source import Source
from remanent.models.whole import whole_folder


@contextmanager
def standing(
    condition: Condition, model: nn.Module, tokenizer: PreTrainedTokenizerBase, source: Source | None = None
) -> Iterator[nn.Module]:
    """Inside the block, the model that is to be asked. The condition's attack is not run.

    At a back end it is a second model, opened from the saved folder, beside the first in memory; a LoRA is merged
    before.

    Args:
        condition: where.
        model: as loaded.
        tokenizer: the model's.
        source: where the model came from; None where it came from no file.
    """
    if condition.backend is None:
        with condition.displacement.at(model):
            yield model
        return
    with whole_folder(model, tokenizer, source) as folder:
        opened = condition.backend.open(folder, next(model.parameters()).device)
    yield opened
