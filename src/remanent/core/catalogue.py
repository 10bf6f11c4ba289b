"""The systems that Remanent holds: discovered from the files that declare them, never registered."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from remanent.core.edit import Edit
from remanent.core.intervention import Intervention
from remanent.core.method import Method
from remanent.errors import InputError, did_you_mean

HOST = "host."  # before the name of a hyper-parameter of the method that another one is put round
_ROOMS = ("unlearning", "continual", "optim", "auditing", "sharpness", "data", "designs")


@dataclass(frozen=True)
class System:
    """What a file declares as `SYSTEM`.

    Args:
        name: as users write it.
        title: one line.
        year: of publication.
        arxiv: identifier; "" where there is none.
        card: name of the paper's card; "" where it is ours.
        family: "unlearning", "audit", "continual" ...
        reproduction: the test that shows its headline effect.
        needs: what it asks for besides a model: data roles, packages.
        views: kinds of model it runs on: "full", "lora", "lora-nf4".
        notes: what differs from the paper.
        leaf: of one that makes a model forget, its place in the tree of `taxonomy`.
        host: the hyper-parameter that names the method which it is put round; "" where it is put round none.
    """

    name: str
    title: str
    year: int
    arxiv: str
    card: str
    family: str
    reproduction: str
    needs: tuple[str, ...] = ()
    views: tuple[str, ...] = ("full", "lora", "lora-nf4")
    notes: str = ""
    leaf: str = ""
    host: str = ""


@dataclass(frozen=True)
class Entry:
    """A system of the catalogue.

    Args:
        system: its record.
        module: where it lives.
        build: makes its Method from hyper-parameters, whose defaults are the paper's; None where it is no method.
        description: the file's own text.
        edit: makes its Edit in the same way; None where it is no edit.
    """

    system: System
    module: str
    build: Callable[..., Method] | None
    description: str = field(repr=False, default="")
    edit: Callable[..., Edit] | None = None

    @property
    def hyperparameters(self) -> Mapping[str, inspect.Parameter]:
        """Name -> parameter, with its default and annotation."""
        return {name: item for name, item in self._parameters.items() if item.kind is not item.VAR_KEYWORD}

    @property
    def defaults(self) -> dict[str, Any]:
        """Name of a hyper-parameter -> its default."""
        return {name: parameter.default for name, parameter in self.hyperparameters.items()}

    def accepted(self, given: Mapping[str, Any]) -> Mapping[str, inspect.Parameter]:
        """Name -> parameter, where these values are given: of a method that is put round another also the other's, as
        "host.NAME"."""
        found, naming = dict(self.hyperparameters), self.system.host
        if not naming:
            return found
        host = methods().get(given.get(naming, found[naming].default))
        return found | ({} if host is None else {f"{HOST}{name}": item for name, item in host.hyperparameters.items()})

    @property
    def _parameters(self) -> Mapping[str, inspect.Parameter]:
        builder = self.build or self.edit
        return {} if builder is None else inspect.signature(builder).parameters


def systems() -> dict[str, Entry]:
    """Every system, by name."""
    found: dict[str, Entry] = {}
    for room in _ROOMS:
        package = importlib.import_module(f"remanent.{room}")
        for item in pkgutil.iter_modules(package.__path__, f"remanent.{room}."):
            module = importlib.import_module(item.name)
            system = getattr(module, "SYSTEM", None)
            if isinstance(system, System):
                found[system.name] = Entry(
                    system,
                    item.name,
                    getattr(module, "method", None),
                    inspect.getdoc(module) or "",
                    getattr(module, "edit", None),
                )
    return dict(sorted(found.items()))


def methods() -> dict[str, Entry]:
    """Every system that is a method, by name."""
    return {name: entry for name, entry in systems().items() if entry.build is not None}


def edits() -> dict[str, Entry]:
    """Every system that is an edit, by name."""
    return {name: entry for name, entry in systems().items() if entry.edit is not None}


def unlearners() -> dict[str, Entry]:
    """Every method and every edit that makes a model forget, by name."""
    return {name: entry for name, entry in {**methods(), **edits()}.items() if entry.system.family == "unlearning"}


def build(name: str, hyperparameters: Mapping[str, Any] | None = None) -> Method:
    """A method by name. Raises InputError for a name, a hyper-parameter or a value that is not right."""
    entry, given = _checked(name, hyperparameters, methods())
    assert entry.build is not None
    return entry.build(**given)


def build_edit(name: str, hyperparameters: Mapping[str, Any] | None = None) -> Edit:
    """An edit by name. Raises InputError for a name, a hyper-parameter or a value that is not right."""
    entry, given = _checked(name, hyperparameters, edits())
    assert entry.edit is not None
    return entry.edit(**given)


def restored_intervention(kind: str, settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Intervention:
    """An intervention of what was saved of it. Raises InputError for a kind that no system here makes."""
    known = {name: entry.module for name, entry in edits().items()}
    restored = getattr(importlib.import_module(known[kind]), "restored", None) if kind in known else None
    if restored is None:
        raise InputError("intervention", kind, "one that a system of this version makes")
    found: Intervention = restored(settings, tensors)
    return found


def _checked(
    name: str, hyperparameters: Mapping[str, Any] | None, known: Mapping[str, Entry]
) -> tuple[Entry, dict[str, Any]]:
    if name not in known:
        raise InputError("method", name, did_you_mean(name, known))
    entry = known[name]
    given = dict(hyperparameters or {})
    accepted = entry.accepted(given)
    for key, value in given.items():
        if key not in accepted:
            expected = did_you_mean(key, accepted) if accepted else "no hyper-parameters"
            raise InputError(f"hyperparameters of {name}", key, expected)
        default = accepted[key].default
        if isinstance(default, bool) != isinstance(value, bool) or not isinstance(
            value, int | float if isinstance(default, float) else type(default)
        ):
            raise InputError(f"{name}.{key}", value, f"a value like its default, {default!r}")
    return entry, given
