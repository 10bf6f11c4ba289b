"""A saved model as a GGUF file, as llama.cpp's own converter lays it out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from remanent.core.files import beside, read_json
from remanent.core.tensors import TensorFolder
from remanent.errors import InputError, UnsupportedError, did_you_mean
from remanent.models.folder import check_folder, load_tokenizer
from remanent.models.gguf_rope import add_rope, check_rope
from remanent.models.gguf_vocabulary import Vocabulary, vocabulary_of

if TYPE_CHECKING:
    from gguf import GGUFWriter

TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")  # those that the package gguf can write
BLOCK = 32  # neighbours of a row that share a scale, in every q type


class _Architecture(NamedTuple):
    """A model in llama.cpp: its name there, whether rows of q and k are interleaved, the layers that have biases."""

    model: str
    gguf: str
    interleaved: bool
    biases: tuple[str, ...] = ()


_ARCHITECTURES = {
    "llama": _Architecture("LlamaForCausalLM", "llama", interleaved=True),
    "mistral": _Architecture("MistralForCausalLM", "llama", interleaved=True),
    "qwen2": _Architecture("Qwen2ForCausalLM", "qwen2", interleaved=False, biases=("q_proj", "k_proj", "v_proj")),
    "qwen3": _Architecture("Qwen3ForCausalLM", "qwen3", interleaved=False),
}


def write_gguf(folder: Path, target: Path, kind: str) -> Path:
    """Write a saved Llama, Mistral, Qwen2 or Qwen3 as a GGUF file, with its tokenizer; returns the file.

    Matrices are stored in `kind`. As in llama.cpp's quantizer, the output's matrix (of a tied model the embedding) is
    kept finer where kind has 4 or 5 bits: q8_0 here, q6_K there, which the package gguf cannot write; rows whose
    length is no multiple of 32 are float16; norms and biases are float32. There is no importance matrix. Nothing is
    left of a file that could not be finished.

    Args:
        folder: a saved model (safetensors, no adapter).
        target: the file; one that is there is replaced.
        kind: one of TYPES.

    Raises:
        InputError: for an unknown type, or a place that cannot be written.
        UnsupportedError: before anything is written, for what could not be read back alike: another architecture,
            rotary positions scaled otherwise than linearly or as in Llama 3, a sliding window shorter than the context,
            biases that transformers' reader drops; and for a tokenizer without a GGUF form.
    """
    if kind not in TYPES:
        raise InputError("type", kind, did_you_mean(kind, TYPES))
    check_folder(folder)
    config, saved = _config(folder), TensorFolder(folder)
    names = _names(saved, config)
    words = vocabulary_of(load_tokenizer(folder), config.vocab_size)
    try:
        with beside(target, Path.touch) as temporary:
            _write(temporary, saved, config, words, names, kind)
            temporary.replace(target)
    except OSError as error:
        raise InputError("gguf", str(target), f"a file that can be written ({error.strerror})") from error
    return target


def _write(file: Path, saved: TensorFolder, config: Any, words: Vocabulary, names: dict[str, str], kind: str) -> None:
    import gguf

    architecture = _ARCHITECTURES[config.model_type]
    writer = gguf.GGUFWriter(file, architecture.gguf, use_temp_file=True)
    try:
        _add_sizes(writer, config, kind)
        add_rope(writer, config.rope_parameters, _head_width(config))
        _add_vocabulary(writer, words)
        for own, name in names.items():
            values = saved.get(own).float().numpy()  # type: ignore[union-attr]
            if architecture.interleaved and own.endswith("q_proj.weight"):
                values = _interleaved(values, config.num_attention_heads)
            elif architecture.interleaved and own.endswith("k_proj.weight"):
                values = _interleaved(values, config.num_key_value_heads)
            packed, stored = _packed(values, _type_of(name, values, kind, config.tie_word_embeddings))
            writer.add_tensor(name, packed, raw_dtype=stored)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
    finally:
        writer.close()


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    named = read_json(folder / "config.json")
    kind, classes = named.get("model_type"), named.get("architectures") or []
    architecture = _ARCHITECTURES.get(kind)
    if architecture is None or classes != [architecture.model]:
        known = ", ".join(_ARCHITECTURES)
        raise UnsupportedError(f"{', '.join(classes) or kind}: cannot be written as GGUF, only the models {known} can")
    config = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
    check_rope(config.rope_parameters, architecture.gguf)
    if config.hidden_act != "silu":
        raise UnsupportedError(f"the activation {config.hidden_act}: llama.cpp computes this model with silu alone")
    window = getattr(config, "sliding_window", None)
    slides = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    if window is not None and slides and window < config.max_position_embeddings:
        raise UnsupportedError(
            f"a sliding window of {window} tokens, which llama.cpp ignores in a {architecture.gguf}; where no text is "
            f"longer, set max_position_embeddings to {window} or sliding_window to null in config.json"
        )
    return config


def _head_width(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)


def _names(saved: TensorFolder, config: Any) -> dict[str, str]:
    """Name of every tensor to write -> its name in GGUF."""
    import gguf

    architecture = _ARCHITECTURES[config.model_type]
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[architecture.gguf.upper()], config.num_hidden_layers)
    found: dict[str, str] = {}
    for own in saved.names():
        if own.endswith(".rotary_emb.inv_freq") or (own == "lm_head.weight" and config.tie_word_embeddings):
            continue  # computed anew; the embedding's own values
        name = known.get_name(own, try_suffixes=(".weight", ".bias"))
        layer, _, kind = own.rpartition(".")
        if name is None or (kind == "bias" and layer.rpartition(".")[2] not in architecture.biases):
            raise UnsupportedError(f"{own}: such a weight of a {config.model_type} could not be read back from GGUF")
        found[own] = name
    return found


def _add_sizes(writer: GGUFWriter, config: Any, kind: str) -> None:
    import gguf

    writer.add_name("Model saved by Remanent")  # readers choose by words in it: never a user's own
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(_head_width(config))
    writer.add_value_length(_head_width(config))
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    named = "ALL_F32" if kind == "f32" else f"MOSTLY_{kind.upper()}"
    writer.add_file_type(gguf.LlamaFileType[named])
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)


def _add_vocabulary(writer: GGUFWriter, words: Vocabulary) -> None:
    writer.add_tokenizer_model(words.model)
    writer.add_tokenizer_pre(words.split)
    writer.add_token_list(words.tokens)
    writer.add_token_types(words.types)
    if words.scores is not None:
        writer.add_token_scores(words.scores)
    writer.add_token_merges(words.merges)
    for name, add in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        if name in words.special:
            add(words.special[name])
    writer.add_add_bos_token(words.add_bos)
    writer.add_add_space_prefix(words.add_space_prefix)
    if words.chat_template is not None:
        writer.add_chat_template(words.chat_template)


def _interleaved(values: Any, heads: int) -> Any:
    """Rows of each head in llama.cpp's order of rotary positions: neighbours in pairs, in the place of halves."""
    rows, columns = values.shape
    return values.reshape(heads, 2, rows // heads // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _type_of(name: str, values: Any, kind: str, tied: bool) -> str:
    if values.ndim < 2:
        return "f32"
    if kind.startswith("q") and values.shape[-1] % BLOCK:
        return "f16"
    output = "token_embd.weight" if tied else "output.weight"
    return "q8_0" if name == output and kind[:2] in ("q4", "q5") else kind


def _packed(values: Any, kind: str) -> tuple[Any, Any]:
    import gguf

    stored = gguf.GGMLQuantizationType[kind.upper()]
    if kind == "f16" and np.abs(values).max(initial=0.0) > np.finfo(np.float16).max:
        raise UnsupportedError("a weight is too large for float16; choose bf16 or f32")
    return gguf.quants.quantize(np.ascontiguousarray(values, dtype=np.float32), stored), stored
