"""Fisher information against what peers take for it: time, and the greatest difference."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks.measure import Row, ratio
from remanent.core.batch import Encoded, collate
from remanent.core.importance import answer_nll, class_nll, fisher, positions_nll

SAMPLES = 512

Fisher = Callable[[], dict[str, Tensor]]  # weight's name -> its Fisher information


def rows(runs: int) -> list[Row]:
    """An MLP of 784-256-256-10 on 512 rows, and an untied Llama of 2.6 million on 16 records of 48 tokens."""
    return [*_of_rows(runs), *_of_records(runs)]


def _of_rows(runs: int) -> list[Row]:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(784, 256), nn.ReLU(), nn.Linear(256, 256), nn.ReLU(), nn.Linear(256, 10)).eval()
    data = torch.randn(SAMPLES, 784), torch.randint(0, 10, (SAMPLES,))
    batches = [tuple(part[start : start + 128] for part in data) for start in range(0, SAMPLES, 128)]
    peers = {**_avalanche(model, data), **_opacus(model, partial(_classes, data)), **_vmap(model, data)}
    return _against(f"Fisher of {SAMPLES} rows", lambda: fisher(model, batches, class_nll), peers, 0.05, runs)


def _of_records(runs: int) -> list[Row]:
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": 192, "intermediate_size": 512, "num_hidden_layers": 4, "num_attention_heads": 4}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=2048, tie_word_embeddings=False, **sizes)).eval()
    ids = torch.randint(0, 2048, (16, 48)).tolist()
    records = [Encoded(tuple(row), tuple(row)) for row in ids]
    batch = collate(records, range(len(records)), 0)
    peers = _opacus(model, lambda wrapped: answer_nll(wrapped, batch).sum())
    found = _against("Fisher of 16 records of 48 tokens", lambda: fisher(model, [batch]), peers, 1.0, runs)
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


def _against(name: str, ours: Fisher, peers: dict[str, Fisher], bound: float, runs: int) -> list[Row]:
    found = []
    for of, peer in peers.items():
        found.append(ratio(f"{name}, time", ours, peer, bound, of, runs))
        apart = _difference(ours(), peer())
        found.append(Row(f"{name}, greatest relative difference", apart, apart, apart, 1e-5, of))
    return found


def _difference(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> float:
    """The greatest over all weights, each tensor's relative to its largest value: what cancels to nothing has no
    relative error of its own."""
    assert ours.keys() == theirs.keys()
    apart = [(ours[name] - value).abs().max() / value.abs().max().clamp_min(1e-30) for name, value in theirs.items()]
    return float(torch.stack(apart).max())  # not a number where one of them is not


def _only(record: Encoded, token: int) -> tuple[int, ...]:
    return tuple(label if place == token else -100 for place, label in enumerate(record.labels))


def _classes(data: tuple[Tensor, Tensor], model: nn.Module) -> Tensor:
    return functional.cross_entropy(model(data[0]), data[1], reduction="sum")


def _avalanche(model: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, Fisher]:
    """The loop of Avalanche's EWC at batch size 1. The package itself brings a torchvision whose compiled operators do
    not load beside a CPU build of torch, and where one lies transformers no longer imports."""
    inputs, labels = data
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)

    def written_out() -> dict[str, Tensor]:
        importances = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
        for index in range(len(inputs)):
            optimizer.zero_grad()
            functional.cross_entropy(model(inputs[index : index + 1]), labels[index : index + 1]).backward()
            for name, weight in model.named_parameters():
                assert weight.grad is not None
                importances[name] += weight.grad.data.clone().pow(2)
        for importance in importances.values():
            importance /= len(inputs)
        return importances

    return {"avalanche's EWC at batch 1, written out": written_out}


def _opacus(model: nn.Module, loss: Callable[[nn.Module], Tensor]) -> dict[str, Fisher]:
    if importlib.util.find_spec("opacus") is None:
        return {}  # the table says so
    from copy import deepcopy

    from opacus import GradSampleModule

    wrapped = GradSampleModule(deepcopy(model).train(), loss_reduction="sum")

    def theirs() -> dict[str, Tensor]:
        loss(wrapped).backward()  # type: ignore[no-untyped-call]
        found = {
            name.removeprefix("_module."): weight.grad_sample.square().mean(dim=0)
            for name, weight in wrapped.named_parameters()
        }
        wrapped.zero_grad()
        return found

    return {"opacus' GradSampleModule": theirs}


def _vmap(model: nn.Module, data: tuple[Tensor, Tensor]) -> dict[str, Fisher]:
    parameters = {name: weight.detach() for name, weight in model.named_parameters()}

    def one(values: dict[str, Tensor], row: Tensor, label: Tensor) -> Tensor:
        return functional.cross_entropy(torch.func.functional_call(model, values, (row[None],)), label[None])

    each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))
    return {"vmap(grad)": lambda: {name: value.square().mean(dim=0) for name, value in each(parameters, *data).items()}}
