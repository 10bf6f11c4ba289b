"""A random point nearby."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace

import torch

from remanent.core.displacement.base import Context, Displacement
from remanent.core.displacement.scale import Scale, check_scale, scale_of
from remanent.core.weights import Weights, local
from remanent.errors import InputError, UnsupportedError


@dataclass(frozen=True)
class Noise(Displacement):
    """w + sigma * c * n, n standard normal; seeded per tensor name: one point, not a new one at each call.

    Args:
        sigma: standard deviation, at least 0, in units of c; where `uniform`, the bound.
        seed: which point.
        scale: c, see `Scale`; by default each tensor's own root mean square.
        uniform: n uniform between -1 and 1.
        fresh: another point at each update of a run, the same ones in a resumed run.
        trained: move only weights that take a gradient.
        update: which of the points of `fresh` it is; a run says so.
    """

    sigma: float
    seed: int = 0
    scale: Scale = "tensor"
    uniform: bool = False
    fresh: bool = False
    trained: bool = False
    update: int = field(default=0, repr=False)

    def __post_init__(self) -> None:
        if not self.sigma >= 0:
            raise InputError("sigma", self.sigma, "a standard deviation of at least 0")
        check_scale(self.scale)

    @property
    def local(self) -> bool:
        return True

    def moving(self, weights: Weights) -> Weights:
        return weights.trainable() if self.trained else weights

    def resolve(self, step: int) -> Noise:
        return replace(self, update=step) if self.fresh else self

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        for name, weight in weights.items():
            if local(weight) is not weight:
                raise UnsupportedError(f"{name} is sharded, and each process would draw other noise for it")
            generator = generator_of(name, (self.update << 32) + self.seed)
            drawn = torch.rand if self.uniform else torch.randn
            noise = drawn(weight.shape, generator=generator).to(weight.device)
            noise = 2 * noise - 1 if self.uniform else noise
            wide = torch.promote_types(weight.dtype, torch.float32)
            weight.copy_(weight.to(wide) + self.sigma * scale_of(weights, name, self.scale) * noise)

    def __str__(self) -> str:
        of = {"tensor": "", "none": "-abs"}.get(self.scale, f"-{self.scale}")
        name = f"noise-{self.sigma:g}" + (f"-seed{self.seed}" if self.seed else "") + of
        return name + "-uniform" * self.uniform + "-fresh" * self.fresh + "-trained" * self.trained


def generator_of(name: str, seed: int) -> torch.Generator:
    """A generator on the CPU for a tensor's name: the same at each call, another for each name and seed."""
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
