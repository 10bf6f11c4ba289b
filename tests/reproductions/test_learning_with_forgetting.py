"""Learning with forgetting on two rules that stand against each other: what confidence ranks, what unlearning gives.

    python -m tests.reproductions.test_learning_with_forgetting [seeds]

writes results/learning-with-forgetting.md beside this file, and goes on where it was cut off.
A small Llama learns (a + b) mod 10 for some pairs behind the sign A, and (3a + 7b + 1) mod 10 for all pairs behind the
sign B. Then it is fine-tuned on few further pairs of A, while its own answers to B, or to A, are unlearned. Asked are
pairs of A that it never saw. Whatever comes out is what the page says: the effect in the paper is small.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from statistics import fmean

import pytest
import torch

from remanent.continual.learning_with_forgetting import LearningWithForgetting, method, own_answers
from remanent.core.batch import IGNORED, Encoded
from remanent.core.decoding import Greedy
from remanent.core.episode import Episode
from remanent.core.files import write_atomic
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.scores import score_records
from remanent.core.task import teach

from .study_rows import RESULTS, Rows, markdown, mean_and_interval

SEEDS = range(5)
WAYS = ("plain", "top", "random", "bottom")
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


def accuracy(model, records):
    found = score_records(model, records, pad_id=0, batch_size=64)
    return 100 * float(found.hits.sum() / found.tokens.sum())


def of_seed(seed):
    """way -> accuracy in percent on A that was never seen and on B; "auc": of confidence, B against A."""
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
    asked_of_it = [of[sign][pair] for sign in (_B, _A) for pair in known]
    mine = own_answers(model, asked_of_it, max_new_tokens=1, decoding=Greedy())
    assert len(mine) == len(asked_of_it)  # one that is answered by its end alone would be left out
    asked = {"A": [of[_A][pair] for pair in unseen], "B": list(of[_B].values())}
    settings = {"learning_rate": 5e-4, "steps": 200, "batch_size": 8}
    top = with_settings(method(), **settings)
    scores = top.confidences(model, task, mine)
    above = (scores[:40, None] > scores[None, 40:]).double() + (scores[:40, None] == scores[None, 40:]).double() / 2
    found = {"auc": float(above.mean()), "before": {sign: accuracy(model, part) for sign, part in asked.items()}}
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
        found[way] = {sign: accuracy(model, part) for sign, part in asked.items()}
    return found


def as_markdown(seeds):
    """Every way as Markdown: means and intervals, and the difference from plain fine-tuning."""
    lines = []
    for way in ("before", *WAYS):
        cells = [mean_and_interval([found[way][sign] for found in seeds], ".1f") for sign in ("A", "B")]
        gain = [found[way]["A"] - found["plain"]["A"] for found in seeds]
        lines.append([way, *cells, mean_and_interval(gain, ".1f") if way in WAYS[1:] else ""])
    auc = mean_and_interval([found["auc"] for found in seeds])
    made = markdown(["way", "unseen A, %", "B, %", "A, beyond plain"], lines)
    return f"{made}\n\nAUC of confidence, B against A: {auc}."


@pytest.fixture(scope="module")
def table():
    """For each seed, way -> accuracies."""
    found = [of_seed(seed) for seed in SEEDS]
    print(as_markdown(found))
    return found


def test_what_stands_against_the_task_is_unlearned(table):
    known = {way: fmean(found[way]["B"] for found in table) for way in ("before", *WAYS)}
    assert known["before"] > 95
    assert known["top"] < known["plain"]


def test_negative_the_task_gains_nothing_whatever_is_chosen(table):
    """The paper's claim is that it does, and most by the highest confidence, which here tells nothing."""
    for way in WAYS[1:]:
        assert fmean(found[way]["A"] - found["plain"]["A"] for found in table) < 5
    assert abs(fmean(found["auc"] for found in table) - 0.5) < 0.15


if __name__ == "__main__":
    torch.set_num_threads(1)
    count = int(sys.argv[1]) if len(sys.argv) > 1 else len(SEEDS)
    rows = Rows(RESULTS / "learning-with-forgetting.jsonl")
    made = as_markdown([rows.get(str(seed), lambda seed=seed: of_seed(seed)) for seed in range(count)])
    text = f"""# Learning with forgetting against plain fine-tuning

Made by `python -m tests.reproductions.test_learning_with_forgetting {count}` on one thread: a Llama of two layers and
width 64 knows 40 pairs of rule A and all 100 of rule B, which contradicts it, and is fine-tuned on 25 further pairs of
A (200 updates of 8 records at rate 5e-4); every tenth update unlearns its own answers to B and A: those of highest
confidence ("top"), random ones, or those of lowest ("bottom"). Asked are the 35 pairs of A that it never saw, and B.
Mean over {count} seeds and its 95% interval by Student's t.

{made}
"""
    write_atomic(RESULTS / "learning-with-forgetting.md", text)
