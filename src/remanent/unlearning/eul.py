"""EUL: small layers behind each feed-forward network, trained to part from the model on forget and obey it on retain.

The model stays as it is. Its own predictions are the teacher: the layers are to keep to them on retain records and to
leave them on forget records. Layers of several requests lie one over the other; `fused` makes one of such as were each
trained on the model as it was.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils import skip_init

from remanent.core.activations import decoder_layers, stream_of
from remanent.core.batch import Batch, Encoded, collate
from remanent.core.beside import passes_beside, train_beside
from remanent.core.catalogue import System
from remanent.core.edit import Edited, EditSettings
from remanent.core.intervention import inner, put_on
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.model_inputs import one_pass
from remanent.core.modes import evaluating
from remanent.core.predict import Predict
from remanent.errors import InputError, UnsupportedError
from remanent.unlearning.kl_min import kl_to_reference

SYSTEM = System(
    name="eul",
    title="EUL: unlearning layers behind the feed-forward networks, by a selective teacher-student objective",
    year=2023,
    arxiv="2310.20150",
    card="unlearning-survey",
    family="unlearning",
    leaf="architecture/extra-layers",
    reproduction="tests/reproductions/test_beside.py",
    needs=("forget", "retain"),
    notes="For decoders, where the paper has T5: its loss of masked words is the NLL of forgotten answers. Weights of "
    "the losses are ours; the authors' code holds none of it.",
)
_NETWORKS = ("mlp", "feed_forward", "ffn")  # names that decoder layers give their feed-forward network
_RIDGE = 1e-6  # of a Gram matrix's mean diagonal, where the records leave directions open
_PER_PASS = 16  # records of a pass that looks


@dataclass(frozen=True)
class SelectiveTeacher(Objective):
    """Sums over scored tokens, float32, the teacher being the model without the layers: "apart" = -KL(teacher || p) on
    forget, "obey" = KL(teacher || p) on retain, "retain" = NLL, "forget" = -NLL.

    Source: Chen and Yang, arXiv 2310.20150, equations 2 to 5.
    """

    terms: ClassVar[Mapping[str, Term]] = {
        "apart": Term("token", ("forget",)),
        "forget": Term("token", ("forget",)),
        "obey": Term("token", ("retain",)),
        "retain": Term("token", ("retain",)),
    }

    def at_reference(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        return {role: predict(batch).distribution for role, batch in batches.items()}

    def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
        found: dict[str, Tensor] = {}
        if "forget" in batches:
            batch = batches["forget"]
            found["apart"] = -kl_to_reference(batch, predict, "forget")
            found["forget"] = predict(batch).log_probs.sum()
        if "retain" in batches:
            batch = batches["retain"]
            found["obey"] = kl_to_reference(batch, predict, "retain")
            found["retain"] = -predict(batch).log_probs.sum()
        return found


@dataclass(frozen=True, eq=False)
class UnlearningLayers:
    """The intervention: h <- h + U relu(D h + b) + c behind each feed-forward network, before the residual is added.

    Args:
        tensors: "<layer>.down.weight" (width, hidden), "<layer>.down.bias", "<layer>.up.weight" (hidden, width),
            "<layer>.up.bias", for each decoder layer.
    """

    tensors: Mapping[str, Tensor]

    kind: ClassVar[str] = "eul"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    def install(self, model: nn.Module) -> Callable[[], None]:
        networks = feed_forward_networks(model)
        expected = {f"{place}.{name}" for place in range(len(networks)) for name in _NAMES}
        if set(self.tensors) != expected:
            found = len(self.tensors) // len(_NAMES)
            raise InputError("tensors", f"those of {found} layers", f"layers for a model of {len(networks)}")
        handles = [
            network.register_forward_hook(_adding(self.tensors, place)) for place, network in enumerate(networks)
        ]

        def remove() -> None:
            for handle in handles:
                handle.remove()

        return remove


_NAMES = ("down.weight", "down.bias", "up.weight", "up.bias")


def restored(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> UnlearningLayers:
    """The intervention of what was saved."""
    return UnlearningLayers(tensors, **settings)


def feed_forward_networks(model: nn.Module) -> list[nn.Module]:
    """The feed-forward network of each decoder layer. Raises UnsupportedError where one has none of a known name."""
    found = []
    for layer in decoder_layers(model):
        network = next((child for name, child in layer.named_children() if name in _NETWORKS), None)
        if network is None:
            raise UnsupportedError(f"{type(layer).__name__} has no part called {', '.join(_NETWORKS)}")
        found.append(network)
    return found


def _adding(tensors: Mapping[str, Tensor], place: int) -> Callable[[nn.Module, Any, Any], Any]:
    def add(module: nn.Module, inputs: Any, result: Any) -> Any:
        states = stream_of(result)
        down, shift, up, constant = (tensors[f"{place}.{name}"].to(states.device, states.dtype) for name in _NAMES)
        states = states + functional.linear(functional.linear(states, down, shift).relu(), up, constant)
        # Some mixtures of experts give what their router said too.
        return (states, *result[1:]) if isinstance(result, tuple) else states

    return add


class _Student(nn.Module):
    """The model with layers that train. Their second matrix begins at 0, so that the student begins as the teacher."""

    base: nn.Module

    def __init__(self, base: nn.Module, width: int, seed: int) -> None:
        super().__init__()
        self.__dict__["base"] = base  # no submodule: only what is registered trains
        table = base.get_input_embeddings().weight  # type: ignore[operator]
        hidden = table.shape[1]
        made = []
        generator = torch.Generator().manual_seed(seed)
        for _ in feed_forward_networks(base):
            # Their own first weights would be drawn from the global generator.
            down, up = skip_init(nn.Linear, hidden, width), skip_init(nn.Linear, width, hidden)  # type: ignore[no-untyped-call]
            with torch.no_grad():
                down.weight.copy_(torch.randn(width, hidden, generator=generator) / math.sqrt(hidden))
            for weight in (down.bias, up.weight, up.bias):
                nn.init.zeros_(weight)
            made.append(nn.ModuleDict({"down": down, "up": up}))
        self.layers = nn.ModuleList(made).to(table.device)

    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> Any:
        remove = UnlearningLayers(dict(self.layers.named_parameters())).install(self.base)
        try:
            return one_pass(self.base, input_ids, attention_mask)
        finally:
            remove()


@dataclass(frozen=True)
class EUL:
    """Trains the layers and puts them on; an edit that moves no weight of the model.

    Args:
        width: of the layers.
        obey_weight, retain_weight, forget_weight, apart_weight: of the losses of `SelectiveTeacher`.
        learning_rate, epochs, batch_size: of the training, epochs counted on forget.
    """

    width: int = 64
    obey_weight: float = 1.0
    retain_weight: float = 1.0
    forget_weight: float = 0.2
    apart_weight: float = 1.0
    learning_rate: float = 5e-4
    epochs: float = 5.0
    batch_size: int = 16

    roles: ClassVar[tuple[str, ...]] = ("forget", "retain")
    refuses_adapter: ClassVar[str] = ""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise InputError("width", self.width, "at least 1")
        self.method()  # checks the rest

    def method(self) -> Method:
        """What the layers are trained by."""
        weights = {
            "apart": self.apart_weight,
            "forget": self.forget_weight,
            "obey": self.obey_weight,
            "retain": self.retain_weight,
        }
        recipe = Recipe(learning_rate=self.learning_rate, epochs=self.epochs, batch_size=self.batch_size)
        return Method(SelectiveTeacher(), weights=weights, recipe=recipe)

    def passes(self, sizes: Mapping[str, int]) -> int:
        return passes_beside(self.method().recipe, sizes, self.roles)

    def edit(self, model: nn.Module, data: Mapping[str, Sequence[Encoded]], settings: EditSettings) -> Edited:
        """Raises UnsupportedError where a decoder layer has no feed-forward network of a known name."""
        student = _Student(inner(model), self.width, settings.seed)
        train_beside(student, model, self.method(), data, settings)
        made = UnlearningLayers({name: tensor.detach() for name, tensor in student.layers.named_parameters()})
        settings.on_warning("eul puts layers round the model: its weights still hold what was to be forgotten")
        size = sum(tensor.numel() for tensor in made.tensors.values())
        return Edited({"intervention": made.kind, "weights_changed": 0, "parameters": size}, put_on(model, made))


@torch.no_grad()
def fused(
    model: nn.Module, layers: Sequence[UnlearningLayers], records: Sequence[Sequence[Encoded]]
) -> UnlearningLayers:
    """One set of layers for several requests: each matrix W nearest to all on what they met.

    W = argmin sum_i |X_i W^T - X_i W_i^T|^2, X_i what enters the matrix of request i's layers on its own forget
    records, with a column of ones for the bias; in float64. Where the records leave W open it is the mean of all.

    Args:
        model: that wears none of them.
        layers: of each request, all of one width, each trained on that model: not those of a queue, which lie one over
            the other.
        records: of each request.

    Source: arXiv 2310.20150, section 3.3.
    """
    if not layers or len(layers) != len(records):
        raise InputError("layers", f"{len(layers)} of {len(records)} requests", "one set of layers for each request")
    met = [dict(_met(model, item, part)) for item, part in zip(layers, records, strict=True)]
    found: dict[str, Tensor] = {}
    for place in range(len(feed_forward_networks(model))):
        for name in ("down", "up"):
            grams = [part[f"{place}.{name}"] for part in met]
            ridge = _RIDGE * sum(float(gram.diagonal().mean()) for gram in grams) / len(grams)
            grams = [gram + ridge * torch.eye(len(gram), dtype=gram.dtype) for gram in grams]
            sides = (f"{place}.{name}.weight", f"{place}.{name}.bias")
            given = [torch.column_stack([item.tensors[side] for side in sides]) for item in layers]
            mixed = sum(gram @ weight.cpu().double().T for gram, weight in zip(grams, given, strict=True))
            solved = torch.linalg.solve(torch.stack(grams).sum(dim=0), mixed).T.to(given[0])
            found |= dict(zip(sides, (solved[:, :-1], solved[:, -1]), strict=True))
    return UnlearningLayers(found)


def _met(model: nn.Module, layers: UnlearningLayers, records: Sequence[Encoded]) -> Iterator[tuple[str, Tensor]]:
    """ "<layer>.<matrix>" -> X^T X of what enters it, with a column of ones, float64."""
    grams: dict[str, Tensor] = {}
    device = next(model.parameters()).device

    def add(name: str, rows: Tensor) -> None:
        rows = torch.cat([rows, torch.ones_like(rows[:, :1])], dim=1).cpu().double()
        grams[name] = grams.get(name, 0) + rows.T @ rows

    for start in range(0, len(records), _PER_PASS):
        batch = collate(records, range(start, min(start + _PER_PASS, len(records))), 0).to(device)
        real = batch.attention_mask.bool()
        with _entering(model, layers) as seen:
            one_pass(model, batch.input_ids, batch.attention_mask)
        for place, states in enumerate(seen):
            rows = states.reshape(*real.shape, -1)[real].float()  # some mixtures give one row of all tokens
            down, shift = (layers.tensors[f"{place}.down.{name}"].to(rows) for name in ("weight", "bias"))
            add(f"{place}.down", rows)
            add(f"{place}.up", functional.linear(rows, down, shift).relu())
    yield from grams.items()


@contextmanager
def _entering(model: nn.Module, layers: UnlearningLayers) -> Iterator[list[Tensor]]:
    """Inside the block the model, in eval mode, wears the layers, and what enters each is kept."""
    seen: list[Tensor] = []
    with ExitStack() as stack:
        for network in feed_forward_networks(model):
            stack.callback(
                network.register_forward_hook(lambda module, inputs, result: seen.append(stream_of(result))).remove
            )
        stack.callback(layers.install(model))
        stack.enter_context(evaluating(model))
        yield seen


def edit(
    width: int = 64,
    obey_weight: float = 1.0,
    retain_weight: float = 1.0,
    forget_weight: float = 0.2,
    apart_weight: float = 1.0,
    learning_rate: float = 5e-4,
    epochs: float = 5.0,
    batch_size: int = 16,
) -> EUL:
    """Unlearning layers.

    Args:
        width: of the layers.
        obey_weight: alpha, of the divergence from the model on retain.
        retain_weight: lambda, of the NLL of retain.
        forget_weight: gamma, of minus the NLL of forget.
        apart_weight: of minus the divergence from the model on forget.
        learning_rate: of the layers' training.
        epochs: passes over the forget records.
        batch_size: records of each role per update.
    """
    return EUL(width, obey_weight, retain_weight, forget_weight, apart_weight, learning_rate, epochs, batch_size)
