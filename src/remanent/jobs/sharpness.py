"""Sharpness: a saved model's loss on sets of records looked at from all sides, and a report of it."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
import yaml

from remanent.auditing.condition import parse_conditions
from remanent.core.batch import Batch, Encoded, collate
from remanent.core.displacement import Displacement
from remanent.core.files import read_json, write_json
from remanent.core.importance.losses import answer_nll, mean_answer_nll, token_nll
from remanent.core.run_folder import RunFolder, alone
from remanent.core.selection import Selection
from remanent.core.weights import Weights
from remanent.data.encode import encode_all, pad_id
from remanent.data.record import Record
from remanent.errors import InputError, RemanentError, UnsupportedError, did_you_mean
from remanent.jobs.config import SharpnessSettings, with_threads
from remanent.jobs.data import best_device, files_digest, load_records, records_hash, spread
from remanent.jobs.progress import Interface
from remanent.models.load import load
from remanent.models.lora import carries_lora
from remanent.models.merged import as_adapted, merged_weights
from remanent.models.source import find
from remanent.report.sharpness_page import write_report
from remanent.sharpness.active_neurons import activations, active_neurons
from remanent.sharpness.clip_interpolation import stragglers_by_criticality, stragglers_by_reset
from remanent.sharpness.eigenvalues import eigenvalues
from remanent.sharpness.fisher_trace import fisher_trace
from remanent.sharpness.gradient_norm import gradient_norm
from remanent.sharpness.interpolation import check_same_weights, path
from remanent.sharpness.landscape import landscape
from remanent.sharpness.layers import layers_of
from remanent.sharpness.layerwise import DEFINITION, layerwise
from remanent.sharpness.modern_sharpness import Definition, sharpness
from remanent.sharpness.noisy_loss import noisy_loss
from remanent.sharpness.ntk import tangent_kernel_of_losses
from remanent.sharpness.spectral_density import spectral_density
from remanent.sharpness.surface import LossSurface, token_record, token_wrong
from remanent.sharpness.trace import trace

STANDARD = ("sharpness", "eigenvalues", "fisher", "gradient", "landscape", "path", "stragglers")
ALL = (*STANDARD, "criticality", "trace", "spectrum", "plane", "layers", "noise", "neurons", "kernel")
OF_BOTH = ("path", "stragglers", "criticality")
_BACKWARD, _PRODUCT = 3, 8  # what passes cost, in forward passes
_PROBES = 4

Tick = Callable[[], None]


@dataclass(frozen=True)
class _Task:
    """One figure to find: its name in the folder, what it costs, and how it is found."""

    data: str
    at: str
    measure: str
    ticks: int
    cost: float
    find: Callable[[Tick], dict[str, Any]]

    @property
    def file(self) -> str:
        name = f"{self.data}--{self.at}--{self.measure}"
        digest = sha256(name.encode()).hexdigest()[:8]  # x/y and x_y read alike, and are not
        return re.sub(r"[^\w.+-]+", "_", name) + f"--{digest}.json"


def measure_sharpness(
    settings: SharpnessSettings,
    out: Path,
    *,
    interface: Interface | None = None,
    records: Mapping[str, list[Record]] | None = None,
) -> dict[str, Any]:
    """Measure, or go on where it was cut off; writes sharpness.json, report.html and a PNG of each plot.

    Args:
        settings: the job.
        out: a new folder, or that of the same job.
        interface: where progress goes; None is silent.
        records: name of a set -> records in place of files.
    """
    interface = interface or Interface()
    measures = _measures(settings)
    definitions = [
        replace(Definition.parse(name, settings.steps), seed=settings.seed) for name in _listed(settings.definitions)
    ]
    points = _points(settings.at)
    names = _listed(settings.data)
    if not names:
        raise InputError("data", settings.data, "at least one file or name of records")
    sets = {name: load_records("data", name, settings.system, _given(records, name)) for name in names}
    sources = {"model": find(settings.model)} | ({"other": find(settings.other)} if settings.other else {})
    run = RunFolder(out)
    with alone(out):
        settings = with_threads(settings, run.config)
        assert settings.threads is not None
        inputs = {f"data {name}": records_hash(found) for name, found in sets.items()}
        inputs |= {name: files_digest(source.files()) for name, source in sources.items()}
        run.begin(yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True), inputs)
        torch.set_num_threads(settings.threads)
        interface.say(f"Loading {settings.model}")
        loaded = load(settings.model, device=best_device())
        before = None if settings.other is None else merged_weights(load(settings.other).model)
        if before is not None and carries_lora(loaded.model):
            before = as_adapted(loaded.model, before)
        select = Selection(tuple(_listed(settings.select)))
        chosen = select.of(Weights.of(loaded.model))
        if before is not None:
            check_same_weights(chosen, before)
        tasks: list[_Task] = []
        for name, found in sets.items():
            encoded = spread(encode_all(found, loaded.tokenizer, settings.max_length), settings.records)
            batches = _batches(encoded, settings.batch_size, pad_id(loaded.tokenizer))
            here = LossSurface(loaded.model, batches, token_nll, token_wrong, select, units=_groups(encoded))
            possible = _possible(measures, _listed(settings.measures), name, here, interface.warn)
            for at, point in points.items():
                surface = replace(here, at=point)
                tasks += _tasks(settings, possible, definitions, name, at, surface, before, interface.warn)
        rows = _found(tasks, out / "found", interface)
        result = {
            "model": settings.model,
            "other": settings.other,
            "weights": sum(weight.numel() for weight in chosen.values()),
            "settings": settings.model_dump(mode="json"),
            "rows": rows,
        }
        write_json(out / "sharpness.json", result)
        write_report(result, out)
        run.finish(seed=settings.seed, threads=settings.threads)
        return result


def _found(tasks: Sequence[_Task], folder: Path, interface: Interface) -> list[dict[str, Any]]:
    """What each task finds: read where it was found before, else found and written."""
    folder.mkdir(exist_ok=True)
    rows = []
    whole, done = sum(task.cost for task in tasks), 0.0
    with interface.bar("sharpness") as advance:
        for task in tasks:
            file = folder / task.file
            note = f"{task.measure} of {task.data} at {task.at}"
            ticked = 0

            def tick(task: _Task = task, done: float = done, note: str = note) -> None:
                nonlocal ticked
                ticked = min(ticked + 1, task.ticks)
                advance(round(1000 * (done + task.cost * ticked / task.ticks) / whole), 1000, note)

            if not file.is_file():
                write_json(file, task.find(tick))
            done += task.cost
            advance(round(1000 * done / whole), 1000, note)
            rows.append({"data": task.data, "at": task.at, "name": task.measure, **read_json(file)})
    return rows


def _tasks(
    settings: SharpnessSettings,
    measures: Sequence[str],
    definitions: Sequence[Definition],
    data: str,
    at: str,
    surface: LossSurface,
    before: Mapping[str, torch.Tensor] | None,
    warn: Callable[[str], None],
) -> list[_Task]:
    batches, seed, products = len(surface.batches), settings.seed, settings.products
    draws = max(2, settings.steps)
    axis = [settings.reach * (2 * place / (settings.points - 1) - 1) for place in range(settings.points)]
    shares = [place / (settings.points - 1) for place in range(settings.points)]
    layers = layers_of(surface.model, surface.select.of(Weights.of(surface.model)))
    found: list[_Task] = []

    def add(name: str, ticks: int, cost: float, find: Callable[[Tick], Any]) -> None:
        found.append(_Task(data, at, name, ticks, cost, lambda tick: find(tick).to_dict()))

    for name in measures:
        match name:
            case "sharpness":
                for item in definitions:
                    each = item.steps * (_BACKWARD if item.case == "worst" else 1)
                    add(
                        str(item),
                        batches,
                        batches * each,
                        partial(lambda item, tick: sharpness(surface, item, on_batch=tick), item),
                    )
            case "eigenvalues":
                ticks = products * batches
                add(
                    name,
                    ticks,
                    ticks * _PRODUCT,
                    lambda tick: eigenvalues(surface, steps=products, tolerance=1e-2, seed=seed, on_batch=tick),
                )
            case "trace":
                ticks = products * batches
                add(name, ticks, ticks * _PRODUCT, lambda tick: trace(surface, products, seed=seed, on_batch=tick))
            case "spectrum":
                ticks = _PROBES * products * batches
                add(
                    name,
                    ticks,
                    ticks * _PRODUCT,
                    lambda tick: spectral_density(surface, _PROBES, products, seed=seed, on_batch=tick),
                )
            case "fisher":
                add(
                    name,
                    batches,
                    batches * _BACKWARD * 2,
                    lambda tick: fisher_trace(surface, answer_nll, on_batch=tick, on_warning=warn),
                )
            case "gradient":
                add(name, batches, batches * _BACKWARD * 2, lambda tick: gradient_norm(surface, on_batch=tick))
            case "landscape":
                add(
                    name,
                    len(axis),
                    len(axis) * batches,
                    lambda tick: landscape(surface, axis, seed=seed, on_point=tick),
                )
            case "plane":
                ticks = len(axis) ** 2
                add(
                    name,
                    ticks,
                    ticks * batches,
                    lambda tick: landscape(surface, axis, dimensions=2, seed=seed, on_point=tick),
                )
            case "layers":
                ticks = batches * (len(layers) + 1)
                add(
                    name,
                    ticks,
                    ticks * DEFINITION.steps,
                    lambda tick: layerwise(surface, replace(_SMALL, seed=seed), layers=layers, on_batch=tick),
                )
            case "path":
                assert before is not None
                add(name, len(shares), len(shares) * batches, lambda tick: path(surface, before, shares, on_point=tick))
            case "stragglers":
                assert before is not None
                add(
                    name,
                    len(layers),
                    (len(layers) + 1) * batches,
                    lambda tick: stragglers_by_reset(surface, before, layers=layers, on_layer=tick),
                )
            case "criticality":
                assert before is not None
                add(
                    name,
                    len(layers),
                    (len(layers) * len(shares) + 1) * batches,
                    lambda tick: stragglers_by_criticality(surface, before, layers=layers, grid=shares, on_layer=tick),
                )
            case "noise":
                add(
                    name,
                    draws * batches,
                    draws * batches,
                    lambda tick: noisy_loss(surface, settings.noise, draws=draws, seed=seed, on_batch=tick),
                )
            case "neurons":
                add(name, batches, batches, lambda tick: active_neurons(surface, on_batch=tick))
            case "kernel":
                rows = len(surface.batches[0])
                add(
                    name,
                    rows,
                    rows * _BACKWARD,
                    lambda tick: tangent_kernel_of_losses(surface, mean_answer_nll, on_row=tick),
                )
    return found


def _possible(
    measures: Sequence[str], asked: Sequence[str], data: str, surface: LossSurface, warn: Callable[[str], None]
) -> list[str]:
    """The measures without those that this set or model has no figure of: an error where it was asked for by name."""
    without: dict[str, RemanentError] = {}
    if "kernel" in measures and len(surface.batches[0]) < 2:
        remedy = "2 records or more in its first batch for kernel: a larger set, or a batch_size of 2 or more"
        without["kernel"] = InputError("data", f"{data}, whose first batch is of one record", remedy)
    if "neurons" in measures:
        # One pass says whether padding can be told from records, which is no matter where there is none.
        padded = [batch for batch in surface.batches if not batch.attention_mask.all()][:1]
        try:
            activations(surface.model)
            if padded:
                active_neurons(replace(surface, batches=padded))
        except UnsupportedError as error:
            without["neurons"] = error
    for name, problem in without.items():
        if name in asked:
            raise problem
        warn(f"{name} is left out: {problem}")
    return [name for name in measures if name not in without]


# Of a language model, whose loss a tenth of every weight destroys.
_SMALL = Definition(0.02, "average", "l2", "element", steps=DEFINITION.steps)


def _measures(settings: SharpnessSettings) -> list[str]:
    found: list[str] = []
    for name in _listed(settings.measures):
        group = {"standard": STANDARD, "all": ALL}.get(name)
        if group is None and name not in ALL:
            raise InputError("measures", name, did_you_mean(name, (*ALL, "standard", "all")))
        if name in OF_BOTH and settings.other is None:
            raise InputError("other", None, f"the model before, since {name} lies between two models")
        found += [item for item in group or (name,) if settings.other is not None or item not in OF_BOTH]
    if "kernel" in _listed(settings.measures) and settings.batch_size < 2:
        raise InputError("batch_size", settings.batch_size, "2 or more for kernel, which is of a batch's records")
    if not found:
        raise InputError("measures", settings.measures, f"at least one of {', '.join(ALL)}")
    return list(dict.fromkeys(found))


def _points(text: str) -> dict[str, Displacement]:
    asked = {name.strip() for name in text.split(",")}
    found: dict[str, Displacement] = {}
    for condition in parse_conditions(text):
        name = condition.info.name
        if name == "full" and "full" not in asked:
            continue
        if condition.info.kind not in ("full", "precision") or condition.backend is not None:
            raise InputError("at", name, "precisions that weights are rounded to, such as int8, int4-row or nf4")
        found[name] = condition.displacement
    return found


def _batches(encoded: list[Encoded], size: int, pad: int) -> list[Batch]:
    device = best_device()
    return [
        collate(encoded, range(start, min(start + size, len(encoded))), pad).to(device)
        for start in range(0, len(encoded), size)
    ]


def _groups(encoded: Sequence[Encoded]) -> Callable[[Batch], torch.Tensor]:
    """Batch -> the number of each token's group, the unit that intervals count."""
    numbers = {group: number for number, group in enumerate(dict.fromkeys(item.group for item in encoded))}
    groups = torch.tensor([numbers[item.group] for item in encoded])
    return lambda batch: groups[token_record(batch).cpu()]


def _given(records: Mapping[str, list[Record]] | None, name: str) -> Mapping[str, list[Record]] | None:
    return None if records is None or name not in records else {"data": records[name]}


def _listed(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]
