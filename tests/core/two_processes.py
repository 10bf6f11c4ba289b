"""Run by two processes on gloo: the gradient of an update over both, and rounding of sharded weights.

Arguments: a folder that holds model/ and batches.safetensors, and into which each process writes its results.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from accelerate import Accelerator
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import AutoModelForCausalLM

from remanent.core.batch import Batch
from remanent.core.displacement import Ascent, Here, Noise, Rounding
from remanent.core.method import At, Method
from remanent.core.update import Update
from remanent.core.weight_average import WeightAverage
from remanent.core.weights import Weights, norm
from remanent.errors import UnsupportedError
from remanent.unlearning.npo import NPO


def read_batches(file):
    tensors = load_file(file)
    return {role: Batch(*(tensors.get(f"{role}.{field}") for field in Batch.__dataclass_fields__)) for role in ROLES}


def added_up(gradients):
    total = {}
    for given in gradients.values():
        for name, gradient in given.items():
            total[name] = total[name] + gradient if name in total else gradient
    return total


def gradients(model, batches, combine, accelerator=None):
    method = Method(NPO(), points=[Here(), At(Rounding("int4"), weight=0.5)], combine=combine)
    update = Update(
        model,
        method,
        torch.optim.SGD(model.parameters(), lr=0.0),
        steps=4,
        micro_batch=2,
        max_grad_norm=0.7,
        accelerator=accelerator,
    )
    losses = update.gradients(batches)
    return {name: p.grad for name, p in model.named_parameters()}, losses


def logits(model, batches):
    return model(input_ids=batches["forget"].input_ids).logits.clone()


ROLES = ("forget", "retain")


def main(folder):
    accelerator = Accelerator(cpu=True)
    rank, world = accelerator.process_index, accelerator.num_processes
    assert world == 2
    results = {}
    batches = read_batches(folder / "batches.safetensors")
    mine = {
        role: Batch(**{name: None if value is None else value[rank::world] for name, value in vars(batch).items()})
        for role, batch in batches.items()
    }
    for label, combine in (("sum", None), ("combine", added_up)):
        model = AutoModelForCausalLM.from_pretrained(folder / "model")
        found, losses = gradients(model, mine, combine, accelerator)
        results.update({f"{label}.{name}": gradient for name, gradient in found.items()})
        results.update({f"{label}:{name}": torch.tensor(value) for name, value in losses.items()})

    model = AutoModelForCausalLM.from_pretrained(folder / "model")
    mesh = init_device_mesh("cpu", (2,))
    for layer in model.model.layers:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    weights = Weights.of(model)
    results["sharded.norm"] = norm(weights.values())
    for label in ("int4-row", "int4-g32"):
        with Rounding(label).at(model):
            for name, weight in weights.items():
                results[f"sharded.{label}.{name}"] = weight.full_tensor().detach().clone()
    for label, point in (("tensor", Rounding("int8-tensor")), ("noise", Noise(0.1))):
        try:
            with point.at(model):
                pass
        except UnsupportedError:
            results[f"refused.{label}"] = torch.ones(())
    for name, weight in weights.items():
        results[f"after.{name}"] = weight.full_tensor().detach().clone()
    with torch.no_grad():
        results["logits.before"] = logits(model, batches)
        with Rounding("int4-row").at(model):
            results["logits.there"] = logits(model, batches)
        results["logits.after"] = logits(model, batches)
        undo = Rounding("int4-row").apply(model)
        results["logits.applied"] = logits(model, batches)
        undo.undo()
        results["logits.undone"] = logits(model, batches)
    kept = model(input_ids=batches["forget"].input_ids).logits  # its graph outlives a look
    with Rounding("int4-row").at(model), torch.no_grad():
        logits(model, batches)
    kept.square().mean().backward()
    results["gradient.after_look"] = model.lm_head.weight.grad.full_tensor()
    model.zero_grad()
    for label, refused in (
        ("layers", lambda: Rounding("int4-row").at(model, layer_by_layer=True).__enter__()),
        ("average", lambda: WeightAverage(model, 0.9)),
    ):
        try:
            refused()
        except UnsupportedError as error:
            results[f"refused.{label}"] = torch.tensor(int("FSDP2" in str(error)))

    def climbed():
        return model(input_ids=batches["forget"].input_ids).logits.square().mean()

    with Ascent(0.5).at(model, loss=climbed):
        for name, weight in weights.items():
            results[f"ascent.{name}"] = weight.full_tensor().detach().clone()
    save_file({name: tensor.contiguous() for name, tensor in results.items()}, folder / f"rank{rank}.safetensors")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
