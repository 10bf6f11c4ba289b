"""NormalFloat4: the codebook of QLoRA, and the nearest code of a value that is scaled to [-1, 1]."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# QLoRA (arXiv 2305.14314), appendix E, as float32 holds them.
CODEBOOK = (
    -1.0,
    -0.6961928009986877,
    -0.5250730514526367,
    -0.39491748809814453,
    -0.28444138169288635,
    -0.18477343022823334,
    -0.09105003625154495,
    0.0,
    0.07958029955625534,
    0.16093020141124725,
    0.24611230194568634,
    0.33791524171829224,
    0.44070982933044434,
    0.5626170039176941,
    0.7229568362236023,
    1.0,
)
# Cells per unit length of [-1, 1]: narrow enough that no cell holds two borders (the nearest two lie 0.08 apart).
_FINENESS = 32


class Tables(NamedTuple):
    """What a look-up needs, on one device.

    Args:
        values: float32, (16,): the codebook.
        widths: float32, (16,): the length of the values that share each code; the two end codes count twice the
            distance to their inner border.
        border: float32, (cells,): the border inside each cell; above every value where there is none.
        code: int32, (2 * cells,): the code below and above the border of each cell.
    """

    values: Tensor
    widths: Tensor
    border: Tensor
    code: Tensor


def tables(device: torch.device) -> Tables:
    """The codebook's tables on a device."""
    values = torch.tensor(CODEBOOK)
    borders = (values[:-1] + values[1:]) / 2
    inner = borders[1:] - borders[:-1]
    widths = torch.cat([2 * (borders[:1] - values[:1]), inner, 2 * (values[-1:] - borders[-1:])])
    holder = _cells(borders)
    border = torch.full((2 * _FINENESS + 1,), 2.0).scatter_(0, holder.long(), borders)
    cell = torch.arange(2 * _FINENESS + 1)
    below = (holder < cell[:, None]).sum(dim=1)
    upto = (holder <= cell[:, None]).sum(dim=1)
    code = torch.stack([below, upto], dim=1).flatten().int()
    return Tables(*(table.to(device) for table in (values, widths, border, code)))


def nearest(scaled: Tensor, using: Tables) -> Tensor:
    """The index of the nearest code, int32, in the shape given; a tie goes to the lower code, as in bitsandbytes.

    A value's cell of a uniform grid leaves one border to compare with, which is several times faster than a search
    and, the map to cells being monotone, exactly as good.

    Args:
        scaled: float32, in [-1, 1].
        using: the tables on the same device.
    """
    cell = _cells(scaled).flatten()
    above = scaled.flatten() > using.border.index_select(0, cell)
    return using.code.index_select(0, cell.mul_(2).add_(above)).view_as(scaled)


def _cells(scaled: Tensor) -> Tensor:
    return scaled.mul(_FINENESS).add_(_FINENESS).to(torch.int32)
