"""Unlearning in transformers.Trainer: a method's updates, stopped by a rule.

    python examples/trainer.py                               a tiny model: seconds
    python examples/trainer.py --model smollm2-135m          a real one: minutes

The model is taught some fictitious authors first, so that it has something to forget.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping, Sequence

import torch
from transformers import TrainingArguments

from remanent.core.batch import Encoded
from remanent.core.displacement import Here, Rounding
from remanent.core.episode import Episode
from remanent.core.evaluation import ForgetAtControl, known
from remanent.core.loop import Settings, run_episode, with_settings
from remanent.core.task import teach
from remanent.data.authors import author_sets
from remanent.data.encode import encode_all, pad_id
from remanent.hf.callback import RemanentCallback
from remanent.hf.trainer import MethodTrainer
from remanent.models.load import load
from remanent.models.tiny import tiny
from remanent.unlearning import durable


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", help="a folder or a name; default: a tiny model made on the spot")
    parser.add_argument("--out", default="runs/trainer", help="where checkpoints and the model go")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    authors = author_sets(seed=arguments.seed, forget=4, retain=8, control=4, questions=2)
    records = {"forget": authors.forget, "retain": authors.retain, "control": authors.control}
    everything = [record for group in records.values() for record in group]
    loaded = load(arguments.model) if arguments.model else tiny(everything, seed=arguments.seed)
    teaching = teach() if arguments.model else with_settings(teach(), learning_rate=3e-3, epochs=40)
    model, pad = loaded.model, pad_id(loaded.tokenizer)
    sets = {role: encode_all(group, loaded.tokenizer) for role, group in records.items()}
    lesson = Episode("lesson", "teach", {"task": sets["forget"] + sets["retain"]})
    run_episode(model, teaching, lesson, Settings(pad))
    show("taught", model, sets, pad)

    rule = ForgetAtControl(sets, [Here(), Rounding("int4-row")], pad)
    stop = RemanentCallback(rule, evaluate_every=4)
    trainer = MethodTrainer(
        model,
        durable.method(retain_weight=4.0),
        TrainingArguments(
            arguments.out,
            learning_rate=1e-5 if arguments.model else 6e-4,
            lr_scheduler_type="constant",
            max_steps=60,
            per_device_train_batch_size=4,
            gradient_accumulation_steps=2,
            max_grad_norm=1.0,
            logging_steps=10,
            save_strategy="no",
            report_to=[],
            seed=arguments.seed,
        ),
        {"forget": sets["forget"], "retain": sets["retain"]},
        processing_class=loaded.tokenizer,
        callbacks=[stop],
    )
    trainer.train()
    trainer.save_model()
    print(f"made {trainer.state.global_step} updates; the weights are those of step {stop.best_step}")
    show("unlearned", model, sets, pad)


def show(when: str, model: torch.nn.Module, sets: Mapping[str, Sequence[Encoded]], pad: int) -> None:
    """Print how well each set is known at full precision and at 4 bits: mean answer NLL per record, in nats."""
    for point, nll in known(model, sets, [Here(), Rounding("int4-row")], pad_id=pad).items():
        print(f"{when} at {point}: " + "  ".join(f"{role} {value:.3f}" for role, value in nll.items()))


if __name__ == "__main__":
    main()
