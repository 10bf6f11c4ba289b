"""Hidden states of a decoder: read at a layer, without computing what lies above it."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from remanent.core.batch import IGNORED, Batch, Encoded, collate
from remanent.core.intervention import inner, inserted
from remanent.core.model_inputs import one_pass
from remanent.core.modes import evaluating
from remanent.errors import InputError, UnsupportedError


class _Reached(Exception):
    """Ends a forward pass once what is wanted is there."""


def decoder_layers(model: nn.Module) -> Sequence[nn.Module]:
    """The decoder's layers, in order: the first list of its modules that holds as many as the configuration says.

    Of a model of several modalities those of its language model.

    Raises UnsupportedError where there is no such list.
    """
    count = getattr(text_config(model), "num_hidden_layers", None)
    # What sees images may have as many layers, and comes first.
    get_decoder = getattr(inner(model), "get_decoder", None)
    decoder: nn.Module = model if get_decoder is None else get_decoder()
    for module in decoder.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise UnsupportedError(f"{type(model).__name__} has no list of {count or 'num_hidden_layers'} decoder layers")


def text_config(model: nn.Module) -> Any:
    """The configuration of the part of a model that reads text, which for most is the model's own; None without one."""
    config = getattr(model, "config", None)
    find = getattr(config, "get_text_config", None)
    return config if find is None else find()


def hidden_states(model: nn.Module, batch: Batch, layer: int) -> Tensor:
    """Output of a decoder layer, in the model's dtype: (records, tokens, width). Layers above it are not run.

    Args:
        model: a causal language model.
        batch: on the model's device.
        layer: index of the layer, from 0; negative counts from the end.

    The pass ends at the next layer's entry, so that a checkpointed layer's own forward is left whole. Gradients flow.
    """
    layers = decoder_layers(model)
    if not -len(layers) <= layer < len(layers):
        raise InputError("layer", layer, f"a layer from 0 to {len(layers) - 1}, or negative to count from the end")
    depth = layer % len(layers) + 1
    return residual_stream(model, batch, (depth,))[depth]


def residual_stream(model: nn.Module, batch: Batch, depths: Collection[int]) -> dict[int, Tensor]:
    """Hidden states at several depths, of one pass: depth -> (records, tokens, width), in the model's dtype.

    Args:
        model: a causal language model.
        batch: on the model's device.
        depths: 0 is what enters the first layer, d what the d-th layer gives, before the model's last norm.

    The pass ends at the entry of the layer above the deepest, so that a checkpointed layer's own forward is left whole.
    Gradients flow. Tokens that the model itself puts before a text are left out.
    """
    layers = decoder_layers(model)
    check_depths(depths, len(layers))
    found: dict[int, Tensor] = {}

    def output(depth: int) -> Any:
        def keep(module: nn.Module, inputs: Any, result: Any) -> None:
            # A checkpointed layer runs its hooks again in the backward pass; the first run's output is the pass's own.
            found.setdefault(depth, stream_of(result))

        return keep

    def entry(module: nn.Module, inputs: Any, named: Any) -> None:
        found.setdefault(0, inputs[0] if inputs else named["hidden_states"])

    def stop(module: nn.Module, inputs: Any) -> None:
        raise _Reached

    handles = [layers[depth - 1].register_forward_hook(output(depth)) for depth in depths if depth]
    if 0 in depths:
        handles.append(layers[0].register_forward_pre_hook(entry, with_kwargs=True))
    if max(depths) < len(layers):
        handles.append(layers[max(depths)].register_forward_pre_hook(stop))
    try:
        one_pass(model, batch.input_ids, batch.attention_mask)
    except _Reached:
        pass
    finally:
        for handle in handles:
            handle.remove()
    start = inserted(model)
    return {depth: found[depth][:, start:] for depth in depths}


def check_depths(depths: Collection[int], layers: int) -> None:
    """Raise InputError unless there is a depth, and each is one of a model of that many layers."""
    if not depths or not all(0 <= depth <= layers for depth in depths):
        listed = ", ".join(map(str, depths)) or "none"
        raise InputError("depths", listed, f"depths from 0, the embeddings, to {layers}, after the last layer")


def even_depths(layers: int, count: int) -> tuple[int, ...]:
    """So many depths at even distances, the last layer's among them; 0 is every depth after a layer."""
    if not 0 <= count <= layers:
        raise InputError("depths", count, f"from 1 to {layers} depths, the number of layers, or 0 for all")
    wanted = count or layers
    return tuple(round(layers * number / wanted) for number in range(1, wanted + 1))


def stream_of(result: Any) -> Tensor:
    """The hidden states among what a decoder layer, or a part of one, gives: a tensor, or the first of a tuple."""
    found: Tensor = result[0] if isinstance(result, tuple) else result
    return found


def asked_states(values: Tensor, batch: Batch) -> Tensor:
    """The state from which a record's answer begins: (records, width).

    At the last token of the prompt; of plain text, which is scored whole, at the last token but one, since that which
    ends all texts alike is predicted there.

    Args:
        values: (records, tokens, width).
        batch: whose labels and mask say where prompts and records end.
    """
    first = (batch.labels != IGNORED).int().argmax(dim=1)
    ends = torch.where(first > 1, first - 1, (batch.attention_mask.sum(dim=1) - 2).clamp_min(0))
    return values[torch.arange(len(batch), device=values.device), ends]


def every_state(values: Tensor, batch: Batch) -> Tensor:
    """The states of all tokens that are no padding: (tokens, width). Arguments as for `asked_states`."""
    return values[batch.attention_mask.bool()]


def mean_states(values: Tensor, batch: Batch) -> Tensor:
    """The mean over all tokens that are no padding: (records, width), float32. Arguments as for `asked_states`."""
    inside = batch.attention_mask[..., None].float()
    return (values.float() * inside).sum(dim=1) / inside.sum(dim=1)


@torch.no_grad()
def states_of(
    model: nn.Module,
    records: Sequence[Encoded],
    depths: Collection[int],
    taken: Callable[[Tensor, Batch], Tensor] = asked_states,
    records_per_pass: int = 16,
    on_batch: Callable[[int], None] = lambda records: None,
    autocast: torch.dtype | None = None,
) -> dict[int, Tensor]:
    """Hidden states of records at several depths, in eval mode: depth -> float32 (rows, width), on the CPU.

    Args:
        model: given back as it was.
        records: in whose order the rows are.
        depths: as for `residual_stream`.
        taken: which states of a batch: `asked_states` or `mean_states`, one for each record, or `every_state`.
        records_per_pass: of a forward pass.
        on_batch: called after each with the number of its records.
        autocast: dtype of the arithmetic; None is the weights' own.
    """
    found: dict[int, list[Tensor]] = {depth: [] for depth in depths}
    device = next(model.parameters()).device
    with evaluating(model), torch.autocast(device.type, dtype=autocast, enabled=autocast is not None):
        for start in range(0, len(records), records_per_pass):
            indices = range(start, min(start + records_per_pass, len(records)))
            batch = collate(records, indices, pad_id=0).to(device)  # the mask hides what fills rows
            for depth, values in residual_stream(model, batch, depths).items():
                found[depth].append(taken(values, batch).float().cpu())
            on_batch(len(batch))
    return {depth: torch.cat(parts) for depth, parts in found.items()}


def labelled(values: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """The positions of hidden states that carry a scored label, and the row that each belongs to.

    Args:
        values: (records, tokens, width).
        batch: whose labels say which.

    Returns:
        (positions, width) and int64 (positions,).
    """
    scored = batch.labels != IGNORED
    scored[:, 0] = False  # nothing predicts the first token, which models give states unlike all others'
    return values[scored], scored.nonzero()[:, 0]
