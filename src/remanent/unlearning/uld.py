"""ULD: an assistant that learns what is to be forgotten and nothing else; its logits are subtracted from the model's.

The assistant is the model's first layers, its norm and its output, with a LoRA that is trained by the reversed
objectives: likely answers on forget, the uniform distribution on retain. Neither is unbounded, and where the assistant
knows nothing the model is as it was. Only the LoRA is new: the layers are the model's own, passed once more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from remanent.core.activations import decoder_layers
from remanent.core.batch import Batch, Encoded
from remanent.core.beside import passes_beside, train_beside
from remanent.core.catalogue import System
from remanent.core.edit import Edited, EditSettings
from remanent.core.intervention import inner, named_arguments, put_on
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.predict import Predict
from remanent.core.weights import is_linear
from remanent.errors import InputError, UnsupportedError

SYSTEM = System(
    name="uld",
    title="ULD: an assistant trained by reversed objectives, whose logits are subtracted",
    year=2024,
    arxiv="2406.08607",
    card="unlearning-survey",
    family="unlearning",
    leaf="architecture/logit-offset",
    reproduction="tests/reproductions/test_beside.py",
    needs=("forget", "retain"),
    notes="Log-probabilities over the uniform's are subtracted, where the authors' code subtracts raw logits. Nothing "
    "is added to the records: the authors add paraphrases to forget and false answers to retain.",
)
_ASSISTANT = "_remanent_assistant"  # its cache, kept on that of the model


@dataclass(frozen=True)
class Reversed(Objective):
    """Sums over scored tokens, float32: "forget" = NLL, "retain" = KL(uniform || p).

    Source: Ji et al., arXiv 2406.08607, equations 4 to 6; the authors' code at commit 858608c.
    """

    terms: ClassVar[Mapping[str, Term]] = {"forget": Term("token", ("forget",)), "retain": Term("token", ("retain",))}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            found["forget"] = -predict(batches["forget"]).log_probs.sum()
        if "retain" in batches:
            distribution = predict(batches["retain"]).distribution
            found["retain"] = -(distribution.mean(dim=-1) + math.log(distribution.shape[-1])).sum()
        return found


def difference(logits: Tensor, assistant: Tensor, strength: float, threshold: float) -> Tensor:
    """z - strength * (log p_assistant + log V), at tokens that the model finds likely enough; the others keep z.

    What the uniform distribution has is 0, so that an assistant that knows nothing changes nothing.

    Args:
        logits: (..., vocabulary), of the model.
        assistant: the same, of the assistant.
        strength: alpha.
        threshold: of a token's probability over that of the likeliest one; 0 takes all.
    """
    knows = functional.log_softmax(assistant.float(), dim=-1) + math.log(assistant.shape[-1])
    if threshold > 0:
        likely = logits.float() >= logits.float().amax(dim=-1, keepdim=True) + math.log(threshold)
        knows = torch.where(likely, knows, torch.zeros_like(knows))
    return logits - (strength * knows).to(logits.dtype)


@dataclass(frozen=True, eq=False)
class LogitDifference:
    """The intervention.

    Args:
        tensors: "<layer>/<matrix>.down" (rank, in) and ".up" (out, rank), of each matrix of the assistant's layers.
        layers: how many of the model's first layers the assistant has.
        scale: of the LoRA, alpha over rank.
        strength: alpha of the subtraction.
        threshold: as for `difference`.
    """

    tensors: Mapping[str, Tensor]
    layers: int
    scale: float
    strength: float
    threshold: float

    kind: ClassVar[str] = "uld"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {name: getattr(self, name) for name in ("layers", "scale", "strength", "threshold")}

    def install(self, model: nn.Module) -> Callable[[], None]:
        known = {f"{name}.{side}" for name in matrices(model, self.layers) for side in ("down", "up")}
        if set(self.tensors) != known:
            raise InputError("tensors", f"{len(self.tensors)} of them", f"the {len(known)} of this model's matrices")

        def after(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> Any:
            given = named_arguments(arguments, named)
            if given.get("labels") is not None:
                raise UnsupportedError("a model with an assistant gives logits; it takes no labels")
            name = "cache" if "cache" in result else "past_key_values"  # the older name of transformers
            for known_as in ("cache", "past_key_values"):
                given.pop(known_as, None)
            past = result.get(name)
            if past is not None:
                given[name] = _cache_beside(past, given["input_ids"])
            found = assisted(model, self.tensors, self.layers, self.scale, given)
            # Logits of tokens that an intervention under this one put before the text are cut off already.
            beside = found.logits[:, -result.logits.shape[1] :]
            result.logits = difference(result.logits, beside, self.strength, self.threshold)
            return result

        handle = model.register_forward_hook(after, with_kwargs=True)
        return handle.remove


def restored(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> LogitDifference:
    """The intervention of what was saved."""
    return LogitDifference(tensors, **settings)


def matrices(model: nn.Module, layers: int) -> dict[str, nn.Module]:
    """The matrices of the model's first layers: "<layer>/<name>" -> module.

    A matrix with an adapter is one, of the plain one's name: what it computes is what both compute together. A router
    of experts is none, though some are made of a linear layer: what it gives is a choice.

    Raises InputError where it has not so many layers.
    """
    every = decoder_layers(model)
    if not 1 <= layers <= len(every):
        raise InputError("layers", layers, f"from 1 to {len(every)}, the model's, or 0 for a quarter of them")
    return {
        f"{place}/{name.replace('.', '/')}": module
        for place in range(layers)
        for name, module in every[place].named_modules()
        if is_linear(getattr(module, "base_layer", module))
        and "Router" not in type(getattr(module, "base_layer", module)).__name__
        and not any(part == "base_layer" or part.startswith("lora_") for part in name.split("."))
    }


def assisted(
    model: nn.Module, tensors: Mapping[str, Tensor], layers: int, scale: float, given: Mapping[str, Any]
) -> Any:
    """What the assistant says: the model's forward with its first layers alone, each matrix with its LoRA.

    Args:
        model: as transformers made it; its own hooks on the whole of it are not run.
        tensors, layers, scale: as for `LogitDifference`.
        given: the arguments of forward by name.
    """

    def adding(name: str) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def add(module: nn.Module, inputs: Any, result: Tensor) -> Tensor:
            down, up = (tensors[f"{name}.{side}"].to(result.device, result.dtype) for side in ("down", "up"))
            return result + scale * functional.linear(functional.linear(inputs[0], down), up)

        return add

    handles = [module.register_forward_hook(adding(name)) for name, module in matrices(model, layers).items()]
    try:
        with _first_layers(model, layers):
            return model.forward(**given)
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def _first_layers(model: nn.Module, layers: int) -> Iterator[None]:
    """Inside the block the model has its first layers only."""
    every = decoder_layers(model)
    holder, name, whole = next(
        (module, name, child)
        for module in model.modules()
        for name, child in module.named_children()
        if isinstance(child, nn.ModuleList) and list(child) == list(every)
    )
    setattr(holder, name, nn.ModuleList(every[:layers]))
    try:
        yield
    finally:
        setattr(holder, name, whole)


def _cache_beside(past: Any, ids: Tensor) -> Any:
    """The assistant's cache, kept on the model's and put in its order with it.

    Raises UnsupportedError where the model's holds tokens that the assistant never saw.
    """
    from transformers import DynamicCache

    found = getattr(past, _ASSISTANT, None)
    if found is not None:
        return found
    if int(past.get_seq_length()) != ids.shape[1]:
        raise UnsupportedError("a model with an assistant goes on with a cache only that it began itself")
    found = DynamicCache()
    reorder = past.reorder_cache

    def both(order: Any) -> None:
        reorder(order)
        found.reorder_cache(order)

    past.reorder_cache = both
    setattr(past, _ASSISTANT, found)
    return found


class _Assistant(nn.Module):
    """The assistant while it is trained. The LoRA's second factors begin at 0."""

    base: nn.Module

    def __init__(self, base: nn.Module, layers: int, rank: int, scale: float, seed: int) -> None:
        super().__init__()
        self.__dict__["base"] = base  # no submodule: only what is registered trains
        self.layers, self.scale = layers, scale
        generator = torch.Generator().manual_seed(seed)
        self.factors = nn.ModuleDict()
        for name, module in matrices(base, layers).items():
            plain: Any = getattr(module, "base_layer", module)
            linear = isinstance(plain, nn.Linear)  # whose weight may be packed, of another shape
            into, out = (plain.in_features, plain.out_features) if linear else plain.weight.shape
            down = torch.randn(rank, into, generator=generator) / math.sqrt(into)
            pair = {"down": down, "up": torch.zeros(out, rank)}
            self.factors[name] = nn.ParameterDict({side: nn.Parameter(part) for side, part in pair.items()})
        self.factors.to(next(base.parameters()).device)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        given = {"input_ids": input_ids, "attention_mask": attention_mask, "use_cache": False}
        return assisted(self.base, dict(self.factors.named_parameters()), self.layers, self.scale, given)


@dataclass(frozen=True)
class ULD:
    """Trains the assistant and puts it on; an edit that moves no weight of the model.

    Args:
        layers: the assistant's; 0 is a quarter of the model's, rounded up.
        rank, alpha: of its LoRA.
        strength: of the subtraction.
        threshold: as for `difference`.
        retain_weight: of the uniform loss.
        learning_rate, epochs, batch_size: of the training, epochs counted on forget.
    """

    layers: int = 0
    rank: int = 16
    alpha: float = 32.0
    strength: float = 0.8
    threshold: float = 0.01
    retain_weight: float = 5.0
    learning_rate: float = 1e-3
    epochs: float = 10.0
    batch_size: int = 32

    roles: ClassVar[tuple[str, ...]] = ("forget", "retain")
    refuses_adapter: ClassVar[str] = ""

    def __post_init__(self) -> None:
        for name, right, expected in (
            ("layers", self.layers >= 0, "a number of layers, or 0 for a quarter of the model's"),
            ("rank", self.rank >= 1, "at least 1"),
            ("alpha", 0 < self.alpha < math.inf, "a finite number above 0"),
            ("strength", 0 < self.strength < math.inf, "a finite number above 0"),
            ("threshold", 0 <= self.threshold < 1, "a share of the likeliest token's probability, from 0 to below 1"),
        ):
            if not right:
                raise InputError(name, getattr(self, name), expected)
        self.method()  # checks the rest

    def method(self) -> Method:
        """What the assistant is trained by."""
        recipe = Recipe(learning_rate=self.learning_rate, epochs=self.epochs, batch_size=self.batch_size)
        return Method(Reversed(), weights={"retain": self.retain_weight}, recipe=recipe)

    def passes(self, sizes: Mapping[str, int]) -> int:
        return passes_beside(self.method().recipe, sizes, self.roles)

    def edit(self, model: nn.Module, data: Mapping[str, Sequence[Encoded]], settings: EditSettings) -> Edited:
        """Raises InputError where the model has not so many layers."""
        base = inner(model)
        layers = self.layers or math.ceil(len(decoder_layers(base)) / 4)
        assistant = _Assistant(base, layers, self.rank, self.alpha / self.rank, settings.seed)
        train_beside(assistant, model, self.method(), data, settings)
        tensors = {name: tensor.detach() for name, tensor in assistant.factors.named_parameters()}
        made = LogitDifference(tensors, layers, assistant.scale, self.strength, self.threshold)
        settings.on_warning("uld puts an assistant beside the model: its weights still hold what was to be forgotten")
        size = sum(tensor.numel() for tensor in tensors.values())
        report = {"intervention": made.kind, "weights_changed": 0, "layers": layers, "parameters": size}
        return Edited(report, put_on(model, made))


def edit(
    layers: int = 0,
    rank: int = 16,
    alpha: float = 32.0,
    strength: float = 0.8,
    threshold: float = 0.01,
    retain_weight: float = 5.0,
    learning_rate: float = 1e-3,
    epochs: float = 10.0,
    batch_size: int = 32,
) -> ULD:
    """An assistant with the authors' settings for TOFU.

    Args:
        layers: how many of the model's first layers it has; 0 is a quarter of them.
        rank: of its LoRA.
        alpha: of its LoRA, over rank.
        strength: what its logits are multiplied with before they are subtracted.
        threshold: tokens whose probability is below this share of the likeliest one's are left alone; 0 leaves none.
        retain_weight: of the divergence from the uniform distribution.
        learning_rate: of its training.
        epochs: passes over the forget records.
        batch_size: records of each role per update.
    """
    return ULD(layers, rank, alpha, strength, threshold, retain_weight, learning_rate, epochs, batch_size)
