"""What is trained beside a model that stays as it is: a small module of its own, in the loop that trains models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from remanent.core.batch import Encoded
from remanent.core.edit import EditSettings
from remanent.core.episode import Episode
from remanent.core.loop import Settings, planned_steps, run_episode
from remanent.core.method import Method, Recipe
from remanent.core.modes import evaluating


def train_beside(
    module: nn.Module, base: nn.Module, method: Method, data: Mapping[str, Sequence[Encoded]], settings: EditSettings
) -> None:
    """Train a module whose forward passes through a base; of the base nothing moves, and it is in eval mode meanwhile.

    Args:
        module: answers as a causal language model does, of `input_ids` and `attention_mask`; only its own parameters
            train, so that the base must be none of its submodules.
        base: given back as it was, without gradients of this training.
        method: what the module is trained by.
        data: role -> records.
        settings: seed and padding.
    """
    records = per_update(method.recipe, {role: len(data[role]) for role in method.roles})
    flags = [(parameter, parameter.requires_grad) for parameter in base.parameters()]
    for parameter, _ in flags:
        parameter.requires_grad_(False)
    try:
        with evaluating(base):
            run_episode(
                module,
                method,
                Episode("beside", "erase", {role: data[role] for role in method.roles}),
                Settings(settings.pad_id, settings.seed, evaluate_every=0, checkpoint_every=0),
                on_step=lambda step, steps, losses: settings.on_batch(records),
                on_warning=settings.on_warning,
            )
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def passes_beside(recipe: Recipe, sizes: Mapping[str, int], roles: Sequence[str]) -> int:
    """How many records pass forward and backward in `train_beside`, given each role's number of records."""
    return planned_steps(recipe, sizes[roles[0]]) * per_update(recipe, {role: sizes[role] for role in roles})


def per_update(recipe: Recipe, sizes: Mapping[str, int]) -> int:
    """Records of one update, all roles together."""
    return sum(min(recipe.batch_size, size) for size in sizes.values())
