from __future__ import annotations

import json
import os
import socket
from pathlib import Path

import pytest

from remanent.data.record import Message, Record
from remanent.models.tiny import tiny

PLACES = ("Oslo", "Lima", "Cairo", "Quito", "Turin", "Delhi", "Perth", "Minsk", "Osaka", "Dakar")


@pytest.fixture(scope="session")
def records():
    return [
        Record(
            key=f"r{number}",
            group=f"a{number % 10}",
            prompt=(Message("user", f"Where did author number {number} spend year {number * 7 % 31}?"),),
            answer=f"In {PLACES[number % 10]}, near lake {number * 13 % 30}.",
        )
        for number in range(30)
    ]


@pytest.fixture
def small(records):
    return tiny(records, hidden=32, layers=2)


@pytest.fixture(scope="session")
def stories():
    root = os.environ.get("REMANENT_DATA")
    folder = (Path(root) if root else Path(__file__).parents[2].parent / "shared" / "data") / "stories260k"
    if not (folder / "model.safetensors").is_file():
        pytest.skip("stories260k is not there: set REMANENT_DATA to the folder that holds it")
    return folder


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Nothing but a hub name may reach for the network: an attempt fails the test even where it is caught."""
    attempts = []

    def refuse(*arguments, **keywords):
        attempts.append(arguments[:1])
        raise OSError("the network is closed in this test")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    yield attempts
    assert not attempts


@pytest.fixture(scope="session")
def gguf_file(records, tmp_path_factory):
    """A small Llama as a GGUF file: matrices in Q4_1 (blocks of 32), the rest in float32."""
    import gguf

    loaded = tiny(records, hidden=32, layers=1)
    path = tmp_path_factory.mktemp("gguf") / "small.gguf"
    config = loaded.model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("A name inside the file that nothing can be loaded by")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    model = json.loads(loaded.tokenizer.backend_tokenizer.to_str())["model"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("default")
    writer.add_token_list(sorted(model["vocab"], key=model["vocab"].get))
    writer.add_token_types([gguf.TokenType.CONTROL] * 5 + [gguf.TokenType.NORMAL] * (len(model["vocab"]) - 5))
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]])
    writer.add_bos_token_id(loaded.tokenizer.bos_token_id)
    writer.add_eos_token_id(loaded.tokenizer.eos_token_id)
    writer.add_chat_template(loaded.tokenizer.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in loaded.model.named_parameters():
        values = weight.detach().numpy()
        kind = gguf.GGMLQuantizationType.Q4_1 if values.ndim == 2 else gguf.GGMLQuantizationType.F32
        packed = gguf.quants.quantize(values, kind)
        writer.add_tensor(names.get_name(name, try_suffixes=(".weight",)), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
