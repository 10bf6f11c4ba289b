"""The model without its low-rank adapter."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from remanent.core.displacement.base import Context, Displacement
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError

SECOND_FACTORS = ("lora_B", "lora_embedding_B")


@dataclass(frozen=True)
class AdapterOff(Displacement):
    """Every LoRA's second factor at zero, so that the base model answers. Moves the adapters' second factors only.

    Raises InputError where there is no LoRA, and UnsupportedError where an adapter also holds whole modules or
    magnitudes, which zeros would not switch off.
    """

    @property
    def local(self) -> bool:
        return True

    def moving(self, weights: Weights) -> Weights:
        for name in weights:
            parts = name.split(".")
            if "modules_to_save" in parts or "lora_magnitude_vector" in parts:
                raise UnsupportedError(f"{name} is part of an adapter that zeroing LoRA's second factor leaves on")
        for name, module in [] if weights.model is None else weights.model.named_modules():
            if getattr(module, "merged_adapters", None):
                raise UnsupportedError(f"{name} has its adapter merged into the base, which zeroing it leaves there")
        chosen = weights.only(name for name in weights if any(part in SECOND_FACTORS for part in name.split(".")))
        if not chosen:
            raise InputError("displacement", "adapter-off", "a model with a LoRA adapter; this one has none")
        return chosen

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        for tensor in weights.values():
            tensor.zero_()

    def __str__(self) -> str:
        return "adapter-off"
