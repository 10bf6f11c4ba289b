"""Teach: fine-tuning of a model on records, in a run folder that can be resumed.

Plain, or with forgetting: what the model answers itself to some prompts is unlearned now and then meanwhile.
"""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
import yaml

from remanent.continual.learning_with_forgetting import LearningWithForgetting, own_answers
from remanent.core.batch import IGNORED, Encoded
from remanent.core.catalogue import build, methods
from remanent.core.episode import Episode
from remanent.core.files import write_atomic
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.method import Method
from remanent.core.run_folder import RunFolder, alone
from remanent.core.task import teach as teaching
from remanent.data.encode import encode_all, encode_prompts, pad_id
from remanent.data.record import Record
from remanent.errors import InputError
from remanent.jobs.config import OF_FORGETTING, PLAIN, TeachSettings, with_threads
from remanent.jobs.data import best_device, files_digest, load_records, records_hash
from remanent.jobs.progress import Interface
from remanent.jobs.unlearn import brief
from remanent.models.load import Loaded, load
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
        records: "records" and "forget" -> records in place of the settings' names.
    """
    interface = interface or Interface()
    method = teaching_method(settings)
    taught, prompts = taught_and_prompts(settings, records)
    source = find(settings.model)
    run = RunFolder(out)
    with alone(run.path):
        settings = with_threads(resolved(settings), run.config)
        # Of plain teaching nothing is written of what it has not, so that runs of an earlier version go on.
        fields = settings.model_dump(mode="json", exclude=set() if prompts else set(OF_FORGETTING))
        text = yaml.safe_dump(fields, sort_keys=False, allow_unicode=True)
        hashes = {"records": records_hash(taught), "model": files_digest(source.files())}
        run.begin(text, {**hashes, "forget": records_hash(prompts)} if prompts else hashes)
        if is_saved(run.model) and run.manifest.is_file():
            interface.say(f"{run.path}: finished already; the model is in {run.model}")
            return run
        assert settings.threads is not None
        torch.set_num_threads(settings.threads)
        interface.say(f"Loading {settings.model}")
        loaded = load(settings.model, device=best_device())
        began = time.monotonic()
        roles = {"task": encode_all(taught, loaded.tokenizer, settings.max_length)}
        loop = Settings(
            pad_id=pad_id(loaded.tokenizer),
            seed=settings.seed,
            precision=settings.precision,
            micro_batch=settings.micro_batch,
            checkpoint_every=settings.checkpoint_every,
        )
        if prompts:
            roles["forget"] = _own_answers(loaded, prompts, settings, loop, run.path / "own-answers.jsonl", interface)
        with interface.bar("teach") as advance:
            outcome = run_episode(
                loaded.model,
                method,
                Episode("teach", "teach", roles),
                loop,
                folder=run.path,
                on_step=lambda step, steps, losses: advance(step, steps, brief(losses)),
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


def teaching_method(settings: TeachSettings) -> Method:
    """The method of a job, with its settings."""
    if settings.method == PLAIN:
        found = teaching()
    else:
        found = build(settings.method, settings.hyperparameters)
        assert isinstance(found, LearningWithForgetting)
        found = replace(found, seed=settings.seed)
    return with_settings(
        found,
        epochs=settings.epochs,
        learning_rate=settings.learning_rate,
        batch_size=settings.batch_size,
        schedule=settings.schedule,
        names=settings.select,
    )


def resolved(settings: TeachSettings) -> TeachSettings:
    """The settings with the method's own hyper-parameters where nothing was said."""
    if settings.method == PLAIN:
        return settings
    defaults = methods()[settings.method].defaults
    return settings.model_copy(update={"hyperparameters": {**defaults, **settings.hyperparameters}})


def taught_and_prompts(
    settings: TeachSettings, records: Mapping[str, list[Record]] | None = None
) -> tuple[list[Record], list[Record]]:
    """What a job teaches, and the prompts of what may be forgotten: none where it teaches plainly.

    Raises InputError where it forgets and has no prompts, or teaches plainly and has what only forgetting takes.
    """
    taught = load_records("records", settings.records, settings.system, records)
    prompts = load_records("forget", settings.forget, settings.system, records, answered=False)
    if settings.method == PLAIN:
        for field in OF_FORGETTING:
            value = getattr(settings, field)
            default = TeachSettings.model_fields[field].get_default(call_default_factory=True)
            if value != default or (field == "forget" and prompts):
                raise InputError(field, value, "nothing, since plain teaching forgets nothing")
        return taught, []
    if not prompts:
        raise InputError("forget", settings.forget, "prompts of what may be forgotten, which the model answers itself")
    for record in prompts:
        if not record.prompt:
            raise InputError("forget", f"record {record.key}, plain text", "prompts, which the model can answer")
    return taught, prompts


def _own_answers(
    loaded: Loaded, prompts: list[Record], settings: TeachSettings, loop: Settings, file: Path, interface: Interface
) -> list[Encoded]:
    """The model's own answers, as they lie in the run's folder, or made and put there.

    As of records, what is longer than `max_length` loses the tail of the answer, and a prompt is never cut.
    """
    longest = settings.max_length
    if not file.is_file():
        asked, done = encode_prompts(prompts, loaded.tokenizer), 0
        for record in asked:
            if longest is not None and len(record.input_ids) >= longest:
                expected = (
                    f"at least {len(record.input_ids) + 1}, so that the prompt of record {record.key} has an answer"
                )
                raise InputError("max_length", longest, expected)
        with interface.bar("own answers") as advance:

            def on_batch(count: int) -> None:
                nonlocal done
                done += count
                advance(done, len(asked), "")

            found = own_answers(
                loaded.model,
                asked,
                pad_id=loop.pad_id,
                max_new_tokens=settings.answer_tokens,
                seed=settings.seed,
                autocast=loop.autocast,
                on_batch=on_batch,
            )
        rows = []
        for record in found:
            prompt = len(record.labels) - record.scored
            tokens = list(record.input_ids[:longest])
            text = loaded.tokenizer.decode(tokens[prompt:], skip_special_tokens=True)
            own = {"answer": text, "tokens": tokens, "prompt_tokens": prompt}
            rows.append(json.dumps({"key": record.key, "group": record.group, **own}, ensure_ascii=False))
        write_atomic(file, "".join(f"{row}\n" for row in rows))
    answers = []
    # Not splitlines, which would end a row at a separator that stands in an answer.
    for row in map(json.loads, file.read_text(encoding="utf-8").split("\n")[:-1]):
        ids, prompt = tuple(row["tokens"]), row["prompt_tokens"]
        labels = (IGNORED,) * prompt + ids[prompt:]
        answers.append(Encoded(ids, labels, row["group"], row["key"]))
    interface.say(f"{len(answers)} of {len(prompts)} prompts have an answer of the model's own: {file}")
    if not answers:
        raise InputError("forget", settings.forget, "prompts that the model answers: it answers none with anything")
    return answers
