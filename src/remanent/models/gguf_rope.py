"""Scaled rotary positions as GGUF holds them: a linear factor as metadata, llama3's factors as a tensor."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from remanent.errors import UnsupportedError

if TYPE_CHECKING:
    from gguf import GGUFReader, GGUFWriter

FACTORS = "rope_freqs.weight"
# The file holds what llama3's scaling comes to and not these three, which are the same in all of Llama 3.1 to 3.3.
_LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_TOLERANCE = 1e-4  # of a factor: float32, and arithmetic in another order


def check_rope(rope: dict[str, Any], architecture: str) -> None:
    """Raise UnsupportedError where a file of that GGUF architecture cannot hold these `rope_parameters`."""
    kind = rope.get("rope_type", "default")
    if rope.get("partial_rotary_factor", 1.0) != 1.0:
        raise UnsupportedError("rotary positions on a part of each head cannot be written as GGUF")
    if kind not in ("default", "linear", "llama3"):
        raise UnsupportedError(f"rotary positions scaled by '{kind}' could not be read back from GGUF")
    if kind == "llama3" and architecture != "llama":
        raise UnsupportedError(f"rotary positions scaled by 'llama3' have no place in a {architecture} of GGUF")
    if kind == "llama3" and any(rope.get(name) != value for name, value in _LLAMA3.items()):
        wanted = ", ".join(f"{name} {value:g}" for name, value in _LLAMA3.items())
        raise UnsupportedError(
            f"rotary positions scaled by 'llama3' otherwise than in Llama 3 ({wanted}): they could not be read back"
        )


def add_rope(writer: GGUFWriter, rope: dict[str, Any], width: int) -> None:
    """Write a model's rotary positions, which `check_rope` has let through.

    Args:
        writer: before its header is written.
        rope: `rope_parameters` of the model's configuration.
        width: of a head.
    """
    import gguf

    writer.add_rope_dimension_count(width)
    writer.add_rope_freq_base(rope["rope_theta"])
    if rope.get("rope_type") == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(rope["factor"])
    if rope.get("rope_type") == "llama3":
        writer.add_tensor(FACTORS, _factors(rope["factor"], rope["rope_theta"], width))


def read_scaling(reader: GGUFReader) -> dict[str, Any]:
    """What a file's scaling adds to transformers' `rope_parameters`, which its own reader leaves out; {} without any.

    Raises:
        UnsupportedError: for a scaling other than `add_rope` writes, and for any in another architecture, whose
            layers may not all share it. A model without it would have other positions than the file's.
    """
    kind = value_of(reader, "general.architecture")
    named = value_of(reader, f"{kind}.rope.scaling.type", "linear")  # llama.cpp's default
    factor = value_of(reader, f"{kind}.rope.scaling.factor", value_of(reader, f"{kind}.rope.scale_linear", 0.0))
    tables = {each.name: each.data for each in reader.tensors if each.name.startswith(("rope_freqs", "rope_factors"))}
    scaled = named != "none" and (named != "linear" or factor not in (0.0, 1.0))
    if not scaled and not tables:
        return {}
    if scaled and named == "linear" and not tables and kind in ("llama", "qwen2", "qwen3"):
        return {"rope_type": "linear", "factor": factor}
    if not scaled and kind == "llama" and set(tables) == {FACTORS}:
        found = np.array(tables[FACTORS], dtype=np.float64).reshape(-1)
        largest, theta = float(found.max()), value_of(reader, "llama.rope.freq_base", 10000.0)
        if np.allclose(_factors(largest, theta, 2 * len(found)), found, rtol=_TOLERANCE, atol=0):
            return {"rope_type": "llama3", "factor": largest, **_LLAMA3}
        raise UnsupportedError(f"its rotary positions are scaled by {FACTORS}, with other factors than Llama 3's")
    how = f"by '{named}'" if scaled else f"by {', '.join(sorted(tables))}"
    raise UnsupportedError(
        f"its rotary positions ({kind}) are scaled {how}, which transformers does not read from a GGUF file: "
        "the model would have other positions than the file's"
    )


def value_of(reader: GGUFReader, key: str, default: Any = None) -> Any:
    """A file's metadata under that key."""
    field = reader.get_field(key)
    return default if field is None else field.contents()


def _factors(factor: float, theta: float, width: int) -> Any:
    """By what llama3's scaling divides the frequency of each pair of a head's columns: 1 for the fast, factor for the
    slow, between the two the frequency itself is interpolated."""
    low, high, original = _LLAMA3.values()
    turns = original * theta ** (-np.arange(0, width, 2) / width) / (2 * math.pi)  # within the original context
    share = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1 / ((1 - share) / factor + share)).astype(np.float32)
