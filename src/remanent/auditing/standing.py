"""A model at a condition: moved in place and moved back, or opened anew by a real quantizer."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from torch import nn
from transformers import PreTrainedTokenizerBase

from remanent.auditing.condition import Condition
from remanent.core.weights import has_adapter
from remanent.models.save import save
from remanent.models.source import Source


@contextmanager
def standing(
    condition: Condition, model: nn.Module, tokenizer: PreTrainedTokenizerBase, source: Source | None = None
) -> Iterator[nn.Module]:
    """Inside the block, the model that is to be asked. The condition's attack is not run.

    At a back end it is a second model, opened from the saved folder, beside the first in memory. What has no folder
    of whole float weights (a LoRA, a GGUF file, a model made on the spot) is written to a temporary one, merged.

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
    with _folder(model, tokenizer, source) as folder:
        opened = condition.backend.open(folder, next(model.parameters()).device)
    yield opened


@contextmanager
def _folder(model: nn.Module, tokenizer: PreTrainedTokenizerBase, source: Source | None) -> Iterator[Path]:
    adapted = has_adapter(model)
    if source is not None and source.path is not None and source.path.is_dir() and not adapted:
        yield source.path
        return
    with tempfile.TemporaryDirectory(prefix="remanent-") as place:
        yield save(model, tokenizer, Path(place) / "model", merged=adapted)  # type: ignore[arg-type]
