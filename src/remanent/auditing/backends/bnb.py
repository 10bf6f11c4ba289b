"""bitsandbytes: NF4 and LLM.int8()."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from remanent.auditing.backends.base import require
from remanent.models.folder import load_folder


@dataclass(frozen=True, slots=True)
class BitsAndBytesNF4:
    """NF4 as QLoRA uses it (arXiv 2305.14314): double quantization on."""

    name = "bnb-nf4"
    description = (
        "Loaded by bitsandbytes in NF4: every linear layer but the output, in blocks of 64 weights of the flattened "
        "matrix, whose scales are themselves held in 8 bits (double quantization); arithmetic in float32."
    )

    def check(self) -> None:
        """Raise InputError without bitsandbytes."""
        require("bitsandbytes", "quant", self.name)

    def open(self, folder: Path, device: torch.device) -> nn.Module:
        """The folder's model, packed to NF4 while it loads."""
        from transformers import BitsAndBytesConfig

        config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.float32,
        )
        model: nn.Module = load_folder(folder, torch.float32, quantization_config=config, device_map={"": device})[0]
        return model.eval()


@dataclass(frozen=True, slots=True)
class BitsAndBytesInt8:
    """LLM.int8() (arXiv 2208.07339)."""

    name = "bnb-int8"
    description = (
        "Loaded by bitsandbytes in LLM.int8(): every linear layer but the output, weights with a scale per row; inputs "
        "are rounded to 8 bits too, a scale per token, except columns with a value above 6, which stay in 16 bits."
    )

    def check(self) -> None:
        """Raise InputError without bitsandbytes."""
        require("bitsandbytes", "quant", self.name)

    def open(self, folder: Path, device: torch.device) -> nn.Module:
        """The folder's model, packed to 8 bits while it loads."""
        from transformers import BitsAndBytesConfig

        logging.getLogger("bitsandbytes.autograd._functions").addFilter(_not_of_casts)
        config = BitsAndBytesConfig(load_in_8bit=True, llm_int8_threshold=6.0)  # type: ignore[no-untyped-call]
        model: nn.Module = load_folder(folder, torch.float32, quantization_config=config, device_map={"": device})[0]
        return model.eval()


def _not_of_casts(record: logging.LogRecord) -> bool:
    """What LLM.int8() is, said by the library at every layer of every forward pass, is left out of the log."""
    return "inputs will be cast" not in record.getMessage()
