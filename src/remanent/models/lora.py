"""Low-rank adapters on a model, and a base packed to 4 bits to put them on."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch

from remanent.core.packed import keep_as_packed
from remanent.core.weights import is_linear
from remanent.errors import InputError, MissingExtraError, UnsupportedError, did_you_mean

if TYPE_CHECKING:
    from peft import PeftModel
    from transformers import PreTrainedModel

    from remanent.models.load import Loaded


def add_lora(
    model: PreTrainedModel,
    rank: int = 16,
    alpha: int = 32,
    dropout: float = 0.05,
    targets: str | Sequence[str] = "all-linear",
    *,
    seed: int = 0,
) -> PeftModel:
    """Put LoRA adapters on a model, freeze the rest, and let every adapter train under gradient checkpointing too.

    Adapters are float32 where the base is a 16-bit type. The first forward gives the base's own output (B = 0).
    The inputs' embeddings are made to require gradients: without, a checkpointed block whose input needs none gives
    its adapters no gradient, and they stay silently as they were.

    Args:
        model: the base, float or packed (`load_nf4`); it is changed in place and lives on inside the result.
        rank: of the two factors, 1 or more.
        alpha: the update is scaled by alpha / rank.
        dropout: before the first factor, in training only; in [0, 1).
        targets: "all-linear" (every linear layer but the output), "attention" (those inside attention), or names of
            layers or ends of names, such as "q_proj" or "layers.0.mlp.up_proj".
        seed: of the factors' initial values.

    Raises:
        InputError: for a value out of range, or a target that no layer has.
        UnsupportedError: where the model carries adapters already, or a target's weight is tied to another's.

    Source: Hu et al., LoRA (arXiv:2106.09685), section 4.1; open-unlearning issue 178 for the gradients.
    """
    from peft import LoraConfig, TaskType, get_peft_model

    if rank < 1:
        raise InputError("rank", rank, "1 or more")
    if alpha <= 0:
        raise InputError("alpha", alpha, "more than 0")
    if not 0 <= dropout < 1:
        raise InputError("dropout", dropout, "a number from 0 to below 1")
    if carries_lora(model):
        raise UnsupportedError("the model carries adapters already; give the base")
    chosen = _targets(model, targets)
    config = LoraConfig(
        task_type=TaskType.CAUSAL_LM,
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=chosen,
    )
    training = model.training
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        adapted = get_peft_model(model, config)
    adapted.train(training)
    model.enable_input_require_grads()  # type: ignore[no-untyped-call]
    return adapted


def load_nf4(
    name_or_path: str | os.PathLike[str],
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: torch.device | str = "cpu",
    adapter: str | os.PathLike[str] | None = None,
) -> Loaded:
    """Load a model with its linear weights packed to NF4, double quantization on, to put LoRA on. Extra: quant.

    Args:
        name_or_path: as for `load`; a folder or a hub name with safetensors weights.
        dtype: in which layers compute, and of what is not packed (embeddings, norms, output): bfloat16 or float32.
        device: where it goes; the CPU works.
        adapter: as for `load`.

    Raises:
        MissingExtraError: without bitsandbytes.
        UnsupportedError: for a GGUF file (save it as a folder first), and as `load` does.

    Source: Dettmers et al., QLoRA (arXiv:2305.14314), sections 3 and 4.
    """
    if importlib.util.find_spec("bitsandbytes") is None:
        raise MissingExtraError("bitsandbytes", "quant", "a base packed to NF4")
    from transformers import BitsAndBytesConfig

    from remanent.models.folder import load_folder
    from remanent.models.load import assemble
    from remanent.models.source import Source

    config = BitsAndBytesConfig(  # type: ignore[no-untyped-call]
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )

    def packed(source: Source) -> Any:
        if source.path is None or source.is_gguf:
            raise UnsupportedError(
                f"{source.name}: a GGUF file cannot be packed while it loads; load and save it first"
            )
        return load_folder(source.path, dtype, quantization_config=config, device_map={"": device})

    loaded = assemble(name_or_path, adapter, packed)
    keep_as_packed(loaded.model)
    return loaded


def carries_lora(model: torch.nn.Module) -> bool:
    """Whether LoRA layers are in a model; peft's own mark on a base stays there after they are taken out."""
    return any("lora_" in name for name, _parameter in model.named_parameters())


def lora_layers(model: torch.nn.Module) -> dict[str, Any]:
    """The layers that carry LoRA, by name."""
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def refuse_tied(model: torch.nn.Module, layers: Mapping[str, Any]) -> None:
    """Raise UnsupportedError where a layer's weight is another's too: merging LoRA on it would move that as well."""
    names: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), []).append(name)
    for layer, module in layers.items():
        shared = names[id(getattr(module, "base_layer", module).weight)]
        if len(shared) > 1:
            raise UnsupportedError(f"LoRA on {layer}: its weight is shared ({', '.join(shared)}), merging moves both")


def _targets(model: PreTrainedModel, targets: str | Sequence[str]) -> str | list[str]:
    if targets == "all-linear":
        return "all-linear"
    linear = {name: module for name, module in model.named_modules() if is_linear(module)}
    if targets == "attention":
        homes = [name for name, module in model.named_modules() if type(module).__name__.endswith("Attention")]
        inside = [name for name in linear if any(name.startswith(f"{home}.") for home in homes)]
        if not inside:
            raise InputError("targets", targets, "names of layers: no layer of this model is known as attention")
        return inside
    if isinstance(targets, str) or not targets:
        raise InputError("targets", targets, '"all-linear", "attention", or a list of names of layers')
    for target in targets:
        meant = {name: module for name, module in linear.items() if name == target or name.endswith(f".{target}")}
        refuse_tied(model, meant)
        if not meant:
            raise InputError("targets", target, did_you_mean(target, {name.rsplit(".", 1)[-1] for name in linear}))
    return list(targets)
