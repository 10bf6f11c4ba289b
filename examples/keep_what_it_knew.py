"""A fine-tune in transformers.Trainer that keeps what the model knew: elastic weight consolidation.

    python examples/keep_what_it_knew.py                               a tiny model: seconds
    python examples/keep_what_it_knew.py --model smollm2-135m          a real one: minutes

The model is taught some fictitious authors, and is then fine-tuned on others, once plainly and once with EWC. Printed
is how well it knows the first, which EWC holds, the second, and general text, which nothing holds: mean NLL per
record, in nats; less is better known.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence
from copy import deepcopy

import torch
from transformers import TrainingArguments

from remanent.continual import ewc
from remanent.core.batch import Encoded
from remanent.core.displacement import Here
from remanent.core.episode import Episode
from remanent.core.evaluation import known
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.task import teach
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all, pad_id
from remanent.data.general_text import general_text
from remanent.hf.trainer import MethodTrainer
from remanent.models.load import load
from remanent.models.tiny import tiny


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a name; default: a tiny model made on the spot")
    parser.add_argument("--strength", type=float, help="lambda of EWC; 300 for the small model, 1000 for a real one")
    parser.add_argument("--out", default="runs/keep", help="where the trainers write")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    authors = author_sets(seed=arguments.seed, forget=8, retain=8, control=4, questions=2)
    records = {"first": authors.retain, "second": authors.forget, "text": general_text()[:12]}
    everything = [record for group in records.values() for record in group]
    loaded = load(arguments.model) if arguments.model else tiny(everything, seed=arguments.seed)
    model, pad = loaded.model, pad_id(loaded.tokenizer)
    sets = {name: encode_all(group, loaded.tokenizer, 128) for name, group in records.items()}
    lesson = with_settings(
        teach(), learning_rate=1e-4 if arguments.model else 3e-3, epochs=4 if arguments.model else 40
    )
    taught = sets["first"] if arguments.model else sets["first"] + sets["text"]  # a real model knows text already
    run_episode(model, lesson, Episode("first", "teach", {"task": taught}), Settings(pad, seed=arguments.seed))
    show("before", model, sets, pad)

    usual = 1e3 if arguments.model else 300.0
    for name, chosen in (("plain", 0.0), ("EWC", usual if arguments.strength is None else arguments.strength)):
        tuned, method = deepcopy(model), ewc.method(strength=chosen)
        # What it knows: one pass over records of that kind. Between the episodes of a stream this happens by itself.
        method.remember(tuned, "first", sets["first"])
        trainer = MethodTrainer(
            tuned,
            method,
            TrainingArguments(
                f"{arguments.out}/{name}",
                learning_rate=1e-4 if arguments.model else 2e-3,
                lr_scheduler_type="constant",
                num_train_epochs=8 if arguments.model else 20,
                per_device_train_batch_size=8,
                max_grad_norm=1.0,
                logging_steps=50,
                save_strategy="no",
                report_to=[],
                seed=arguments.seed,
            ),
            {"task": sets["second"]},
            processing_class=loaded.tokenizer,
        )
        trainer.train()
        show(name, tuned, sets, pad)


def show(when: str, model: torch.nn.Module, sets: Mapping[str, Sequence[Encoded]], pad: int) -> None:
    """Print how well each set is known."""
    nll = known(model, sets, [Here()], pad_id=pad)["full"]
    print(f"{when}: " + "  ".join(f"{name} {value:.3f}" for name, value in nll.items()))


if __name__ == "__main__":
    main()
