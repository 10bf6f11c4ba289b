"""A small run that can be killed at any moment and started again; prints the hash of the weights it ends with.

Argument: the run folder. The model has dropout, the method two points, the rule a best step.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from remanent.core.batch import IGNORED, Encoded
from remanent.core.digest import weights_digest
from remanent.core.displacement import Here, OneOf, Rounding
from remanent.core.episode import Episode
from remanent.core.evaluation import ForgetAtControl
from remanent.core.loop import Settings, run_episode
from remanent.core.method import Method, Recipe
from remanent.unlearning.npo import NPO

STEPS = 24


def make_model():
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    sizes = {"vocab_size": 32, "n_embd": 16, "n_layer": 1, "n_head": 1, "n_positions": 16}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=1, eos_token_id=2)).eval()


def make_records(count, seed):
    generator = torch.Generator().manual_seed(seed)
    found = []
    for number in range(count):
        ids = torch.randint(3, 32, (6,), generator=generator).tolist()
        found.append(Encoded(tuple(ids), (IGNORED, IGNORED, *ids[2:]), f"group{number}", f"record{number}"))
    return found


def run(folder, on_warning=lambda text: None, on_step=None):
    model = make_model()
    recipe = Recipe(learning_rate=3e-3, steps=STEPS, batch_size=3)
    points = [Here(), OneOf(Rounding("int4"), Rounding("int8"))]
    method = Method(NPO(), points=points, recipe=recipe)
    data = {"forget": make_records(5, 1), "retain": make_records(7, 2)}
    rule = ForgetAtControl(data | {"control": make_records(5, 3)}, [Here(), Rounding("int4")], pad_id=0, margin=-99.0)
    run_episode(
        model,
        method,
        Episode("erase", "erase", data),
        Settings(pad_id=0, evaluate_every=5, checkpoint_every=2),
        rule=rule,
        folder=folder,
        on_warning=on_warning,
        on_step=on_step,
        reference_cache=folder / "cache",
    )
    return weights_digest(model)


if __name__ == "__main__":
    print(run(Path(sys.argv[1])))
