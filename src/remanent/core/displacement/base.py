"""Another point near a model's weights: look there, learn there, or stay there."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn

from remanent.core.state import State
from remanent.core.weights import Weights, fsdp_modules, reshard
from remanent.errors import InputError, UnsupportedError

# A function that returns a scalar loss with its graph; several of them are micro-batches whose losses add up.
Loss = Callable[[], Tensor]
Losses = Loss | Sequence[Loss] | Mapping[str, Loss | Sequence[Loss]]
Made = TypeVar("Made")


@dataclass
class Context:
    """What a displacement may use while it moves.

    Args:
        model: the model; None where only param_groups are known.
        loss: the loss, or named losses; None where there is none.
        step: number of the update, for displacements that change from one update to the next.
        autocast: dtype of the arithmetic, for displacements that run the model themselves.
        cleanup: closed when the point is left: what a displacement installs besides moving weights.
        passing: whether it installed anything, which a model cannot keep.
        made: what `once` has made.
    """

    model: nn.Module | None = None
    loss: Losses | None = None
    step: int = 0
    autocast: torch.dtype | None = None
    cleanup: ExitStack = field(default_factory=ExitStack)
    passing: bool = False
    made: dict[Callable[[Context], Any], Any] = field(default_factory=dict, repr=False)

    def once(self, make: Callable[[Context], Made]) -> Made:
        """What `make` makes of this context: made when the point is entered, and kept until it is left.

        For what goes through the whole model, which layers that move one by one would each go through again.
        """
        if make not in self.made:
            self.made[make] = make(self)
        found: Made = self.made[make]
        return found

    def losses(self, of: str | None) -> list[Loss]:
        """The losses named `of`, or all of them. Raises InputError where there are none of that name."""
        if self.loss is None:
            raise InputError("loss", None, "a function that returns the loss, since this displacement climbs it")
        if not isinstance(self.loss, Mapping):
            if of is not None:
                raise InputError("loss", "one loss without a name", f"named losses, since '{of}' is asked for")
            return _listed(self.loss)
        if of is not None and of not in self.loss:
            raise InputError("of", of, f"one of {', '.join(self.loss)}")
        names = list(self.loss) if of is None else [of]
        return [loss for name in names for loss in _listed(self.loss[name])]


class Displacement:
    """Another point near a model's weights.

    Subclasses write `move`; where the gradient there is not the gradient here they write `pullback`; where they move
    only some of the weights they write `moving`, so that only those are kept.
    """

    needs: ClassVar[frozenset[str]] = frozenset()  # "loss": checked before any work starts

    @property
    def local(self) -> bool:
        """Whether each weight's new value depends on that weight alone, and is the same at each call."""
        return False

    @property
    def pulls_back_by_weight(self) -> bool:
        """Whether `pullback` reads the weight."""
        return False

    @property
    def held(self) -> int:
        """How much it holds while it moves, in float32 numbers for each weight that it moves, besides the copy that
        they are given back from: what is told of memory before a run."""
        return 0

    def move(self, weights: Weights, context: Context) -> None:
        """Write the new point in place. `weights` are those that `moving` chose."""
        raise TypeError(f"{type(self).__name__} does not say how it moves weights")

    def moving(self, weights: Weights) -> Weights:
        """Those of the weights that it moves. Default: all."""
        return weights

    def pullback(self, name: str, gradient: Tensor, weight: Tensor) -> Tensor:
        """How a gradient there becomes one here; the default, identity, is straight-through.

        Args:
            name: the weight's name.
            gradient: gradient of the loss there.
            weight: the weight here, as it was before the move.
        """
        return gradient

    def pulls_back(self, weights: Weights) -> Weights:
        """Those of the weights whose gradients go through `pullback`. Default: those that it moves."""
        return self.moving(weights)

    def resolve(self, step: int) -> Displacement:
        """The displacement that stands for this one at an update. Default: itself."""
        return self

    def at(
        self,
        model: nn.Module | Weights,
        loss: Losses | None = None,
        *,
        step: int = 0,
        layer_by_layer: bool = False,
    ) -> AbstractContextManager[None]:
        """Look: inside the block the model is there; afterwards it is here again, bit for bit.

        What is given back, whatever happens inside: weights, buffers, gradients (inside, there are none), train and
        eval modes, requires_grad, and the states of torch's default generators. Extra memory: a copy of what moves.

        Args:
            model: the model, or a `Weights`.
            loss: for displacements that climb a loss.
            step: number of the update, for displacements that change from one to the next.
            layer_by_layer: move each layer only while its forward runs: extra memory of one layer, at the price of
                moving again at each forward. For local displacements and single forwards, never while generating.
        """
        displacement, weights = self.resolve(step), Weights.of(model)
        context = Context(weights.model, loss, step)
        if layer_by_layer:
            from remanent.core.displacement.layers import layer_by_layer as by_layer

            return by_layer(displacement, model, context)
        return _looking(displacement, weights, context)

    def apply(self, model: nn.Module | Weights, loss: Losses | None = None) -> Undo:
        """Stay: move the model there, and return what takes it back."""
        displacement, weights = self.resolve(0), Weights.of(model)
        context = Context(weights.model, loss)
        _check_needs(displacement, context)
        moving = displacement.moving(weights)
        if not moving and not isinstance(displacement, Here):
            raise UnsupportedError(
                f"{displacement} moves no weight of this model in place, so the model cannot stay there"
            )
        with State.of(weights, moved=moving, gradients_aside=True) as state, context.cleanup:
            displacement.move(moving, context)
            if context.passing:
                raise UnsupportedError(
                    f"{displacement} is not only a matter of weights here: packed layers cannot stay"
                )
            kept = state.keep_weights()
        return Undo(moving, kept)


@dataclass(frozen=True)
class Here(Displacement):
    """The point where the model is."""

    @property
    def local(self) -> bool:
        return True

    def moving(self, weights: Weights) -> Weights:
        return weights.only(())

    def move(self, weights: Weights, context: Context) -> None:
        return None

    def __str__(self) -> str:
        return "full"


@dataclass(frozen=True)
class Undo:
    """Takes an edit back.

    Args:
        weights: what the edit moved.
        kept: the values from before.
    """

    weights: Weights
    kept: Mapping[str, Tensor]

    @torch.no_grad()
    def undo(self) -> None:
        """Write the weights from before the edit back, bit for bit."""
        reshard(fsdp_modules(self.weights.model))
        for name, tensor in self.weights.items():
            tensor.copy_(self.kept[name])


@dataclass(frozen=True)
class PointGradient:
    """A loss and its gradients at another point, for use here.

    Args:
        loss: what the closure returned, detached.
        gradients: name -> gradient, pulled back; weights without a gradient are absent.
    """

    loss: Tensor
    gradients: Mapping[str, Tensor]


def gradient_at(
    displacement: Displacement,
    weights: Weights,
    closure: Callable[[], Tensor],
    *,
    loss: Losses | None = None,
    step: int = 0,
) -> PointGradient:
    """Learn: the gradient at another point, for use here. Leaves `.grad` as it was.

    Args:
        displacement: the point.
        weights: the weights whose gradients are wanted, and among which the displacement moves.
        closure: runs forward and backward, and returns the loss.
        loss: for displacements that climb a loss.
        step: number of the update.
    """
    displacement = displacement.resolve(step)
    context = Context(weights.model, loss, step)
    with _entered(displacement, weights, context, gradients_aside=True, learning=True) as state:
        value = closure()
        gradients = {name: tensor.grad for name, tensor in weights.items() if tensor.grad is not None}
        with torch.no_grad():
            for name in displacement.pulls_back(weights):
                if name in gradients:
                    gradients[name] = displacement.pullback(name, gradients[name], state.weight(name))
    return PointGradient(value.detach(), gradients)


@contextmanager
def learning_at(
    displacement: Displacement, weights: Weights, context: Context, *, keep_buffers: bool = False
) -> Iterator[None]:
    """Inside the block, backward passes at the displaced point add pulled-back gradients to `.grad`.

    For sums of points that share `.grad`: no further gradient buffer is needed. Running statistics become what the
    passes inside make of them, those of the move itself apart, where nothing moves or `keep_buffers` asks for it.
    """
    with (
        _entered(
            displacement, weights, context, gradients_aside=False, learning=True, keep_buffers=keep_buffers
        ) as state,
        ExitStack() as hooks,
    ):
        if type(displacement).pullback is not Displacement.pullback:
            for name, tensor in displacement.pulls_back(weights).trainable().items():
                handle = tensor.register_hook(_pull_back_hook(displacement, name, state))  # type: ignore[no-untyped-call]
                hooks.callback(handle.remove)
        yield


def _pull_back_hook(displacement: Displacement, name: str, state: State) -> Callable[[Tensor], Tensor]:
    def hook(gradient: Tensor) -> Tensor:
        with torch.no_grad():
            return displacement.pullback(name, gradient, state.weight(name))

    return hook


@contextmanager
def _looking(displacement: Displacement, weights: Weights, context: Context) -> Iterator[None]:
    with _entered(displacement, weights, context, gradients_aside=True):
        yield


@contextmanager
def _entered(
    displacement: Displacement,
    weights: Weights,
    context: Context,
    *,
    gradients_aside: bool,
    learning: bool = False,
    keep_buffers: bool = False,
) -> Iterator[State]:
    _check_needs(displacement, context)
    moving = displacement.moving(weights)
    state = State.of(
        weights, moved=moving, gradients_aside=gradients_aside, learning=learning, keep_buffers=keep_buffers
    )
    with state, context.cleanup:
        displacement.move(moving, context)
        if keep_buffers:
            state.rewind_buffers()  # a loss that was climbed passed through the model too
        state.rewind_generators()  # what is drawn inside does not depend on what the move drew
        torch.clear_autocast_cache()  # an enclosing autocast holds casts of the weights from before
        yield state


def _check_needs(displacement: Displacement, context: Context) -> None:
    if "loss" in displacement.needs and context.loss is None:
        raise InputError("loss", None, f"a function that returns the loss, since {displacement} needs one")


def _listed(loss: Any) -> list[Loss]:
    return [loss] if callable(loss) else list(loss)
