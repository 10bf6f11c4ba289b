"""Sweep: one model and one set of data, many settings, several seeds; each trial an ordinary run folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from remanent.auditing.judgement import Criteria
from remanent.core.files import read_json, write_atomic, write_json
from remanent.core.run_folder import alone
from remanent.errors import InputError, RunConflictError
from remanent.jobs.audit import check_audit_after
from remanent.jobs.data import files_digest, input_hashes, load_data, overlap
from remanent.jobs.progress import Advance, Interface
from remanent.jobs.sweep_config import EXECUTION, SweepFile, Trial
from remanent.jobs.sweep_search import OBJECTIVE, Grid, Search, Source
from remanent.jobs.sweep_space import Setting, trial
from remanent.jobs.sweep_trial import FAILED, finished
from remanent.jobs.sweep_workers import Here, Processes, Ray, Row, Workers
from remanent.jobs.unlearn import check_roles, stopping_points, way_of
from remanent.models.source import find
from remanent.report.sweep_page import render
from remanent.report.sweep_view import SCHEMA, SweepView, summaries, view_of

CHOSEN = "chosen.yaml"


def sweep(file: SweepFile, out: Path, *, interface: Interface | None = None) -> SweepView:
    """Run a sweep, or go on with one that was cut off.

    A trial that diverges is a row with its reason; one that failed otherwise is too, and is tried again by the next
    call. The same folder may be given a sweep with more values or seeds: trials that are there are taken as they are.

    Args:
        file: the sweep.
        out: its folder: trials/, sweep.json (written after each trial), sweep.html, chosen.yaml.
        interface: where progress goes; None is silent.

    Raises InputError and DataError before any work, RunConflictError where the model or the records have changed.
    """
    return Sweep(file, out, interface or Interface()).run()


class Sweep:
    """The state of a sweep: which settings were asked for, and the rows of their trials.

    Args:
        file, out, interface: as for `sweep`. Raises what it raises, before anything is written.
    """

    kind = "sweep"  # names its files

    def __init__(self, file: SweepFile, out: Path, interface: Interface) -> None:
        self.out, self.interface = out.absolute(), interface
        self.results, self.page, self.config = (self.out / f"{self.kind}.{end}" for end in ("json", "html", "yaml"))
        if file.unlearn.requests is not None:
            expected = (
                f"nothing in a {self.kind}, whose trials forget data.forget at once; `remanent unlearn` obeys them"
            )
            raise InputError("unlearn.requests", file.unlearn.requests, expected)
        data = self.data = load_data(file.unlearn.data)
        if not data.control:
            raise InputError("unlearn.data.control", None, "unseen records, from which the forget gap is measured")
        file = self.file = _with_threads(file, self.config)
        seeds = file.sweep.seeds
        if not seeds or len(set(seeds)) < len(seeds) or set(seeds) & set(file.sweep.fresh_seeds):
            raise InputError(f"{self.kind}.seeds", list(seeds), "at least one, each once, and none of them a fresh one")
        # Every corner of a search is built, every combination of a grid: what cannot run is said before any work.
        corners = Grid(file)
        self.first = [trial(file, setting, seeds[0], data) for setting in corners.settings]
        for item in self.first:
            check_roles(way_of(item.unlearn), data, item.unlearn)
        asked = self.first[0].audit
        self.criteria = Criteria.from_settings(asked.model_dump())
        check_audit_after(file.unlearn, asked)
        stopping_points(file.unlearn)
        self.source: Source = (
            Search(file, self.criteria.epsilon, self.out / "asked.json") if file.sweep.search else corners
        )
        self.planned = self.source.total * len(seeds) + len(file.sweep.fresh_seeds)
        self.order: dict[str, Trial] = {}
        self.submitted: set[str] = set()
        self.rows: dict[str, Row] = {}

    def say_cost(self) -> None:
        """How many trials there are, and what each method passes."""
        passes = {item.unlearn.method: item.passes for item in self.first}
        each = ", ".join(f"{method} {count:,}" for method, count in passes.items())
        seeds = len(self.file.sweep.seeds)
        self.interface.say(f"{self.source.total} settings x {seeds} seeds; records passed per trial at most: {each}")
        if len({item.passes for item in self.first if not item.reference}) > 1 and self.file.sweep.budget is None:
            self.interface.warn("methods are not compared at equal passes; sweep.budget holds them to one number")

    def run(self) -> SweepView:
        """Every trial that is not there yet, then the chosen setting on its fresh seeds."""
        inputs = self._inputs()
        with alone(self.out):
            return self._run(inputs)

    def _run(self, inputs: Mapping[str, str]) -> SweepView:
        self._begin(inputs)
        self._read_ended()
        for sentence in overlap(self.data)[2]:
            self.interface.warn(sentence)
        self.say_cost()
        workers = self._workers()
        began = time.monotonic()
        try:
            with self.interface.bar(self.kind) as advance:
                if self.rows:
                    advance(len(self.rows), self.planned, f"{len(self.rows)} trials ended before")
                if isinstance(workers, Here):
                    workers.interface = _Inside(advance, self)
                self._all(workers, advance)
                self._fresh(workers, advance)
        finally:
            workers.close()
            if self.rows:
                self._write()
                write_atomic(self.page, render(self.view()))
            self.interface.say(f"{len(self.rows)} of {self.planned} trials, {time.monotonic() - began:.0f} s")
        return self.view()

    def view(self) -> SweepView:
        """What is there so far."""
        return view_of(self._data())

    def _all(self, workers: Workers, advance: Advance) -> None:
        seeds = self.file.sweep.seeds
        open_: list[tuple[Setting, list[Trial]]] = []
        running = 0
        more = True
        while more or open_:
            while more and running < workers.slots:
                setting = self.source.ask()
                if setting is None:
                    more = False
                    break
                trials = [trial(self.file, setting, seed, self.data) for seed in seeds]
                open_.append((setting, trials))
                running += self._start(workers, trials)
                open_ = self._told(open_)
            if running:
                self._take(workers.next(), advance)
                running -= 1
                open_ = self._told(open_)

    def _read_ended(self) -> None:
        """The rows of an earlier call: they stay in what is written while this call comes to what is new."""
        for setting in self.source.decided():
            for seed in self.file.sweep.seeds:
                self._ended(trial(self.file, setting, seed, self.data))
        for item in self._fresh_trials(self.view()):
            self._ended(item)

    def _fresh(self, workers: Workers, advance: Advance) -> None:
        view = self.view()
        for name in [name for name, item in self.order.items() if item.fresh and item.setting != view.chosen]:
            del self.order[name]  # of what was chosen before this call had all its settings
            self.rows.pop(name, None)
        if view.best is None:
            if view.settings:
                self.interface.warn("no setting is forgotten within epsilon with every seed: none is chosen")
            (self.out / CHOSEN).unlink(missing_ok=True)
            return
        best = self.order[view.best]
        job = {"unlearn": best.unlearn.model_dump(mode="json"), "audit": best.audit.model_dump(mode="json")}
        job["audit"] |= {"model": None}
        write_atomic(self.out / CHOSEN, yaml.safe_dump(job, sort_keys=False, allow_unicode=True))
        for _ in range(self._start(workers, self._fresh_trials(view))):
            self._take(workers.next(), advance)

    def _fresh_trials(self, view: SweepView) -> list[Trial]:
        """The chosen setting with the fresh seeds."""
        if view.best is None:
            return []
        made = self.order[view.best].unlearn
        setting = Setting(made.method, made.learning_rate, made.hyperparameters)
        return [trial(self.file, setting, seed, self.data, fresh=True) for seed in self.file.sweep.fresh_seeds]

    def _start(self, workers: Workers, trials: list[Trial]) -> int:
        """Submit those that are new and have not ended in an earlier call; how many."""
        left = [item for item in trials if item.name not in self.submitted and not self._ended(item)]
        for item in left:
            self.submitted.add(item.name)  # a search may ask for a setting twice
            workers.submit(item)
        return len(left)

    def _ended(self, item: Trial) -> bool:
        """Whether a trial has ended in an earlier call; its row is taken from there."""
        self.order.setdefault(item.name, item)
        row = finished(item, self.out)
        if row is not None:
            self.rows[item.name] = row
        return row is not None

    def _take(self, row: Row, advance: Advance) -> None:
        self.rows[row["name"]] = row
        self._write()
        gap, kept = (row.get(name) for name in ("forget_gap", "retention"))
        found = f"gap {gap['value']:.2f}, retention {kept['value']:.2f}" if gap and kept else row["status"]
        if row["status"] == FAILED:
            self.interface.warn(f"{row['name']}: {row['reason']}")
        advance(len(self.rows), self.planned, f"{row['name']}: {found}")

    def _told(self, open_: list[tuple[Setting, list[Trial]]]) -> list[tuple[Setting, list[Trial]]]:
        """Tell the source of the settings whose seeds have all ended; those that have not."""
        left = []
        for setting, trials in open_:
            if all(item.name in self.rows for item in trials):
                (found,) = summaries([self.rows[item.name] for item in trials], self.criteria.alpha)
                self.source.tell(setting, found)
            else:
                left.append((setting, trials))
        return left

    def _workers(self) -> Workers:
        sweep = self.file.sweep
        if sweep.ray is not None:
            threads = self.file.unlearn.threads or 1
            return Ray(self.out, sweep.keep_models, sweep.ray, sweep.processes, threads)
        if (sweep.processes or 1) > 1:
            return Processes(self.out, sweep.keep_models, sweep.processes or 1)
        return Here(self.out, sweep.keep_models, self.interface)

    def _data(self) -> dict[str, Any]:
        criteria = {name: getattr(self.criteria, name) for name in ("epsilon", "upsilon", "alpha")}
        rows = sorted((self.rows[name] for name in self.order if name in self.rows), key=lambda row: bool(row["fresh"]))
        found = {
            "schema": SCHEMA,
            "kind": self.kind,
            "settings": self.settings(),
            "objective": OBJECTIVE,
            "criteria": criteria,
            "seeds": list(self.file.sweep.seeds),
            "planned": self.planned,
            "trials": rows,
        }
        view = view_of(found)
        return {**found, "chosen": view.chosen, "best": view.best, "hypervolume": view.hypervolume}

    def _write(self) -> None:
        write_json(self.results, self._data())

    def settings(self) -> dict[str, Any]:
        """The settings that decide what is found, as plain data that runs again."""
        return self.file.model_dump(mode="json", exclude={"sweep": set(EXECUTION)})

    def _inputs(self) -> dict[str, str]:
        """Name -> hash of everything that the trials read."""
        unlearn = self.file.unlearn
        audit = self.first[0].audit
        models = {"model": unlearn.model, "base": unlearn.base, "audit.retrained": audit.retrained}
        if audit.reference != unlearn.model:
            models["audit.reference"] = audit.reference
        inputs = {role: files_digest(find(name).files()) for role, name in models.items() if name is not None}
        inputs |= input_hashes(self.data)
        if audit.data != unlearn.data:
            hashes = input_hashes(load_data(audit.data, unanswered=True))
            inputs |= {f"audit.data.{role}": digest for role, digest in hashes.items()}
        return inputs

    def _begin(self, inputs: Mapping[str, str]) -> None:
        """Begin in a new folder, or see that it belongs to the same model and records."""
        if self.config.is_file():
            before = read_json(self.out / "inputs.json")
            # What an audit is held to was not kept by earlier versions; another one makes other trials.
            unknown = {name for name in inputs if name.startswith("audit.") and name not in before}
            changed = sorted(name for name in {*before, *inputs} - unknown if before.get(name) != inputs.get(name))
            if changed:
                raise RunConflictError(
                    f"{self.out}: {', '.join(changed)} changed since the {self.kind} began; give another folder"
                )
        elif any(item.name != "inputs.json" and not item.name.startswith(".") for item in self.out.iterdir()):
            raise RunConflictError(f"{self.out} is not empty and holds no {self.kind}; give another folder")
        write_json(self.out / "inputs.json", dict(inputs))
        write_atomic(self.config, yaml.safe_dump(self.settings(), sort_keys=False, allow_unicode=True))


class _Inside(Interface):
    """What a trial says goes beside the sweep's own bar: two bars would fight for the line."""

    def __init__(self, advance: Advance, sweep: Sweep) -> None:
        super().__init__()
        self.advance, self.sweep = advance, sweep

    @contextmanager
    def bar(self, title: str) -> Iterator[Advance]:
        yield lambda done, total, text: self.advance(
            len(self.sweep.rows), self.sweep.planned, f"{title} {done}/{total}  {text}"
        )


def _with_threads(file: SweepFile, config: Path) -> SweepFile:
    """Threads are part of a result: a sweep's first call decides them, and shares the processors among processes."""
    if file.unlearn.threads is not None:
        return file
    if config.is_file():
        threads = yaml.safe_load(config.read_text(encoding="utf-8"))["unlearn"]["threads"]
    else:
        sharing = file.sweep.processes or 1
        threads = 1 if file.sweep.ray else None if sharing == 1 else max(1, (os.cpu_count() or 1) // sharing)
    return file.model_copy(update={"unlearn": file.unlearn.model_copy(update={"threads": threads})})
