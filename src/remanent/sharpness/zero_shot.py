"""CLIP as a classifier that was never shown an image of its classes: what robust fine-tuning starts from.

Its head is made of the text side once, and the text side is then left out: what is fine-tuned, interpolated and looked
at is an ordinary module from images to logits.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from remanent.core.modes import evaluating
from remanent.errors import InputError, UnsupportedError

TEMPLATES = ("a photo of a {}.",)
_PARTS = ("vision_model", "visual_projection", "get_text_features", "logit_scale")


class ZeroShotClassifier(nn.Module):
    """Images to logits: normalized image features times the normalized mean text features of each class.

    The head's row of a class is exp(logit_scale) n(mean over templates of n(text features)), n(x) = x / ||x||; there
    is no bias. The head trains with the rest; the vision tower and its projection are `clip`'s own, not copies.

    Args:
        clip: a dual encoder of transformers with projections and a logit scale: CLIPModel and its likes.
        tokenizer: its tokenizer.
        classes: names, in the order of the labels.
        templates: prompts with one {} for the name.
        batch_size: prompts per forward pass of the text side.

    Raises:
        InputError: no class, one named twice, or a template without its place.
        UnsupportedError: a model without a text side of that kind.

    Source: Radford et al., arXiv 2103.00020, section 3.1; Wortsman et al., arXiv 2109.01903, and its released code.
    """

    def __init__(
        self,
        clip: nn.Module,
        tokenizer: Any,
        classes: Sequence[str],
        templates: Sequence[str] = TEMPLATES,
        batch_size: int = 64,
    ) -> None:
        super().__init__()
        missing = [part for part in _PARTS if not hasattr(clip, part)]
        if missing:
            raise UnsupportedError(f"{type(clip).__name__} has no {', '.join(missing)}; a CLIPModel has")
        if not classes or len(set(classes)) < len(classes):
            raise InputError("classes", list(classes), "the names of the classes, each once")
        for template in templates or ("",):
            if template.count("{}") != 1:
                raise InputError("templates", template, "a prompt with one {} for the name of the class")
        weight = head_weight(clip, tokenizer, classes, templates, batch_size)
        self.vision_model: Any = clip.vision_model
        self.visual_projection: Any = clip.visual_projection
        self.head = nn.Linear(weight.shape[1], weight.shape[0], bias=False, device=weight.device, dtype=weight.dtype)
        with torch.no_grad():
            self.head.weight.copy_(weight)

    def forward(self, pixel_values: Tensor) -> Tensor:
        features = self.visual_projection(self.vision_model(pixel_values=pixel_values).pooler_output)
        logits: Tensor = self.head(functional.normalize(features, dim=-1))
        return logits


def head_weight(clip: Any, tokenizer: Any, classes: Sequence[str], templates: Sequence[str], batch_size: int) -> Tensor:
    """The head's weight, detached: (classes, width of the projection), in the projection's precision."""
    prompts = [template.format(name) for name in classes for template in templates]
    weight = clip.visual_projection.weight
    with torch.no_grad(), evaluating(clip):
        parts = []
        for start in range(0, len(prompts), batch_size):
            inputs = tokenizer(prompts[start : start + batch_size], padding=True, truncation=True, return_tensors="pt")
            found = clip.get_text_features(
                input_ids=inputs["input_ids"].to(weight.device),
                attention_mask=inputs["attention_mask"].to(weight.device),
            )
            parts.append(getattr(found, "pooler_output", found))  # transformers 4 gave the tensor itself
        features = functional.normalize(torch.cat(parts), dim=-1).reshape(len(classes), len(templates), -1)
        rows: Tensor = functional.normalize(features.mean(dim=1), dim=-1) * clip.logit_scale.exp()
        return rows.to(weight.dtype)
