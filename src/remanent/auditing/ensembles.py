"""Named lists of conditions, and the one order in which conditions are measured: cheap to expensive.

The worst condition decides the verdict, so a list that is fixed beforehand leaves nobody a choice of flattering ones
(the idea of AutoAttack, arXiv 2003.01690).
"""

from __future__ import annotations

STANDARD = ("full", "bf16", "int8", "int4-row", "int4-g32", "nf4", "relearning-unrelated-50", "relearning-overlap-50")
THOROUGH = (
    "full",
    "bf16",
    "fp16",
    "int8",
    "int8-tensor",
    "int4-row",
    "int4-g32",
    "int4-g128",
    "nf4",
    "int8-adapter",
    "int4-row-adapter",
    "adapter-off",
    "prune-0.1",
    "prune-0.3",
    "prune-0.5",
    "prune-0.3-global",
    "noise-0.01",
    "noise-0.05",
    "few-shot-3",
    "bnb-int8",
    "bnb-nf4",
    "torchao-int8",
    "torchao-int4",
    "gguf-q8_0",
    "gguf-q4_1",
    "gguf-q4_0",
    "sampled-0.8",
    "relearning-unrelated-10",
    "relearning-overlap-10",
    "relearning-unrelated-50",
    "relearning-overlap-50",
    "blur-relearning-hi-50",
    "blur-relearning-mid-50",
    "blur-relearning-lo-50",
    "relearning-unrelated-50+int4-row",
    "relearning-overlap-50+int4-row",
    "relearning-unrelated-100",
    "relearning-overlap-100",
    "relearning-unrelated-500",
    "relearning-overlap-500",
)
ENSEMBLES = {"standard": STANDARD, "thorough": THOROUGH}
