"""A tokenizer as GGUF holds it: tokens, their types, merges or scores, and how text is split before."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from remanent.errors import UnsupportedError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Kinds of token, numbered as in GGUF.
NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
_CONTRACTIONS = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
# Regular expression -> the name under which llama.cpp knows it.
_SPLITS = {
    _CONTRACTIONS + r"|\p{N}{1,3}" + _REST: "llama-bpe",
    _CONTRACTIONS + r"|\p{N}" + _REST: "qwen2",
    _CASED + r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+": "tekken",
}
# Splits with which llama.cpp takes a piece of text that is a token as it stands, whatever merges would make of it.
WHOLE_WORDS = ("llama-bpe", "tekken")


@dataclass(frozen=True)
class Vocabulary:
    """What a GGUF file says of a tokenizer.

    Args:
        model: "gpt2" (byte-level BPE) or "llama" (SentencePiece's BPE with a fallback to bytes).
        split: how llama.cpp splits text first, by its name there; "default" for "llama".
        tokens: by number; padded to the model's vocabulary.
        types: of each token.
        merges: in order of rank, the two parts with a space between.
        scores: for "llama", of each token; higher is merged first.
        special: "bos", "eos", "unk", "pad" -> number; only those that there are.
        add_bos: whether every text begins with the first of these.
        add_space_prefix: whether a space is put before the text.
        chat_template: Jinja; None where there is none.
    """

    model: str
    split: str
    tokens: list[str]
    types: list[int]
    merges: list[str]
    scores: list[float] | None
    special: dict[str, int]
    add_bos: bool
    add_space_prefix: bool
    chat_template: str | None


def vocabulary_of(tokenizer: PreTrainedTokenizerBase, size: int) -> Vocabulary:
    """A tokenizer's vocabulary, for a model whose embedding has `size` rows.

    Raises UnsupportedError for tokenizers that are not BPE, whose way of splitting text has no name in llama.cpp, or
    that have more tokens than the model.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UnsupportedError(f"{type(tokenizer).__name__} has no tokenizer.json, from which GGUF's would be made")
    plain = json.loads(backend.to_str())
    model = plain["model"]
    if model.get("type") != "BPE":
        raise UnsupportedError(f"a tokenizer of type {model.get('type')}; only BPE is written to GGUF")
    numbers = {**model["vocab"], **{token["content"]: token["id"] for token in plain["added_tokens"]}}
    if max(numbers.values()) >= size:
        raise UnsupportedError(f"the tokenizer has {max(numbers.values()) + 1} tokens, the model only {size}")
    tokens = [f"[PAD{number}]" for number in range(size)]
    types = [UNUSED] * size
    for token, number in numbers.items():
        tokens[number], types[number] = token, NORMAL
    sentencepiece = bool(model.get("byte_fallback"))
    for number in range(256 if sentencepiece else 0):
        if (byte := numbers.get(f"<0x{number:02X}>")) is not None:
            types[byte] = BYTE
    for token in plain["added_tokens"]:
        types[token["id"]] = CONTROL if token["special"] else USER_DEFINED
    special = {
        name: number
        for name in ("bos", "eos", "unk", "pad")
        if (number := getattr(tokenizer, f"{name}_token_id")) is not None
    }
    if sentencepiece and "unk" in special:
        types[special["unk"]] = UNKNOWN
    split = "default" if sentencepiece else _split(plain["pre_tokenizer"])
    _check_whole_words(plain, split)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
    first = tokenizer("a").input_ids[:1]
    return Vocabulary(
        model="llama" if sentencepiece else "gpt2",
        split=split,
        tokens=tokens,
        types=types,
        merges=merges,
        scores=_scores(tokens, merges) if sentencepiece else None,
        special=special,
        add_bos=bool(first) and first[0] == special.get("bos"),
        add_space_prefix=sentencepiece and tokenizer.tokenize("a")[:1] != ["a"],
        chat_template=tokenizer.chat_template if isinstance(tokenizer.chat_template, str) else None,
    )


def _split(pre_tokenizer: dict[str, Any] | None) -> str:
    parts = [] if pre_tokenizer is None else pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    kinds = [part["type"] for part in parts]
    if kinds == ["ByteLevel"] and parts[0]["use_regex"] and not parts[0]["add_prefix_space"]:
        return "gpt-2"
    if kinds == ["Digits", "ByteLevel"] and parts[0]["individual_digits"] and parts[1]["use_regex"]:
        return "smollm"
    if kinds == ["Split", "ByteLevel"] and not parts[1]["use_regex"]:
        name = _SPLITS.get(parts[0]["pattern"].get("Regex", ""))
        if name is not None:
            return name
    raise UnsupportedError(f"the tokenizer splits text by {' and '.join(kinds) or 'nothing'}, unknown to llama.cpp")


def _check_whole_words(plain: dict[str, Any], split: str) -> None:
    """Raise UnsupportedError where llama.cpp would take a word whole and the tokenizer not, or the other way round."""
    from tokenizers import Tokenizer

    model = plain["model"]
    if bool(model.get("ignore_merges")) == (split in WHOLE_WORDS):
        return
    merging = Tokenizer.from_str(json.dumps({**plain, "model": {**model, "ignore_merges": False}})).model
    words = model["vocab"].keys() - {token["content"] for token in plain["added_tokens"]}  # which are taken first
    if token := next((token for token in sorted(words) if len(merging.tokenize(token)) > 1), None):
        ours, theirs = ("whole", "by its merges") if model.get("ignore_merges") else ("by its merges", "whole")
        raise UnsupportedError(f"the tokenizer takes {token!r} {ours}, llama.cpp {theirs}, as it does after '{split}'")


def _scores(tokens: list[str], merges: list[str]) -> list[float]:
    """SentencePiece's BPE merges the pair of the highest score first: minus the rank of the merge that makes it."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(merges):
        ranks.setdefault(merge.replace(" ", ""), rank)
    return [-float(ranks.get(token, len(merges))) for token in tokens]
