"""Purge: remove what a run keeps that still holds the knowledge, and say what it cannot remove."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from remanent.core.files import read_json, sha256_file, write_json
from remanent.core.run_folder import RunFolder, check_writable
from remanent.core.user_folders import user_cache
from remanent.errors import InputError
from remanent.models.save import is_saved

ALWAYS = (
    "Backups, snapshots and synchronized copies of all of these, also of what was removed here.",
    "Quantized, merged or converted copies of the model before unlearning, wherever they were deployed.",
    "Adapters that were trained on the records, retrieval indexes, and logs that quote answers.",
    "Repositories on a hub to which the model or the records were pushed, with their history.",
    "The blocks of a disk: a removed file can be read again until they are written over.",
)


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
        run: the run's folder.
        removes: what goes.
        remains: what the user has to see to.
        always: what no program can see.
    """

    run: RunFolder
    removes: tuple[Item, ...]
    remains: tuple[Item, ...]
    always: tuple[str, ...] = ALWAYS


def plan_purge(out: Path) -> Purge:
    """What purging a run would remove and what would remain; touches nothing.

    Raises:
        InputError: where the folder is no run's, or the run is not finished: its checkpoints are what it goes on from.
    """
    run = RunFolder(out)
    if not run.config.is_file():
        raise InputError("run", str(out), "a run's folder")
    if not is_saved(run.model) or not run.manifest.is_file():
        raise InputError("run", str(out), "a finished run; this one still needs its checkpoints to go on")
    settings: dict[str, Any] = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    removes = [_item(path, what) for path, what in _removable(run, settings) if not path.is_symlink()]
    links = [
        Item(str(path), f"a link, not followed: {what}")
        for path, what in _removable(run, settings)
        if path.is_symlink()
    ]
    return Purge(run, tuple(removes), (*links, *_remaining(run, settings)))


def purge(plan: Purge) -> None:
    """Remove it, and write a record of it into the manifest: begun before the first file goes, done after the last.

    Nothing that a certificate names is touched, so that it stays verifiable.
    """
    run = plan.run
    check_writable(run.path)
    manifest: dict[str, Any] = read_json(run.manifest)
    earlier = manifest.get("purged", [])
    record: dict[str, Any] = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "state": "begun",
        "removed": [asdict(item) for item in plan.removes],
        "remains": [asdict(item) for item in plan.remains],
    }
    write_json(run.manifest, {**manifest, "purged": [*earlier, record]})
    for item in plan.removes:
        path = Path(item.path)
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    left = {name: digest for name, digest in manifest.get("outputs", {}).items() if (run.path / name).is_file()}
    write_json(run.manifest, {**manifest, "outputs": left, "purged": [*earlier, {**record, "state": "done"}]})


def _removable(run: RunFolder, settings: dict[str, Any]) -> Iterator[tuple[Path, str]]:
    checkpoints = run.path / "checkpoints"
    if checkpoints.exists():
        what = "weights from during the run, the best step's, and the optimizer's state"
        asked = "; without them no further requests can be obeyed in this run" if settings.get("requests") else ""
        yield checkpoints, what + asked
    if (run.path / "audit").exists():
        yield run.path / "audit", "finished measurements of the models before and after"
    answers = run.path / "asked.json"
    if answers.is_file():
        yield answers, "questions, and what the model answered before"
        if run.report.is_file():
            yield run.report, "a page that shows those answers; `remanent report` makes it again without them"
    for left in sorted(run.path.glob(".*")):
        if left.name.endswith((".tmp", ".old")):
            yield left, "what a write that was cut off left"
    reference = user_cache() / "reference"
    if reference.exists():
        yield reference, "reference scores of the records, of this run and of others, which compute them anew"
    model = Path(str(settings.get("model") or ""))
    if model.suffix == ".gguf" and model.is_file():
        converted = user_cache() / "gguf" / sha256_file(model)
        if converted.exists():
            yield converted, "the model before unlearning, converted"


def _remaining(run: RunFolder, settings: dict[str, Any]) -> Iterator[Item]:
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
    for other in sorted(run.path.resolve().parent.iterdir()):
        config = other / "config.yaml"
        if other == run.path.resolve() or not config.is_file() or not (other / "checkpoints").is_dir():
            continue
        theirs = yaml.safe_load(config.read_text(encoding="utf-8"))
        if isinstance(theirs, dict) and name and theirs.get("model") == name:
            yield Item(str(other / "checkpoints"), "checkpoints of another run that started from the same model")


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
