"""GU: the forget gradient off the span of the newest retain gradients, so that the retain loss stays to first order.

Round any method whose forget loss has a gradient; one without a retain loss is given the token mean NLL of retain. All
weights that train are one vector, and orthogonal is meant in the metric of the optimizer's step:
g' = g_f - R (R^T P R)^-1 R^T P g_f, P the diagonal that AdamW multiplies a gradient with. The retain gradient itself is
added unprojected. Only the last linear layer of the feed-forward blocks of a few layers trains, unless the method that
it is put round says itself what does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from torch import Tensor, nn

from remanent.core.activations import decoder_layers
from remanent.core.batch import Batch
from remanent.core.catalogue import HOST, System, build, edits, unlearners
from remanent.core.episode import Episode
from remanent.core.method import Method, Objective, Recipe, Term
from remanent.core.off_gradients import OffGradients
from remanent.core.predict import Predict
from remanent.core.selection import EVERYTHING, Selection
from remanent.errors import InputError, did_you_mean

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
    "published and 0 here. Exact only without momentum: the first moment of AdamW carries older gradients on.",
    host="objective",
)


@dataclass(frozen=True)
class GU(Method):
    """GU's composition.

    Args:
        host: the method that it is put round, which does what it does besides its losses: what it finds when an episode
            begins, and what it carries along.
        layers: how many of the last decoder layers train; all where the model has no more.
        modules: part of the names of the modules that train there.
    """

    host: Method = field(kw_only=True)
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

    def selection(self, model: nn.Module) -> Selection:
        """That of the last layers, unless the user has another."""
        if self.select.names != _names("*", self.modules):
            return self.select
        count = len(decoder_layers(model))
        chosen = range(max(0, count - self.layers), count)
        return replace(self.select, names=tuple(name for place in chosen for name in _names(str(place), self.modules)))

    def begin(self, model: nn.Module, episode: Episode) -> Method | None:
        """The same method with no retain gradient seen yet, on the last layers of this model, as its host begins."""
        select = self.selection(model)
        given = {"objective": self.objective, "points": self.points, "mask": self.mask, "reference": self.reference}
        host = self._hosting(select=select, **given).begin(model, episode)
        if host is None:
            return None
        objective = with_retain(host.objective)
        return replace(
            self,
            host=host,
            objective=objective,
            points=host.points,
            weights={name: weight for name, weight in self.weights.items() if name in objective.terms},
            combine=replace(self.projection.begun(), mask=host.mask),
            select=host.select,
            mask=host.mask,
            reference=host.reference,
            narrowed=host.narrowed,
        )

    def passes_beforehand(self, sizes: Mapping[str, int]) -> int:
        return self._hosting().passes_beforehand(sizes)

    def observe(self, losses: Mapping[str, float], step: int, steps: int) -> None:
        self.host.observe(losses, step, steps)

    def after_update(self, model: nn.Module, step: int) -> None:
        self.host.after_update(model, step)

    def end(self, model: nn.Module, episode: Episode) -> None:
        self.host.end(model, episode)

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "host": self.host.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self.host.load_state_dict(state["host"])

    def _hosting(self, **changes: Any) -> Method:
        """The host, trained as this method is."""
        return replace(self.host, recipe=self.recipe, **changes)


def with_retain(objective: Objective) -> Objective:
    """The objective, with L_r = token mean NLL of retain where it has no retain loss."""
    if "retain" in objective.terms:
        return objective
    return _kind_with_retain(type(objective))(**vars(objective))


@cache
def _kind_with_retain(kind: type[Objective]) -> type[Objective]:
    class WithRetain(kind):  # type: ignore[valid-type, misc]
        terms = {**kind.terms, "retain": Term("token", ("retain",))}  # noqa: RUF012

        def losses(self, batches: Mapping[str, Batch], predict: Predict) -> dict[str, Tensor]:
            others = {role: batch for role, batch in batches.items() if role != "retain"}
            found: dict[str, Tensor] = super().losses(others, predict) if others else {}
            if "retain" in batches:
                found["retain"] = -predict(batches["retain"]).log_probs.sum()
            return found

        def counted(self, term: str, batches: Mapping[str, Batch]) -> int:
            return batches["retain"].units("token") if term == "retain" else super().counted(term, batches)

    return WithRetain


def _names(layer: str, modules: str) -> tuple[str, ...]:
    """Patterns of what trains in a layer; of all layers while a model has not yet said how many it has."""
    return (f"*.{layer}.{modules}.*",)


def _projected(host: Method) -> str:
    """The name of the term that is projected: "forget", or what else is asked of the forget records."""
    terms = host.objective.terms
    return next(
        name for name in ("forget", *terms) if name in terms and (name == "forget" or "forget" in terms[name].roles)
    )


def _hosted(objective: str, hyperparameters: Mapping[str, Any]) -> Method:
    """The method that GU is put round. Raises InputError where its gradients cannot be projected, with the reason."""
    if objective not in unlearners() or objective == SYSTEM.name:
        raise InputError("objective", objective, did_you_mean(objective, set(unlearners()) - {SYSTEM.name}))
    if objective in edits():
        raise InputError("objective", objective, "a method that trains: an edit has no gradient to project")
    host = build(objective, hyperparameters)
    reason = (
        "retraining forgets by what it leaves out, and has no forget gradient"
        if host.from_base
        else "this one makes one gradient of several by a rule of its own, which would undo the projection"
        if host.combine is not None
        else "this one makes its model at the end, going back along what it trained, the retain steps too"
        if not host.judged_by_rule
        else ""
    )
    if reason:
        way = f"; {HOST}directions=0 leaves that out" if "directions" in unlearners()[objective].hyperparameters else ""
        raise InputError("objective", objective, f"a method whose forget gradient is stepped along: {reason}{way}")
    return host


def method(
    objective: str = "simnpo",
    directions: int = 8,
    tangent: float = 0.0,
    layers: int = 3,
    modules: str = "mlp.down_proj",
    forget_weight: float = 0.125,
    retain_weight: float = 1.0,
    **host: Any,
) -> Method:
    """GU round SimNPO with the settings of its authors for TOFU.

    Args:
        objective: name of the method that it is put round, whose losses, points and hyper-parameters it takes.
        directions: k, how many of the newest retain gradients are stepped around.
        tangent: kappa, how long the kept tangent may be, in lengths of what is left of the forget gradient.
        layers: how many of the last decoder layers train, where the other method does not say what trains.
        modules: what trains there: part of the modules' names.
        forget_weight: gamma.
        retain_weight: alpha, of the retain loss.
        host: "host.NAME" -> hyper-parameter NAME of the other method; its defaults where not given.
    """
    given = {name.removeprefix(HOST): value for name, value in host.items()}
    hosted = _hosted(objective, given)
    term = _projected(hosted)
    for name, own in ((f"{term}_weight", "forget_weight"), ("retain_weight", "retain_weight")):
        if name in given:
            raise InputError(f"{SYSTEM.name}.{HOST}{name}", given[name], f"none: gu's own {own} takes its place")
    return GU(
        with_retain(hosted.objective),
        points=hosted.points,
        weights={**hosted.weights, term: forget_weight, "retain": retain_weight},
        combine=OffGradients(term=term, count=directions, tangent=tangent),
        select=Selection(_names("*", modules)) if hosted.select == EVERYTHING else hosted.select,
        recipe=Recipe(batch_size=16, weight_decay=0.0),
        host=hosted,
        layers=layers,
        modules=modules,
    )
