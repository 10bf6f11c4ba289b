"""Directions taken out of the residual stream: by hooks that can be removed, or for good where it is written."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from remanent.core.activations import check_depths, decoder_layers, residual_stream, stream_of, text_config
from remanent.core.batch import IGNORED, Encoded, collate
from remanent.core.displacement.base import Context, Displacement
from remanent.core.modes import evaluating
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError

# The last part of the names of the modules that write into the residual stream, in the families that name them so.
_WRITERS = frozenset({"o_proj", "out_proj", "down_proj", "c_proj", "dense", "dense_4h_to_h", "fc2", "fc_out", "wo"})


@dataclass(frozen=True, eq=False)
class Subspace:
    """Directions to take out of states, and the point that they are taken out towards.

    h <- m + s * (I - U U^T) ((h - m) / s): along U every state becomes that of the mean.

    Args:
        basis: U: float32, (width, rank), of orthonormal columns, in the space of (h - m) / s.
        mean: m: float32, (width,).
        scale: s: float32, (width,), above 0; None is 1, where the projection is orthogonal.

    Raises InputError for shapes that do not fit, and columns that are not orthonormal.
    """

    basis: Tensor
    mean: Tensor
    scale: Tensor | None = None

    def __post_init__(self) -> None:
        # One that is saved and read lies in memory row by row, and products of it must round alike.
        object.__setattr__(self, "basis", self.basis.contiguous())
        width = len(self.mean)
        if self.basis.dim() != 2 or self.basis.shape[0] != width or not 1 <= self.basis.shape[1] <= width:
            raise InputError("basis", tuple(self.basis.shape), f"({width}, rank), of at least 1 direction")
        apart = self.basis.double().T @ self.basis.double() - torch.eye(self.basis.shape[1], dtype=torch.float64)
        if not bool(apart.abs().max() < 1e-4):  # NaN is not
            raise InputError("basis", f"off by {float(apart.abs().max()):.2g}", "orthonormal columns")
        if self.scale is not None and (self.scale.shape != self.mean.shape or not bool((self.scale > 0).all())):
            raise InputError("scale", tuple(self.scale.shape), f"({width},), above 0")

    @property
    def rank(self) -> int:
        """How many directions there are."""
        return self.basis.shape[1]

    def erase(self, states: Tensor) -> Tensor:
        """The states (..., width) without the directions; in float32 or wider, given back in their dtype."""
        dtype = torch.promote_types(states.dtype, torch.float32)
        basis, mean = self.basis.to(states.device, dtype), self.mean.to(states.device, dtype)
        apart = states.to(dtype) - mean
        if self.scale is None:
            along = (apart @ basis) @ basis.T
        else:
            scale = self.scale.to(states.device, dtype)
            along = ((apart / scale) @ basis) @ basis.T * scale
        return (states.to(dtype) - along).to(states.dtype)


@dataclass(frozen=True, eq=False)
class Erasure(Displacement):
    """The model with directions taken out of its residual stream by hooks, at all positions. No weight moves.

    Args:
        subspaces: depth -> what is taken out there: 0 before the first layer, d after the d-th.

    Raises InputError for a depth that the model does not have, or a width that is not its own.
    """

    subspaces: Mapping[int, Subspace]

    def moving(self, weights: Weights) -> Weights:
        return weights.only(())

    def move(self, weights: Weights, context: Context) -> None:
        if context.model is None:
            raise InputError("model", None, "a model, since hooks sit on its layers")
        context.passing = True
        context.cleanup.callback(install(context.model, self.subspaces))
        context.cleanup.enter_context(torch.compiler.set_stance("force_eager"))  # what is compiled sees no hooks

    def __str__(self) -> str:
        return f"erasure-{sum(item.rank for item in self.subspaces.values())}"


def install(model: nn.Module, subspaces: Mapping[int, Subspace]) -> Callable[[], None]:
    """Put the hooks of an `Erasure` on; returns what takes them off."""
    layers = decoder_layers(model)
    check_depths(subspaces, len(layers))
    width = getattr(text_config(model), "hidden_size", None)
    for depth, subspace in subspaces.items():
        if width is not None and len(subspace.mean) != width:
            raise InputError(f"subspaces[{depth}]", f"width {len(subspace.mean)}", f"the model's, {width}")
    handles = []

    def after(subspace: Subspace) -> Any:
        def hook(module: nn.Module, inputs: Any, result: Any) -> Any:
            erased = subspace.erase(stream_of(result))
            return (erased, *result[1:]) if isinstance(result, tuple) else erased

        return hook

    def before(subspace: Subspace) -> Any:
        def hook(module: nn.Module, inputs: Any, named: Any) -> Any:
            if inputs:
                return (subspace.erase(inputs[0]), *inputs[1:]), named
            return inputs, {**named, "hidden_states": subspace.erase(named["hidden_states"])}

        return hook

    for depth, subspace in subspaces.items():
        if depth == 0:
            handles.append(layers[0].register_forward_pre_hook(before(subspace), with_kwargs=True))
        else:
            handles.append(layers[depth - 1].register_forward_hook(after(subspace)))

    def remove() -> None:
        for handle in handles:
            handle.remove()

    return remove


@dataclass(frozen=True, eq=False)
class UnwrittenDirections(Displacement):
    """Directions that nothing writes into the residual stream any more, up to a depth: a change of weights.

    Every matrix that writes into the stream up to there, embeddings included, is multiplied by I - U U^T from the side
    of its output, and the input embeddings get the constant U U^T m, over what the model multiplies them with, so that
    the stream's part along U is that of m at every depth up to there. Where embeddings are tied to the head, the head
    no longer reads along U either.

    Args:
        subspace: U and m; its scale must be None.
        depth: the last depth that is cleared, at least 0. Layers above it may write along U again.

    Raises UnsupportedError where a layer up to there has no matrix that is known to write into the stream. Whether
    nothing else writes there is for the caller to see, on the model's own states.
    """

    subspace: Subspace
    depth: int

    def __post_init__(self) -> None:
        if self.subspace.scale is not None:
            raise InputError("subspace.scale", "given", "None: weights hold an orthogonal projection only")

    def moving(self, weights: Weights) -> Weights:
        return weights.only(self._written(weights))

    @torch.no_grad()
    def move(self, weights: Weights, context: Context) -> None:
        basis = self.subspace.basis.double()
        constant = basis @ (basis.T @ self.subspace.mean.double())
        written = self._written(weights)
        if weights.model is not None and "tokens" in written.values():
            constant = constant / _multiplier(weights.model)
        for name, side in written.items():
            weight = weights[name]
            basis, constant = basis.to(weight.device), constant.to(weight.device)
            values = weight.double()
            if side == "first":
                values = values - basis @ (basis.T @ values)
            else:
                values = values - (values @ basis) @ basis.T
            weight.copy_(values + constant if side == "tokens" else values)

    def _written(self, weights: Weights) -> dict[str, str]:
        """Weight's name -> where its output dimension is: "first", "last", or "tokens", the input embeddings' last."""
        model = weights.model
        if model is None:
            raise InputError("model", None, "a model, whose layers say what writes into the stream")
        layers = decoder_layers(model)
        check_depths((self.depth,), len(layers))
        tokens = model.get_input_embeddings()  # type: ignore[operator]
        inside = {id(module) for layer in layers for module in layer.modules()}
        width = len(self.subspace.mean)
        found: dict[str, str] = {}
        for name in weights:
            owner = weights.owner(name)
            outside = isinstance(owner, nn.Embedding) and id(owner) not in inside
            if outside and weights[name].shape[-1] == width:
                found[name] = "tokens" if owner is tokens else "last"
        for index in range(self.depth):
            writers = {
                id(module): module
                for part, module in layers[index].named_modules()
                if part.rsplit(".", 1)[-1] in _WRITERS and isinstance(getattr(module, "weight", None), Tensor)
            }
            if not writers:
                raise UnsupportedError(f"layer {index} has no matrix that is known to write into the residual stream")
            for name in weights:
                owner = weights.owner(name)
                if owner is not None and id(owner) in writers:
                    found[name] = "last" if weights.transposed(name) or weights[name].dim() == 1 else "first"
        return found

    def __str__(self) -> str:
        return f"unwritten-{self.subspace.rank}"


def _multiplier(model: nn.Module) -> float:
    """What a model multiplies its input embeddings with, before its first layer: Gemma's and Granite's do.

    Of how far two tokens lie apart there and in the table, so that what stands beside both alike is no part of it.
    """
    table: Tensor = model.get_input_embeddings().weight  # type: ignore[operator]
    lengths = torch.linalg.vector_norm(table, dim=1)
    pair = [int(lengths.argmin()), int(lengths.argmax())]  # two rows that differ
    batch = collate([Encoded((token,), (IGNORED,)) for token in pair], range(2), 0).to(table.device)
    with evaluating(model):
        entering = residual_stream(model, batch, (0,))[0][:, 0].double()
    apart, held = entering[1] - entering[0], table[pair[1]].double() - table[pair[0]].double()
    return float(apart @ held / (held @ held))
