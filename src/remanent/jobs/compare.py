"""Compare: methods over seeds at one budget of passes: a sweep with one setting for each method, which keeps the best
model."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from remanent.core.run_folder import RunFolder
from remanent.jobs.compare_config import CompareFile
from remanent.jobs.progress import Advance, Interface
from remanent.jobs.sweep import Sweep
from remanent.jobs.sweep_config import EXECUTION
from remanent.jobs.sweep_trial import FAILED
from remanent.jobs.sweep_workers import Row
from remanent.report.sweep_view import SweepView, best_of, eligible, summaries


def compare(file: CompareFile, out: Path, *, interface: Interface | None = None) -> SweepView:
    """Run a comparison, or go on with one that was cut off.

    A trial that diverges or fails is a row with its reason. The same folder may be given more methods or seeds: trials
    that are there are taken as they are.

    Args:
        file: the comparison.
        out: its folder: trials/, compare.json (written after each trial), compare.html, chosen.yaml. The model of the
            best trial is in its run folder.
        interface: where progress goes; None is silent.

    Raises InputError and DataError before any work, RunConflictError where the model or the records have changed.
    """
    return Comparison(file, out, interface or Interface()).run()


class Comparison(Sweep):
    """The state of a comparison. Arguments as for `compare`."""

    kind = "compare"

    def __init__(self, file: CompareFile, out: Path, interface: Interface) -> None:
        self.asked = file
        sweep = file.as_sweep()
        kept = sweep.sweep.model_copy(update={"keep_models": True})  # until it is known which is the best
        super().__init__(sweep.model_copy(update={"sweep": kept}), out, interface)

    def settings(self) -> dict[str, Any]:
        found = self.asked.model_dump(mode="json", exclude={"compare": set(EXECUTION)})
        return {**found, "unlearn": self.file.unlearn.model_dump(mode="json")}

    def _run(self, inputs: Mapping[str, str]) -> SweepView:
        view = super()._run(inputs)
        self._keep_the_best()
        if view.best is not None:
            model = RunFolder(self.out / "trials" / view.best).model
            if model.is_dir():
                self.interface.say(f"The best: {view.best}; its model is in {model}")
            else:
                self.interface.warn(f"{view.best} is the best, and its model is gone: `remanent run` makes chosen.yaml")
        return view

    def _take(self, row: Row, advance: Advance) -> None:
        super()._take(row, advance)
        self._keep_the_best()

    def _keep_the_best(self) -> None:
        """Of every method at most one model stays, and of those whose seeds have all ended that of the best alone."""
        if self.asked.compare.keep_models:
            return
        view = self.view()
        kept = {view.best}
        for setting in view.settings:
            # A trial that failed is tried again: its method may be the best yet.
            ended = [row for row in setting.rows if row["status"] != FAILED]
            for item in summaries(ended, self.criteria.alpha):
                if len(ended) < len(self.file.sweep.seeds) and eligible(item, self.criteria.epsilon):
                    kept.add(best_of(item)["name"])
        for name in self.rows:
            if name not in kept:
                shutil.rmtree(RunFolder(self.out / "trials" / name).model, ignore_errors=True)
