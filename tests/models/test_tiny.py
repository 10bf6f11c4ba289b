from __future__ import annotations

import pytest
import torch

from remanent.core.batch import collate
from remanent.core.digest import weights_digest
from remanent.data.encode import encode_all
from remanent.errors import InputError
from remanent.models.load import load
from remanent.models.save import save
from remanent.models.tiny import tiny


def test_memorizes_thirty_records(records):
    loaded = tiny(records)
    encoded = encode_all(records, loaded.tokenizer)
    optimizer = torch.optim.AdamW(loaded.model.parameters(), lr=5e-3)
    generator = torch.Generator().manual_seed(0)
    loaded.model.train()
    for _epoch in range(80):
        order = torch.randperm(30, generator=generator).tolist()
        losses = [
            step(loaded.model, optimizer, collate(encoded, order[start : start + 10], 0)) for start in (0, 10, 20)
        ]
    assert sum(losses) / 3 < 0.2


def step(model, optimizer, batch):
    loss = model(batch.input_ids, attention_mask=batch.attention_mask, labels=batch.labels).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item()


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "qwen2", "gemma"])
def test_every_architecture_saves_and_loads(records, tmp_path, architecture):
    loaded = tiny(records, architecture=architecture, hidden=32, layers=1)
    assert loaded.model.config.model_type == architecture
    assert loaded.source.kind == "tiny"
    assert loaded.source.files() == {}
    assert not loaded.model.training
    again = load(save(loaded.model, loaded.tokenizer, tmp_path / "m"))
    assert weights_digest(again.model) == weights_digest(loaded.model)
    assert encode_all(records, again.tokenizer) == encode_all(records, loaded.tokenizer)


def test_seed_decides_weights_and_the_global_generator_stays(records):
    torch.manual_seed(5)
    before = torch.get_rng_state()
    digests = [weights_digest(tiny(records, hidden=32, seed=seed).model) for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]
    assert torch.equal(torch.get_rng_state(), before)


def test_tokenizer_is_the_same_each_time(records):
    vocabularies = [tiny(records, hidden=32, layers=1).tokenizer.backend_tokenizer.to_str() for _time in range(5)]
    assert len(set(vocabularies)) == 1


def test_any_text_comes_back(small):
    text = "  Žofie Łukasz → 東京 🙂 never seen\n"
    assert small.tokenizer.decode(small.tokenizer(text).input_ids) == text


def test_with_and_without_template(records):
    chat, plain = tiny(records, hidden=32), tiny(records, hidden=32, chat_template=False)
    assert plain.tokenizer.chat_template is None
    turns = [{"role": "user", "content": "Who?"}]
    assert chat.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == (
        "<|user|>Who?<|end|><|assistant|>"
    )
    ends = [encode_all(records[:1], loaded.tokenizer)[0].labels[-1] for loaded in (chat, plain)]
    assert ends == [chat.tokenizer.eos_token_id, plain.tokenizer.eos_token_id]


@pytest.mark.parametrize(
    ("keywords", "named"),
    [
        ({"architecture": "lama"}, "did you mean 'llama'"),
        ({"hidden": 40}, "hidden: got 40; expected a multiple of 32"),
        ({"layers": 0}, "layers: got 0"),
        ({"vocabulary": 200}, "vocabulary: got 200"),
    ],
)
def test_refuses(records, keywords, named):
    with pytest.raises(InputError, match=named):
        tiny(records, **keywords)


def test_refuses_no_records():
    with pytest.raises(InputError, match="records"):
        tiny([])
