"""Teach: plain fine-tuning of a model on records, in a run folder that can be resumed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path

import torch
import yaml

from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.run_folder import RunFolder
from remanent.core.task import teach as teaching
from remanent.data.encode import encode_all, pad_id
from remanent.data.record import Record
from remanent.jobs.config import TeachSettings, with_threads
from remanent.jobs.data import best_device, files_digest, load_records, records_hash
from remanent.jobs.progress import Interface
from remanent.models.load import load
from remanent.models.save import is_saved, save
from remanent.models.source import find


def teach(
    settings: TeachSettings,
    out: Path,
    *,
    interface: Interface | None = None,
    records: Mapping[str, list[Record]] | None = None,
) -> RunFolder:
    """Fine-tune a model on records, or go on with a run that was cut off.

    Args:
        settings: the job.
        out: the run folder; the model is saved in its folder "model".
        interface: where progress goes; None is silent.
        records: "records" -> records in place of the settings' name.
    """
    interface = interface or Interface()
    method = with_settings(
        teaching(),
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        schedule=settings.schedule,
        names=settings.select,
    )
    taught = load_records("records", settings.records, settings.system, records)
    source = find(settings.model)
    run = RunFolder(out)
    settings = with_threads(settings, run.config)
    text = yaml.safe_dump(settings.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    run.begin(text, {"records": records_hash(taught), "model": files_digest(source.files())})
    if is_saved(run.model) and run.manifest.is_file():
        interface.say(f"{run.path}: finished already; the model is in {run.model}")
        return run
    assert settings.threads is not None
    torch.set_num_threads(settings.threads)
    interface.say(f"Loading {settings.model}")
    loaded = load(settings.model, device=best_device())
    began = time.monotonic()
    with interface.bar("teach") as advance:
        outcome = run_episode(
            loaded.model,
            method,
            Episode("teach", "teach", {"task": encode_all(taught, loaded.tokenizer, settings.max_length)}),
            Settings(
                pad_id=pad_id(loaded.tokenizer),
                seed=settings.seed,
                precision=settings.precision,
                micro_batch=settings.micro_batch,
                checkpoint_every=settings.checkpoint_every,
            ),
            folder=run.path,
            on_step=lambda step, steps, losses: advance(step, steps, f"loss {losses['task@full']:.2f}"),
            on_warning=interface.warn,
        )
    save(loaded.model, loaded.tokenizer, run.model)
    run.finish(
        seed=settings.seed,
        threads=torch.get_num_threads(),
        seconds=round(time.monotonic() - began, 1),
        steps=outcome.steps,
    )
    return run
