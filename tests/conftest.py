"""Small models of real architectures, and records for them: what the tests of several rooms build on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from remanent.core.batch import IGNORED, Batch, Encoded, collate
from remanent.core.scores import answer_scores

VOCABULARY = 48
HOLD = """
import sys
from pathlib import Path
from remanent.core.run_folder import alone
with alone(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.read()
"""

# One thread: these models are so small that more only wait for each other, for minutes where other work runs beside.
os.environ.setdefault("OMP_NUM_THREADS", "1")
torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))


def _decoder(architecture: str, seed: int, **own: Any) -> Any:
    """A decoder of two layers and width 32, in eval mode, of an architecture that names its sizes as Llama does."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(
        architecture,
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=40,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        max_position_embeddings=32,
        initializer_range=0.2,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        **own,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return AutoModelForCausalLM.from_config(config, dtype=torch.float32).eval()


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., Any]:
    """A Llama of two layers and width 32, in eval mode."""

    def make(*, tied: bool = True, dtype: torch.dtype = torch.float32, dropout: float = 0.0, seed: int = 0) -> Any:
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=32,
            intermediate_size=40,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=32,
            tie_word_embeddings=tied,
            attention_dropout=dropout,
            initializer_range=0.2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).to(dtype).eval()

    return make


@pytest.fixture(scope="session")
def tiny_gpt2() -> Callable[..., Any]:
    """A GPT-2 of two layers and width 32, in eval mode: transposed weights (Conv1D) and dropout everywhere."""

    def make(*, dropout: float = 0.0, seed: int = 0) -> Any:
        from transformers import GPT2Config, GPT2LMHeadModel

        config = GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=32,
            n_layer=2,
            n_head=2,
            n_positions=32,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            initializer_range=0.2,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return GPT2LMHeadModel(config).eval()

    return make


@pytest.fixture(scope="session")
def tiny_gemma() -> Callable[..., Any]:
    """A Gemma of two layers and width 32, in eval mode: what its table of embeddings holds comes out multiplied."""

    def make(*, seed: int = 0) -> Any:
        return _decoder("gemma", seed)

    return make


@pytest.fixture(scope="session")
def tiny_mixture() -> Callable[..., Any]:
    """A mixture of three experts, of two layers and width 32, in eval mode: Mixtral, or gpt-oss, whose experts keep
    their inputs first."""

    def make(architecture: str = "mixtral", *, seed: int = 0) -> Any:
        return _decoder(architecture, seed, num_local_experts=3, num_experts_per_tok=2)

    return make


@pytest.fixture(scope="session")
def tiny_gemma3() -> Callable[..., Any]:
    """A Gemma 3 that sees images, in eval mode: two layers of width 32 that read text, and two for images."""

    def make(*, seed: int = 0) -> Any:
        from transformers import Gemma3Config, Gemma3ForConditionalGeneration

        config = Gemma3Config(
            text_config={
                "vocab_size": VOCABULARY,
                "hidden_size": 32,
                "intermediate_size": 40,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 1,
                "head_dim": 16,
                "max_position_embeddings": 32,
                "initializer_range": 0.2,
                "pad_token_id": 0,
                "bos_token_id": 1,
                "eos_token_id": 2,
            },
            vision_config={
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "image_size": 28,
                "patch_size": 14,
            },
            mm_tokens_per_image=4,
            boi_token_index=VOCABULARY,
            eoi_token_index=VOCABULARY + 1,
            image_token_index=VOCABULARY + 2,
        )
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return Gemma3ForConditionalGeneration(config).eval()

    return make


@pytest.fixture(scope="session")
def lora() -> Callable[..., Any]:
    """Put a LoRA on a model; its second factors are random unless `fresh`, so that it does something."""

    def make(model: nn.Module, *, fresh: bool = False, seed: int = 0, **options: Any) -> Any:
        from peft import LoraConfig, get_peft_model

        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **options}
            adapted = get_peft_model(model, LoraConfig(**options)).eval()
            for name, parameter in adapted.named_parameters():
                if "lora_B" in name and not fresh:
                    nn.init.normal_(parameter, std=0.1)
        return adapted

    return make


@pytest.fixture(scope="session")
def make_records() -> Callable[..., list[Encoded]]:
    """Records of a prompt that is not scored and an answer of 1 to `longest` tokens that is."""

    def make(count: int, *, seed: int = 0, longest: int = 6, prompt: int = 3) -> list[Encoded]:
        generator = torch.Generator().manual_seed(seed)

        def draw(low: int, high: int, size: int) -> list[int]:
            return torch.randint(low, high, (size,), generator=generator).tolist()

        found = []
        for number in range(count):
            asked = draw(3, VOCABULARY, prompt)
            answer = draw(3, VOCABULARY, draw(1, longest + 1, 1)[0])
            labels = [IGNORED] * prompt + answer
            found.append(Encoded(tuple(asked + answer), tuple(labels), f"group{number % 4}", f"record{number}"))
        return found

    return make


@pytest.fixture(scope="session")
def make_batch(make_records: Callable[..., list[Encoded]]) -> Callable[..., Batch]:
    """All of `make_records(...)` as one batch."""

    def make(count: int, **options: Any) -> Batch:
        records = make_records(count, **options)
        return collate(records, range(count), 0)

    return make


@pytest.fixture(scope="session")
def mean_loss() -> Callable[[nn.Module, Batch], torch.Tensor]:
    """Mean answer NLL of a batch, with its graph."""
    return lambda model, batch: -answer_scores(model, batch).log_probs.mean()


@pytest.fixture(scope="session")
def snapshot() -> Callable[[nn.Module], dict[str, torch.Tensor]]:
    """A copy of a model's parameters and buffers by name."""

    def take(model: nn.Module) -> dict[str, torch.Tensor]:
        named = [*model.named_parameters(), *model.named_buffers()]
        return {name: tensor.detach().clone() for name, tensor in named}

    return take


@pytest.fixture(scope="session")
def same_bits() -> Callable[[dict[str, torch.Tensor], dict[str, torch.Tensor]], bool]:
    """Whether two sets of tensors are equal bit for bit: names, dtypes and bytes, NaN and -0 included."""

    def compare(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
        def raw(tensor: torch.Tensor) -> bytes:
            return tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()

        return list(left) == list(right) and all(
            left[name].dtype == right[name].dtype and raw(left[name]) == raw(right[name]) for name in left
        )

    return compare


@pytest.fixture(scope="session")
def held() -> Callable[[Path], Any]:
    """A context in which another process, which it gives, works in a folder; it is killed at the end."""

    @contextmanager
    def hold(folder: Path) -> Iterator[subprocess.Popen[str]]:
        command = [sys.executable, "-c", HOLD, str(folder)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "held\n"
            try:
                yield process
            finally:
                process.send_signal(signal.SIGKILL)

    return hold
