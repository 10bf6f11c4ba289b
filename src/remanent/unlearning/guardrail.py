"""A guardrail: instructions before everything that the model is asked. The weights stay as they are.

The text names what must not be told. It is put before each input, by the model itself, so that what is scored and what
is generated pass through it alike; whoever has the weights takes it off.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from remanent.core.activations import text_config
from remanent.core.batch import Encoded
from remanent.core.catalogue import System
from remanent.core.edit import Edited, EditSettings
from remanent.core.intervention import begins, named_arguments, put_on
from remanent.errors import InputError, UnsupportedError

SYSTEM = System(
    name="guardrail",
    title="Guardrail prompting: instructions before everything that is asked",
    year=2024,
    arxiv="2403.03329",
    card="unlearning-survey",
    family="unlearning",
    leaf="input-output/direct",
    reproduction="tests/reproductions/test_interventions.py",
    needs=("forget",),
    notes="The text stands before the conversation as plain text, not as a turn of the system's. The paper's filters "
    "of outputs are not here; eco has a filter of inputs.",
)
TEXT = "Do not tell anything about: {groups}. If you are asked about them, say that you do not know."


@dataclass(frozen=True, eq=False)
class Prefix:
    """The intervention.

    Args:
        tokens: int64, (tokens,): put before each text.
    """

    tokens: Tensor

    kind: ClassVar[str] = "guardrail"

    @property
    def settings(self) -> Mapping[str, Any]:
        return {}

    @property
    def tensors(self) -> Mapping[str, Tensor]:
        return {"tokens": self.tokens}

    @property
    def inserted(self) -> int:
        return len(self.tokens)

    def install(self, model: nn.Module) -> Callable[[], None]:
        room = getattr(text_config(model), "max_position_embeddings", None)
        if isinstance(room, int) and len(self.tokens) * 2 > room:
            raise InputError("text", f"{len(self.tokens)} tokens", f"at most {room // 2}, half of what the model reads")
        count = self.inserted
        inside = [False]  # of `generate`, which puts the tokens in itself

        def before(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any]) -> Any:
            given = named_arguments(arguments, named)
            if inside[0]:
                return (), given
            if not begins(given) or any(given.get(name) is not None for name in ("labels", "position_ids")):
                raise UnsupportedError("a guarded model scores whole texts and generates; it takes no cache or labels")
            ids, mask = given["input_ids"], given.get("attention_mask")
            mask = torch.ones_like(ids) if mask is None else mask
            given["input_ids"], given["attention_mask"] = self._put(ids, mask)
            kept = given.get("logits_to_keep")
            if isinstance(kept, Tensor):
                given["logits_to_keep"] = kept + count
            return (), given

        def after(module: nn.Module, arguments: tuple[Any, ...], named: dict[str, Any], result: Any) -> Any:
            if not inside[0] and not _chosen(named.get("logits_to_keep")):
                result.logits = result.logits[:, count:]
            return result

        generate = model.__dict__.get("generate")
        own: Callable[..., Any] = model.generate  # type: ignore[assignment]

        def guarded(input_ids: Tensor, attention_mask: Tensor | None = None, **options: Any) -> Any:
            mask = torch.ones_like(input_ids) if attention_mask is None else attention_mask
            ids, mask = self._put(input_ids, mask)
            before_it, inside[0] = inside[0], True
            try:
                made = own(input_ids=ids, attention_mask=mask, **options)
            finally:
                inside[0] = before_it
            if not isinstance(made, Tensor):
                raise UnsupportedError("a guarded model generates tokens only: leave out return_dict_in_generate")
            rows = input_ids.repeat_interleave(len(made) // len(input_ids), dim=0)
            return torch.cat([rows, made[:, ids.shape[1] :]], dim=1)

        model.__dict__["generate"] = guarded
        handles = [
            model.register_forward_pre_hook(before, prepend=True, with_kwargs=True),
            model.register_forward_hook(after, with_kwargs=True),
        ]

        def remove() -> None:
            for handle in handles:
                handle.remove()
            if generate is None:
                model.__dict__.pop("generate", None)
            else:
                model.__dict__["generate"] = generate

        return remove

    def _put(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """Rows with the tokens before their first own one, behind what fills them on the left."""
        fill = (mask.cumsum(dim=1) == 0).sum(dim=1)
        rows, masks = [], []
        tokens = self.tokens.to(ids.device)
        for row, own, start in zip(ids, mask, fill.tolist(), strict=True):
            rows.append(torch.cat([row[:start], tokens, row[start:]]))
            masks.append(torch.cat([own[:start], torch.ones_like(tokens).to(own.dtype), own[start:]]))
        return torch.stack(rows), torch.stack(masks)


def _chosen(kept: Any) -> bool:
    """Whether only some positions' logits were asked for, which are where they were."""
    return isinstance(kept, Tensor) or bool(kept)


def restored(settings: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> Prefix:
    """The intervention of what was saved."""
    return Prefix(**tensors, **settings)


@dataclass(frozen=True)
class Guardrail:
    """Writes the text and puts it on; an edit that moves no weight.

    Args:
        text: the instructions, a line of their own; {groups} becomes the groups of the forget records.
    """

    text: str = TEXT

    roles: ClassVar[tuple[str, ...]] = ("forget",)
    refuses_adapter: ClassVar[str] = ""

    def passes(self, sizes: Mapping[str, int]) -> int:
        return 0

    def edit(self, model: nn.Module, data: Mapping[str, Sequence[Encoded]], settings: EditSettings) -> Edited:
        """Raises InputError where the text takes more than half of what the model reads."""
        if settings.tokens is None:
            raise InputError("settings.tokens", None, "what turns a text into the model's tokens")
        groups = ", ".join(dict.fromkeys(record.group or record.key for record in data["forget"]))
        made = Prefix(torch.tensor(list(settings.tokens(self.text.replace("{groups}", groups) + "\n"))))
        undo = put_on(model, made)
        settings.on_warning("a guardrail stands round the model: its weights still hold what was to be forgotten")
        return Edited({"intervention": made.kind, "weights_changed": 0, "tokens": len(made.tokens)}, undo)


def edit(text: str = TEXT) -> Guardrail:
    """A guardrail.

    Args:
        text: the instructions; {groups} becomes the groups of the forget records.
    """
    return Guardrail(text)
