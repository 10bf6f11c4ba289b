"""GU: the forget gradient off the span of the newest retain gradients, so that the retain loss stays to first order.

Round any objective that has a forget and a retain loss. All weights that train are one vector, and orthogonal is meant
in the metric of the optimizer's step: g' = g_f - R (R^T P R)^-1 R^T P g_f, P the diagonal that AdamW multiplies a
gradient with. The retain gradient itself is added unprojected. Only the last linear layer of the feed-forward blocks of
a few layers trains.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import nn

from remanent.core.activations import decoder_layers
from remanent.core.catalogue import System, build
from remanent.core.episode import Episode
from remanent.core.method import Method, Recipe
from remanent.core.off_gradients import OffGradients, Recent
from remanent.core.selection import Selection
from remanent.errors import InputError

SYSTEM = System(
    name="gu",
    title="GU: the forget gradient off the retain gradients' span, in the optimizer's metric",
    year=2025,
    arxiv="2511.17100",
    card="gu",
    family="unlearning",
    leaf="global/gradient-ascent",
    reproduction="tests/reproductions/test_combined.py",
    needs=("forget", "retain"),
    notes="The paper's projection; not its later corrections of the finished step. The tangent's strength is not "
    "published and 0 here. Exact only without momentum: AdamW's first moment is as the loop has it unless beta1 is 0.",
)


@dataclass(frozen=True)
class GU(Method):
    """GU's composition.

    Args:
        layers: how many of the last decoder layers train; all where the model has no more.
        modules: part of the names of the modules that train there.
    """

    layers: int = 3
    modules: str = ""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.layers < 1:
            raise InputError("layers", self.layers, "at least 1 layer")

    @property
    def projection(self) -> OffGradients:
        """The combination, which holds the newest retain gradients."""
        assert isinstance(self.combine, OffGradients)
        return self.combine

    def begin(self, model: nn.Module, episode: Episode) -> Method:
        """The same method with no retain gradient seen yet, on the last layers of this model."""
        select = self.select
        if select.names == _names("*", self.modules):  # not the user's own
            count = len(decoder_layers(model))
            chosen = range(max(0, count - self.layers), count)
            select = replace(select, names=tuple(name for place in chosen for name in _names(str(place), self.modules)))
        return replace(self, combine=replace(self.projection, recent=Recent()), select=select)

    def state_dict(self) -> dict[str, Any]:
        return self.projection.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.projection.load_state_dict(state)


def _names(layer: str, modules: str) -> tuple[str, ...]:
    """Patterns of what trains in a layer; of all layers while a model has not yet said how many it has."""
    return (f"*.{layer}.{modules}.*",)


def method(
    objective: str = "simnpo",
    directions: int = 8,
    tangent: float = 0.0,
    layers: int = 3,
    modules: str = "mlp.down_proj",
    forget_weight: float = 0.125,
    retain_weight: float = 1.0,
) -> Method:
    """GU round SimNPO with the settings of its authors for TOFU.

    Args:
        objective: name of a method that has a forget and a retain loss, whose losses, points and hyper-parameters'
            defaults it takes.
        directions: k, how many of the newest retain gradients are stepped around.
        tangent: kappa, how long the kept tangent may be, in lengths of what is left of the forget gradient.
        layers: how many of the last decoder layers train.
        modules: what trains there: part of the modules' names.
        forget_weight: gamma.
        retain_weight: alpha.
    """
    if objective == SYSTEM.name:
        raise InputError("objective", objective, "another method, round which it is put")
    host = build(objective)
    if type(host) is not Method or host.combine is not None or host.from_base:
        expected = "a method that is losses at points and no more, such as simnpo, npo or grad-diff"
        raise InputError("objective", objective, expected)
    if not {"forget", "retain"} <= set(host.objective.terms):
        raise InputError("objective", objective, "a method with a forget and a retain loss, such as simnpo")
    return GU(
        host.objective,
        points=host.points,
        weights={**host.weights, "forget": forget_weight, "retain": retain_weight},
        combine=OffGradients(count=directions, tangent=tangent),
        select=Selection(_names("*", modules)),
        recipe=Recipe(batch_size=16, weight_decay=0.0),
        layers=layers,
        modules=modules,
    )
