"""SAM's family in transformers.Trainer: fine-tunes of a tiny BERT and a tiny ViT, accumulation, resuming."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from remanent.errors import InputError, UnsupportedError
from remanent.hf.two_pass import TwoPassTrainer
from remanent.optim import ASAM, ESAM, GSAM, MSAM, SAM, TRAM, LookSAM, NoisedInputs, TRAMFisher

from .conftest import weights_of
from .test_two_pass import Items, accuracy, bert, images, sentences, vit


def record_losses(model, inputs):
    return torch.nn.functional.cross_entropy(model(**inputs).logits, inputs["labels"], reduction="none")


BATCH = 8  # records of each batch; two are accumulated
# Name -> (optimizer, its options, the trainer's options)
FAMILY = {
    "asam": (ASAM, {"rho": 0.2}, {}),
    "part": (SAM, {}, {"ascent_share": 0.25}),
    "every": (SAM, {"every": 3}, {}),
    "reuse": (SAM, {"every": 3, "between": "reuse"}, {}),
    "gsam": (GSAM, {"rho_min": 0.01}, {}),
    "look-sam": (LookSAM, {"every": 3}, {}),
    "msam": (MSAM, {"micro_batch_size": BATCH}, {}),
    "esam": (ESAM, {"gamma": 0.75, "forward_size": BATCH}, {"record_losses": record_losses}),
}


def trainer_of(name, model, args, data):
    make, options, of_trainer = FAMILY[name]
    given = {"rho": 0.05, "lr": 5e-3, **options}
    if name == "asam":  # Trainer's groups have no names
        optimizer = ASAM(model.named_parameters(), torch.optim.AdamW, **given)
        return TwoPassTrainer(model, args, train_dataset=data, optimizers=(optimizer, None))
    chosen = (make, {"base": torch.optim.AdamW, **given})
    return TwoPassTrainer(model, args, train_dataset=data, optimizer_cls_and_kwargs=chosen, **of_trainer)


@pytest.mark.parametrize(
    ("name", "make", "data"),
    [*((name, bert, sentences) for name in FAMILY), *((name, vit, images) for name in ("gsam", "look-sam", "esam"))],
)
def test_a_fine_tune_learns(name, make, data, arguments):
    model = make()
    steps = 80 if name == "esam" else 40  # the records whose loss rises most are the hardest: it starts more slowly
    args = arguments(
        max_steps=steps, per_device_train_batch_size=BATCH, gradient_accumulation_steps=2, max_grad_norm=1.0
    )
    trainer = trainer_of(name, model, args, data())
    trainer.train()
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(logged[-5:]) < 0.7 * sum(logged[:5])
    assert accuracy(model, data()) > 0.85


@pytest.mark.parametrize("name", ["reuse", "gsam", "look-sam", "esam"])
def test_a_run_resumes_bit_for_bit(name, arguments, tmp_path):
    def train(model, resume=None):
        args = arguments(save_strategy="steps", save_steps=4, gradient_accumulation_steps=2, output_dir=str(tmp_path))
        trainer = trainer_of(name, model, args, sentences())
        trainer.train(resume_from_checkpoint=resume)
        return weights_of(model)

    whole, resumed = train(bert()), train(bert(), str(tmp_path / "checkpoint-4"))
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_accumulated_batches_are_msams_micro_batches(arguments):
    """Its updates are those of a bare loop on the same records."""
    data, model, bare = sentences(16), bert(dropout=0.0), bert(dropout=0.0)
    args = arguments(
        max_steps=2,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        max_grad_norm=0.0,
        train_sampling_strategy="sequential",
    )
    options = {"base": torch.optim.SGD, "lr": 0.1, "rho": 0.3, "micro_batch_size": 4}
    TwoPassTrainer(model, args, train_dataset=data, optimizer_cls_and_kwargs=(MSAM, options)).train()
    optimizer = MSAM(bare.parameters(), torch.optim.SGD, lr=0.1, rho=0.3, micro_batch_size=4)
    for start in (0, 8):
        items = data.items[start : start + 8]

        def closure(rows, items=items):
            inputs = {key: torch.stack([item[key] for item in items[rows]]) for key in items[0]}
            loss = 2 * bare(**inputs).loss  # Trainer adds up BERT's mean losses
            loss.backward()
            return loss

        optimizer.step(closure, records=8)
    for (key, mine), its in zip(model.named_parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6, msg=key)


def test_the_ascent_sees_its_share_of_each_batch(arguments):
    model, seen = bert(), []
    model.register_forward_hook(lambda _, __, inputs, ___: seen.append(len(inputs["input_ids"])), with_kwargs=True)
    args = arguments(max_steps=1, per_device_train_batch_size=BATCH, gradient_accumulation_steps=2)
    trainer_of("part", model, args, sentences()).train()
    assert seen == [2, 2, 8, 8]


def test_a_share_of_a_language_models_batches_has_its_own_mean(arguments):
    """Its loss is a sum over tokens divided by their number: of the share's tokens, when the share alone is seen."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 24}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=20, **sizes))
    generator = torch.Generator().manual_seed(0)
    rows = torch.randint(0, 20, (BATCH, 6), generator=generator)
    labels = rows.clone()
    labels[::2, :3] = -100
    data = Items([{"input_ids": row, "labels": label} for row, label in zip(rows, labels, strict=True)])
    with torch.no_grad():
        logits = model(rows).logits
    # Of each of the two batches of four the first record; the label at a position is the next token.
    expected = torch.nn.functional.cross_entropy(
        logits[[0, 4], :-1].flatten(0, 1), labels[[0, 4], 1:].flatten(), ignore_index=-100
    )
    args = arguments(
        max_steps=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
    )
    optimizer = GSAM(model.parameters(), torch.optim.SGD, rho=0.05, lr=0.1)
    trainer = TwoPassTrainer(model, args, train_dataset=data, optimizers=(optimizer, None), ascent_share=0.25)
    trainer.train()
    assert trainer.state.log_history[0]["loss"] == pytest.approx(float(expected), rel=1e-4)


@pytest.mark.parametrize(
    ("field", "make", "options", "of_trainer"),
    [
        ("record_losses", ESAM, {}, {}),
        ("record_losses", SAM, {}, {"record_losses": record_losses}),
        ("ascent_share", MSAM, {"micro_batch_size": BATCH}, {"ascent_share": 0.5}),
        ("ascent_share", SAM, {}, {"ascent_share": 0.0}),
        ("micro_batch_size", MSAM, {"micro_batch_size": 3}, {}),
    ],
)
def test_options_that_do_not_go_together(field, make, options, of_trainer, arguments):
    model = bert()
    optimizer = make(model.parameters(), torch.optim.AdamW, lr=1e-3, **options)
    args = arguments(per_device_train_batch_size=BATCH)
    with pytest.raises(InputError, match=field):
        TwoPassTrainer(model, args, train_dataset=sentences(), optimizers=(optimizer, None), **of_trainer).train()


def test_fsdp1_is_refused_by_name(arguments, monkeypatch):
    model = bert()
    trainer = trainer_of("gsam", model, arguments(), sentences())
    plugin = type("Plugin", (), {"fsdp_version": 1})()
    monkeypatch.setattr(type(trainer.accelerator.state), "fsdp_plugin", plugin, raising=False)
    with pytest.raises(UnsupportedError, match="FSDP1"):
        trainer.create_optimizer()


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tram-noised", "tram-fisher"])
def test_noise_reaches_a_model_that_trainer_compiles(name, arguments):
    def trained(**options):
        torch._dynamo.reset()
        model = bert(dropout=0.0)
        given = {"lr": 0.1, "model": model}
        if name == "tram-fisher":
            optimizer = TRAMFisher(model.parameters(), torch.optim.SGD, sigma=1.0, eta=500.0, rho=0.5, **given)
        else:
            distance = NoisedInputs(model, 1.0)
            optimizer = TRAM(model.parameters(), torch.optim.SGD, distance=distance, scale=300.0, **given)
        args = arguments(max_steps=3, per_device_train_batch_size=BATCH, **options)
        TwoPassTrainer(model, args, train_dataset=sentences(), optimizers=(optimizer, None)).train()
        return weights_of(model), getattr(optimizer, "radius", 1.0)

    expected, radius = trained()
    found, compiled = trained(torch_compile=True, torch_compile_backend="eager")
    assert compiled == pytest.approx(radius, rel=1e-5)
    assert radius > 1e-6
    for key, weight in expected.items():
        torch.testing.assert_close(found[key], weight, rtol=0, atol=1e-6)
