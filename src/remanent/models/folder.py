"""A model folder as transformers writes it: checked first, then loaded."""

from __future__ import annotations

from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any

import torch

from remanent.core.files import read_json
from remanent.errors import InputError, IntegrityError, UnsupportedError
from remanent.models.save import check_saved

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")


def load_folder(
    folder: Path, dtype: torch.dtype | None, **keywords: Any
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The model and the tokenizer of a folder.

    Args:
        folder: with config.json, safetensors weights and tokenizer files. What `save` wrote is checked first.
        dtype: of the floating-point weights; None: as saved.
        keywords: for `from_pretrained`: quantization_config, device_map.

    Raises:
        IntegrityError: where a weight, a shard or a saved file is missing or damaged.
        UnsupportedError: where the weights are pickled or quantized already, or transformers cannot load the folder.
        InputError: where the folder holds no model.
    """
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM

    check_folder(folder)
    try:
        model: PreTrainedModel
        info: dict[str, Any]
        model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            folder,
            dtype="auto" if dtype is None else dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
            **keywords,
        )
    except SafetensorError as error:
        raise IntegrityError(f"{folder}: a weights file is damaged or cut off: {error}") from error
    except Exception as error:  # a config.json that is damaged can bring it to any
        raise UnsupportedError(f"{folder}: transformers cannot load this model: {error!r}") from error
    if info["missing_keys"]:  # transformers fills them with random numbers
        missing = sorted(info["missing_keys"])
        raise IntegrityError(f"{folder}: {len(missing)} weight(s) are missing, the first: {missing[0]}")
    return model, load_tokenizer(folder)


def check_folder(folder: Path) -> None:
    """Refuse a folder that is not whole, not safetensors, or quantized already. Raises as `load_folder` does."""
    check_saved(folder)
    if not any(folder.glob("*.safetensors")):
        pickled = [file.name for pattern in PICKLES for file in sorted(folder.glob(pattern))]
        if pickled:
            raise UnsupportedError(
                f"{folder}: has only pickled weights ({pickled[0]}), which can run code when they are read; convert "
                "them to safetensors where you trust them (save_pretrained of a recent transformers writes it)"
            )
        raise InputError("model", str(folder), "a folder with safetensors weights, or the path of a .gguf file")
    shard = missing_shard(folder)
    if shard:
        raise IntegrityError(f"{folder}: the weights file {shard} is missing")
    if not (folder / "config.json").is_file():
        raise InputError("model", str(folder), "a folder with a config.json")
    config = read_object(folder / "config.json")
    if config.get("transformers_weights") is not None:
        _check_name(folder / "config.json", config["transformers_weights"])
    quantization = config.get("quantization_config") or config.get("compression_config")
    if quantization:
        method = quantization.get("quant_method") if isinstance(quantization, dict) else None
        method = method or "unknown method"
        raise UnsupportedError(
            f"{folder}: is quantized already ({method}): its weights are packed integers, which cannot be moved, "
            "rounded or trained; give the model it was made from, and for LoRA on a 4-bit base load that with load_nf4"
        )


def read_object(file: Path) -> dict[str, Any]:
    """A JSON file that holds an object. Raises IntegrityError where it holds anything else."""
    found = read_json(file)
    if not isinstance(found, dict):
        raise IntegrityError(f"{file}: holds no JSON object")
    return found


def missing_shard(folder: Path) -> str | None:
    """The first weights file that the folder's index names and that is not there."""
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return None
    shards = read_object(index).get("weight_map")
    if not isinstance(shards, dict) or not all(isinstance(name, str) for name in shards.values()):
        raise IntegrityError(f"{index}: does not say which file holds which weight")
    names = sorted(set(shards.values()))
    for name in names:
        _check_name(index, name)
    return next((name for name in names if not (folder / name).is_file()), None)


def _check_name(file: Path, name: Any) -> None:
    """Refuse weights that a file of a folder names and that do not lie open in it: no hash of the folder holds them."""
    parts = PurePosixPath(name).parts if isinstance(name, str) and "\\" not in name else ()
    if not parts or any(part[0] in "./" for part in parts) or PurePosixPath(name).suffix != ".safetensors":
        raise IntegrityError(f"{file}: names the weights file {name!a}, which is no .safetensors file in this folder")


def load_tokenizer(folder: Path, gguf_file: str | None = None) -> PreTrainedTokenizerBase:
    """The tokenizer of a folder or a GGUF file; where it has no pad token, its end-of-sequence token pads.

    A tokenizer without a chat template is fine.

    Raises:
        UnsupportedError: where there is none, or it needs code or a package that is not there.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    keywords: dict[str, Any] = {} if gguf_file is None else {"gguf_file": gguf_file}
    # AutoTokenizer may put another tokenizer in the place of what tokenizer.json says, by the model's type.
    kind = PreTrainedTokenizerFast if gguf_file is None and _declares_generic(folder) else AutoTokenizer
    try:
        tokenizer = kind.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **keywords)
    except Exception as error:  # tokenizers raises plain ones
        place = folder if gguf_file is None else gguf_file
        raise UnsupportedError(f"{place}: has no tokenizer that can be loaded: {error}") from error
    if tokenizer.pad_token is None and tokenizer.eos_token is not None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _declares_generic(folder: Path) -> bool:
    settings = folder / "tokenizer_config.json"
    if not settings.is_file() or not (folder / "tokenizer.json").is_file():
        return False
    return read_object(settings).get("tokenizer_class") in ("TokenizersBackend", "PreTrainedTokenizerFast")
