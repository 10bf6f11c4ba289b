"""The grids that quantization rounds to, fitted to units of a weight."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from remanent.core import nf4

SMALLEST_SCALE = 1e-8


class Grid(Protocol):
    """The values that a format can store. Units are float32, (rows, units, elements of a unit)."""

    def encode(self, units: Tensor) -> Tensor:
        """The nearest codes; `units` may be overwritten."""

    def decode(self, codes: Tensor) -> Tensor:
        """The values of codes that `encode` returned, float32; `codes` may be overwritten."""

    def step(self, units: Tensor) -> Tensor:
        """The distance between neighbouring values at each element, in a shape that broadcasts to the units'."""

    def outside(self, units: Tensor) -> Tensor:
        """Which elements lie beyond the last value, bool."""


class IntegerGrid:
    """Equidistant values, one scale per unit.

    Args:
        units: float, (rows, units, elements): what the grid is fitted to.
        bits: bits of a code.
        symmetric: codes around 0, or a zero point.
        percentile: the percentile of |w| per unit that takes the maximum's place; None: the maximum.
    """

    def __init__(self, units: Tensor, bits: int, symmetric: bool, percentile: float | None) -> None:
        high = units.amax(dim=-1, keepdim=True).float()
        low = units.amin(dim=-1, keepdim=True).float()
        if percentile is not None:
            bound = _percentile_of_magnitude(units, percentile)
            high, low = torch.minimum(high, bound), torch.maximum(low, -bound)
        self.scale: Tensor
        self.zero: Tensor | None = None
        if symmetric:
            self.lowest, self.highest = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
            self.scale = (torch.maximum(high, -low) / self.highest).clamp_(min=SMALLEST_SCALE)
        else:
            self.lowest, self.highest = 0, 2**bits - 1
            low, high = low.clamp(max=0), high.clamp(min=0)
            # Halved first: the width of a range may exceed the largest float32.
            self.scale = ((high / 2 - low / 2) / (self.highest / 2)).clamp_(min=SMALLEST_SCALE)
            self.zero = (-low / self.scale).round_()

    def encode(self, units: Tensor) -> Tensor:
        return self._unbounded(units).clamp_(self.lowest, self.highest)

    def decode(self, codes: Tensor) -> Tensor:
        if self.zero is not None:
            codes.sub_(self.zero)
        return codes.mul_(self.scale)

    def step(self, units: Tensor) -> Tensor:
        return self.scale

    def outside(self, units: Tensor) -> Tensor:
        codes = self._unbounded(units)
        return torch.logical_or(codes < self.lowest, codes > self.highest)

    def _unbounded(self, units: Tensor) -> Tensor:
        codes = units.div_(self.scale).round_()
        return codes if self.zero is None else codes.add_(self.zero)


class NF4Grid:
    """The NormalFloat4 codebook times the largest magnitude of each block, to the bit as bitsandbytes has it.

    Args:
        units: float32, (rows, blocks, elements): what the grid is fitted to.
        short: whether these are the tensor's last, shorter block, which bitsandbytes divides by its maximum where it
            multiplies the others by the reciprocal.
        using: the codebook's tables on the units' device.
    """

    def __init__(self, units: Tensor, short: bool, using: nf4.Tables) -> None:
        self.short, self.using = short, using
        self.largest = torch.maximum(units.amax(dim=-1, keepdim=True), -units.amin(dim=-1, keepdim=True))
        self.divisor = self.largest.clamp(min=1e-38)
        if short:
            self.largest = self.divisor

    def encode(self, units: Tensor) -> Tensor:
        scaled = units.div_(self.divisor) if self.short else units.mul_(1.0 / self.divisor)
        return nf4.nearest(scaled.clamp_(-1, 1), self.using)

    def decode(self, codes: Tensor) -> Tensor:
        return self.using.values.index_select(0, codes.flatten()).view(codes.shape).mul_(self.largest)

    def step(self, units: Tensor) -> Tensor:
        codes = self.encode(units.clone())
        return self.using.widths.index_select(0, codes.flatten()).view(codes.shape).mul_(self.largest)

    def outside(self, units: Tensor) -> Tensor:
        return torch.zeros_like(units, dtype=torch.bool)


class CastGrid:
    """The numbers of a 16-bit float dtype."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype = dtype

    def encode(self, units: Tensor) -> Tensor:
        return units.to(self.dtype).view(torch.int16)

    def decode(self, codes: Tensor) -> Tensor:
        return codes.view(self.dtype).float()

    def step(self, units: Tensor) -> Tensor:
        info = torch.finfo(self.dtype)
        exponent = torch.frexp(units.abs().clamp_(min=info.tiny)).exponent - 1
        return torch.ldexp(torch.full_like(units, info.eps), exponent)

    def outside(self, units: Tensor) -> Tensor:
        return units.to(self.dtype).isinf()


def _percentile_of_magnitude(units: Tensor, percentile: float) -> Tensor:
    """The percentile of |w| per unit, linear between order statistics, through the few values above it."""
    size = units.shape[-1]
    position = (size - 1) * percentile / 100
    below = int(position)
    top = units.abs().topk(size - below, dim=-1).values[..., -2:].float()
    return torch.lerp(top[..., -1:], top[..., :1], position - below)
