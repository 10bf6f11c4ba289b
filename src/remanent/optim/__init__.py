"""Sharpness-aware optimizers round a base optimizer."""

from remanent.optim.sam import SAM

__all__ = ["SAM"]
