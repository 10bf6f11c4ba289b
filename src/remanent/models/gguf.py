"""GGUF files as float models, and a converted copy of them that loads fast."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from remanent.core.files import sha256_file
from remanent.core.user_folders import user_cache
from remanent.errors import InputError, IntegrityError, UnsupportedError
from remanent.models.folder import load_folder, load_tokenizer
from remanent.models.gguf_rope import FACTORS, read_scaling, value_of
from remanent.models.gguf_vocabulary import WHOLE_WORDS
from remanent.models.save import check_saved, is_saved, save

if TYPE_CHECKING:
    from gguf import GGUFReader
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_READER = 2  # goes up when a file is read otherwise than before, so that older copies are made anew


def load_gguf(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """A GGUF file's model, as `load_gguf_model` gives it, and its tokenizer."""
    return load_gguf_model(path, dtype), _tokenizer(path)


def _tokenizer(path: Path) -> PreTrainedTokenizerBase:
    """The file's tokenizer, which takes words whole where llama.cpp does: transformers' reader loses that."""
    import gguf

    tokenizer = load_tokenizer(path.parent, path.name)
    if value_of(gguf.GGUFReader(path), "tokenizer.ggml.pre") in WHOLE_WORDS:
        tokenizer.backend_tokenizer.model.ignore_merges = True
    return tokenizer


def load_gguf_model(path: Path, dtype: torch.dtype) -> PreTrainedModel:
    """A GGUF file's model, dequantized.

    Its weights lie on the file's grid until they are trained. The mark of quantization is taken off, so that the
    model can be saved. What transformers leaves out of the configuration, the width of Qwen's heads and scaled
    rotary positions, is read here.

    Raises:
        IntegrityError: where the file is not GGUF, or lacks weights.
        UnsupportedError: where transformers does not know the architecture, the quantization, the scaling of the
            rotary positions, or some of the weights.
    """
    import gguf
    from transformers import AutoConfig, AutoModelForCausalLM

    with path.open("rb") as file:
        if file.read(4) != b"GGUF":
            raise IntegrityError(f"{path.name}: is not a GGUF file")
    here: dict[str, Any] = {"gguf_file": path.name, "local_files_only": True, "trust_remote_code": False}
    try:
        reader = gguf.GGUFReader(path)
        config = AutoConfig.from_pretrained(path.parent, **here)
        _complete(config, reader)
        model: PreTrainedModel
        info: dict[str, Any]
        model, info = AutoModelForCausalLM.from_pretrained(  # type: ignore[misc]
            path.parent, config=config, dtype=dtype, output_loading_info=True, **here
        )
        left = _left_out(model, reader)
    except UnsupportedError as error:
        raise UnsupportedError(f"{path.name}: {error}") from error
    except Exception as error:  # a damaged file can bring its readers to any
        raise UnsupportedError(
            f"{path.name}: transformers cannot load this GGUF file, or it is cut off: {error}"
        ) from error
    if info["missing_keys"]:  # transformers fills them with random numbers
        missing = sorted(info["missing_keys"])
        raise IntegrityError(f"{path.name}: {len(missing)} weight(s) are missing, the first: {missing[0]}")
    if left:
        raise UnsupportedError(f"{path.name}: transformers leaves out {len(left)} weight(s), the first: {left[0]}")
    model.hf_quantizer = None  # type: ignore[assignment]
    model.is_quantized = False  # type: ignore[assignment]
    del model.config.quantization_config
    return model


def _complete(config: Any, reader: GGUFReader) -> None:
    kind = value_of(reader, "general.architecture")
    width = value_of(reader, f"{kind}.attention.key_length")
    if kind in ("qwen2", "qwen3") and width is not None:
        config.head_dim = width
    if scaling := read_scaling(reader):
        config.rope_parameters = {**config.rope_parameters, **scaling}


def _left_out(model: PreTrainedModel, reader: GGUFReader) -> list[str]:
    """Weights of the file that went nowhere, a Llama's biases for example: transformers passes over them."""
    import gguf

    kind = value_of(reader, "general.architecture")
    if kind not in ("llama", "qwen2", "qwen3"):
        return []
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[kind.upper()], model.config.num_hidden_layers)
    taken = {known.get_name(name, try_suffixes=(".weight", ".bias")) for name in model.state_dict()}
    return sorted(tensor.name for tensor in reader.tensors if tensor.name not in taken | {FACTORS})


def load_cached(path: Path, dtype: torch.dtype) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The same from a safetensors copy in the user's cache folder, which is made the first time.

    The copy lies in $XDG_CACHE_HOME/remanent/gguf/<SHA-256 of the GGUF file>-<this reader's version> (by default under
    ~/.cache) in float32: four bytes a parameter. A copy that is damaged is made anew; where the folder cannot be
    written, there is none.
    """
    folder = cache_folder() / f"{sha256_file(path)}-{_READER}"
    if not _is_whole(folder):
        try:
            shutil.rmtree(folder, ignore_errors=True)
            save(*load_gguf(path, torch.float32), folder)
        except (OSError, InputError):
            return load_gguf(path, dtype)
    return load_folder(folder, dtype)


def copies(path: Path) -> list[Path]:
    """Converted copies of a GGUF file in the user's cache, those of earlier readers too."""
    return sorted(cache_folder().glob(f"{sha256_file(path)}*"))


def cache_folder() -> Path:
    """Where converted copies of GGUF files lie; what is in it may be deleted at any time."""
    return user_cache() / "gguf"


def _is_whole(folder: Path) -> bool:
    try:
        check_saved(folder)
    except IntegrityError:
        return False
    return is_saved(folder)
