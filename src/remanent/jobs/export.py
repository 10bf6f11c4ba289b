"""Export: a saved model in another program's format."""

from __future__ import annotations

from pathlib import Path

from remanent.core.run_folder import RunFolder
from remanent.errors import InputError, UnsupportedError, did_you_mean
from remanent.models.folder import load_tokenizer
from remanent.models.gguf_write import TYPES, write_gguf
from remanent.models.load import load
from remanent.models.source import find
from remanent.models.whole import whole_folder

# Letters, digits, spaces, other scripts and signs: where two ways of splitting text would differ, they differ here.
_SAMPLE = "Born in 1987, they've paid 12.50 € — naïve, 世界 and Здравствуй!\n\n  def f(x):\treturn x ** 2  # 🙂 it's"


def export(run_or_model: str, target: Path, kind: str = "q8_0") -> Path:
    """Write a run's model, or any saved one, as a GGUF file for transformers and llama.cpp; returns the file.

    A LoRA is merged first. The file's tokenizer is read back and must encode a text of several scripts as the model's
    own does; where it does not, the file is removed again.

    Args:
        run_or_model: a run's folder, a model's folder or name.
        target: the file to write; it ends in .gguf.
        kind: one of `remanent.models.gguf_write.TYPES`.

    Raises:
        InputError: before any work, for a target that is not a .gguf file in a folder that is there, an unknown type,
            or a run without a model.
        UnsupportedError: for a model or a tokenizer that GGUF does not hold; see `write_gguf`.
    """
    if target.suffix != ".gguf":
        raise InputError("gguf", str(target), "a file that ends in .gguf")
    if not target.parent.is_dir():
        raise InputError("gguf", str(target), f"a file in a folder that is there; {target.parent} is not")
    if kind not in TYPES:
        raise InputError("type", kind, did_you_mean(kind, TYPES))
    run = RunFolder(Path(run_or_model))
    if run.config.is_file() and not run.model.is_dir():
        raise InputError("run", run_or_model, "a run that has saved its model; the same command goes on with it")
    name = str(run.model) if run.config.is_file() else run_or_model
    source = find(name)
    if source.path is not None and source.path.is_dir() and not (source.path / "adapter_config.json").is_file():
        return _write(source.path, target, kind)
    loaded = load(name)
    with whole_folder(loaded.model, loaded.tokenizer, loaded.source) as folder:
        return _write(folder, target, kind)


def _write(folder: Path, target: Path, kind: str) -> Path:
    written = write_gguf(folder, target.with_name(f".{target.name}.unchecked.gguf"), kind)
    try:
        ours, theirs = load_tokenizer(folder), load_tokenizer(written.parent, written.name)
        if ours(_SAMPLE).input_ids != theirs(_SAMPLE).input_ids:
            raise UnsupportedError(
                "the tokenizer encodes text otherwise once it is read back from GGUF, so the file was not kept"
            )
        return written.replace(target)
    finally:
        written.unlink(missing_ok=True)
