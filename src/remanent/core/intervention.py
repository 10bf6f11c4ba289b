"""What is put round a model at inference: no weight moves, it can be taken off, and it is saved as plain data.

A model wears interventions one over the other. Whoever has the weights has the model without them: an audit asks both.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol

from torch import Tensor, nn

from remanent.errors import InputError

_WORN = "_remanent_worn"


class Intervention(Protocol):
    """One intervention. A module of `unlearning` that makes one has `restored(settings, tensors)`, which makes it of
    what `settings` and `tensors` gave. One that puts tokens before each text says how many in `inserted`."""

    kind: ClassVar[str]  # the name of its system

    @property
    def settings(self) -> Mapping[str, Any]:
        """Numbers, texts and lists of them."""
        ...

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        """What is no number or text."""
        ...

    def install(self, model: nn.Module) -> Callable[[], None]:
        """Put it on a model as transformers made it; returns what takes it off.

        What reads or changes the model's arguments comes before what was put on earlier (`prepend=True`), since it is
        worn over that. Raises InputError where it does not fit.
        """
        ...


@dataclass(frozen=True)
class TakeOff:
    """Takes an intervention off again, as an edit's undo.

    Args:
        model: that wears it.
        intervention: which.
    """

    model: nn.Module
    intervention: Intervention

    def undo(self) -> None:
        """Take it off; what was put on later stays on."""
        wearing = _list(self.model)
        place = next(index for index, (item, _) in enumerate(wearing) if item is self.intervention)
        later = [item for item, _ in wearing[place + 1 :]]
        for _, remove in reversed(wearing[place:]):
            remove()
        del wearing[place:]
        for item in later:
            put_on(self.model, item)


def put_on(model: nn.Module, intervention: Intervention) -> TakeOff:
    """Put an intervention on a model, over those that it wears."""
    remove = intervention.install(inner(model))
    _list(model).append((intervention, remove))
    return TakeOff(model, intervention)


def worn(model: nn.Module) -> tuple[Intervention, ...]:
    """The interventions that a model wears, the first that was put on first."""
    return tuple(item for item, _ in _list(model))


def inserted(model: nn.Module) -> int:
    """How many tokens what a model wears puts before each text: states inside it begin with theirs."""
    return sum(getattr(item, "inserted", 0) for item in worn(model))


@contextmanager
def taken_off(model: nn.Module) -> Iterator[None]:
    """Inside the block the model wears nothing."""
    wearing = _list(model)
    items = [item for item, _ in wearing]
    for _, remove in reversed(wearing):
        remove()
    wearing.clear()
    try:
        yield
    finally:
        for item in items:
            put_on(model, item)


def inner(model: nn.Module) -> nn.Module:
    """The model as transformers made it, inside peft's wrapper where there is one."""
    unwrapped = getattr(model, "get_base_model", None)
    found: nn.Module = model if unwrapped is None else unwrapped()
    return found


def _list(model: nn.Module) -> list[tuple[Intervention, Callable[[], None]]]:
    whole = inner(model)
    found: list[tuple[Intervention, Callable[[], None]]] = whole.__dict__.setdefault(_WORN, [])
    return found


def begins(named: Mapping[str, Any]) -> bool:
    """Whether a call of a model, by its arguments, begins a text: it is none of `generate`'s later tokens."""
    past = named.get("cache", named.get("past_key_values"))  # the older name of transformers
    length = getattr(past, "get_seq_length", None)
    return past is None or (length is not None and int(length()) == 0)


def named_arguments(arguments: tuple[Any, ...], named: Mapping[str, Any]) -> dict[str, Any]:
    """A model's arguments by name. Raises InputError for embeddings in the place of tokens."""
    found = dict(named)
    if arguments:
        found["input_ids"] = arguments[0]
    if found.get("input_ids") is None:
        raise InputError("input_ids", None, "tokens: an intervention reads what is asked")
    return found
