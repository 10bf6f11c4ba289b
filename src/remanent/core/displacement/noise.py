"""A random point nearby."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import torch

from remanent.core.displacement.base import Context, Displacement
from remanent.core.weights import Weights, local
from remanent.errors import InputError, UnsupportedError


@dataclass(frozen=True)
class Noise(Displacement):
    """w + sigma * n, n standard normal; seeded per tensor name: one point, not a new one at each call.

    Args:
        sigma: standard deviation, at least 0; in units of each tensor's own root mean square when `relative`.
        seed: which point.
        relative: scale by each tensor's root mean square.
    """

    sigma: float
    seed: int = 0
    relative: bool = True

    def __post_init__(self) -> None:
        if self.sigma < 0:
            raise InputError("sigma", self.sigma, "a standard deviation of at least 0")

    @property
    def local(self) -> bool:
        return True

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        for name, weight in weights.items():
            if local(weight) is not weight:
                raise UnsupportedError(f"{name} is sharded, and each process would draw other noise for it")
            digest = hashlib.sha256(f"{self.seed}:{name}".encode()).digest()
            generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)
            noise = torch.randn(weight.shape, generator=generator).to(weight.device)
            scale = weight.float().square().mean().sqrt() if self.relative else 1.0
            weight.copy_(weight.float() + self.sigma * scale * noise)

    def __str__(self) -> str:
        return f"noise-{self.sigma:g}" + (f"-seed{self.seed}" if self.seed else "") + ("" if self.relative else "-abs")
