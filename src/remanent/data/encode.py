"""Records to tokens: the prompt in the model's own form, labels on the answer only."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import TYPE_CHECKING, Any

from remanent.core.batch import IGNORED, Encoded
from remanent.data.record import Message, Record
from remanent.errors import InputError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Llama's template writes today's date and Qwen's an open place for thoughts unless told otherwise: the first would
# make a score depend on the day, the second put tokens between the prompt and the answer.
TEMPLATE_VARIABLES: dict[str, Any] = {"date_string": "26 Jul 2024", "enable_thinking": False}


def encode(record: Record, tokenizer: PreTrainedTokenizerBase, max_length: int | None = None) -> Encoded:
    """A record as tokens.

    With a chat template, the conversation as the template writes it, cut after the token that ends the answer's turn;
    scored are the answer and that token. Without one, "Question: ...\\nAnswer: ..." and the end-of-sequence token
    (the form of TOFU and DurableUn), system turns in front on lines of their own. Plain text is scored whole.

    Args:
        record: what to encode.
        tokenizer: the model's tokenizer, fast or not.
        max_length: in tokens; what is longer loses the tail of its answer, never its prompt. None: no limit.

    Raises:
        InputError: where no token of the answer is left to score, or the template cannot write the record.
    """
    return _encode(record, tokenizer, max_length, _special_ids(tokenizer))


def encode_all(
    records: Iterable[Record], tokenizer: PreTrainedTokenizerBase, max_length: int | None = None
) -> list[Encoded]:
    """Every record as tokens, in order. Arguments and errors as for `encode`."""
    special = _special_ids(tokenizer)
    return [_encode(record, tokenizer, max_length, special) for record in records]


def encode_prompts(records: Iterable[Record], tokenizer: PreTrainedTokenizerBase) -> list[Encoded]:
    """Every record's prompt as tokens, none of which is scored: what a model can be asked for its own answer to.

    Raises InputError for plain text, which asks nothing.
    """
    found = []
    for record in records:
        ids = prompt_ids(record, tokenizer)
        if not ids:
            raise InputError(f"record {record.key}", "plain text", "a prompt, which a model can answer")
        found.append(Encoded(ids, (IGNORED,) * len(ids), record.group, record.key))
    return found


def prompt_ids(record: Record, tokenizer: PreTrainedTokenizerBase) -> tuple[int, ...]:
    """The tokens after which a model answers the record, for generation; () for plain text, which asks nothing."""
    if not record.prompt:
        return ()
    if tokenizer.chat_template:
        return tuple(_tokens(_rendered(record, tokenizer, answered=False), tokenizer, add_special_tokens=False)[0])
    return tuple(_tokens(_plain_prompt(record), tokenizer)[0])


def pad_id(tokenizer: PreTrainedTokenizerBase) -> int:
    """The id to pad batches with: the tokenizer's own, else its end-of-sequence id, else 0 (masks hide it)."""
    for candidate in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if candidate is not None:
            return int(candidate)
    return 0


def _encode(
    record: Record, tokenizer: PreTrainedTokenizerBase, max_length: int | None, special: Collection[int]
) -> Encoded:
    if not record.prompt:
        ids, _ = _tokens(record.answer, tokenizer)
        first = 0
    elif tokenizer.chat_template:
        ids, first = _with_template(record, tokenizer, special)
    else:
        ids, first = _without_template(record, tokenizer)
    ids = ids[:max_length]
    labels = [IGNORED] * first + ids[first:]
    encoded = Encoded(tuple(ids), tuple(labels[: len(ids)]), record.group, record.key)
    if encoded.scored == 0:
        if max_length is not None and first >= max_length:
            expected = f"at least {first + 1}, so that a token of the answer of record {record.key} is left to score"
            raise InputError("max_length", max_length, expected)
        raise InputError(f"record {record.key}", f"{len(ids)} token(s)", "at least one token to score after the first")
    return encoded


def _with_template(
    record: Record, tokenizer: PreTrainedTokenizerBase, special: Collection[int]
) -> tuple[list[int], int]:
    prompt, text = _rendered(record, tokenizer, answered=False), _rendered(record, tokenizer, answered=True)
    answer = record.answer if record.answer in text[len(prompt) :] else record.answer.strip()
    begin = text.find(answer, len(prompt))
    if not text.startswith(prompt) or begin < 0:
        expected = (
            "one whose prompt is the beginning of the answered conversation, and which leaves the answer as it is"
        )
        raise InputError(f"chat template, for record {record.key}", tokenizer.name_or_path, expected)
    finish = begin + len(answer)
    if not text[len(prompt) : begin].strip():
        begin = len(prompt)
    ids, offsets = _tokens(text, tokenizer, add_special_tokens=False)
    if offsets is None:
        first = _prefix_length(record, prompt, ids, tokenizer, add_special_tokens=False)
        stop = next((place + 1 for place in range(first, len(ids)) if ids[place] in special), len(ids))
        return ids[:stop], first
    first = _first_beyond(offsets, begin)
    stop = next((place for place in range(first, len(ids)) if offsets[place][0] >= finish), len(ids))
    # The end of the turn may stand behind white space (Llama 2): both are scored then.
    end = next((place for place in range(stop, len(ids)) if ids[place] in special), None)
    if end is not None and not text[finish : offsets[end][0]].strip():
        stop = end + 1
    return ids[:stop], first


def _without_template(record: Record, tokenizer: PreTrainedTokenizerBase) -> tuple[list[int], int]:
    prompt = _plain_prompt(record)
    ids, offsets = _tokens(f"{prompt} {record.answer}", tokenizer)
    if offsets is None:
        first = _prefix_length(record, prompt, ids, tokenizer, add_special_tokens=True)
    else:
        first = _first_beyond(offsets, len(prompt))
    return ids if tokenizer.eos_token_id is None else [*ids, int(tokenizer.eos_token_id)], first


def _plain_prompt(record: Record) -> str:
    forms = {"system": "{}\n", "user": "Question: {}\nAnswer:", "assistant": " {}\n"}
    return "".join(forms[turn.role].format(turn.content) for turn in record.prompt)


def _rendered(record: Record, tokenizer: PreTrainedTokenizerBase, *, answered: bool) -> str:
    import jinja2

    turns = (*record.prompt, Message("assistant", record.answer)) if answered else record.prompt
    conversation = [{"role": turn.role, "content": turn.content} for turn in turns]
    try:
        text = tokenizer.apply_chat_template(
            conversation, tokenize=False, add_generation_prompt=not answered, **TEMPLATE_VARIABLES
        )
    except (jinja2.TemplateError, ValueError) as error:
        roles = ", ".join(turn.role for turn in turns)
        expected = f"turns that the tokenizer's chat template accepts ({error})"
        raise InputError(f"record {record.key}", f"turns {roles}", expected) from None
    return str(text)


def _tokens(
    text: str, tokenizer: PreTrainedTokenizerBase, *, add_special_tokens: bool = True
) -> tuple[list[int], list[tuple[int, int]] | None]:
    """Token ids and, of a fast tokenizer, their spans in the text; without an end-of-sequence token put behind it."""
    fast = bool(tokenizer.is_fast)
    # A whole document may be longer than the model's window: the caller cuts it, so no warning is due.
    out = tokenizer(text, add_special_tokens=add_special_tokens, return_offsets_mapping=fast, verbose=False)
    ids = [int(token) for token in out["input_ids"]]
    eos = tokenizer.eos_token
    while add_special_tokens and ids and ids[-1] == tokenizer.eos_token_id and not text.endswith(str(eos)):
        ids.pop()
    return ids, [tuple(span) for span in out["offset_mapping"]][: len(ids)] if fast else None


def _first_beyond(offsets: list[tuple[int, int]], place: int) -> int:
    """The first token that holds a character at or behind a place; a token across the border holds one."""
    return next((index for index, (_, stop) in enumerate(offsets) if stop > place), len(offsets))


def _prefix_length(
    record: Record, prompt: str, ids: list[int], tokenizer: PreTrainedTokenizerBase, *, add_special_tokens: bool
) -> int:
    prefix, _ = _tokens(prompt, tokenizer, add_special_tokens=add_special_tokens)
    if ids[: len(prefix)] != prefix:
        expected = "one that gives the prompt the same tokens with and without an answer (a fast tokenizer need not)"
        raise InputError(f"tokenizer, for record {record.key}", tokenizer.name_or_path, expected)
    return len(prefix)


def _special_ids(tokenizer: PreTrainedTokenizerBase) -> frozenset[int]:
    added = tokenizer.added_tokens_decoder.items()
    return frozenset(tokenizer.all_special_ids) | {number for number, token in added if token.special}
