"""The loss terms, and TRAM, in transformers.Trainer: a tiny BERT's fine-tune."""

from __future__ import annotations

import pytest
import torch
from transformers import Trainer

from remanent.errors import InputError
from remanent.hf.penalty import PenaltyTrainer
from remanent.hf.two_pass import TwoPassTrainer
from remanent.optim import MESA, R3F, SAF, SMART, TRAM, NoisedInputs, PreviousWeights, TRAMFisher

from .conftest import weights_of
from .test_two_pass import Items, accuracy, bert, sentences

COUNT = 64
TERMS = {
    "mesa": lambda model: MESA(model, 0.9),
    "r3f": lambda model: R3F(model, noise="normal", scale=1e-3),
    "smart": lambda model: SMART(model, proximity=0.1, decay=0.9),
    "saf": lambda model: SAF(COUNT, 2, back=1, start=1),
}
NOTHING = {
    "mesa": lambda model: MESA(model, 0.9, weight=0.0),
    "r3f": lambda model: R3F(model, weight=0.0),
    "smart": lambda model: SMART(model, weight=0.0, proximity=0.0),
    "saf": lambda model: SAF(COUNT, 2, weight=0.0),
}
OPTIMIZERS = {
    "previous": lambda m: TRAM(m.parameters(), torch.optim.AdamW, distance=PreviousWeights(m), lr=5e-3),
    "noise": lambda m: TRAM(m.parameters(), torch.optim.AdamW, distance=NoisedInputs(m, 0.1), lr=5e-3),
    "fisher": lambda m: TRAMFisher(m.parameters(), torch.optim.AdamW, model=m, rho=0.02, lr=5e-3),
}


def numbered(count=COUNT):
    return Items([{**item, "index": torch.tensor(number)} for number, item in enumerate(sentences(count).items)])


def fit(trainer, resume=None):
    trainer.train(resume_from_checkpoint=resume)
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


@pytest.mark.parametrize("name", TERMS)
def test_a_fine_tune_learns_with_a_term(name, arguments):
    model = bert()
    args = arguments(
        max_steps=60, per_device_train_batch_size=16, learning_rate=5e-3, warmup_steps=10, remove_unused_columns=False
    )
    data = numbered() if name == "saf" else sentences()
    losses = fit(PenaltyTrainer(model, args, penalty=TERMS[name](model), train_dataset=data))
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert accuracy(model, sentences()) > 0.9


@pytest.mark.parametrize("name", NOTHING)
def test_no_weight_is_trainer_bit_for_bit(name, arguments):
    model, plain = bert(), bert()
    data = numbered() if name == "saf" else sentences()
    args = arguments(remove_unused_columns=False)
    PenaltyTrainer(model, args, penalty=NOTHING[name](model), train_dataset=data).train()
    Trainer(plain, arguments(), train_dataset=sentences()).train()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


@pytest.mark.parametrize("name", TERMS)
def test_a_run_resumes_bit_for_bit(name, arguments, tmp_path):
    def run(model, resume=None):
        args = arguments(
            save_strategy="steps",
            save_steps=4,
            max_steps=8,
            gradient_accumulation_steps=2,
            output_dir=str(tmp_path),
            remove_unused_columns=False,
            learning_rate=1e-3,
        )
        data = numbered(24) if name == "saf" else sentences(24)
        fit(PenaltyTrainer(model, args, penalty=TERMS[name](model), train_dataset=data), resume)
        return weights_of(model)

    whole, resumed = run(bert()), run(bert(), str(tmp_path / "checkpoint-4"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_path_resumes_as_its_text_does(arguments, tmp_path):
    def trainer_of(steps):
        model = bert()
        args = arguments(output_dir=str(tmp_path), save_strategy="steps", save_steps=2, max_steps=steps)
        return PenaltyTrainer(model, args, penalty=MESA(model, 0.9), train_dataset=sentences(8))

    first, again = trainer_of(2), trainer_of(2)
    first.train()
    again.train(resume_from_checkpoint=tmp_path / "checkpoint-2")
    saved, found = (trainer.penalty.average.state_dict() for trainer in (first, again))
    assert all(torch.equal(saved[name], found[name]) for name in saved)


def test_train_takes_trainers_arguments_by_position(arguments):
    model = bert()
    trainer = PenaltyTrainer(model, arguments(max_steps=1), penalty=MESA(model, 0.9), train_dataset=sentences(8))
    trainer.train(None, None, ["logits"])
    assert trainer.state.global_step == 1


def test_accumulated_terms_are_a_mean(arguments):
    """Two batches of 4 accumulated are one of 8, without dropout, where the term is a mean over records."""
    found = []
    for size, count in ((8, 1), (4, 2)):
        model = bert(dropout=0.0)
        args = arguments(
            max_steps=3,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=count,
            train_sampling_strategy="sequential",
            optim="sgd",
            learning_rate=0.1,
        )
        trainer = PenaltyTrainer(model, args, penalty=MESA(model, 0.5), train_dataset=sentences())
        trainer.model_accepts_loss_kwargs = False  # BERT's loss is a mean, which Trainer divides then
        fit(trainer)
        found.append(weights_of(model))
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=0, atol=1e-6)


def test_saf_asks_for_an_index(arguments):
    model = bert()
    with pytest.raises(InputError, match="index"):
        PenaltyTrainer(model, arguments(), penalty=SAF(COUNT, 2), train_dataset=sentences()).train()


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_fine_tune_learns_with_tram(name, arguments):
    model, passes = bert(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    args = arguments(max_steps=60, per_device_train_batch_size=16, warmup_steps=10)
    trainer = TwoPassTrainer(model, args, train_dataset=sentences(), optimizers=(OPTIMIZERS[name](model), None))
    losses = fit(trainer)
    assert len(passes) == 180, "three forward passes for each update"
    assert sum(losses[-5:]) < sum(losses[:5]) / 2
    assert accuracy(model, sentences()) > 0.9
    assert getattr(trainer.optimizer.optimizer, "radius", 1.0) > 0


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_tram_resumes_bit_for_bit(name, arguments, tmp_path):
    def run(model, resume=None):
        args = arguments(output_dir=str(tmp_path), save_strategy="steps", save_steps=3)
        fit(TwoPassTrainer(model, args, train_dataset=sentences(), optimizers=(OPTIMIZERS[name](model), None)), resume)
        return weights_of(model)

    whole, resumed = run(bert()), run(bert(), str(tmp_path / "checkpoint-3"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)
