"""Unlearn: from a model, a forget set and a retain set to a saved model, in a run folder that can be resumed."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import yaml

from remanent.auditing.condition import parse_conditions
from remanent.core.batch import Encoded
from remanent.core.catalogue import build, edits, unlearners
from remanent.core.displacement import Displacement
from remanent.core.edit import Edit
from remanent.core.episode import Episode
from remanent.core.evaluation import ForgetAtControl
from remanent.core.loop import OnStep, Outcome, Settings, planned_steps, run_episode, with_settings
from remanent.core.method import Method
from remanent.core.peak_memory import peak_memory
from remanent.core.run_folder import RunFolder, alone
from remanent.core.user_folders import user_cache
from remanent.data.encode import encode_all, pad_id
from remanent.data.record import Record
from remanent.data.refusals import PREFERRED
from remanent.errors import InputError, did_you_mean
from remanent.jobs.config import UnlearnSettings, with_threads
from remanent.jobs.data import JobData, best_device, files_digest, input_hashes, load_data, overlap, spread
from remanent.jobs.edit import edit_of, make_edit
from remanent.jobs.progress import Interface
from remanent.models.load import Loaded, load
from remanent.models.lora import add_lora, load_nf4
from remanent.models.save import is_saved, save
from remanent.models.source import find

_OF_THE_RECIPE = ("learning_rate", "batch_size", "schedule", "warmup", "weight_decay", "max_grad_norm")


def unlearn(
    settings: UnlearnSettings,
    out: Path,
    *,
    interface: Interface | None = None,
    records: Mapping[str, list[Record]] | None = None,
) -> RunFolder:
    """Run an unlearning job, or go on with one that was cut off.

    Args:
        settings: the job.
        out: the run folder.
        interface: where progress goes; None is silent.
        records: role -> records in place of the settings' names.

    Raises InputError, DataError and RunConflictError before any work starts.
    """
    if settings.requests is not None:
        from remanent.jobs.requests import obey

        return obey(settings, out, interface=interface, records=records)
    interface = interface or Interface()
    method = way_of(settings)
    data = load_data(settings.data, records)
    check_roles(method, data, settings)
    stop_points = stopping_points(settings)
    start = settings.base if _from_base(method) else settings.model
    source = find(start or settings.model)
    run = RunFolder(out)
    with alone(run.path):
        settings = with_threads(resolved(settings, method, data), run.config)
        method = way_of(settings)
        text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
        run.begin(text, {**input_hashes(data), "model": files_digest(source.files())})
        _, _, details = overlap(data)
        for sentence in details:
            interface.warn(sentence)
        if is_saved(run.model) and run.manifest.is_file():
            interface.say(f"{run.path}: finished already; the model is in {run.model}")
            return run
        assert settings.threads is not None
        torch.set_num_threads(settings.threads)
        interface.say(f"Loading {start}")
        peak = peak_memory()
        loaded = load_as_asked(start or settings.model, settings)
        began = time.monotonic()
        if isinstance(method, Method):
            say_when_it_stops(method, data, settings, interface)
            with interface.bar(settings.method) as advance:
                outcome = train(
                    method,
                    loaded,
                    data,
                    settings,
                    run.path,
                    stop_points=stop_points,
                    on_step=lambda step, steps, losses: advance(step, steps, brief(losses)),
                    on_warning=interface.warn,
                    reference_cache=user_cache() / "reference",
                )
            facts: dict[str, Any] = {
                "steps": outcome.steps,
                "planned_steps": outcome.planned,
                "stopped_by_rule": outcome.stopped,
                "best_step": outcome.best_step,
            }
            done = _summary(outcome, run)
        else:
            report = make_edit(method, loaded, data, settings, interface)
            facts = {"edit": report}
            done = f"edited: {_nll_change(report)}; the model is saved in {run.model}"
        save(loaded.model, loaded.tokenizer, run.model, merged=settings.adapter == "lora")
        cost = {"seconds": round(time.monotonic() - began, 1), "peak_memory": peak()}
        run.finish(seed=settings.seed, threads=torch.get_num_threads(), **cost, **facts)
        interface.say(done)
        return run


def way_of(settings: UnlearnSettings) -> Method | Edit:
    """The method or the edit of a job."""
    return edit_of(settings) if settings.method in edits() else build_method(settings)


def build_method(settings: UnlearnSettings) -> Method:
    """The method of a job, with the settings that its user gave in place of the paper's."""
    if settings.steps is not None and settings.epochs is not None:
        raise InputError("steps, epochs", f"{settings.steps}, {settings.epochs}", "one of the two, not both")
    if settings.method not in unlearners():
        raise InputError("method", settings.method, did_you_mean(settings.method, unlearners()))
    method = build(settings.method, settings.hyperparameters)
    return with_settings(
        method,
        steps=settings.steps,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        schedule=settings.schedule,
        names=settings.select,
        warmup=settings.warmup,
        weight_decay=settings.weight_decay,
        max_grad_norm=settings.max_grad_norm,
    )


def resolved(settings: UnlearnSettings, method: Method | Edit, data: JobData) -> UnlearnSettings:
    """The settings with what follows from the method and the records where nothing was said: what is run, and runs
    again, whatever another version's defaults are. A null that is left means what its field says."""
    defaults = unlearners()[settings.method].defaults
    found: dict[str, Any] = {"hyperparameters": {**defaults, **settings.hyperparameters}}
    if isinstance(method, Method):
        recipe = method.recipe
        sizes = {"task": len(data.all_retained), "retain": len(data.retain.get("train", []))}
        found |= {name: getattr(recipe, name) for name in _OF_THE_RECIPE}
        found |= {"steps": planned_steps(recipe, sizes.get(method.roles[0], len(data.forget))), "epochs": None}
    return settings.model_copy(update=found)


def check_roles(method: Method | Edit, data: JobData, settings: UnlearnSettings) -> None:
    """Raise InputError where the method needs records, or a base model, that the job does not have."""
    if _from_base(method):
        if settings.base is None:
            raise InputError("base", None, "the model before it was taught, since retraining starts from it")
        if not data.retain:
            raise InputError("data.retain", None, "the records that retraining trains on")
        return
    for role, there in (("forget", data.forget), ("retain", data.retain)):
        if role in method.roles and not there:
            raise InputError(f"data.{role}", getattr(settings.data, role), f"{role} records, which the method needs")
    _preferred(method, data, settings)


def _preferred(method: Method | Edit, data: JobData, settings: UnlearnSettings) -> dict[str, list[Record]]:
    """The roles that are made from the forget records: answers to prefer to theirs."""
    roles = [role for role in method.roles if role in PREFERRED]
    kept = data.retain.get("train", [])
    return {role: PREFERRED[role](data.forget, settings.seed, kept) for role in roles}


def stopping_points(settings: UnlearnSettings) -> list[Displacement]:
    """Where the stopping rule must hold. Raises InputError for a condition that is no simulated precision."""
    stop_at = parse_conditions(settings.stop_at)
    if any(condition.info.kind not in ("full", "precision") for condition in stop_at):
        raise InputError("stop_at", settings.stop_at, "precisions only; an attack would be part of the training")
    if any(condition.backend is not None for condition in stop_at):
        raise InputError("stop_at", settings.stop_at, "simulated precisions; a real back end loads saved files")
    return [condition.displacement for condition in stop_at]


def load_as_asked(name: str, settings: UnlearnSettings) -> Loaded:
    """A model as the job trains it: whole, or with a LoRA, on a base that may be packed."""
    if settings.adapter == "lora-nf4":
        dtype = torch.float32 if settings.precision == "fp32" else torch.bfloat16
        loaded = load_nf4(name, dtype=dtype, device=best_device())
    else:
        loaded = load(name, device=best_device())
    if settings.adapter == "full":
        return loaded
    model = add_lora(loaded.model, settings.lora_rank, settings.lora_alpha, seed=settings.seed)
    return Loaded(model, loaded.tokenizer, loaded.source)


def say_when_it_stops(method: Method, data: JobData, settings: UnlearnSettings, interface: Interface) -> None:
    """Say why no stopping rule looks at a run that was to have one."""
    if not settings.stop or method.from_base:
        return
    if not method.judged_by_rule:
        interface.say(f"{settings.method} makes its model at the end, so that no stopping rule looks at it")
    elif not data.control:
        interface.warn("no control set: nothing says when forgetting is enough, so the run goes to its last step")


def train(
    method: Method,
    loaded: Loaded,
    data: JobData,
    settings: UnlearnSettings,
    folder: Path,
    *,
    stop_points: Sequence[Displacement],
    name: str = "unlearn",
    on_step: OnStep | None = None,
    on_warning: Callable[[str], None] = lambda text: None,
    reference_cache: Path | None = None,
) -> Outcome:
    """Train a loaded model as a job says, in place.

    Args:
        method: its recipe decides the steps.
        loaded: the model.
        data: the records; retain and control by split.
        settings: the job.
        folder: where checkpoints and metrics.jsonl go; a run that was cut off there goes on.
        stop_points: where the stopping rule must hold; there is one where the job has a control and does not say no.
        name: of the episode.
        on_step, on_warning, reference_cache: as for `run_episode`.
    """

    def encoded(records: list[Record]) -> list[Encoded]:
        return encode_all(records, loaded.tokenizer, settings.data.max_length)

    if method.from_base:
        roles = {"task": encoded(data.all_retained)}
    else:
        roles = {"forget": encoded(data.forget)}
        if data.retain:
            roles["retain"] = encoded(data.retain["train"])
        roles |= {role: encoded(records) for role, records in _preferred(method, data, settings).items()}
    loop = Settings(
        pad_id=pad_id(loaded.tokenizer),
        seed=settings.seed,
        precision=settings.precision,
        micro_batch=settings.micro_batch,
        evaluate_every=settings.evaluate_every,
        checkpoint_every=settings.checkpoint_every,
    )
    rule = None
    if settings.stop and not method.from_base and method.judged_by_rule and data.control:
        sets = {"forget": roles["forget"], "control": encoded(data.control["select"])}
        if data.retain:
            sets["retain"] = encoded(data.retain["select"])
        sets = {role: spread(records, settings.evaluate_records) for role, records in sets.items()}
        rule = ForgetAtControl(sets, stop_points, loop.pad_id, margin=settings.stop_margin, autocast=loop.autocast)
    return run_episode(
        loaded.model,
        method,
        Episode(name, "teach" if method.from_base else "erase", roles),
        loop,
        rule=rule,
        folder=folder,
        on_step=on_step,
        on_warning=on_warning,
        reference_cache=reference_cache,
    )


def _from_base(method: Method | Edit) -> bool:
    return isinstance(method, Method) and method.from_base


def _nll_change(report: Mapping[str, Any]) -> str:
    return ", ".join(f"{role} NLL {nll['before']:.2f} -> {nll['after']:.2f}" for role, nll in report["nll"].items())


def brief(losses: Mapping[str, float]) -> str:
    """The losses of an update in a line."""
    return "  ".join(f"{name} {value:.2f}" for name, value in losses.items() if name != "gradient_norm")


def _summary(outcome: Outcome, run: RunFolder) -> str:
    how = "stopped by its rule" if outcome.stopped else "ran to its last step"
    return f"{outcome.steps} of {outcome.planned} steps, {how}; step {outcome.best_step} is saved in {run.model}"
