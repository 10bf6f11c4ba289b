"""From what varies to trials: the settings of a grid, their names, and the budget that they are held to."""

from __future__ import annotations

import hashlib
import inspect
import itertools
import json
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from remanent.core.catalogue import build, edits, unlearners
from remanent.core.loop import planned_steps, with_settings
from remanent.core.method import Method
from remanent.core.passes import learning_passes
from remanent.errors import InputError, did_you_mean
from remanent.jobs.config import AuditSettings, UnlearnSettings, parse
from remanent.jobs.data import JobData
from remanent.jobs.edit import OF_A_LOOP, edit_of
from remanent.jobs.sweep_config import SweepFile, Trial, Value
from remanent.jobs.unlearn import build_method

RETAIN_WEIGHT, LEARNING_RATE = "retain_weight", "learning_rate"


@dataclass(frozen=True)
class Setting:
    """One point of the space: what a sweep varies, but for the seed.

    Args:
        method: its name.
        learning_rate: None leaves the method's own.
        hyperparameters: what differs from the method's own defaults.
    """

    method: str
    learning_rate: float | None
    hyperparameters: Mapping[str, Value]


def axes(file: SweepFile) -> dict[str, dict[str, tuple[Any, ...]]]:
    """Method -> what varies with it -> values: "learning_rate" and the names of hyper-parameters, where they vary.

    A hyper-parameter goes to the methods that have it; "npo.beta" to that method alone, and in place of "beta". An edit
    has no learning rate, and in a search nothing of a reference varies.
    Raises InputError for a method, for a hyper-parameter that none of them has, and for one that is a method's own and
    varies too.
    """
    sweep, known = file.sweep, unlearners()
    given: dict[str, tuple[Any, ...]] = {**dict(sweep.hyperparameters)}
    if sweep.retain_weight:
        if RETAIN_WEIGHT in given:
            raise InputError("sweep.hyperparameters", RETAIN_WEIGHT, "one of it and sweep.retain_weight, not both")
        given[RETAIN_WEIGHT] = sweep.retain_weight
    names = tuple(dict.fromkeys(sweep.method)) or (file.unlearn.method,)
    for name in names:
        if name not in known:
            raise InputError("sweep.method", name, did_you_mean(name, known))
    for name in sweep.own:
        if name not in names:
            raise InputError("sweep.own", name, f"one of the methods that are run: {', '.join(names)}")
    used: set[str] = set()
    found: dict[str, dict[str, tuple[Any, ...]]] = {}
    for name in names:
        own = accepted(file, name)
        fixed = name in edits() or (sweep.search is not None and is_reference(name))
        rates = () if fixed else sweep.learning_rate
        found[name] = {LEARNING_RATE: rates} if rates else {}
        for key in own:
            chosen = next((key_ for key_ in (f"{name}.{key}", key) if key_ in given), None)
            used |= {key_ for key_ in (f"{name}.{key}", key) if key_ in given}
            if chosen is not None and not given[chosen]:
                raise InputError(f"sweep.hyperparameters.{chosen}", given[chosen], "at least one value")
            if chosen is not None:
                found[name][key] = tuple(dict.fromkeys(given[chosen]))
        _check_own(file, name, found[name])
    options = {key for name in names for key in accepted(file, name)}
    for field, unknown in (
        ("sweep.hyperparameters", [key for key in given if key not in used]),
        ("unlearn.hyperparameters", [key for key in file.unlearn.hyperparameters if key not in options]),
    ):
        for key in unknown:
            raise InputError(field, key, did_you_mean(key, options) + f" for {', '.join(names)}")
    return found


def is_reference(method: str) -> bool:
    """Whether a method is what the others are measured to: retraining."""
    return method not in edits() and build(method).from_base


def _check_own(file: SweepFile, method: str, varied: Mapping[str, Any]) -> None:
    own = _own(file, method)
    fixed = {**own.get("hyperparameters", {}), **{key: own[key] for key in (LEARNING_RATE,) if key in own}}
    for key, value in fixed.items():
        if key in varied:
            expected = (
                f"nothing, since the sweep varies it: {', '.join(map(str, varied[key]))}; one of the two, not both"
            )
            raise InputError(f"sweep.own.{method}.{key}", value, expected)


def grid(file: SweepFile) -> list[Setting]:
    """Every combination of the values, method by method."""
    found = []
    for method, varied in axes(file).items():
        for values in itertools.product(*varied.values()):
            found.append(setting_of(file, method, dict(zip(varied, values, strict=True))))
    return list(
        {json.dumps([item.method, item.learning_rate, dict(item.hyperparameters)]): item for item in found}.values()
    )


def setting_of(file: SweepFile, method: str, chosen: Mapping[str, Any]) -> Setting:
    """The setting of a method at chosen values; what is not chosen is its own, or as the file's `unlearn` has it."""
    known, own = accepted(file, method), _own(file, method)
    shared = {key: value for key, value in file.unlearn.hyperparameters.items() if key in known}
    rate = own.pop(LEARNING_RATE, None if method in edits() else file.unlearn.learning_rate)
    shared |= own.get("hyperparameters", {})
    chosen = dict(chosen)
    return Setting(method, chosen.pop(LEARNING_RATE, rate), {**shared, **chosen})


def accepted(file: SweepFile, method: str) -> dict[str, inspect.Parameter]:
    """The hyper-parameters that a method takes in a sweep; for one that is put round another, those of every host that
    is given."""
    entry = unlearners()[method]
    naming = entry.system.host
    own = _own(file, method).get("hyperparameters", {})
    said = {**file.unlearn.hyperparameters, **own}
    given = file.sweep.hyperparameters
    found: dict[str, inspect.Parameter] = {}
    for host in given.get(f"{method}.{naming}") or given.get(naming) or [said.get(naming)]:
        found |= entry.accepted({} if host is None else {naming: host})
    return found


def _own(file: SweepFile, method: str) -> dict[str, Any]:
    """What the file says of one method alone."""
    found = file.sweep.own.get(method)
    return {} if found is None else found.model_dump(exclude_none=True)


def trial(file: SweepFile, setting: Setting, seed: int, data: JobData, *, fresh: bool = False) -> Trial:
    """The trial of a setting and a seed, held to the budget. Raises InputError where it could not be run.

    Retraining, which is what the others are measured to, is held to no budget; an edit takes nothing of what the file
    says of a training.
    """
    plain = {
        **file.unlearn.model_dump(),
        **(dict.fromkeys(OF_A_LOOP) if setting.method in edits() else {}),
        **_own(file, setting.method),
        "method": setting.method,
        "learning_rate": setting.learning_rate,
        "hyperparameters": dict(setting.hyperparameters),
        "seed": seed,
    }
    unlearn: UnlearnSettings = parse(UnlearnSettings, plain, f"sweep: {setting.method}")
    sizes = role_sizes(data)
    if setting.method in edits():
        made = _edited(unlearn, sizes, file.sweep.budget)
        return _named(file, unlearn, setting, made, fresh=fresh)
    method = build_method(unlearn)
    if file.sweep.budget is not None and not method.from_base:
        if unlearn.epochs is not None:
            raise InputError("unlearn.epochs", unlearn.epochs, "none beside a budget, which decides the steps")
        if unlearn.steps is not None and unlearn.batch_size is not None:
            raise InputError(
                "unlearn.steps, unlearn.batch_size", f"{unlearn.steps}, {unlearn.batch_size}",
                "one of the two beside a budget, which decides the other",
            )  # fmt: skip
        unlearn = unlearn.model_copy(update=_within(file.sweep.budget, method, sizes, unlearn.steps))
        method = build_method(unlearn)
    lead = sizes.get(method.roles[0], sizes["forget"])
    most = passes(method, sizes, planned_steps(method.recipe, lead), method.recipe.batch_size)
    return _named(file, unlearn, setting, most, fresh=fresh, reference=method.from_base)


def _edited(unlearn: UnlearnSettings, sizes: Mapping[str, int], budget: int | None) -> int:
    """What an edit passes, which no setting of a training changes."""
    made = edit_of(unlearn).passes(sizes)
    if budget is not None and made > budget:
        raise InputError("budget", budget, f"at least {made} passes, which {unlearn.method} makes")
    return made


def _named(
    file: SweepFile, unlearn: UnlearnSettings, setting: Setting, made: int, *, fresh: bool, reference: bool = False
) -> Trial:
    """The trial with its audit and its name, which is made of all settings but the seed."""
    named = {key: value for key, value in file.audit.items() if value is not None}
    implied = {"model": ".", "reference": unlearn.model, "data": unlearn.data.model_dump(), "threads": unlearn.threads}
    audit: AuditSettings = parse(AuditSettings, {**implied, **named}, "audit")
    described = unlearn.model_dump(mode="json", exclude={"seed"})
    digest = hashlib.sha256(json.dumps([described, audit.model_dump(mode="json")], sort_keys=True).encode()).hexdigest()
    return Trial(
        setting=f"{setting.method}-{digest[:8]}",
        fresh=fresh,
        reference=reference,
        passes=made,
        unlearn=unlearn,
        audit=audit,
    )


def role_sizes(data: JobData) -> dict[str, int]:
    """Role -> records that a method is given."""
    sizes = {"forget": len(data.forget), "task": len(data.all_retained)}
    return {**sizes, "retain": len(data.retain["train"])} if data.retain else sizes


def passes(method: Method, sizes: Mapping[str, int], steps: int, batch_size: int) -> int:
    """Records that a run passes forward and backward: those of every term, at every point, in every update, and those
    that the method passes before its first.

    A point whose weight is 0 passes none; one that climbs the loss to get there passes them twice; gradients that are
    combined are taken a term at a time. Forward passes without a backward one are not counted.
    """
    method = with_settings(method, steps=steps, batch_size=batch_size)
    learnt = learning_passes(method, steps)
    made = sum(count * min(batch_size, sizes.get(role, sizes["forget"])) for role, count in learnt.items())
    return method.passes_beforehand(sizes) + made


def _within(budget: int, method: Method, sizes: Mapping[str, int], steps: int | None) -> dict[str, int]:
    """The most steps, or with steps given the largest batch, that the budget allows."""
    batch = method.recipe.batch_size
    if steps is None:
        counts = range(1, budget // min(batch, *sizes.values()) + 1)
        found = bisect_right(counts, budget, key=lambda count: passes(method, sizes, count, batch))
        changed = {"steps": found, "batch_size": batch}
    else:
        most = max(sizes.values())
        found = bisect_right(range(1, most + 1), budget, key=lambda size: passes(method, sizes, steps, size))
        changed = {"batch_size": found, "steps": steps}
    if found == 0:
        size = batch if steps is None else 1
        least = passes(method, sizes, steps or 1, size)
        before = with_settings(method, steps=steps or 1, batch_size=size).passes_beforehand(sizes)
        made = f"the least that a run of this method makes, {before} of them before its first update"
        raise InputError("budget", budget, f"at least {least} passes, {made}")
    return changed
