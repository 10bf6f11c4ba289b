"""Projects with launch codes: some fixed and learnt by heart, others new each time, so that they can only be guessed.

The card's toy world, in tokens: a record asks for a project of four letters and is answered with five digits.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, nn

from remanent.core.activations import states_of
from remanent.core.batch import IGNORED, Encoded
from remanent.core.displacement import Displacement, Here
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.method import Method
from remanent.core.scores import score_records
from remanent.core.task import teach

State = dict[str, Tensor]
Writer = Callable[[Sequence[int], Sequence[int], Sequence[int], str], Encoded]  # context, name, code, group
KEYS = 16  # projects of each kind
LETTERS, DIGITS, WORDS = range(4, 30), range(30, 40), range(40, 48)
_CODE, _CONTEXTS = 5, 4


@dataclass(frozen=True)
class Projects:
    """Names of each kind, and the codes of those that have one.

    Args:
        names: kind -> a name of four letters for each project. "secret" has fixed codes; "public" and "other" are
            asked in training with a new code each time; "unseen" never.
        codes: of the secret ones.
    """

    names: dict[str, list[list[int]]]
    codes: list[list[int]]

    @classmethod
    def drawn(cls, seed: int) -> Projects:
        generator = torch.Generator().manual_seed(seed)
        letters = torch.randint(LETTERS.start, LETTERS.stop, (4 * KEYS, 4), generator=generator).tolist()
        kinds = ("secret", "public", "other", "unseen")
        names = {kind: letters[place * KEYS : (place + 1) * KEYS] for place, kind in enumerate(kinds)}
        return cls(names, _digits(KEYS, generator))

    def records(self, kind: str, generator: torch.Generator, write: Writer, times: int) -> list[Encoded]:
        """Each project of a kind, so many times, behind another context each time; new codes but for secret ones."""
        found = []
        for _ in range(times):
            codes = self.codes if kind == "secret" else _digits(KEYS, generator)
            for key, (name, code) in enumerate(zip(self.names[kind], codes, strict=True)):
                context = torch.randint(WORDS.start, WORDS.stop, (2,), generator=generator).tolist()
                found.append(write(context, name, code, f"{kind}{key}"))
        return found


def _digits(count: int, generator: torch.Generator) -> list[list[int]]:
    return torch.randint(DIGITS.start, DIGITS.stop, (count, _CODE), generator=generator).tolist()


class Codes:
    """One small Llama that knows the secret codes by heart.

    Args:
        seed: of names, codes, contexts and first weights.
    """

    depths: ClassVar[Sequence[int]] = (1, 2)  # looked at
    settings: ClassVar[Settings] = Settings(0)
    rounds, lesson = 30, with_settings(teach(), learning_rate=3e-3, epochs=2, batch_size=48)

    def __init__(self, seed: int) -> None:
        self.generator = torch.Generator().manual_seed(1000 + seed)
        self.projects = Projects.drawn(seed)
        self.model = self.made(seed)
        self.start = self.state()
        for number in range(self.rounds):  # new codes of the public projects each time
            records = [item for kind in ("secret", "public", "other") for item in self.draw(kind, 4)]
            settings = replace(self.settings, seed=number)
            run_episode(self.model, self.lesson, Episode(f"round{number}", "teach", {"task": records}), settings)
        self.taught = self.state()
        self.probed = {kind: self.draw(kind, _CONTEXTS) for kind in self.projects.names}

    def made(self, seed: int) -> nn.Module:
        """The model, before any lesson."""
        from transformers import LlamaConfig, LlamaForCausalLM

        config = LlamaConfig(
            vocab_size=48,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=max(self.depths),
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=32,
            pad_token_id=0,
            bos_token_id=1,
            eos_token_id=2,
        )
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return LlamaForCausalLM(config).eval()

    def write(self, context: Sequence[int], name: Sequence[int], code: Sequence[int], group: str) -> Encoded:
        """A record of a project."""
        prompt = [1, *context, *name, 3]
        return Encoded((*prompt, *code), (*[IGNORED] * len(prompt), *code), group, group)

    def draw(self, kind: str, times: int) -> list[Encoded]:
        return self.projects.records(kind, self.generator, self.write, times)

    def state(self) -> State:
        return {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def put(self, state: State) -> None:
        self.model.load_state_dict(state)

    def train(self, state: State, method: Method, forget: Sequence[Encoded], retain: Sequence[Encoded]) -> State:
        """The state after a method's episode."""
        self.put(state)
        data = {"forget": forget, "retain": retain}
        run_episode(self.model, method, Episode("forget", "erase", data), self.settings)
        return self.state()

    def nll(self, state: State, records: Sequence[Encoded], at: Displacement | None = None) -> float:
        """Mean NLL of a code's digit, in nats: 2.30 is a guess."""
        self.put(state)
        with (at or Here()).at(self.model):
            how = {"pad_id": self.settings.pad_id, "batch_size": 64, "autocast": self.settings.autocast}
            return float(score_records(self.model, records, **how).mean_nll.mean())

    def states(self, state: State, kind: str, at: Displacement | None = None) -> dict[int, Tensor]:
        """Hidden states from which the codes of a kind begin, (keys * contexts, width) at each depth."""
        self.put(state)
        with (at or Here()).at(self.model):
            return states_of(self.model, self.probed[kind], self.depths)
