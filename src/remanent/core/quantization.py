"""Quantization formats, and what each makes of a weight: round-to-nearest, weight only, quantize and dequantize."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from remanent.core import nf4
from remanent.core.grids import CastGrid, Grid, IntegerGrid, NF4Grid
from remanent.core.packed import is_packed
from remanent.errors import InputError, UnsupportedError, did_you_mean

Kind = Literal["int", "nf4", "bf16", "fp16"]
Granularity = Literal["tensor", "row", "group", "block", "element"]

_GRANULARITIES: dict[str, tuple[Granularity, ...]] = {
    "int": ("tensor", "row", "group"),
    "nf4": ("block",),
    "bf16": ("element",),
    "fp16": ("element",),
}
_BITS: dict[str, tuple[int, ...]] = {"int": (2, 3, 4, 8), "nf4": (4,), "bf16": (16,), "fp16": (16,)}
_CASTS = {"bf16": torch.bfloat16, "fp16": torch.float16}
_KNOWN = (
    *(f"int{bits}{unit}" for bits in _BITS["int"] for unit in ("", "-row", "-tensor", "-g32", "-g64", "-g128")),
    *("int4-g32-asym", "int4-row-p99.99", "nf4", "nf4-b128", "bf16", "fp16"),
)
_INTEGER = re.compile(r"int(\d+)(?:-(?:(row|tensor)|g([1-9]\d*)))?(-asym)?(?:-p(\d+(?:\.\d+)?))?")
_NF4 = re.compile(r"nf4(?:-b([1-9]\d*))?")
_FLOATING = (torch.float32, torch.bfloat16, torch.float16, torch.float64)


@dataclass(frozen=True, slots=True)
class QuantizationFormat:
    """How a weight is stored in few bits.

    Args:
        kind: "int", the NormalFloat codebook "nf4", or a cast to "bf16" or "fp16".
        bits: 2, 3, 4 or 8 for int, 4 for nf4, 16 for the casts.
        granularity: what shares a scale. "tensor"; "row", one index of the first dimension (an output channel; a
            tensor of one dimension is one row); "group", `group_size` neighbours of a row, the last group of a row
            being shorter where it must; "block", `group_size` neighbours of the flattened tensor (nf4);
            "element" (the casts).
        group_size: elements per group or block; None otherwise.
        symmetric: codes around 0 with scale max|w| / (2^(bits-1) - 1); otherwise a zero point and scale
            (max - min) / (2^bits - 1), with min and max taken over the unit and 0, so that the zero point is a code.
        percentile: the percentile of |w| per unit, in (0, 100), which takes the maximum's place; larger values are
            clipped. None: nothing is clipped.

    Raises:
        InputError: the fields do not go together.

    Source: DurableUn (arXiv 2605.02196), code and section 4; NF4: QLoRA (arXiv 2305.14314), appendix E.
    """

    kind: Kind
    bits: int
    granularity: Granularity
    group_size: int | None = None
    symmetric: bool = True
    percentile: float | None = None

    def __post_init__(self) -> None:
        if self.kind not in _BITS:
            raise InputError("format.kind", self.kind, did_you_mean(str(self.kind), _BITS))
        if self.bits not in _BITS[self.kind]:
            raise InputError("format.bits", self.bits, f"one of {_BITS[self.kind]} for {self.kind}")
        if self.granularity not in _GRANULARITIES[self.kind]:
            names = _GRANULARITIES[self.kind]
            raise InputError("format.granularity", self.granularity, did_you_mean(str(self.granularity), names))
        if self.granularity in ("group", "block"):
            if self.group_size is None or self.group_size < 2:
                raise InputError("format.group_size", self.group_size, "at least 2 elements, such as 32")
        elif self.group_size is not None:
            raise InputError("format.group_size", self.group_size, f"none with granularity {self.granularity}")
        if self.kind != "int" and not self.symmetric:
            raise InputError("format.symmetric", self.symmetric, f"True for {self.kind}")
        if self.percentile is not None and (self.kind != "int" or not 0 < self.percentile < 100):
            raise InputError("format.percentile", self.percentile, "none, or for int a number between 0 and 100")

    @classmethod
    def parse(cls, text: str) -> QuantizationFormat:
        """A format from its name.

        Args:
            text: `int<bits>[-row|-tensor|-g<size>][-asym][-p<percentile>]` (row where nothing is said),
                `nf4[-b<size>]` (64 where nothing is said), `bf16` or `fp16`.

        Raises:
            InputError: no format has this name.
        """
        if match := _INTEGER.fullmatch(text):
            bits, named, size, asymmetric, percentile = match.groups()
            granularity: Granularity = "group" if size else "tensor" if named == "tensor" else "row"
            clip = float(percentile) if percentile else None
            if int(bits) in _BITS["int"] and size != "1" and (clip is None or 0 < clip < 100):
                return cls("int", int(bits), granularity, int(size) if size else None, not asymmetric, clip)
        elif (match := _NF4.fullmatch(text)) and match[1] != "1":
            return cls("nf4", 4, "block", int(match[1] or 64))
        elif text in _CASTS:
            return cls("bf16" if text == "bf16" else "fp16", 16, "element")
        raise InputError("format", text, did_you_mean(text, _KNOWN))

    def __str__(self) -> str:
        if self.kind == "nf4":
            return "nf4" if self.group_size == 64 else f"nf4-b{self.group_size}"
        if self.kind != "int":
            return self.kind
        unit = f"g{self.group_size}" if self.granularity == "group" else self.granularity
        clip = "" if self.percentile is None else f"-p{self.percentile:.12f}".rstrip("0").rstrip(".")
        return f"int{self.bits}-{unit}{'' if self.symmetric else '-asym'}{clip}"

    @property
    def local_to_rows(self) -> bool:
        """Whether the rows of a slice along the first dimension round as they do in the whole tensor."""
        return self.granularity in ("row", "group", "element")

    @property
    def clips(self) -> bool:
        """Whether `clipped` can hold for any value: a percentile, a rounded zero point, the overflow of a cast."""
        return self.percentile is not None or not self.symmetric or self.kind in _CASTS


@torch.no_grad()
def round_to(weight: Tensor, format: QuantizationFormat, out: Tensor | None = None) -> Tensor:
    """The weight quantized and dequantized, in its own dtype; the arithmetic is float32.

    Works through the weight in pieces: beside the result it needs a few MiB (one row, where a row is longer, and with
    a percentile per tensor the magnitudes of the whole).

    Args:
        weight: float, any shape; not changed unless it is `out`.
        format: the format.
        out: where the result goes, of the weight's shape and dtype; the weight itself is allowed.

    Raises:
        InputError: a weight that is not finite, or an `out` that does not fit. Nothing has been written then.
        UnsupportedError: an integer, packed or 8-bit float weight.
    """
    _check(weight, "weight")
    if out is not None and (out.shape != weight.shape or out.dtype != weight.dtype):
        raise InputError("out", (tuple(out.shape), out.dtype), f"{tuple(weight.shape)} of {weight.dtype}")
    result = torch.empty(weight.shape, dtype=weight.dtype, device=weight.device) if out is None else out
    target = result if result.is_contiguous() else torch.empty(weight.shape, dtype=weight.dtype, device=weight.device)
    _fill(target, weight, format, lambda grid, units: grid.decode(grid.encode(units)))
    return result if target is result else result.copy_(target)


@torch.no_grad()
def codes(weight: Tensor, format: QuantizationFormat) -> Tensor:
    """The code that stores each value: int8 (uint8 if asymmetric), the index in the codebook (uint8), a cast's bits
    (int16). Of the weight's shape; raises as `round_to` does."""
    _check(weight, "weight")
    dtype = torch.int16 if format.kind in _CASTS else torch.int8 if _signed(format) else torch.uint8
    return _filled(weight, format, dtype, lambda grid, units: grid.encode(units))


@torch.no_grad()
def step_size(weight: Tensor, format: QuantizationFormat) -> Tensor:
    """The distance between neighbouring codes at each value, float32, in a shape that broadcasts to the weight's.

    The scale for int; for nf4 the length of the values that share the code, times the block's maximum; for a cast
    the spacing of its numbers there. Raises as `round_to` does.
    """
    _check(weight, "weight")
    if format.granularity not in ("row", "tensor"):
        return _filled(weight, format, torch.float32, lambda grid, units: grid.step(units).expand_as(units))
    rows = _rows(weight, format)
    steps = torch.empty(rows, 1, device=weight.device)
    if weight.numel():
        for (chosen, _), units, grid in _walk(weight, format):
            steps[chosen] = grid.step(units).flatten(1)
    return steps.view(rows, *(1 for _ in weight.shape[1:])) if weight.dim() else steps.view(())


@torch.no_grad()
def clipped(weight: Tensor, format: QuantizationFormat) -> Tensor:
    """Which values lie outside what the format can store, bool, of the weight's shape: a straight-through gradient
    is zero there. Raises as `round_to` does."""
    _check(weight, "weight")
    return _filled(weight, format, torch.bool, lambda grid, units: grid.outside(units))


@torch.no_grad()
def movement(before: Tensor, after: Tensor, format: QuantizationFormat) -> dict[str, float]:
    """How far a weight moved, measured in the steps of the grid that fits `before`.

    Args:
        before: float, any shape.
        after: float, the same shape.
        format: the format.

    Returns:
        "mean_steps", the mean of |dW| / step; "moved_half_step", the share with |dW| > step / 2; "code_changed", the
        share that this grid stores by another code.

    Raises:
        InputError: shapes that differ, or values that are not finite.
        UnsupportedError: an integer, packed or 8-bit float weight.

    Source: the account that SURE (arXiv 2410.16454), section 4, gives of why quantization brings knowledge back.
    """
    _check(before, "before")
    _check(after, "after")
    if before.shape != after.shape:
        raise InputError("after", tuple(after.shape), f"the shape of before, {tuple(before.shape)}")
    steps, half, changed = 0.0, 0, 0
    if before.numel():
        moved_to = _matrix(after, format)
        for place, units, grid in _walk(before, format):
            there = moved_to[place].to(torch.float32, copy=True).view(units.shape)
            moved = (there - units).abs_().double().div_(grid.step(units))
            steps += moved.sum().item()
            half += int((moved > 0.5).sum())
            changed += int((grid.encode(there) != grid.encode(units)).sum())
    count = max(before.numel(), 1)
    return {"mean_steps": steps / count, "moved_half_step": half / count, "code_changed": changed / count}


def _check(weight: Tensor, name: str) -> None:
    """Refuse what is no float weight, and values that no grid fits."""
    if weight.dtype not in _FLOATING or is_packed(weight):
        raise UnsupportedError(
            f"{name}: a {type(weight).__name__} of {weight.dtype} is quantized or not a weight; "
            "rounding needs float32, bfloat16, float16 or float64: dequantize it first"
        )
    if weight.numel():
        # The extremes carry a NaN along, and take a tenth of the time and none of the memory of isfinite.
        low, high = torch.aminmax(weight.detach())
        if not (low.float().isfinite() and high.float().isfinite()):
            raise InputError(name, f"values from {low.item()} to {high.item()}", "finite values, as float32 too")


def _signed(format: QuantizationFormat) -> bool:
    return format.kind == "int" and format.symmetric


def _rows(weight: Tensor, format: QuantizationFormat) -> int:
    """How many rows round on their own; where a unit may cross rows, the tensor is one long row."""
    return weight.shape[0] if format.granularity in ("row", "group") and weight.dim() > 1 else 1


def _matrix(weight: Tensor, format: QuantizationFormat) -> Tensor:
    return weight.detach().reshape(_rows(weight, format), -1)


def _filled(
    weight: Tensor, format: QuantizationFormat, dtype: torch.dtype, of: Callable[[Grid, Tensor], Tensor]
) -> Tensor:
    target = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    _fill(target, weight, format, of)
    return target


def _fill(target: Tensor, weight: Tensor, format: QuantizationFormat, of: Callable[[Grid, Tensor], Tensor]) -> None:
    """Write what `of` makes of each piece of the weight to its place in a contiguous target."""
    if weight.numel():
        flat = _matrix(target, format)
        for place, units, grid in _walk(weight, format):
            flat[place] = of(grid, units).flatten(1)


def _walk(weight: Tensor, format: QuantizationFormat) -> Iterator[tuple[tuple[slice, slice], Tensor, Grid]]:
    """The weight in pieces that stay in the cache: the place in the matrix, a float32 copy as (rows, units, elements
    of a unit), and the grid that fits it. A piece that was handed out may be overwritten in the weight."""
    source = _matrix(weight, format)
    whole: Grid | None = None
    if format.granularity == "tensor":
        whole = IntegerGrid(source[:, None], format.bits, format.symmetric, format.percentile)
    elif format.kind in _CASTS:
        whole = CastGrid(_CASTS[format.kind])
    tables = nf4.tables(weight.device) if format.kind == "nf4" else None
    for rows, columns, size in _pieces(source, format):
        units = source[rows, columns].to(torch.float32, copy=True)
        units = units.view(len(units), -1, size)
        if tables is not None:
            grid: Grid = NF4Grid(units, size != format.group_size, tables)
        else:
            grid = whole or IntegerGrid(units, format.bits, format.symmetric, format.percentile)
        yield (rows, columns), units, grid


def _pieces(source: Tensor, format: QuantizationFormat) -> Iterator[tuple[slice, slice, int]]:
    """Rows, columns and elements per unit of each piece: whole units, and the shorter last ones of the rows apart."""
    height, width = source.shape
    budget = (1 << 16) * torch.get_num_threads() if source.device.type == "cpu" else 1 << 24
    size = format.group_size or (width if format.granularity == "row" else 1)
    end = width - width % size
    span = max(size, budget // size * size)
    spans = [(start, min(start + span, end)) for start in range(0, end, span)] + ([(end, width)] if end < width else [])
    for first, last in spans:
        unit = min(size, last - first) if size > 1 else last - first
        tall = max(1, budget // (last - first))
        for top in range(0, height, tall):
            yield slice(top, min(top + tall, height)), slice(first, last), unit
