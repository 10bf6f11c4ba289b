"""The main job from end to end on embedded data: every step is a job of its own, and resumable."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from remanent.auditing.signing import generate_key
from remanent.auditing.verify import Verification, verify
from remanent.core.files import write_json
from remanent.core.run_folder import RunFolder, alone
from remanent.data.authors import AuthorSets, author_sets
from remanent.data.general_text import general_text
from remanent.data.jsonl import read_records, write_records
from remanent.data.record import Record
from remanent.errors import InputError, RunConflictError
from remanent.jobs.ask import Asked, ask
from remanent.jobs.audit import run_audit
from remanent.jobs.certify import certify
from remanent.jobs.config import AuditSettings, DataSettings, DemoSettings, TeachSettings, UnlearnSettings
from remanent.jobs.data import fast_precision
from remanent.jobs.progress import Interface
from remanent.jobs.report import report
from remanent.jobs.teach import teach
from remanent.jobs.unlearn import unlearn
from remanent.models.save import is_saved, save
from remanent.models.source import find
from remanent.models.tiny import tiny

# Records of each role per step, and points: the durable way takes half as many records at two points, so that both
# ways make the same number of steps and pass the same number of records through the model.
WAYS = {"plain": ("npo", 8, 1), "durable": ("durable", 4, 2)}
# The forget loss sums over an answer's tokens and the retain loss is a mean over tokens: the weight evens them out.
RETAIN_WEIGHT = 8.0
# The upper half of the default model's 30 layers: a third less work, and other knowledge is disturbed less.
UPPER_HALF = {"smollm2-135m": "*.layers.1[5-9].*,*.layers.2?.*"}
PASSAGES = 2  # of general text
# An empty system turn takes a third of the tokens of the chat template's default one.
SYSTEM = ""
_TINY = "tiny"
# A model of half a million random weights needs larger steps than one that has read the world.
_TINY_SETTINGS = {"teaching_epochs": 25.0, "teaching_rate": 2e-3, "learning_rate": 1e-3, "steps": 60}


@dataclass(frozen=True)
class Demo:
    """What the demo made.

    Args:
        runs: the run folders, plain and durable.
        report: the HTML file.
        verified: run -> what verifying its certificate found.
        seconds: how long this call took.
    """

    runs: Sequence[Path]
    report: Path
    verified: dict[str, Verification]
    seconds: float


def demo(settings: DemoSettings, out: Path, *, interface: Interface | None = None) -> Demo:
    """Run the demo, or go on with one that was cut off.

    Args:
        settings: the demo's.
        out: a folder for everything that it makes.
        interface: where progress goes; None is silent.
    """
    interface = interface or Interface()
    began = time.monotonic()
    base = _base(settings)
    if base is None:
        chosen = settings.model_fields_set
        changes = {name: value for name, value in _TINY_SETTINGS.items() if name not in chosen}
        settings = settings.model_copy(update=changes)
    with alone(out):
        precision = fast_precision() if settings.precision == "auto" else settings.precision
        sets = author_sets(settings.seed, settings.forget, settings.retain, settings.control, settings.questions)
        files = _write(sets, out / "data")
        if base is None:
            base = _tiny_base(settings, sets, out, interface)
        interface.say(f"1. Teach {settings.model} {settings.forget + settings.retain} fictitious authors")
        taught = teach(
            TeachSettings(
                model=base,
                records=str(files["taught"]),
                system=SYSTEM,
                epochs=settings.teaching_epochs,
                learning_rate=settings.teaching_rate,
                select=UPPER_HALF.get(settings.model, "*"),
                precision=precision,
                seed=settings.seed,
                threads=settings.threads,
            ),
            out / "taught",
            interface=interface,
        )
        data = DataSettings(
            **{role: str(files[role]) for role in ("forget", "retain", "control", "text")}, system=SYSTEM
        )
        runs = []
        for number, (name, (method, batch_size, points)) in enumerate(WAYS.items(), start=2):
            interface.say(
                f"{number}. A deletion request for {settings.forget} of them: unlearn, the {name} way ({method})"
            )
            runs.append(
                unlearn(
                    UnlearnSettings(
                        model=str(taught.model),
                        data=data,
                        method=method,
                        hyperparameters={"retain_weight": RETAIN_WEIGHT},
                        select=UPPER_HALF.get(settings.model, "*"),
                        steps=settings.steps,
                        learning_rate=settings.learning_rate,
                        batch_size=batch_size,
                        schedule="constant",
                        warmup=0.0,
                        precision=precision,
                        seed=settings.seed,
                        stop_at="full,int4-row" if points == 2 else "full",
                        evaluate_every=5,
                        evaluate_records=6,
                        threads=settings.threads,
                    ),
                    out / name,
                    interface=interface,
                )
            )
        for number, run in enumerate(runs, start=4):
            interface.say(f"{number}. Audit the {run.path.name} model at {settings.at}")
            run_audit(
                AuditSettings(
                    model=str(run.model),
                    reference=str(taught.model),
                    data=data,
                    at=settings.at,
                    generate=settings.generate,
                    truth_ratio=False,  # four more answers to score for each record would double the audit
                    precision=precision,
                    threads=settings.threads,
                ),
                run.path,
                interface=interface,
                cache=out / "audits",
            )
        interface.say("6. Ask before and after, sign what was found, and verify the signatures")
        _ask(runs, taught, sets)
        verified = _sign(runs, out)
        page = report([run.path for run in runs], out / "report.html", "Remanent demo: unlearned twice, audited alike")
        return Demo([run.path for run in runs], page, verified, time.monotonic() - began)


def _base(settings: DemoSettings) -> str | None:
    """The base model's name once it is known to be there; None for the tiny one, which is made."""
    if settings.model == _TINY:
        return None
    try:
        find(settings.model)
    except InputError as error:
        raise InputError(
            "model", settings.model, f"{error.expected}. `remanent demo --model tiny` needs neither hub nor package"
        ) from None
    return settings.model


def _write(sets: AuthorSets, folder: Path) -> dict[str, Path]:
    """Write the records. Raises RunConflictError where others are there, which earlier parts were made of."""
    folder.mkdir(parents=True, exist_ok=True)
    records = {"retain": sets.retain, "taught": (*sets.forget, *sets.retain)}
    records["forget"] = _paraphrased_once(sets.forget)
    records["control"] = _paraphrased_once(sets.control, every=2)
    records["text"] = tuple(general_text()[:PASSAGES])
    files = {name: folder / f"{name}.jsonl" for name in records}
    for name, part in records.items():
        if files[name].is_file() and read_records(files[name], name) != list(part):
            raise RunConflictError(f"{files[name]} is of a demo with other records; give another folder, or remove it")
    for name, part in records.items():
        write_records(files[name], part)
    return files


def _paraphrased_once(records: Sequence[Record], every: int = 1) -> tuple[Record, ...]:
    """The records, the first of every so-manieth author with its paraphrase: enough to see, at a third of the cost."""
    order = list(dict.fromkeys(record.group for record in records))
    left = set(order[::every])
    kept = []
    for record in records:
        asked = record.group in left
        left.discard(record.group)
        kept.append(record if asked else replace(record, paraphrased_prompt=(), paraphrased_answer=""))
    return tuple(kept)


def _tiny_base(settings: DemoSettings, sets: AuthorSets, out: Path, interface: Interface) -> str:
    """A small Llama with random weights that has learnt how such answers look, from authors in no other set."""
    background = author_sets(settings.seed + 1_000_003, 1, 80, 1, settings.questions).retain
    random = out / "random"
    if not is_saved(random):
        made = tiny([*sets.forget, *sets.retain, *sets.control, *background], hidden=128, seed=settings.seed)
        save(made.model, made.tokenizer, random)
    file = out / "data" / "background.jsonl"
    write_records(file, background)
    interface.say("0. Make a tiny Llama and teach it the language of the records on 80 other authors")
    settings_of_base = TeachSettings(
        model=str(random), records=str(file), system=SYSTEM, epochs=12, learning_rate=2e-3, threads=settings.threads
    )
    return str(teach(settings_of_base, out / "base", interface=interface).model)


def _ask(runs: Sequence[RunFolder], taught: RunFolder, sets: AuthorSets) -> None:
    """Two questions about forgotten authors and one about a kept one: invented people, so answers may be shown."""
    left = [run for run in runs if not (run.path / "asked.json").is_file()]
    if not left:
        return
    shown = (sets.forget[0], sets.forget[len(sets.forget) // 2], sets.retain[-1])
    questions = [record.question for record in shown]

    def answers(run: RunFolder) -> list[Asked]:
        return ask(str(run.model), questions, "int4-row", max_new_tokens=20, system=SYSTEM)

    before = answers(taught)
    for run in left:
        pairs = zip(before, answers(run), strict=True)
        rows = [replace(after, before=first.after).to_dict() for first, after in pairs]
        write_json(run.path / "asked.json", rows)


def _sign(runs: Sequence[RunFolder], out: Path) -> dict[str, Verification]:
    """Sign with a throw-away key, made for the demo: a real one is kept apart from what it signs."""
    private, public = out / "keys" / "signer.key", out / "keys" / "signer.pub"
    if not (private.is_file() and public.is_file()):
        private.unlink(missing_ok=True)
        public.unlink(missing_ok=True)
        private.parent.mkdir(exist_ok=True)
        generate_key(private, public)
    found = {}
    for run in runs:
        certificate = certify(run.path, private)
        found[run.path.name] = verify(certificate, run.model, public)
    return found
