from __future__ import annotations

import pytest
import torch

from remanent.core.decoding import Greedy, Sampled
from remanent.core.generation import generated

PROMPTS = [[1, 7, 5, 9], [1, 4, 4]]
# What instruct models ship in generation_config.json, and worse.
THEIRS = {
    "repetition_penalty": 30.0,
    "no_repeat_ngram_size": 1,
    "num_beams": 3,
    "min_p": 0.9,
    "top_k": 1,
    "top_p": 0.1,
    "temperature": 0.01,
    "typical_p": 0.2,
    "epsilon_cutoff": 0.5,
    "eta_cutoff": 0.5,
}


@pytest.mark.parametrize("decoding", [Greedy(), Sampled(0.7, 4)], ids=["greedy", "sampled"])
def test_a_models_own_settings_change_no_answer(tiny_llama, decoding):
    def answers(**settings):
        model = tiny_llama()
        model.generation_config.eos_token_id = None
        for name, value in settings.items():
            setattr(model.generation_config, name, value)
        return generated(model, 0, PROMPTS, 6, decoding=decoding, seed=3)

    assert torch.equal(answers(), answers(**THEIRS))


def test_the_likeliest_token_each_time(tiny_llama):
    model = tiny_llama()
    model.generation_config.eos_token_id = None
    model.generation_config.repetition_penalty = 30.0
    ids = torch.tensor([PROMPTS[0]])
    for _ in range(4):
        ids = torch.cat([ids, model(ids).logits[:, -1].argmax(dim=-1, keepdim=True)], dim=1)
    assert generated(model, 0, PROMPTS[:1], 4)[0].tolist() == ids[0, len(PROMPTS[0]) :].tolist()
