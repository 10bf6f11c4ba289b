"""Upsample: which records a model learns late, by the outputs of an early model, and so which ones to repeat."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from remanent.core.sampling import seed_of
from remanent.data.useful import Useful, elbow, useful
from remanent.designs.table import read_columns
from remanent.errors import DivergedError, InputError
from remanent.jobs.folders import check_new_file
from remanent.jobs.progress import Advance, Interface
from remanent.jobs.upsample_config import UpsampleSettings
from remanent.optim import SAM

_LEAST_GAP = 0.1  # nats between the clusters' mean losses, below which they are doubted


@dataclass(frozen=True)
class Upsampled:
    """What was found.

    Args:
        file: the records to repeat, JSON; `remanent.data.useful.Useful.load` reads it.
        useful: the same.
        names: of the classes, by label.
        early_epochs: of the early model; None where its outputs were given.
        errors: the early model's training error after each epoch, as far as it was trained.
    """

    file: Path
    useful: Useful
    names: tuple[str, ...]
    early_epochs: int | None
    errors: tuple[float, ...]


def upsample(settings: UpsampleSettings, out: Path, *, interface: Interface | None = None) -> Upsampled:
    """Train an early model, or take its outputs, cluster them class by class, and write which records to repeat.

    Args:
        settings: the job.
        out: the JSON file to write.
        interface: where progress goes; None is silent.

    Raises:
        InputError: where the file is there already, or the data do not fit.
        DataError: where a line of a CSV file is wrong.
        DivergedError: where the early model's outputs are not finite.
    """
    interface = interface or Interface()
    check_new_file(out)
    arrays, names = _read(settings)
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    labels, losses, epochs = arrays["labels"], None, settings.early_epochs
    errors: list[float] = []
    if "outputs" in arrays:
        outputs, losses, epochs = arrays["outputs"], arrays.get("losses"), None
    else:
        with interface.bar("early model") as advance:
            if epochs is None:
                _, errors = _trained(settings, arrays["inputs"], labels, settings.epochs, advance)
                epochs = elbow(errors)
            outputs, again = _trained(settings, arrays["inputs"], labels, epochs, advance)
            errors = errors or again
    found = useful(outputs, labels, losses=losses, factor=settings.factor, seed=settings.seed)
    for item in found.classes:
        if item.reason:
            interface.warn(f"class {names[item.label]} is left as it is: {item.reason}")
        elif item.fast_loss is not None and item.slow_loss is not None and item.slow_loss - item.fast_loss < _LEAST_GAP:
            interface.warn(
                f"class {names[item.label]}: the loss of what is repeated is {item.slow_loss:.3f} nats, of the rest "
                f"{item.fast_loss:.3f}: the clusters may be noise, as they are of a model too early or too late"
            )
    found.save(out)
    return Upsampled(out, found, names, epochs, tuple(errors))


def _read(settings: UpsampleSettings) -> tuple[dict[str, Tensor], tuple[str, ...]]:
    """Labels from 0 on, and outputs or inputs; the classes' names."""
    file = Path(settings.data)
    if file.suffix == ".csv":
        if settings.label is None:
            raise InputError("label", None, f"the column of {file} with the class")
        _, inputs, texts = read_columns(
            file, "label", settings.label, settings.skip.split(",") if settings.skip else ()
        )
        names = tuple(sorted(set(texts)))
        return {"inputs": inputs, "labels": torch.tensor([names.index(text) for text in texts])}, names
    for setting, value in (("label", settings.label), ("skip", settings.skip)):
        if value:
            raise InputError(setting, value, f"nothing: it names columns of a CSV file, which {file} is not")
    arrays = _arrays(file)
    if "labels" not in arrays or not {"outputs", "inputs"} & set(arrays):
        raise InputError("data", f"{file}: {', '.join(sorted(arrays)) or 'nothing'}", "labels, and outputs or inputs")
    for name, values in arrays.items():
        if values.dim() == 0:
            raise InputError(f"data: {name}", "a single number", "a number or more for each record")
        if len(values) != len(arrays["labels"]):
            raise InputError(f"data: {name}", len(values), f"{len(arrays['labels'])} records, as many as labels")
    labels = arrays["labels"]
    if labels.dim() != 1 or labels.dtype.is_floating_point or int(labels.min()) < 0:
        raise InputError("data: labels", f"{labels.dtype} of shape {tuple(labels.shape)}", "whole numbers from 0 on")
    if not bool(torch.isfinite(arrays.get("inputs", labels)).all()):
        raise InputError("data: inputs", "a number that is not finite", "finite numbers")
    arrays["labels"] = labels.long()
    return arrays, tuple(map(str, range(int(labels.max()) + 1)))


def _arrays(file: Path) -> dict[str, Tensor]:
    try:
        if file.suffix == ".safetensors":
            return load_file(file)
        if file.suffix == ".npz":
            with np.load(file, allow_pickle=False) as found:
                return {name: torch.as_tensor(found[name]) for name in found.files}
    except Exception as error:
        raise InputError("data", str(file), f"a file that can be read ({error})") from None
    raise InputError("data", str(file), "a file that ends in .csv, .npz or .safetensors")


def _trained(
    settings: UpsampleSettings, inputs: Tensor, labels: Tensor, epochs: int, advance: Advance
) -> tuple[Tensor, list[float]]:
    """The outputs of a network of two hidden layers after so many epochs, and its training error after each."""
    inputs = inputs.reshape(len(inputs), -1).double()
    spread = inputs.std(dim=0, correction=0)
    inputs = ((inputs - inputs.mean(dim=0)) / torch.where(spread > 0, spread, torch.ones_like(spread))).float()
    classes, width = int(labels.max()) + 1, settings.width
    generator = torch.Generator().manual_seed(seed_of(settings.seed, "order"))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(settings.seed, "weights"))
        model = nn.Sequential(
            *(nn.Linear(inputs.shape[1], width), nn.ReLU(), nn.Linear(width, width), nn.ReLU()),
            nn.Linear(width, classes),
        )
    optimizer = SAM(
        model.parameters(),
        torch.optim.SGD,
        rho=settings.rho,
        lr=settings.learning_rate,
        momentum=0.9,
        weight_decay=5e-4,
    )
    outputs, errors = inputs.new_empty(0), []
    for epoch in range(epochs):
        for rows in torch.randperm(len(inputs), generator=generator).split(settings.batch_size):  # type: ignore[no-untyped-call]

            def closure(rows: Tensor = rows) -> Tensor:
                loss = nn.functional.cross_entropy(model(inputs[rows]), labels[rows])
                loss.backward()  # type: ignore[no-untyped-call]
                return loss

            optimizer.step(closure)
        with torch.no_grad():
            outputs = model(inputs)
        if not bool(torch.isfinite(outputs).all()):
            raise DivergedError(f"the early model's outputs are not finite after epoch {epoch + 1}")
        errors.append(float((outputs.argmax(dim=1) != labels).double().mean()))
        advance(epoch + 1, epochs, f"training error {errors[-1]:.1%}")
    return outputs, errors
