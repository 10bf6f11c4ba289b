"""Which settings a sweep tries: every combination, or, by Optuna, ones between the values that are given."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from remanent.core.files import read_json, write_json
from remanent.core.sampling import seed_of
from remanent.errors import InputError, MissingExtraError
from remanent.jobs.sweep_config import SweepFile
from remanent.jobs.sweep_space import Setting, accepted, axes, grid, is_reference, setting_of
from remanent.report.sweep_view import SettingSummary

OBJECTIVE = (
    "Largest mean retention over the development seeds, at the precision where the least is kept, of the settings "
    "whose forget gap at the worst precision is at most epsilon with every one of these seeds."
)
_DIGITS = 3  # of a number that a search chooses
_NOTHING = (-1.0, 1e3)  # retention and gap beyond epsilon of a setting that came to nothing


class Source(Protocol):
    """Gives settings.

    Args:
        total: how many it gives.
    """

    total: int

    def ask(self) -> Setting | None:
        """The next; None where there is none left."""
        ...

    def decided(self) -> Sequence[Setting]:
        """Those that it is already known to give, in their order."""
        ...

    def tell(self, setting: Setting, found: SettingSummary) -> None:
        """What came of one, over the development seeds."""
        ...


class Grid:
    """Every combination."""

    def __init__(self, file: SweepFile) -> None:
        self.settings = grid(file)
        self.total = len(self.settings)
        self.left = iter(self.settings)

    def ask(self) -> Setting | None:
        return next(self.left, None)

    def decided(self) -> Sequence[Setting]:
        return self.settings

    def tell(self, setting: Setting, found: SettingSummary) -> None:
        """A grid learns nothing."""


class Search:
    """Tree-structured Parzen estimators, for the objective above as a constrained one.

    Numbers are drawn between the smallest and the largest value given, on a log scale where both are above 0; anything
    else is one of its values. What was asked is written down, and every draw has a seed of its own, so that a search
    that was cut off goes on as it would have. References take no part: each is given once, before what is searched.

    Args:
        file: the sweep.
        epsilon: nats.
        asked: the file in which the settings that were asked for are kept.

    Raises InputError where there are references alone.
    """

    def __init__(self, file: SweepFile, epsilon: float, asked: Path) -> None:
        try:
            self.optuna = importlib.import_module("optuna")
        except ImportError:
            raise MissingExtraError("optuna", "search", "searching between the values of a sweep") from None
        self.optuna.logging.set_verbosity(logging.ERROR)
        self.file, self.epsilon, self.asked = file, epsilon, asked
        given = axes(file)
        # Retraining forgets and keeps best of all: a search that may choose it looks at little else.
        self.references = [setting_of(file, name, {}) for name in given if is_reference(name)]
        self.axes = {name: varied for name, varied in given.items() if not is_reference(name)}
        if not self.axes:
            raise InputError("sweep.method", list(given), "a method beside the references, which are not searched")
        self.searched = file.sweep.search or 0
        self.total = len(self.references) + self.searched
        self.known: list[dict[str, Any]] = read_json(asked) if asked.is_file() else []
        if not all(self._fits(params) for params in self.known[: self.searched]):
            self.known = []  # the space has changed since: what was asked belongs to another
        self.left = iter(self.references)
        self.study = self.optuna.create_study(direction="maximize")
        self.count = 0
        self.open: dict[str, list[Any]] = {}

    def ask(self) -> Setting | None:
        reference = next(self.left, None)
        if reference is not None:
            return reference
        if self.count == self.searched:
            return None
        if self.count < len(self.known):
            self.study.enqueue_trial(self.known[self.count])
        self.study.sampler = self.optuna.samplers.TPESampler(
            seed=seed_of(self.file.sweep.search_seed, "search", self.count) % 2**32,
            n_startup_trials=max(3, self.searched // 3),
            constant_liar=True,
        )
        trial = self.study.ask()
        method = trial.suggest_categorical("method", list(self.axes)) if len(self.axes) > 1 else next(iter(self.axes))
        for name, values in self._varied(method).items():
            self._suggest(trial, method, name, values)
        if self.count >= len(self.known):
            self.known.append(dict(trial.params))
            write_json(self.asked, self.known)
        self.count += 1
        setting = self._setting(trial.params)
        self.open.setdefault(repr(setting), []).append(trial)
        return setting

    def decided(self) -> Sequence[Setting]:
        return [*self.references, *(self._setting(params) for params in self.known[: self.searched])]

    def tell(self, setting: Setting, found: SettingSummary) -> None:
        if setting in self.references:
            return
        trial = self.open[repr(setting)].pop(0)
        retention, over = _NOTHING
        if found.retention is not None and found.worst_gap is not None and not found.failed:
            retention, over = found.retention.value, found.worst_gap - self.epsilon
        trial.set_constraint("gap", over)
        self.study.tell(trial, retention)

    def _varied(self, method: str) -> dict[str, tuple[Any, ...]]:
        """What Optuna is asked for: of what has one value nothing is."""
        return {name: values for name, values in self.axes[method].items() if len(values) > 1}

    def _suggest(self, trial: Any, method: str, name: str, values: Sequence[Any]) -> None:
        path = f"{method}.{name}"
        if not _is_range(values):
            trial.suggest_categorical(path, list(values))
            return
        low, high = min(values), max(values)
        own = accepted(self.file, method)
        if name in own and isinstance(own[name].default, int):
            trial.suggest_int(path, low, high, log=low > 0)
        else:
            trial.suggest_float(path, low, high, log=low > 0)

    def _setting(self, params: Mapping[str, Any]) -> Setting:
        """The setting of what Optuna was asked for."""
        method = params.get("method", next(iter(self.axes)))
        chosen = {name: values[0] for name, values in self.axes[method].items()}
        for name, values in self._varied(method).items():
            value = params[f"{method}.{name}"]
            rounded = isinstance(value, float) and _is_range(values)
            chosen[name] = float(f"{value:.{_DIGITS}g}") if rounded else value
        return setting_of(self.file, method, chosen)

    def _fits(self, params: Mapping[str, Any]) -> bool:
        """Whether what was asked for is of this space."""
        method = params.get("method", next(iter(self.axes)))
        if method not in self.axes or ("method" in params) != (len(self.axes) > 1):
            return False
        varied = {f"{method}.{name}": values for name, values in self._varied(method).items()}
        return {*params} - {"method"} == {*varied} and all(_within(params[path], varied[path]) for path in varied)


def _is_range(values: Sequence[Any]) -> bool:
    """Whether numbers between the values may be drawn too."""
    return not any(isinstance(value, bool | str) for value in values)


def _within(value: Any, values: Sequence[Any]) -> bool:
    if not _is_range(values):
        return value in values
    return not isinstance(value, bool | str) and bool(min(values) <= value <= max(values))
