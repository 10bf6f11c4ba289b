"""A run's folder: what was asked, what came of it, and the check that both belong together."""

from __future__ import annotations

import contextlib
import os
import platform
import tempfile
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from remanent.core.files import naming, read_json, sha256_file, write_atomic, write_json
from remanent.errors import InputError, RunConflictError

_PACKAGES = (
    *("remanent", "torch", "transformers", "accelerate", "peft", "safetensors", "tokenizers", "numpy"),
    *("bitsandbytes", "torchao", "gguf"),
)
_LOCK = ".lock"


class RunFolder:
    """The folder of one run.

    Args:
        path: the folder; made where it does not exist.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.inputs = path / "inputs.json"
        self.metrics = path / "metrics.jsonl"
        self.model = path / "model"
        self.audit = path / "audit.json"
        self.judgement = path / "judgement.json"
        self.certificate = path / "certificate.json"
        self.report = path / "report.html"
        self.manifest = path / "manifest.json"

    def begin(self, config: str, inputs: Mapping[str, str]) -> None:
        """Start a run, or go on with it.

        Args:
            config: the complete settings, as text.
            inputs: name -> keyed hash of everything that the run reads.

        Raises InputError where the folder cannot be written, RunConflictError where it belongs to another run.
        """
        check_writable(self.path)
        if self.config.is_file():
            if self.config.read_text(encoding="utf-8") != config:
                raise RunConflictError(
                    f"{self.path} belongs to a run with other settings ({self.config}); give another folder, or "
                    "remove this one"
                )
            before = read_json(self.inputs)
            changed = sorted(name for name in {*before, *inputs} if before.get(name) != inputs.get(name))
            if changed:
                raise RunConflictError(
                    f"{self.path}: {', '.join(changed)} changed since the run began; restore it, or start a new run"
                )
            return
        # A run that was cut off in its first moment has its inputs and no settings yet.
        if any(file != self.inputs and not file.name.startswith(".") for file in self.path.iterdir()):
            raise RunConflictError(f"{self.path} is not empty and holds no run; give another folder")
        write_json(self.inputs, dict(inputs))
        write_atomic(self.config, config)

    def finish(self, **facts: Any) -> None:
        """Write the manifest: versions, the facts given, and the SHA-256 of every output."""
        outputs = {
            str(file.relative_to(self.path)): sha256_file(file)
            for file in sorted(self.path.rglob("*"))
            if file.is_file()
            and file != self.manifest
            and file.name != _LOCK
            and "checkpoints" not in file.relative_to(self.path).parts
        }
        write_json(self.manifest, {"versions": versions(), **facts, "outputs": outputs})

    def record(self, *files: Path) -> None:
        """Bring the manifest up to date on some of the run's files, which may be new, changed or gone.

        A run that is not finished has no manifest and gets none, since the manifest says that it is; a folder that
        holds an audit alone gets one.
        """
        if not self.manifest.is_file() and self.config.is_file():
            return
        manifest = read_json(self.manifest) if self.manifest.is_file() else {"versions": versions()}
        outputs = dict(manifest.get("outputs", {}))
        for file in files:
            name = str(file.relative_to(self.path))
            outputs.pop(name, None)
            if file.is_file():
                outputs[name] = sha256_file(file)
        write_json(self.manifest, {**manifest, "outputs": dict(sorted(outputs.items()))})

    def new_audit(self) -> list[Path]:
        """Put aside what was made from the audit that a new one replaces; returns what was moved or removed.

        The judgement and the report are made again; a certificate was signed and stays, under its hash in "earlier".
        """
        gone = [file for file in (self.judgement, self.report) if file.is_file()]
        for file in gone:
            file.unlink()
        if self.certificate.is_file():
            earlier = self.path / "earlier"
            earlier.mkdir(exist_ok=True)
            self.certificate.replace(earlier / f"certificate-{sha256_file(self.certificate)[:16]}.json")
            gone.append(self.certificate)
        return gone


@contextlib.contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder against other processes, which would remove each other's checkpoints; made where there is none.

    The system frees it when this process ends, however it ends. Where there are no such locks (other systems, some
    network file systems) nothing is held.

    Raises InputError where the folder cannot be written, RunConflictError, which names the process, where one holds it.
    """
    check_writable(folder)
    try:
        import fcntl
    except ImportError:
        yield
        return
    with open(folder / _LOCK, "a+", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            holder = file.read() or "another process"
            raise RunConflictError(
                f"{folder} is in use by {holder}; wait until it ends, or give another folder"
            ) from None
        except OSError:
            pass  # there are no such locks here
        file.truncate(0)
        with naming(folder / _LOCK):
            file.write(f"process {os.getpid()} on {platform.node()}")
            file.flush()
        try:
            yield
        finally:
            file.truncate(0)  # a folder that is given on says nothing of the machine


def versions() -> dict[str, str]:
    """Versions of Python, the machine and the packages that decide a result."""
    found = {"python": platform.python_version(), "machine": platform.machine()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def check_writable(path: Path) -> None:
    """Make a folder where there is none. Raises InputError where it cannot be made or written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise InputError("out", str(path), f"a folder that can be written ({os.strerror(error.errno or 0)})") from None
