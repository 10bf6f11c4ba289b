"""Purge: remove what a run or a sweep keeps that still holds the knowledge, and say what it cannot remove."""

from __future__ import annotations

import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from remanent.core.files import read_json, write_json
from remanent.core.run_folder import RunFolder, alone
from remanent.core.user_folders import user_cache
from remanent.errors import InputError
from remanent.jobs.sweep_trial import AUDITS, FAILED
from remanent.models.gguf import copies
from remanent.models.save import is_saved

ALWAYS = (
    "Backups, snapshots and synchronized copies of all of these, also of what was removed here.",
    "Quantized, merged or converted copies of the model before unlearning, wherever they were deployed.",
    "Adapters that were trained on the records, retrieval indexes, and logs that quote answers.",
    "Repositories on a hub to which the model or the records were pushed, with their history.",
    "The blocks of a disk: a removed file can be read again until they are written over.",
)
_SWEEPS = ("sweep", "compare")
_MEASURED = "finished measurements of the models before and after"


@dataclass(frozen=True)
class Item:
    """Something that holds the knowledge, or the text.

    Args:
        path: where.
        what: what it holds.
        size: in bytes; 0 where it was not counted.
    """

    path: str
    what: str
    size: int = 0


@dataclass(frozen=True)
class Purge:
    """What is to be done.

    Args:
        folder: of the run, the sweep or the comparison.
        runs: the run, or the trials: their manifests say what they hold.
        removes: what goes.
        remains: what the user has to see to.
        always: what no program can see.
    """

    folder: Path
    runs: tuple[RunFolder, ...]
    removes: tuple[Item, ...]
    remains: tuple[Item, ...]
    always: tuple[str, ...] = ALWAYS


def plan_purge(out: Path) -> Purge:
    """What purging a run, a sweep or a comparison would remove and what would remain; touches nothing.

    Raises:
        InputError: where the folder is none of these, or what it holds is not finished: its checkpoints are what it
            goes on from.
    """
    run = RunFolder(out)
    if not run.config.is_file():
        # A sweep's own file may lie anywhere: its folder also holds the hashes of what it reads.
        kind = next((kind for kind in _SWEEPS if (out / f"{kind}.yaml").is_file() and run.inputs.is_file()), None)
        if kind is None:
            raise InputError("run", str(out), "the folder of a run, a sweep or a comparison")
        return _plan_sweep(out, kind)
    if not _finished(run):
        expected = "a finished run; this one has saved no model and goes on from its checkpoints"
        raise InputError("run", str(out), f"{expected} (a trial that came to nothing goes with its sweep's folder)")
    settings = _yaml(run.config)
    return _plan(out, [run], settings, _of_run(run, settings), _of_settings(settings, run))


def _plan_sweep(out: Path, kind: str) -> Purge:
    folder = out / "trials"
    links = [path for path in (folder, *sorted(folder.glob("*"))) if path.is_symlink()]
    trials = [run for run in _runs(out) if run.path not in links and folder not in links]
    failed = _failed(out / f"{kind}.json")
    for trial in trials:
        if not trial.path.with_name(f"{trial.path.name}.json").is_file() and trial.path.name not in failed:
            expected = f"a finished {kind}; {trial.path} goes on from its checkpoints: call the {kind} again"
            raise InputError("run", str(out), f"{expected}, or remove that folder")
    settings = _yaml(out / f"{kind}.yaml")["unlearn"]
    removes = [(out / AUDITS, _MEASURED), *_cut_off(out), *_cut_off(folder), *((path, "trials") for path in links)]
    for trial in trials:
        removes += _of_run(trial, settings, failed=trial.path.name in failed)
    models = [_model(trial) for trial in trials if trial.model.is_dir()]
    return _plan(out, trials, settings, removes, [*models, *_of_settings(settings, RunFolder(out))])


def purge(plan: Purge) -> None:
    """Remove it, and write a record of it into the manifest: begun before the first file goes, done after the last.

    Nothing that a certificate names is touched, so that it stays verifiable.
    """
    file = RunFolder(plan.folder).manifest
    with alone(plan.folder):
        manifest: dict[str, Any] = read_json(file) if file.is_file() else {}  # a sweep has none of its own
        earlier = manifest.get("purged", [])
        record: dict[str, Any] = {
            "at": datetime.now(UTC).isoformat(timespec="seconds"),
            "state": "begun",
            "removed": [asdict(item) for item in plan.removes],
            "remains": [asdict(item) for item in plan.remains],
        }
        write_json(file, {**manifest, "purged": [*earlier, record]})
        for item in plan.removes:
            path = Path(item.path)
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        for run in plan.runs:
            if run.manifest.is_file():
                held = read_json(run.manifest)
                left = {name: digest for name, digest in held.get("outputs", {}).items() if (run.path / name).is_file()}
                write_json(run.manifest, {**held, "outputs": left})
        write_json(file, {**read_json(file), "purged": [*earlier, {**record, "state": "done"}]})


def _plan(
    out: Path,
    runs: Sequence[RunFolder],
    settings: Mapping[str, Any],
    removes: Iterable[tuple[Path, str]],
    remains: Iterable[Item],
) -> Purge:
    """Links are not followed: what lies behind one is the user's to see to."""
    found = [(path, what) for path, what in (*removes, *_cached(settings)) if path.exists() or path.is_symlink()]
    items = tuple(_item(path, what) for path, what in found if not path.is_symlink())
    links = (Item(str(path), f"a link, not followed: {what}") for path, what in found if path.is_symlink())
    return Purge(out, tuple(runs), items, (*links, *remains))


def _finished(run: RunFolder) -> bool:
    """Whether it has saved its model. A trial's is deleted once it is audited."""
    audited = run.audit.is_file() and run.judgement.is_file() and not run.model.exists()
    return run.manifest.is_file() and (audited or is_saved(run.model))


def _runs(folder: Path) -> list[RunFolder]:
    """The run that a folder is, or the trials of the sweep that it is."""
    found = [RunFolder(path) for path in (folder, *sorted((folder / "trials").glob("*")))]
    return [run for run in found if run.config.is_file()]


def _failed(results: Path) -> set[str]:
    """The trials that failed: the next call tries them again. One that ended, well or not, has a file beside it."""
    rows = read_json(results)["trials"] if results.is_file() else []
    return {row["name"] for row in rows if row["status"] == FAILED}


def _of_run(run: RunFolder, settings: Mapping[str, Any], failed: bool = False) -> Iterator[tuple[Path, str]]:
    """What may lie in a run's folder and goes."""
    without = ""
    if failed:
        without = "; the trial failed, and the next call tries it again without them"
    elif settings.get("requests"):
        without = "; without them no further requests can be obeyed in this run"
    yield run.path / "checkpoints", "weights from during the run, the best step's, and the optimizer's state" + without
    yield run.path / "audit", _MEASURED
    answers = run.path / "asked.json"
    if answers.is_file():
        yield answers, "questions, and what the model answered before"
        yield run.report, "a page that shows those answers; `remanent report` makes it again without them"
    yield from _cut_off(run.path)


def _cut_off(folder: Path) -> list[tuple[Path, str]]:
    left = [path for path in sorted(folder.glob(".*")) if path.name.endswith((".tmp", ".old"))]
    return [(path, "what a write that was cut off left") for path in left]


def _cached(settings: Mapping[str, Any]) -> Iterator[tuple[Path, str]]:
    """What lies in the user's cache and goes."""
    what = "reference scores of the records, of this run and of others, which compute them anew"
    yield user_cache() / "reference", what
    model = Path(str(settings.get("model") or ""))
    if model.suffix == ".gguf" and model.is_file():
        for copy in copies(model):
            yield copy, "the model before unlearning, converted"


def _model(trial: RunFolder) -> Item:
    if not trial.judgement.is_file():
        return _item(trial.model, "the model of a trial that was not audited: it may know the records")
    return _item(trial.model, f"the model of a trial, whose audit says {read_json(trial.judgement)['verdict']}")


def _of_settings(settings: Mapping[str, Any], run: RunFolder) -> Iterator[Item]:
    """What lies outside, as far as the settings name it, and models of the run that know."""
    teaching = "records" in settings
    if teaching:
        yield Item(str(run.model), "the model that was taught: it knows the records")
    name = settings.get("model")
    if name and not teaching:
        yield from _original(str(name))
    data = settings.get("data") or {}
    asked = settings.get("requests")
    for role, file in (("forget", data.get("forget")), ("forget", asked), ("taught", settings.get("records"))):
        if file and Path(file).exists():
            yield Item(str(file), f"the {role} records themselves")
    if (run.path / "models").is_dir():
        yield _item(run.path / "models", "models after single requests: they know what later ones asked for")
    if not run.path.parent.is_dir():
        return
    others = [other for other in sorted(run.path.resolve().parent.iterdir()) if other != run.path.resolve()]
    for other in (found for folder in others for found in _runs(folder)):
        if not (other.path / "checkpoints").is_dir():
            continue
        theirs = _yaml(other.config)
        if isinstance(theirs, dict) and name and theirs.get("model") == name:
            yield Item(str(other.path / "checkpoints"), "checkpoints of another run that started from the same model")


def _yaml(file: Path) -> Any:
    return yaml.safe_load(file.read_text(encoding="utf-8"))


def _original(name: str) -> Iterator[Item]:
    """The model before unlearning, and what lies round it."""
    path = Path(name).expanduser()
    if not path.exists():
        cached = _hub_cache(name)
        if cached is not None:
            yield _item(cached, "the model before unlearning, in the hub's cache")
        else:
            yield Item(name, "the model before unlearning, wherever it is kept")
        return
    yield _item(path, "the model before unlearning: it knows the records")
    folder = path if path.is_dir() else path.parent
    taught = RunFolder(folder.parent)
    if taught.config.is_file() and (taught.path / "checkpoints").is_dir():
        yield _item(taught.path / "checkpoints", "checkpoints of the run that taught it")
    roots = {folder, taught.path} if taught.config.is_file() else {folder}
    for file in sorted({file for root in roots for file in root.glob("*.gguf")} - {path}):
        yield _item(file, "a quantized or converted copy beside it")


def _hub_cache(name: str) -> Path | None:
    from huggingface_hub.constants import HF_HUB_CACHE

    folder = Path(HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
    return folder if folder.is_dir() else None


def _item(path: Path, what: str) -> Item:
    files = [path] if path.is_file() else [file for file in path.rglob("*") if file.is_file() and not file.is_symlink()]
    return Item(str(path), what, sum(file.stat().st_size for file in files))
