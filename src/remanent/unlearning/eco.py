"""ECO: prompts that ask for what is to be forgotten are found by a classifier, and their embeddings are corrupted.

A logistic regression on which tokens a text has tells forget from retain. Where it says forget, noise is added to the
first embeddings of every token that the model is given but the last, and to none that it writes itself, unless it
keeps no cache and is given them anew. The weights stay as they are: an intervention, which whoever has the weights
takes off.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from remanent.core.batch import IGNORED, Encoded
from remanent.core.catalogue import System
from remanent.core.edit import Edited, EditSettings
from remanent.core.intervention import begins, named_arguments, put_on
from remanent.core.probe import fit_probe
from remanent.errors import InputError

SYSTEM = System(
    name="eco",
    title="ECO: embeddings of prompts that a classifier finds are corrupted",
    year=2024,
    arxiv="2406.07933",
    card="unlearning-survey",
    family="unlearning",
    leaf="input-output/direct",
    reproduction="tests/reproductions/test_interventions.py",
    needs=("forget", "retain"),
    notes="The classifier is linear in which tokens occur, where the paper tunes a RoBERTa; the strength is given, "
    "where the paper searches it against a surrogate for a retrained model. The noise is fixed by the seed.",
)
_PLACES = 1024  # tokens after which the noise begins again


@dataclass(frozen=True, eq=False)
class CorruptedPrompts:
    """The intervention.

    Args:
        tokens: int64, (features,): the tokens that the classifier knows.
        weights: float32, (features,): what each adds to the log-odds of forget, where it occurs.
        bias: of the log-odds.
        strength: standard deviation of the noise, in that of the embeddings as the model's layer for them gives them.
        dimensions: how many of the first coordinates are corrupted; 0 is all.
        threshold: probability of forget from which a prompt is corrupted.
        seed: of the noise.
    """

    tokens: Tensor
    weights: Tensor
    bias: float
    strength: float
    dimensions: int
    threshold: float
    seed: int

    kind: ClassVar[str] = "eco"

    @property
    def settings(self) -> Mapping[str, Any]:
        names = ("bias", "strength", "dimensions", "threshold", "seed")
        return {name: getattr(self, name) for name in names}

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {"tokens": self.tokens, "weights": self.weights}

    def found(self, ids: Tensor, mask: Tensor | None = None) -> Tensor:
        """Which texts are called forget: bool, (records,).

        Args:
            ids: int64, (records, tokens).
            mask: of the same shape, 0 where a row is filled; None: nowhere.
        """
        size = int(max(int(ids.max()), int(self.tokens.max()))) + 1
        present = torch.zeros(len(ids), size + 1, device=ids.device)
        places = ids if mask is None else torch.where(mask.bool(), ids, torch.full_like(ids, size))
        present.scatter_(1, places, 1.0)
        odds = present[:, self.tokens.to(ids.device)] @ self.weights.to(ids.device) + self.bias
        return odds.sigmoid() >= self.threshold

    def install(self, model: nn.Module) -> Callable[[], None]:
        embeddings: nn.Module = model.get_input_embeddings()  # type: ignore[operator]
        table = embeddings.weight
        assert isinstance(table, Tensor)
        width = table.shape[1]
        if self.dimensions > width:
            raise InputError("dimensions", self.dimensions, f"at most {width}, the width of the embeddings")
        noise = torch.zeros(_PLACES, width)
        taken = self.dimensions or width
        generator = torch.Generator().manual_seed(self.seed)
        drawn = torch.randn(_PLACES, taken, generator=generator)
        with torch.no_grad():
            embedded = embeddings(torch.arange(len(table), device=table.device))  # Gemma's layer multiplies its table
        noise[:, :taken] = drawn * (self.strength * float(embedded.float().std()))
        corrupted: list[Tensor] = []  # which tokens of the call that is being made, (records, tokens)

        def before(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            corrupted.clear()
            given = named_arguments(arguments, named)
            if begins(given):
                corrupted.append(self._corrupted(given["input_ids"], given.get("attention_mask")))

        def embed(module: nn.Module, arguments: tuple[Any, ...], result: Tensor) -> Tensor:
            if not corrupted or not bool(corrupted[0].any()):
                return result
            chosen = corrupted.pop()
            places = (chosen.long().cumsum(dim=1) - 1).clamp_min(0) % _PLACES
            return result + noise.to(result.device, result.dtype)[places] * chosen[..., None]

        handles = [
            model.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
            embeddings.register_forward_hook(embed),
        ]

        def remove() -> None:
            for handle in handles:
                handle.remove()

        return remove

    def _corrupted(self, ids: Tensor, mask: Tensor | None) -> Tensor:
        """All tokens but the last of each text that is called forget."""
        real = torch.ones_like(ids, dtype=torch.bool)
        if mask is not None and mask.shape == ids.shape:
            real = mask.bool()
        last = real & (real.long().flip(1).cumsum(dim=1).flip(1) == 1)
        return real & ~last & self.found(ids, real)[:, None]


def restored(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> CorruptedPrompts:
    """The intervention of what was saved."""
    arguments: dict[str, Any] = {**tensors, **settings}
    return CorruptedPrompts(**arguments)


@dataclass(frozen=True)
class ECO:
    """Fits the classifier and puts the intervention on; an edit that moves no weight.

    Args:
        strength: standard deviation of the noise, in that of the embeddings; above 0.
        dimensions: coordinates that are corrupted; 0 is all.
        threshold: probability of forget, in (0, 1), from which a prompt is corrupted.
        penalty: C of the logistic regression.
    """

    strength: float = 10.0
    dimensions: int = 0
    threshold: float = 0.5
    penalty: float = 1.0

    roles: ClassVar[tuple[str, ...]] = ("forget", "retain")
    refuses_adapter: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("strength", 0 < self.strength < math.inf, "a finite number above 0"),
            ("dimensions", self.dimensions >= 0, "a number of coordinates, or 0 for all"),
            ("threshold", 0 < self.threshold < 1, "a probability between 0 and 1"),
            ("penalty", 0 < self.penalty < math.inf, "a finite number above 0"),
        ):
            if not right:
                raise InputError(name, getattr(self, name), expected)

    def passes(self, sizes: Mapping[str, int]) -> int:
        return 0

    def classifier(self, forget: Sequence[Encoded], retain: Sequence[Encoded], seed: int = 0) -> CorruptedPrompts:
        """The intervention, its classifier fitted on prompts alone and with their answers, since it sees both."""
        texts = [*_texts(forget), *_texts(retain)]
        positive = torch.arange(len(texts)) < len(_texts(forget))
        tokens = sorted({token for text in texts for token in text})
        place = {token: index for index, token in enumerate(tokens)}
        rows = torch.zeros(len(texts), len(tokens))
        for row, text in enumerate(texts):
            rows[row, [place[token] for token in text]] = 1.0
        probe = fit_probe(rows, positive, self.penalty)
        weights = probe.weights / probe.scaler.scale
        bias = probe.bias - float(weights @ probe.scaler.mean)
        return CorruptedPrompts(
            torch.tensor(tokens), weights.float(), bias, self.strength, self.dimensions, self.threshold, seed
        )

    def edit(self, model: nn.Module, data: Mapping[str, Sequence[Encoded]], settings: EditSettings) -> Edited:
        made = self.classifier(data["forget"], data["retain"], settings.seed)
        undo = put_on(model, made)
        report = {"intervention": made.kind, "weights_changed": 0, "features": len(made.tokens)}
        for role in self.roles:
            called = [bool(made.found(torch.tensor([sorted(text)]))) for text in _texts(data[role])]
            report[f"{role}_called_forget"] = sum(called) / len(called)
        settings.on_warning("eco puts an intervention round the model: its weights still hold what was to be forgotten")
        return Edited(report, undo)


def _texts(records: Sequence[Encoded]) -> list[set[int]]:
    """The tokens of each record's prompt, where it has one, and of all of it."""
    found = []
    for record in records:
        prompt = [token for token, label in zip(record.input_ids, record.labels, strict=True) if label == IGNORED]
        found += [set(prompt)] * bool(prompt) + [set(record.input_ids)]
    return found


def edit(strength: float = 10.0, dimensions: int = 0, threshold: float = 0.5, penalty: float = 1.0) -> ECO:
    """ECO.

    Args:
        strength: standard deviation of the noise, in that of the input embeddings.
        dimensions: how many of the first coordinates are corrupted; 0 is all.
        threshold: probability of forget from which a prompt is corrupted.
        penalty: C of the classifier; larger follows the records closer.
    """
    return ECO(strength, dimensions, threshold, penalty)
