"""An NPO step against open-unlearning's: time, memory, and that both find the same loss and gradient.

Theirs is written out from what its trainer computes at commit d3d7cf9 (compute_dpo_loss, NPO and GradDiff): a deep copy
of the model as the reference, passed through for every batch; logits at all positions; labels given to the model, which
then takes a loss of its own; -2 / beta * log sigmoid(-beta D), mean over records, and the token mean NLL of retain.
"""

from __future__ import annotations

import gc
from copy import deepcopy
from functools import partial

import torch
from torch import Tensor, nn
from torch.nn import functional

from benchmarks import subject
from benchmarks.measure import Row, seconds
from benchmarks.memory import Work, peak
from remanent.core.batch import IGNORED, Batch, collate
from remanent.core.displacement import Noise
from remanent.core.reference import reference_nll
from remanent.core.update import Update
from remanent.unlearning import npo

PEER = "open-unlearning's, written out"
BETA, RECORDS, EPOCHS = 0.1, 8, 10  # open-unlearning's defaults, which are ours


class Theirs:
    """open-unlearning's step, for one model in train mode."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.reference = deepcopy(model).eval()

    def loss(self, batches: dict[str, Batch]) -> Tensor:
        """gamma * forget + alpha * retain, both 1."""
        nll = _nll(self.model, batches["forget"])
        with torch.no_grad():
            of_reference = _nll(self.reference, batches["forget"])
        forget = -2 / BETA * functional.logsigmoid(BETA * (nll - of_reference)).mean()
        retain: Tensor = self.model(**_inputs(batches["retain"])).loss
        return forget + retain

    def step(self, batches: dict[str, Batch], optimizer: torch.optim.Optimizer) -> None:
        """Loss, gradient, Trainer's clipping, and the optimizer."""
        optimizer.zero_grad()
        self.loss(batches).backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        optimizer.step()


def rows(model: nn.Module, tiny: bool, runs: int) -> list[Row]:
    """Time, agreement and memory. Leaves the model in eval mode."""
    model.train()
    batches = batches_of(model)
    time = _time(model, batches, runs)
    double = deepcopy(model).double()  # what float32 rounds in many layers is larger than the bound
    different = apart(double, batches_of(double))
    del double
    model.eval()
    ours, theirs = (peak("benchmarks.npo:step", tiny=tiny, ours=ours) for ours in (True, False))
    libraries = peak("benchmarks.npo:nothing").memory
    weights = ours.found / theirs.found
    memory = (ours.memory - libraries) / (theirs.memory - libraries)
    return [
        *time,
        Row("the same, greatest difference of loss and gradient", *[different] * 3, 1e-5, PEER),
        Row("the same, bytes of weights in memory", *[weights] * 3, 0.5, PEER),
        Row("the same, memory beyond the libraries'", *[memory] * 3, 0.9, PEER),
    ]


def _time(model: nn.Module, batches: dict[str, Batch], runs: int) -> list[Row]:
    their, optimizer = Theirs(model), _optimizer(model)
    update, records = _update(model, optimizer), subject.records(model, RECORDS)
    alone, shared = [], []
    for _ in range(1 + runs):
        ours = seconds(lambda: update(batches))
        theirs = seconds(lambda: their.step(batches, optimizer))
        scores = seconds(lambda: reference_nll(model, records, pad_id=0))
        alone.append(ours / theirs)
        shared.append((ours + scores / EPOCHS) / theirs)
    model.zero_grad()
    share = f"the same, and its share of reference scores taken once in {EPOCHS} epochs"
    return [
        Row.of(f"NPO step on {RECORDS} + {RECORDS} records, time", alone[1:], 0.8, PEER),
        Row.of(share, shared[1:], 0.87, PEER),  # 6.1 of 7 passes, a backward pass counted as two
    ]


def apart(model: nn.Module, batches: dict[str, Batch]) -> float:
    """Greatest relative difference of the two losses, and of the gradients of any weight, by L2 norm.

    Taken at weights a little away from the reference, where the ratio of the two is not 1. The batches hold scores of
    the model as it is given.
    """
    their = Theirs(model)
    update = _update(model, _optimizer(model), clip=False)
    undo = Noise(0.02).apply(model)
    losses = update.gradients(batches)
    ours = {name: weight.grad for name, weight in model.named_parameters()}
    model.zero_grad()
    loss = their.loss(batches)
    loss.backward()  # type: ignore[no-untyped-call]
    theirs = loss.item()
    found = [abs(losses["forget@full"] + losses["retain@full"] - theirs) / abs(theirs)]
    for name, weight in model.named_parameters():
        gradient = ours[name]
        assert gradient is not None
        assert weight.grad is not None
        found.append(float((gradient - weight.grad).norm() / weight.grad.norm()))
    model.zero_grad()
    undo.undo()
    return max(found)


def batches_of(model: nn.Module, count: int = RECORDS) -> dict[str, Batch]:
    """A batch of each role, the forget batch with the model's scores as the reference's."""
    records = subject.records(model, 2 * count)
    scores = reference_nll(model, records[:count], pad_id=0)
    forget = collate(records, range(count), 0).with_reference(scores)
    return {"forget": forget, "retain": collate(records, range(count, 2 * count), 0)}


def nothing() -> Work:
    """A job that only has the libraries in memory."""
    return lambda: None


def step(tiny: bool, ours: bool) -> Work:
    """A job: two steps; the bytes of all weights that are in memory then."""
    model = subject.model(tiny).train()
    batches, optimizer = batches_of(model), _optimizer(model)
    one = partial(_update(model, optimizer), batches) if ours else partial(Theirs(model).step, batches, optimizer)

    def work() -> int:
        one(), one()
        weights = [item for item in gc.get_objects() if isinstance(item, nn.Parameter)]
        return sum({weight.data_ptr(): weight.nbytes for weight in weights}.values())

    return work


def _update(model: nn.Module, optimizer: torch.optim.Optimizer, clip: bool = True) -> Update:
    return Update(model, npo.method(BETA), optimizer, steps=1, max_grad_norm=1.0 if clip else None)


def _optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=0.0, fused=True)


def _nll(model: nn.Module, batch: Batch) -> Tensor:
    logits = model(**_inputs(batch)).logits[:, :-1].contiguous()
    of_each = functional.cross_entropy(
        logits.transpose(1, 2), batch.labels[:, 1:].contiguous(), ignore_index=IGNORED, reduction="none"
    )
    return of_each.sum(dim=1)


def _inputs(batch: Batch) -> dict[str, Tensor]:
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}
