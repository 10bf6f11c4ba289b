"""The tree of ways to make a model forget: four classes, by what is changed, and their leaves.

Source: Blanco-Justicia et al., *Digital forgetting in large language models*, arXiv 2404.02062. Leaves that have no
method here are part of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Class:
    """A class of methods.

    Args:
        title: what is changed.
        removes: whether the weights that are handed over are those that forgot.
        leaves: name -> what its methods do.
    """

    title: str
    removes: str
    leaves: Mapping[str, str]


TREE: Mapping[str, Class] = {
    "global": Class(
        "Global weight modification",
        "it from the weights; with a guarantee only where the model is trained anew",
        {
            "retraining": "train anew without the records; exact",
            "sharding": "train shards apart, so that only one is trained anew (SISA); exact",
            "gradient-ascent": "raise the loss on what is to be forgotten, in any of its forms",
            "distillation": "learn from a teacher that does not know it",
            "generic-alternatives": "learn other answers in the place of the true ones",
            "representations": "hidden states made like those of what was never learnt; not in the survey",
            "reinforcement": "rewards for not telling (Quark, DeMem)",
        },
    ),
    "local": Class(
        "Local weight modification",
        "it from some of the weights, without a guarantee",
        {
            "local-retraining": "find the weights that matter, and train those",
            "task-vectors": "learn it, and subtract the change",
            "direct-edits": "change weights or states where it lies, in one place",
        },
    ),
    "architecture": Class(
        "Architecture modification",
        "nothing from the weights that were there: what was added can be taken off",
        {
            "extra-layers": "layers beside those that are there, trained to undo it",
            "linear-transformation": "a projection of the hidden states",
            "logit-offset": "another model's logits subtracted from this one's",
        },
    ),
    "input-output": Class(
        "Input and output modification",
        "nothing: the weights stay, so that it is no deletion in the legal sense",
        {
            "direct": "instructions, corrupted prompts, filters",
            "retrieval": "a memory of what changed, consulted at inference (SERAC, MeLLo)",
        },
    ),
}


def leaves() -> dict[str, str]:
    """Every leaf as a record names it, "class/leaf" -> what its methods do."""
    return {f"{name}/{leaf}": text for name, item in TREE.items() for leaf, text in item.leaves.items()}
