"""Run by one or by several processes on gloo: what each finds of work that they share, as JSON.

Argument: a folder, into which each process writes `COUNT-RANK.json`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

from accelerate import Accelerator
from resumable_run import make_model, make_records

from remanent.core.digest import weights_digest
from remanent.core.displacement import Here, Rounding
from remanent.core.episode import Episode
from remanent.core.evaluation import Evaluation, ForgetAtControl, known
from remanent.core.loop import Settings, run_episode
from remanent.core.method import Method, Recipe
from remanent.core.processes import process
from remanent.core.reference import reference_nll
from remanent.core.task import Task
from remanent.unlearning.npo import NPO

POINTS = [Here(), Rounding("int4")]
# Three batches, the last of them short; and a single record.
SETS = {"forget": make_records(5, 1), "control": make_records(6, 3), "retain": make_records(1, 2)}
DATA = {"forget": SETS["forget"], "retain": make_records(7, 2)}


class CutOff(Exception):
    pass


class Nearest(ForgetAtControl):
    """Is never met, and finds the step best at which forget is about 0.3 nats above its target: one in the middle."""

    def __call__(self, model, step):
        found = super().__call__(model, step)
        return replace(found, score=(-abs(found.score[1] - 0.3),), reached=False)


class OfItsOwn:
    """A rule that is met in the first process only, and asks to stop at once in the others."""

    def __call__(self, model, step):
        first = process()[0] == 0
        return Evaluation(step, {}, {}, (float(step),), step == (3 if first else 1))

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def found(accelerator, folder):
    rank = accelerator.process_index
    passes = 0

    def count(*_):
        nonlocal passes
        passes += 1

    model = make_model()
    handle = model.register_forward_hook(count)
    result = {"known": known(model, SETS, POINTS, pad_id=0, batch_size=2), "passes": passes}
    cache = folder / f"cache-{accelerator.num_processes}-{rank}"
    handle.remove()
    result["reference"] = reference_nll(model, SETS["forget"], pad_id=0, batch_size=2, cache=cache).tolist()
    if rank > 0:  # as where processes run on several machines, and one has the scores already
        next(cache.iterdir()).unlink()
    result["cached"] = reference_nll(model, SETS["forget"], pad_id=0, batch_size=2, cache=cache).tolist()

    def run(rule, *, where=None, cut=None, evaluate_every=1, method=None, precision="fp32", using=accelerator):
        def on_step(step, steps, losses):
            if step == cut:
                raise CutOff

        trained = make_model()
        recipe = Recipe(learning_rate=3e-3, steps=12, batch_size=4, schedule="constant", warmup=0.0)
        outcome = run_episode(
            trained,
            method or Method(NPO(), points=POINTS, recipe=recipe),
            Episode("erase", "erase", DATA if method is None else {"task": DATA["retain"]}),
            Settings(pad_id=0, precision=precision, evaluate_every=evaluate_every, checkpoint_every=2, dropout=False),
            rule=rule,
            folder=where,
            on_step=on_step,
            accelerator=using,
        )
        return {
            "steps": outcome.steps,
            "stopped": outcome.stopped,
            "best_step": outcome.best_step,
            "evaluations": [item.to_dict() for item in outcome.evaluations],
            "weights": weights_digest(trained),
            "known": known(trained, SETS, POINTS, pad_id=0, batch_size=2),
        }

    sets = {"sets": SETS, "points": POINTS, "pad_id": 0, "batch_size": 2}
    result["to the end"] = run(Nearest(**sets))
    result["stopped"] = run(ForgetAtControl(**sets, margin=-0.02), evaluate_every=2)
    result["of its own"] = run(OfItsOwn(), method=Method(Task(), recipe=Recipe(steps=6, batch_size=4)))
    # Runs of their own accelerators, of several precisions one after the other, leave the launch's as it is.
    run(Nearest(**sets), precision="fp16", using=None)
    result["by itself"] = run(Nearest(**sets), using=None)
    assert accelerator.num_processes == process()[1]
    cut_off = folder / f"run-{accelerator.num_processes}"
    try:
        run(Nearest(**sets), where=cut_off, cut=9)
    except CutOff:
        accelerator.wait_for_everyone()
        result["resumed"] = run(Nearest(**sets), where=cut_off)
    return result


def main(folder):
    accelerator = Accelerator(cpu=True)
    name = f"{accelerator.num_processes}-{accelerator.process_index}.json"
    (folder / name).write_text(json.dumps(found(accelerator, folder)))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
