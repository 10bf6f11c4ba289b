"""A model as a folder that is the old one or the whole new one, and that says when it was changed."""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

from remanent.core.files import beside, left_beside, naming, read_json, remove, sha256_file, write_json
from remanent.errors import InputError, IntegrityError, UnsupportedError
from remanent.models.lora import carries_lora, lora_layers, refuse_tied
from remanent.models.merged import adapters_merged, plain_state
from remanent.models.worn import write_worn

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

MANIFEST = "remanent.json"


def save(
    model: PreTrainedModel | PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    folder: str | os.PathLike[str],
    *,
    merged: bool = False,
) -> Path:
    """Save weights (safetensors), configuration, generation configuration and tokenizer; returns the folder.

    Everything is written to a temporary folder beside the target, flushed, and renamed. An earlier save is moved aside
    first and deleted afterwards: killed between the two renames, the old one is left as `.<name>.<random>.old`. What a
    killed save to the same folder left is removed by the next, `.old` once the new save is whole.
    Interventions that the model wears lie beside its weights, as plain data. `remanent.json` holds the SHA-256 of every
    file, which `load` checks. `load` gives the same bits, dtypes and ties.

    Args:
        model: with floating-point weights of one dtype, or LoRA on such a model or on a packed one.
        tokenizer: the model's.
        folder: new, empty, or a complete earlier save, which is replaced. Parents are made.
        merged: of a LoRA model, write the base with the adapters added in, as peft merges them; the live model stays
            as it is, bit for bit. By default its adapter alone is written, without the base.

    Raises:
        InputError: where the folder cannot be written or holds something else, or `merged` without an adapter.
        UnsupportedError: where packed weights would have to be written or merged, where dtypes are mixed (loading
            would give them one), or where LoRA sits on tied weights.
    """
    from peft import PeftModel

    target = Path(folder)
    adapted = isinstance(model, PeftModel)
    if merged and not adapted:
        raise InputError("merged", merged, "False for a model that carries no adapter")
    _check_target(target)
    _check_weights(model, adapted, merged)
    with ExitStack() as stack:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            temporary = stack.enter_context(beside(target, Path.mkdir))
        except OSError as error:
            raise InputError("folder", str(target), f"a place that can be written ({error.strerror})") from error
        with naming(target):
            _write(model, tokenizer, temporary, adapted, merged)
            _replace(temporary, target)
    return target


def is_saved(folder: Path) -> bool:
    """Whether a folder is a complete save: the manifest, every file that it names, and no other."""
    if not (folder / MANIFEST).is_file():
        return False
    return {file.name for file in folder.iterdir()} == {MANIFEST, *_listed(folder)}


def check_saved(folder: Path) -> None:
    """Compare a folder's files with its manifest; a folder without one was not written by `save` and passes.

    Raises:
        IntegrityError: naming the file that is missing or changed.
    """
    if not (folder / MANIFEST).is_file():
        return
    for name, expected in _listed(folder).items():
        file = folder / name
        if not file.is_file():
            raise IntegrityError(f"{folder}: the saved file {name} is missing")
        if sha256_file(file) != expected:
            raise IntegrityError(
                f"{folder}: {name} is not the file that was saved; delete {MANIFEST} to load the folder as it is"
            )


def _listed(folder: Path) -> dict[str, str]:
    manifest = read_json(folder / MANIFEST)
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if not isinstance(files, dict) or any(not isinstance(value, str) for value in files.values()):
        raise IntegrityError(f"{folder / MANIFEST}: is not a manifest of saved files")
    for name in files:
        if name != Path(name).name or name in ("", ".", ".."):
            raise IntegrityError(f"{folder / MANIFEST}: {name!r} is not the name of a file in the folder")
    return files


def _write(model: Any, tokenizer: Any, temporary: Path, adapted: bool, merged: bool) -> None:
    if merged:
        with adapters_merged(model):
            model.get_base_model().save_pretrained(temporary, state_dict=plain_state(model))
    elif adapted:
        model.save_pretrained(temporary, save_embedding_layers=False)  # "auto" would ask the hub
        (temporary / "README.md").unlink(missing_ok=True)  # peft's empty model card
    else:
        model.save_pretrained(temporary)
    tokenizer.save_pretrained(temporary)
    write_worn(model, temporary)
    files = sorted(file for file in temporary.iterdir())
    write_json(temporary / MANIFEST, {"files": {file.name: sha256_file(file) for file in files}})
    for file in files:
        _flush(file)
    _flush(temporary)


def _check_target(target: Path) -> None:
    if not target.exists() and not target.is_symlink():
        return
    if target.is_symlink() or not target.is_dir():
        raise InputError("folder", str(target), "a new folder, not a file or a link")
    if any(target.iterdir()) and not is_saved(target):
        raise InputError("folder", str(target), "a new or empty folder, or a complete earlier save to replace")


def _check_weights(model: Any, adapted: bool, merged: bool) -> None:
    packed = next((name for name, weight in model.named_parameters() if not weight.is_floating_point()), None)
    if packed is not None and not adapted:
        raise UnsupportedError(f"{packed} is packed: save the model it was made from, or an adapter on it")
    if adapted and not merged:
        return
    if not adapted and carries_lora(model):
        raise UnsupportedError("the model carries LoRA layers: give the model that add_lora returned, which wraps it")
    if packed is not None:
        raise UnsupportedError(
            f"an adapter cannot be merged into a packed base ({packed} holds {model.get_parameter(packed).dtype}): "
            "save the adapter (merged=False), load it on the base in full precision, and merge there"
        )
    if adapted:
        refuse_tied(model, lora_layers(model))
    dtypes = {str(weight.dtype) for name, weight in model.named_parameters() if "lora_" not in name}
    if len(dtypes) > 1 and not getattr(model, "_keep_in_fp32_modules", None):
        raise UnsupportedError(f"weights have several dtypes ({', '.join(sorted(dtypes))}); bring them to one first")


def _replace(temporary: Path, target: Path) -> None:
    if target.is_dir() and any(target.iterdir()):
        aside = temporary.with_suffix(".old")
        target.replace(aside)
    temporary.replace(target)
    for path in left_beside(target, "old"):
        remove(path)
    _flush(target.parent)


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
