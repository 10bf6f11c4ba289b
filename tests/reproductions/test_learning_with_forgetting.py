"""Learning with forgetting on two rules that stand against each other: what confidence ranks, what unlearning gives.

A small Llama learns (a + b) mod 10 for some pairs behind the sign A, and (3a + 7b + 1) mod 10 for all pairs behind the
sign B. Then it is fine-tuned on few further pairs of A, while its own answers to B, or to A, are unlearned. Asked are
pairs of A that it never saw. Whatever comes out is what the page says: the effect in the paper is small.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from statistics import fmean

import pytest
import torch

from remanent.continual.learning_with_forgetting import LearningWithForgetting, method
from remanent.core.batch import IGNORED, Encoded
from remanent.core.episode import Episode
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.scores import score_records
from remanent.core.task import teach

SEEDS = range(5)
_DIGIT, _A, _B, _IS = 8, 3, 4, 5
pytestmark = [pytest.mark.slow, pytest.mark.timeout(3600)]  # the fixture trains 35 times


def record(sign, one, two, answer):
    prompt = (1, sign, _DIGIT + one, _DIGIT + two, _IS)
    return Encoded((*prompt, _DIGIT + answer), (*[IGNORED] * len(prompt), _DIGIT + answer), key=f"{sign}{one}{two}")


def rule(sign, one, two):
    return (one + two) % 10 if sign == _A else (3 * one + 7 * two + 1) % 10


@dataclass(frozen=True)
class Other(LearningWithForgetting):
    """Another choice of what to unlearn.

    Args:
        choice: "bottom" or "random".
    """

    choice: str = "random"

    def confidences(self, model, task, forget):
        found = super().confidences(model, task, forget)
        return -found if self.choice == "bottom" else torch.rand(len(found), generator=torch.Generator().manual_seed(3))


def make(seed):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=18,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
    )
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return LlamaForCausalLM(config).eval()


@torch.no_grad()
def own_answer(model, item):
    """What the model answers itself."""
    logits = model(input_ids=torch.tensor([item.input_ids[:-1]])).logits[0, -1]
    token = int(logits.argmax())
    return replace(item, input_ids=(*item.input_ids[:-1], token), labels=(*item.labels[:-1], token))


def accuracy(model, records):
    found = score_records(model, records, pad_id=0, batch_size=64)
    return 100 * float(found.hits.sum() / found.tokens.sum())


@pytest.fixture(scope="module")
def table():
    """way -> [(accuracy on A that was never seen, on B) of each seed] in percent, and the AUC of confidence."""
    found, aucs = {}, []
    for seed in SEEDS:
        pairs = [(one, two) for one in range(10) for two in range(10)]
        order = torch.randperm(100, generator=torch.Generator().manual_seed(seed)).tolist()
        known, new, unseen = ([pairs[i] for i in part] for part in (order[:40], order[40:65], order[65:]))
        of = {sign: {pair: record(sign, *pair, rule(sign, *pair)) for pair in pairs} for sign in (_A, _B)}
        model = make(seed)
        lesson = with_settings(teach(), learning_rate=2e-3, steps=600, batch_size=32, schedule="constant")
        data = {"task": [of[_A][pair] for pair in known] + list(of[_B].values())}
        run_episode(model, lesson, Episode("before", "teach", data), Settings(0, seed))
        start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        task = [of[_A][pair] for pair in new]
        mine = [
            own_answer(model, item) for item in [*(of[_B][pair] for pair in known), *(of[_A][pair] for pair in known)]
        ]
        asked = [of[_A][pair] for pair in unseen]
        settings = {"learning_rate": 5e-4, "steps": 200, "batch_size": 8}
        top = with_settings(method(), **settings)
        found.setdefault("before", []).append((accuracy(model, asked), accuracy(model, list(of[_B].values()))))
        scores = top.confidences(model, task, mine)
        above = (scores[:40, None] > scores[None, 40:]).double() + (scores[:40, None] == scores[None, 40:]).double() / 2
        aucs.append(float(above.mean()))
        options = {"points": top.points, "weights": top.weights, "recipe": top.recipe}
        ways = {
            "plain": with_settings(teach(), **settings),
            "top": top,
            "random": Other(top.objective, choice="random", **options),
            "bottom": Other(top.objective, choice="bottom", **options),
        }
        for way, chosen in ways.items():
            model.load_state_dict(start)
            run_episode(model, chosen, Episode(way, "teach", {"task": task, "forget": mine}), Settings(0, seed))
            found.setdefault(way, []).append((accuracy(model, asked), accuracy(model, list(of[_B].values()))))
    for way, rows in found.items():
        print(
            way,
            [tuple(round(v, 1) for v in row) for row in rows],
            [round(fmean(c), 1) for c in zip(*rows, strict=True)],
        )
    print("auc", [round(value, 3) for value in aucs])
    return found, aucs


def test_what_stands_against_the_task_is_unlearned(table):
    found, _ = table
    known = {way: fmean(other for _, other in rows) for way, rows in found.items()}
    assert known["before"] > 95
    assert known["top"] < known["plain"]
