"""Unlearn with requests: one model, deletion requests one after another, resumable in the middle of any of them.

Each request is an episode of the loop in a folder of its own. When it is over, one checkpoint holds the weights, what
the method carries over, and the rows of requests.jsonl; a run that was cut off goes on from there, inside the request
that it was at. Two such checkpoints are kept, whatever the number of requests.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor

from remanent.auditing.continual import curve, set_score
from remanent.core.catalogue import edits
from remanent.core.checkpoint import (
    Checkpoint,
    copy_into,
    load_checkpoint,
    prune,
    save_checkpoint,
    step_folder,
    steps_saved,
)
from remanent.core.displacement import Displacement
from remanent.core.edit import Edit
from remanent.core.files import read_json, write_atomic, write_json
from remanent.core.intervention import worn
from remanent.core.method import Method
from remanent.core.run_folder import RunFolder, alone
from remanent.core.sampling import seed_of
from remanent.core.weights import Weights
from remanent.data.encode import encode_all
from remanent.data.named import load as load_named
from remanent.data.record import Record
from remanent.data.requests import Request, by_group, check_distinct, read_requests
from remanent.errors import InputError, IntegrityError, RunConflictError
from remanent.jobs.audit import check_audits_between, run_audit, settings_between
from remanent.jobs.config import UnlearnSettings, with_threads
from remanent.jobs.data import JobData, best_device, files_digest, input_hashes, load_data, overlap, records_hash
from remanent.jobs.edit import edit_of, make_edit
from remanent.jobs.folders import AUDITS, CURVE, LOG
from remanent.jobs.progress import Advance, Interface
from remanent.jobs.unlearn import (
    brief,
    build_method,
    check_roles,
    load_as_asked,
    resolved,
    say_when_it_stops,
    stopping_points,
    train,
)
from remanent.models.load import Loaded, load
from remanent.models.save import is_saved, save
from remanent.models.source import find
from remanent.models.worn import put_on_state, worn_state

MODELS = "models"


def obey(
    settings: UnlearnSettings,
    out: Path,
    *,
    interface: Interface | None = None,
    records: Mapping[str, list[Record]] | None = None,
    requests: Sequence[Request] | None = None,
) -> RunFolder:
    """Obey deletion requests one after another, or go on where that was cut off, or with requests that came since.

    Args:
        settings: the job; `requests` names them.
        out: the run folder.
        interface: where progress goes; None is silent.
        records: role -> records in place of the settings' names.
        requests: in place of the settings' own.

    Raises InputError, DataError and RunConflictError before any work starts.
    """
    interface = interface or Interface()
    method = edit_of(settings) if settings.method in edits() else build_method(settings)
    if isinstance(method, Method) and method.from_base:
        expected = "a method that changes the model it is given; retraining obeys all requests at once, in a plain run"
        raise InputError("method", settings.method, expected)
    if settings.data.forget is not None or "forget" in (records or {}):
        raise InputError("forget", settings.data.forget, "nothing beside requests, which hold what is to be forgotten")
    if settings.audit_every and settings.adapter == "lora-nf4":
        raise InputError("audit_every", settings.audit_every, "0 with lora-nf4, since an adapter alone is not audited")
    source = find(settings.model)
    if settings.retrained is not None:
        find(settings.retrained)  # a model that is not there is said before any work
    asked = list(requests) if requests is not None else _named(str(settings.requests))
    check_distinct(asked)
    everything = [record for request in asked for record in request.records]
    data = load_data(settings.data, {**(records or {}), "forget": everything})
    check_roles(method, data, settings)
    if settings.audit_every:
        first = sum(len(request.records) for request in asked[: settings.audit_every])
        for forget in (data.forget[:first], data.forget):  # of the first audit, which has the fewest, and of the last
            check_audits_between(settings, replace(data, forget=forget))
    stop_points = stopping_points(settings)
    run = RunFolder(out)
    with alone(run.path):
        settings = with_threads(_resolved(settings, method, data), run.config)
        method = build_method(settings) if isinstance(method, Method) else edit_of(settings)
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        # The requests are checked one by one, so that new ones may come when the earlier ones are done.
        fixed = {role: digest for role, digest in input_hashes(data).items() if role != "forget"}
        run.begin(text, {**fixed, "model": files_digest(source.files())})
        queue = _Queue(settings, method, asked, data, run, stop_points, interface, records or {})
        if queue.finished():
            interface.say(f"{run.path}: finished already; the model is in {run.model}")
            return run
        for sentence in overlap(data)[2]:
            interface.warn(sentence)
        if not data.control and settings.retrained is None:
            interface.warn("no control set and no retrained model: the curve's forget degree (F.D.) needs one of them")
        assert settings.threads is not None
        torch.set_num_threads(settings.threads)
        if isinstance(method, Method):
            say_when_it_stops(method, data, settings, interface)
        queue.to_end()
        return run


class _Queue:
    """The parts of one job that live as long as it does."""

    loaded: Loaded

    def __init__(
        self,
        settings: UnlearnSettings,
        method: Method | Edit,
        requests: Sequence[Request],
        data: JobData,
        run: RunFolder,
        stop_points: Sequence[Displacement],
        interface: Interface,
        given: Mapping[str, list[Record]],
    ) -> None:
        self.settings, self.method, self.run, self.interface = settings, method, run, interface
        self.data, self.stop_points, self.given = data, stop_points, given
        self.names = [request.name for request in requests]
        ends = [sum(len(request.records) for request in requests[: place + 1]) for place in range(len(requests))]
        # With the job's system turn, which the requests as they were read do not have.
        self.records = [
            data.forget[end - len(request.records) : end] for end, request in zip(ends, requests, strict=True)
        ]
        self.hashes = [records_hash(records) for records in self.records]
        self.checkpoints = run.path / "checkpoints"
        self.rows: list[dict[str, Any]] = []
        self.points: list[dict[str, Any]] = []
        self.ends: dict[str, Any] = {}

    @property
    def total(self) -> int:
        return len(self.names)

    def finished(self) -> bool:
        """Whether all requests are done and the model is saved. Raises RunConflictError for other requests than those
        that were obeyed."""
        written = _lines(self.run.path / LOG)
        self._check(written)
        manifest = read_json(self.run.manifest) if self.run.manifest.is_file() else {}
        return len(written) == self.total == manifest.get("requests") and is_saved(self.run.model)

    def to_end(self) -> None:
        """Every request that is not done yet, then the model."""
        began = time.monotonic()
        self.interface.say(f"Loading {self.settings.model}")
        self.loaded = load_as_asked(self.settings.model, self.settings)
        self._resume()
        with self.interface.bar(f"{self.settings.method}, requests") as advance:
            while len(self.rows) < self.total:
                self._audit()
                self._next(advance)
        self._save(self.run.model)
        self._audit()
        self._write()
        seconds = round(time.monotonic() - began, 1)
        threads = torch.get_num_threads()
        self.run.finish(requests=self.total, seed=self.settings.seed, threads=threads, seconds=seconds)
        skipped = sum(row["planned_steps"] == 0 for row in self.rows)
        self.interface.say(
            f"{self.total} requests obeyed{f', {skipped} of them without training' if skipped else ''}; the model is "
            f"saved in {self.run.model}"
        )

    def _next(self, advance: Advance) -> None:
        place = len(self.rows)
        name, records = self.names[place], self.records[place]
        folder = self._folder(place + 1)
        data = replace(self.data, forget=records)
        # A seed of its own, or every request would see the same retained records first.
        settings = self.settings.model_copy(update={"seed": seed_of(self.settings.seed, "request", place)})
        began = time.monotonic()
        if isinstance(self.method, Method):
            outcome = train(
                self.method,
                self.loaded,
                data,
                settings,
                folder,
                stop_points=self.stop_points,
                name=name,
                on_step=lambda step, steps, losses: advance(
                    place, self.total, f"{name}: step {step}/{steps}  {brief(losses)}"
                ),
                on_warning=self.interface.warn,
            )
            facts: dict[str, Any] = {
                "steps": outcome.steps,
                "planned_steps": outcome.planned,
                "stopped_by_rule": outcome.stopped,
                "best_step": outcome.best_step,
            }
            if outcome.planned == 0:
                self.interface.warn(
                    f"request {name}: the method found nothing left to train on; the model is as it was"
                )
        else:
            report = make_edit(self.method, self.loaded, data, settings, Interface())
            facts = {"steps": 0, "planned_steps": 1, "stopped_by_rule": False, "best_step": 0, "edit": report}
        row = {"request": name, "number": place + 1, "records": self.hashes[place], "count": len(records)}
        self.rows.append({**row, **facts, "seconds": round(time.monotonic() - began, 2)})
        every, done = self.settings.curve_every, place + 1
        if done == self.total or (every and done % every == 0):
            self._measure(done)
        self._keep()
        shutil.rmtree(folder / "checkpoints", ignore_errors=True)
        if self.settings.keep_models:
            self._save(self.run.path / MODELS / f"{done:06d}")
        advance(done, self.total, name)

    def _folder(self, number: int) -> Path:
        return self.run.path / "requests" / f"{number:06d}"

    def _measure(self, done: int) -> None:
        """A point of the curve: the records asked for so far, and the retained ones that no method trains on."""
        so_far = [record for records in self.records[:done] for record in records]
        row: dict[str, Any] = {"requests": done, "forget": self._score(so_far)}
        if self.data.retain:
            row["retain"] = self._score(self.data.retain["audit"])
        self.points.append(row)

    def _score(self, records: Sequence[Record], loaded: Loaded | None = None) -> dict[str, Any]:
        here = loaded or self.loaded
        encoded = encode_all(records, here.tokenizer, self.settings.data.max_length)
        autocast = torch.bfloat16 if self.settings.precision == "bf16" else None
        generated = self.settings.curve_generate
        return set_score(here.model, here.tokenizer, records, encoded, generated=generated, autocast=autocast).to_dict()

    def _ends(self) -> dict[str, Any]:
        """Where the lines of the curve begin and end; asked of the model before the first request."""
        everything = [record for records in self.records for record in records]
        kept = self.data.retain.get("audit")
        before = {"forget": self._score(everything)} | ({"retain": self._score(kept)} if kept else {})
        after, by = dict(before), "nothing"
        if self.settings.retrained is not None:
            other = load(self.settings.retrained, device=best_device())
            after = {"forget": self._score(everything, other)} | ({"retain": self._score(kept, other)} if kept else {})
            by = "retrained"
        elif self.data.control:
            after, by = {**before, "forget": self._score(self.data.control["audit"])}, "control"
        return {"requests": self.total, "before": before, "after": after, "by": by}

    def _kept(self) -> dict[str, Tensor]:
        model = self.loaded.model
        buffers = {f"buffer:{name}": buffer for name, buffer in model.named_buffers()}
        return {**Weights.of(model).trainable(), **buffers}

    def _keep(self) -> None:
        """Everything that the next request needs, in one folder that is there whole or not at all."""
        state = {
            "method": self.method.state_dict() if isinstance(self.method, Method) else {},
            "worn": worn_state(self.loaded.model),
            "rows": json.dumps(self.rows),
            "points": json.dumps(self.points),
            "ends": json.dumps(self.ends),
        }
        done = len(self.rows)
        save_checkpoint(step_folder(self.checkpoints, done), Checkpoint(done, self._kept(), state))
        prune(self.checkpoints, 2)
        self._write()

    def _resume(self) -> None:
        found = None
        for _, folder in steps_saved(self.checkpoints):
            try:
                found = load_checkpoint(folder)
                break
            except IntegrityError as error:
                self.interface.warn(f"{error}; going on from the checkpoint before it")
        if found is None and (self.run.path / LOG).is_file():
            raise RunConflictError(
                f"{self.checkpoints} is gone, which held what the next request needs; start a new run from "
                f"{self.run.model}"
            )
        if found is not None:
            self.rows, self.points, self.ends = (json.loads(found.state[key]) for key in ("rows", "points", "ends"))
            self._check(self.rows)
        if self.ends.get("requests") != self.total:
            self.ends = self._ends()  # the model is still the one before the first request
        if found is None:
            return
        copy_into(self._kept(), found.weights, self.checkpoints)
        if "worn" not in found.state and any("intervention" in row.get("edit", {}) for row in self.rows):
            raise RunConflictError(
                f"{self.checkpoints} are of a version that did not keep what stands round a model; start a new run "
                f"from {self.run.model}"
            )
        # Over those that the model had before the first request.
        put_on_state(self.loaded.model, found.state.get("worn", [])[len(worn(self.loaded.model)) :])
        if isinstance(self.method, Method):
            self.method.load_state_dict(found.state["method"])
        # Killed between the two, the newest request has left its own behind.
        shutil.rmtree(self._folder(found.step) / "checkpoints", ignore_errors=True)

    def _check(self, rows: Sequence[Mapping[str, Any]]) -> None:
        for place, row in enumerate(rows):
            now = (self.names[place], self.hashes[place]) if place < self.total else None
            if now != (row["request"], row["records"]):
                raise RunConflictError(
                    f"{self.run.path}: request {place + 1}, {row['request']}, was obeyed and is not the same any more; "
                    "restore it, or start a new run. New requests may only come after the others"
                )

    def _write(self) -> None:
        """What a person reads: a row for each request, and the curve."""
        write_atomic(self.run.path / LOG, "".join(json.dumps(row) + "\n" for row in self.rows))
        scores = {
            role: (self.ends["before"][role]["score"], self.ends["after"][role]["score"])
            for role in self.ends["before"]
            if role == "retain" or self.ends["by"] != "nothing"  # what is kept should stay as it was, whatever is known
        }
        write_json(self.run.path / CURVE, {**self.ends, "rows": curve(self.points, scores, self.total)})

    def _save(self, folder: Path) -> None:
        save(self.loaded.model, self.loaded.tokenizer, folder, merged=self.settings.adapter == "lora")

    def _audit(self) -> None:
        """Audit the model where that is due after the newest request, against the model before the first."""
        done, every = len(self.rows), self.settings.audit_every
        last = done == self.total
        if not every or not done or not (last or done % every == 0):
            return
        folder, model = self.run.path / AUDITS / f"{done:06d}", self.run.path / AUDITS / "model"
        if not (folder / "judgement.json").is_file():
            if last:
                model = self.run.model
            else:
                self._save(model)
            asked = settings_between(self.settings, str(model))
            so_far = [record for records in self.records[:done] for record in records]
            run_audit(asked, folder, interface=self.interface, records={**self.given, "forget": so_far})
            shutil.rmtree(folder / "audit", ignore_errors=True)
        if last:
            shutil.rmtree(self.run.path / AUDITS / "model", ignore_errors=True)
            self.run.new_audit()
            for name in ("audit.json", "judgement.json", "audit.yaml"):
                shutil.copyfile(folder / name, self.run.path / name)


def _named(name: str) -> list[Request]:
    """The requests of a path; of a name, each group is one."""
    if Path(name).exists() or name.endswith(".jsonl") or ":" not in name:
        return read_requests(name)
    return by_group(load_named(name, "requests"))


def _resolved(settings: UnlearnSettings, method: Method | Edit, data: JobData) -> UnlearnSettings:
    """As for a plain run, but that passes stay passes: requests are of different sizes."""
    found = resolved(settings, method, data)
    if not isinstance(method, Method):
        return found
    steps = method.recipe.steps
    return found.model_copy(update={"steps": steps, "epochs": method.recipe.epochs if steps is None else None})


def _lines(file: Path) -> list[dict[str, Any]]:
    if not file.is_file():
        return []
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line]
