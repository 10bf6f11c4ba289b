"""A model as a folder of whole float weights, whatever it was loaded from."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remanent.core.weights import has_adapter
from remanent.models.save import save

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from remanent.models.source import Source


@contextmanager
def whole_folder(model: Any, tokenizer: PreTrainedTokenizerBase, source: Source | None = None) -> Iterator[Path]:
    """Inside the block, a folder of safetensors without an adapter: the model's own where it came from one.

    A LoRA, a GGUF file or a model made on the spot is written to a temporary folder, the LoRA merged.

    Args:
        model: as loaded.
        tokenizer: the model's.
        source: where it came from; None where it came from no file.
    """
    adapted = has_adapter(model)
    if source is not None and source.path is not None and source.path.is_dir() and not adapted:
        yield source.path
        return
    with tempfile.TemporaryDirectory(prefix="remanent-") as place:
        yield save(model, tokenizer, Path(place) / "model", merged=adapted)
