"""Where a run's model comes from and what was made of it: the files that its certificate names besides the model's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from remanent.auditing.evidence import Evidence
from remanent.core.files import read_json, sha256_file
from remanent.core.run_folder import RunFolder
from remanent.errors import InputError
from remanent.models.source import find

_LEFT_OUT = ("checkpoints", "earlier", "parents")


def base_files(run: RunFolder) -> tuple[dict[str, str], str]:
    """Files of the model from before the teaching, and a note where they cannot be named.

    It is the run's `base`, else what the run started from that taught the model which the run unlearned. Only what
    lies on this machine under a path is read: signing asks no hub.

    Returns:
        Name -> sha256, empty where there is none; the note, "" where there is nothing to say.
    """
    settings = _settings(run)
    name = settings.get("base")
    if name is None and settings.get("model"):
        name = _settings(RunFolder(Path(settings["model"]).parent)).get("model")
    if name is None:
        return {}, ""
    if not Path(name).expanduser().exists() and not str(name).startswith("wheel:"):
        return {}, "The base model is not on this machine under a path, so its files are not named."
    return find(name).files(), ""


def adapter_files(folders: Sequence[Path]) -> dict[str, dict[str, str]]:
    """ "adapter/<folder's name>" -> files, of adapters that were merged into the model.

    Raises:
        InputError: where a folder is no adapter, or two have one name.
    """
    found: dict[str, dict[str, str]] = {}
    for folder in folders:
        if not (folder / "adapter_config.json").is_file():
            raise InputError("adapter", str(folder), "a folder with adapter_config.json")
        name = f"adapter/{folder.resolve().name}"
        if name in found:
            raise InputError("adapter", str(folder), "adapters in folders of different names")
        found[name] = find(folder).files()
    return found


def quantized_files(
    run: RunFolder, model: Path, given: Sequence[Path], evidence: Evidence
) -> list[dict[str, str | None]]:
    """Quantized files of the model: those given, and those that lie in the run's or the model's folder.

    Those are .gguf files, and the weights of a folder whose configuration says that they are quantized.

    Returns:
        Rows of "name" (relative to the run's folder where it lies there), "sha256", and "audited_at": the condition at
        which the audit loaded the file, by its SHA-256; None where it loaded none.
    """
    for file in given:
        if not file.is_file():
            raise InputError("quantized", str(file), "a file that is there")
    files = {file.resolve(): file for file in given}
    for root in (run.path, model):
        for file in sorted(root.rglob("*")):
            inner = file.relative_to(root).parts
            if inner[0] in _LEFT_OUT or any(part.startswith(".") for part in inner) or not file.is_file():
                continue
            if file.suffix == ".gguf" or (file.suffix == ".safetensors" and _is_quantized(file.parent)):
                files.setdefault(file.resolve(), file)
    rows: list[dict[str, str | None]] = []
    for path in files:
        sha256 = sha256_file(path)
        own = path.is_relative_to(run.path.resolve())
        name = path.relative_to(run.path.resolve()).as_posix() if own else path.name
        # `gguf:PATH` writes the SHA-256 into its description; other quantized files cannot be loaded, nor audited.
        at = next((info.name for info in evidence.conditions if sha256 in info.description), None)
        rows.append({"name": name, "sha256": sha256, "audited_at": at})
    return rows


def _is_quantized(folder: Path) -> bool:
    config = folder / "config.json"
    if not config.is_file():
        return False
    found = read_json(config)
    return isinstance(found, dict) and bool(found.get("quantization_config") or found.get("compression_config"))


def _settings(run: RunFolder) -> dict[str, Any]:
    if not run.config.is_file():
        return {}
    found = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    return found if isinstance(found, dict) else {}
