"""What a model gives and is given: its logits, the positions that count, its input changed on the way in."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from remanent.core.intervention import inner
from remanent.errors import InputError, UnsupportedError


def unwrapped(model: nn.Module) -> nn.Module:
    """The model itself, of one in a data-parallel wrapper or that of torch.compile."""
    while True:
        wrapper = isinstance(model, nn.parallel.DistributedDataParallel | nn.DataParallel)
        inner = model._modules.get("module" if wrapper else "_orig_mod")
        if inner is None:
            return model
        model = inner


def takes(model: nn.Module, argument: str) -> bool:
    """Whether a model's forward, inside peft's wrapper which passes everything on, has an argument of that name."""
    return argument in inspect.signature(inner(model).forward).parameters


def one_pass(model: nn.Module, input_ids: Tensor, attention_mask: Tensor | None, **options: Any) -> Any:
    """What a model returns for whole texts. Models that keep a key-value cache of them keep none: no token follows."""
    if takes(model, "use_cache"):
        options["use_cache"] = False
    return model(input_ids=input_ids, attention_mask=attention_mask, **options)


def logits_of(output: Any) -> Tensor:
    """The logits of what a model returned: the tensor itself, or the `logits` of an output of transformers."""
    found = output if isinstance(output, Tensor) else getattr(output, "logits", None)
    if not isinstance(found, Tensor):
        raise InputError("model", type(output).__name__, "a model that returns logits, or an output that has `logits`")
    return found


def counting(logits: Tensor, named: Mapping[str, Any]) -> Tensor | None:
    """The mask of the positions that count: the inputs' `attention_mask`, where the model has logits for each token."""
    mask = named.get("attention_mask")
    return mask if isinstance(mask, Tensor) and mask.shape == logits.shape[:-1] else None


@contextmanager
def changed_input(model: nn.Module, change: Callable[[Tensor], Tensor]) -> Iterator[None]:
    """Inside the block, what a model computes with is `change` of its input.

    The input is the one that transformers' `main_input_name` names, `inputs_embeds`, or the first tensor. If it is
    tokens, `change` gets their embeddings, (records, tokens, width), as `get_input_embeddings()` gives them; otherwise
    the input itself. The caller's own tensors stay as they are. What is compiled runs uncompiled inside, since it would
    not see the change.

    Raises, at the forward pass, InputError without a tensor, UnsupportedError for tokens without such a layer; at the
    end, UnsupportedError where no input was changed.
    """
    embeddings = _embeddings(model)
    waiting, changed = False, False

    def changing(value: Tensor) -> Tensor:
        nonlocal changed
        changed = True
        return change(value)

    def before(_: nn.Module, inputs: tuple[Any, ...], named: dict[str, Any]) -> tuple[Any, Any]:
        nonlocal waiting
        key = _main(model, inputs, named)
        value = inputs[key] if isinstance(key, int) else named[key]
        waiting = not value.is_floating_point()
        if waiting and embeddings is None:
            raise UnsupportedError(f"{type(model).__name__} is given tokens, and has no get_input_embeddings()")
        if waiting:
            return inputs, named
        if isinstance(key, int):
            return (*inputs[:key], changing(value), *inputs[key + 1 :]), named
        return inputs, {**named, key: changing(value)}

    def embedded(_: nn.Module, __: Any, output: Tensor) -> Tensor | None:
        nonlocal waiting
        if not waiting:  # a decoder that shares the encoder's embeddings comes second
            return None
        waiting = False
        return changing(output)

    handles = [model.register_forward_pre_hook(before, with_kwargs=True)]
    if embeddings is not None:
        handles.append(embeddings.register_forward_hook(embedded))
    try:
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for handle in handles:
            handle.remove()
    if waiting or not changed:
        what = "did not go through its get_input_embeddings()" if waiting else "was never asked"
        raise UnsupportedError(f"{type(model).__name__} {what}, so that its input was not changed")


def _embeddings(model: nn.Module) -> nn.Module | None:
    getter = getattr(model, "get_input_embeddings", None)
    found = getter() if callable(getter) else None
    return found if isinstance(found, nn.Module) else None


def _main(model: nn.Module, inputs: tuple[Any, ...], named: Mapping[str, Any]) -> int | str:
    for name in ("inputs_embeds", getattr(model, "main_input_name", None)):
        if isinstance(named.get(name or ""), Tensor):
            return str(name)
    given: list[tuple[int | str, Any]] = [*enumerate(inputs), *named.items()]
    for key, value in given:
        if isinstance(value, Tensor):
            return key
    raise InputError("inputs", sorted(named), "a tensor among the model's inputs")
