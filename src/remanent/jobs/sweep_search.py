"""Which settings a sweep tries: every combination, or, by Optuna, ones between the values that are given."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol

from remanent.core.files import read_json, write_json
from remanent.core.sampling import seed_of
from remanent.errors import MissingExtraError
from remanent.jobs.sweep_config import SweepFile
from remanent.jobs.sweep_space import Setting, accepted, axes, grid, setting_of
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

    def tell(self, setting: Setting, found: SettingSummary) -> None:
        """A grid learns nothing."""


class Search:
    """Tree-structured Parzen estimators, for the objective above as a constrained one.

    Numbers are drawn between the smallest and the largest value given, on a log scale where both are above 0; anything
    else is one of its values. What was asked is written down, and every draw has a seed of its own, so that a search
    that was cut off goes on as it would have.

    Args:
        file: the sweep.
        epsilon: nats.
        asked: the file in which the settings that were asked for are kept.
    """

    def __init__(self, file: SweepFile, epsilon: float, asked: Path) -> None:
        try:
            self.optuna = importlib.import_module("optuna")
        except ImportError:
            raise MissingExtraError("optuna", "search", "searching between the values of a sweep") from None
        self.optuna.logging.set_verbosity(logging.ERROR)
        self.file, self.epsilon, self.asked = file, epsilon, asked
        self.axes, self.total = axes(file), file.sweep.search or 0
        self.known: list[dict[str, Any]] = read_json(asked) if asked.is_file() else []
        for chosen in self.known[: self.total]:
            if set(chosen) - set(self._names()):  # the space has changed since: what was asked belongs to another
                self.known = []
                break
        self.study = self.optuna.create_study(direction="maximize")
        self.count = 0
        self.open: dict[str, list[Any]] = {}

    def ask(self) -> Setting | None:
        if self.count == self.total:
            return None
        if self.count < len(self.known):
            self.study.enqueue_trial(self.known[self.count])
        self.study.sampler = self.optuna.samplers.TPESampler(
            seed=seed_of(self.file.sweep.search_seed, "search", self.count) % 2**32,
            n_startup_trials=max(3, self.total // 3),
            constant_liar=True,
        )
        trial = self.study.ask()
        method = trial.suggest_categorical("method", list(self.axes)) if len(self.axes) > 1 else next(iter(self.axes))
        chosen = {name: self._suggest(trial, method, name, values) for name, values in self.axes[method].items()}
        if self.count >= len(self.known):
            self.known.append(dict(trial.params))
            write_json(self.asked, self.known)
        self.count += 1
        setting = setting_of(self.file, method, chosen)
        self.open.setdefault(repr(setting), []).append(trial)
        return setting

    def tell(self, setting: Setting, found: SettingSummary) -> None:
        trial = self.open[repr(setting)].pop(0)
        retention, over = _NOTHING
        if found.retention is not None and found.worst_gap is not None and not found.failed:
            retention, over = found.retention.value, found.worst_gap - self.epsilon
        trial.set_constraint("gap", over)
        self.study.tell(trial, retention)

    def _suggest(self, trial: Any, method: str, name: str, values: Sequence[Any]) -> Any:
        if len(values) == 1:
            return values[0]
        path = f"{method}.{name}"
        numbers = [value for value in values if not isinstance(value, bool | str)]
        if len(numbers) < len(values):
            return trial.suggest_categorical(path, list(values))
        low, high = min(numbers), max(numbers)
        own = accepted(self.file, method)
        if name in own and isinstance(own[name].default, int):
            return trial.suggest_int(path, low, high, log=low > 0)
        return float(f"{trial.suggest_float(path, low, high, log=low > 0):.{_DIGITS}g}")

    def _names(self) -> list[str]:
        return ["method", *(f"{method}.{name}" for method, varied in self.axes.items() for name in varied)]
