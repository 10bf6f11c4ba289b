"""Fisher information against what peers take for it, and the pull of ten past tasks."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import Row, ratio
from remanent.core.batch import Encoded, collate
from remanent.core.importance import answer_nll, class_nll, fisher, positions_nll

SAMPLES = 512


def rows(runs: int) -> list[Row]:
    """An MLP of 784-256-256-10 on 512 rows, and an untied Llama of 2.6 million on 16 records of 48 tokens."""
    return [*_of_rows(runs), *_of_records(runs)]


def _of_rows(runs: int) -> list[Row]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).eval()
    data = torch.randn(SAMPLES, 784), torch.randint(0, 10, (SAMPLES,))
    batches = [tuple(part[start : start + 128] for part in data) for start in range(0, SAMPLES, 128)]
    peers = {**_avalanche(model, data), **_opacus(model, partial(_classes, data)), **_vmap(model, data)}
    name = f"Fisher of {SAMPLES} rows, time"
    return [ratio(name, lambda: fisher(model, batches, class_nll), peer, 0.05, of, runs) for of, peer in peers.items()]


def _of_records(runs: int) -> list[Row]:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=2048, tie_word_embeddings=False, **sizes)).eval()
    ids = torch.randint(0, 2048, (16, 48)).tolist()
    records = [Encoded(tuple(row), tuple(row)) for row in ids]
    batch = collate(records, range(len(records)), 0)
    found = [
        ratio("Fisher of 16 records of 48 tokens, time", lambda: fisher(model, [batch]), peer, 1.0, of, runs)
        for of, peer in _opacus(model, lambda wrapped: answer_nll(wrapped, batch).sum()).items()
    ]
    few = collate(records, range(4), 0)
    tokens = [
        collate([Encoded(record.input_ids, _only(record, token))], [0], 0)
        for record in records[:4]
        for token in range(1, 48)
    ]

    def by_token() -> None:
        for token in tokens:
            torch.autograd.grad(answer_nll(model, token).sum(), list(model.parameters()))

    by_position = partial(fisher, model, [few], positions_nll, unit="position")
    name, of = "Fisher by position of 4 x 48 tokens, time", "a backward pass for each token's own loss"
    return [*found, ratio(name, by_position, by_token, 0.05, of, max(1, runs // 2))]


def _only(record: Encoded, token: int) -> tuple[int, ...]:
    return tuple(label if place == token else -100 for place, label in enumerate(record.labels))


def _classes(data: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
    return functional.cross_entropy(model(data[0]), data[1], reduction="sum")


def _avalanche(model: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, Callable[[], object]]:
    """Avalanche's EWC at batch size 1; its loop written out where it is not installed."""
    inputs, labels = data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    if importlib.util.find_spec("avalanche") is not None:
        _torchvision_without_operators()
        from avalanche.training.plugins import EWCPlugin

        rows = torch.utils.data.TensorDataset(inputs, labels, torch.zeros(len(inputs)))
        of = functional.cross_entropy
        return {
            "avalanche's EWCPlugin, batch 1": lambda: EWCPlugin(1.0).compute_importances(
                model, of, optimizer, rows, torch.device("cpu"), 1
            )
        }

    def written_out() -> None:
        importances = [torch.zeros_like(weight) for weight in model.parameters()]
        for index in range(len(inputs)):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[index : index + 1]), labels[index : index + 1]).backward()
            for importance, weight in zip(importances, model.parameters(), strict=True):
                assert weight.grad is not None
                importance += weight.grad.data.clone().pow(2)
        for importance in importances:
            importance /= len(inputs)

    return {"avalanche's EWC at batch 1, written out": written_out}


def _torchvision_without_operators() -> None:
    """Avalanche imports torchvision, whose compiled operators are not there for every build of torch."""
    library = torch.library.Library("torchvision", "FRAGMENT")
    for operator in ("nms", "qnms"):
        if not hasattr(torch.ops.torchvision, operator):
            library.define(f"{operator}(Tensor boxes, Tensor scores, float threshold) -> Tensor")
    _KEPT.append(library)  # what it defines goes with it


_KEPT: list[Any] = []


def _opacus(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> dict[str, Callable[[], object]]:
    if importlib.util.find_spec("opacus") is None:
        return {}
    from copy import deepcopy

    from opacus import GradSampleModule

    wrapped = GradSampleModule(deepcopy(model).train(), loss_reduction="sum")

    def theirs() -> None:
        loss(wrapped).backward()  # type: ignore[no-untyped-call]
        for weight in wrapped.parameters():
            weight.grad_sample.square().mean(dim=0)
        wrapped.zero_grad()

    return {"opacus' GradSampleModule": theirs}


def _vmap(model: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, Callable[[], object]]:
    parameters = {name: weight.detach() for name, weight in model.named_parameters()}

    def one(values: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(torch.func.functional_call(model, values, (row[None],)), label[None])

    each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))
    return {"vmap(grad)": lambda: {name: value.square().mean(dim=0) for name, value in each(parameters, *data).items()}}
