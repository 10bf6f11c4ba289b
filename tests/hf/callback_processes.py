"""Run by test_processes_of_callback.py, by one process or by several: what a callback's rule decides, as JSON."""

import json
import sys
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from accelerate import PartialState
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

from remanent.core.batch import Encoded, collate
from remanent.core.digest import weights_digest
from remanent.core.displacement import Here, Rounding
from remanent.core.evaluation import ForgetAtControl, known
from remanent.core.processes import process
from remanent.hf.callback import RemanentCallback
from remanent.hf.trainer import MethodTrainer
from remanent.unlearning import npo

POINTS = [Here(), Rounding("int4-row")]


@dataclass
class Nearest(ForgetAtControl):
    """Is never met, and finds the step best at which forget is nearest to so many nats below its target."""

    below: float = 5.0

    def __call__(self, model, step):
        found = super().__call__(model, step)
        return replace(found, score=(-abs(found.score[1] + self.below),), reached=False)


def found(folder):
    given = json.loads((folder / "data.json").read_text())
    data = {
        role: [Encoded(tuple(ids), tuple(labels), key=key) for ids, labels, key in rows] for role, rows in given.items()
    }
    asked = {"sets": data, "points": POINTS, "pad_id": 0, "batch_size": 4}
    rank, count = process()

    def run(rule, name, every=1, saved=0, steps=12):
        model = AutoModelForCausalLM.from_pretrained(folder / "taught")
        args = TrainingArguments(
            output_dir=f"{folder}/{name}-{count}",
            use_cpu=True,
            report_to=[],
            disable_tqdm=True,
            save_strategy="steps",
            save_steps=2,
            learning_rate=3e-3,
            lr_scheduler_type="constant",
            max_grad_norm=0.5,
            per_device_train_batch_size=4 // count,
            remove_unused_columns=False,
            max_steps=steps,
            seed=3,
        )
        callback = RemanentCallback(rule, evaluate_every=every)
        if name == "plain":
            # One batch a pass: several processes fill up a short last one with the first records.
            trainer = Trainer(
                model, args, data_collator=batch_of, train_dataset=data["retain"][:4], callbacks=[callback]
            )
        else:
            roles = {role: data[role] for role in ("forget", "retain")}
            trainer = MethodTrainer(model, npo.method(), args, roles, callbacks=[callback])
        trainer.train(resume_from_checkpoint=f"{args.output_dir}/checkpoint-{saved}" if saved else None)
        trainer.accelerator.wait_for_everyone()  # a checkpoint is whole before it is resumed
        if rank == 0 and not saved:
            weights = {key: tensor.detach().contiguous() for key, tensor in model.named_parameters()}
            save_file(weights, folder / f"{name}-{count}.safetensors")
        return {
            "steps": trainer.state.global_step,
            "best_step": callback.best_step,
            "evaluations": [item.to_dict() for item in callback.evaluations],
            "weights": weights_digest(model),
            "known": known(model, data, POINTS, pad_id=0, batch_size=4),
        }

    def until():
        return ForgetAtControl(**asked)

    result = {"to the end": run(Nearest(**asked), "end"), "stopped": run(until(), "stopped", every=2, steps=40)}
    result["resumed before the best"] = run(Nearest(**asked), "end", saved=4)
    result["resumed after the best"] = run(Nearest(**asked), "end", saved=8)
    result["resumed before it stopped"] = run(until(), "stopped", every=2, steps=40, saved=6)
    last = result["stopped"]["steps"]
    result["resumed where it stopped"] = run(until(), "stopped", every=2, steps=40, saved=last)
    result["plain Trainer"] = run(Nearest(**asked, below=8.0), "plain", steps=8)
    return result


def batch_of(records):
    batch = collate(records, range(len(records)), 0)
    return {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask, "labels": batch.labels}


def main(folder):
    PartialState(cpu=True)  # Trainer would start the processes only later
    rank, count = process()
    (folder / f"{count}-{rank}.json").write_text(json.dumps(found(folder)))
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
