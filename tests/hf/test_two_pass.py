"""SAM in transformers.Trainer: a tiny BERT, a tiny ViT, and the thin trainer's own composition."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.utils.data import Dataset
from transformers import BertConfig, BertForSequenceClassification, Trainer, ViTConfig, ViTForImageClassification

from remanent.core.batch import collate
from remanent.core.displacement import Ascent
from remanent.core.gradient_rules import PCGrad
from remanent.core.method import Method
from remanent.core.sampling import Sampler
from remanent.core.scores import answer_scores
from remanent.core.task import Task
from remanent.errors import InputError
from remanent.hf.trainer import MethodTrainer
from remanent.hf.two_pass import TwoPassTrainer
from remanent.optim import FMTL, SAM, SAMO

from .conftest import weights_of


class Items(Dataset):
    def __init__(self, items):
        self.items = items

    def __len__(self):
        return len(self.items)

    def __getitem__(self, index):
        return dict(self.items[index])


def bert(dropout=0.1):
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    dropped = {"hidden_dropout_prob": dropout, "attention_probs_dropout_prob": dropout}
    config = BertConfig(vocab_size=40, max_position_embeddings=16, num_labels=2, **sizes, **dropped)
    return BertForSequenceClassification(config)


def sentences(count=64):
    """Whether a sentence has more tokens of the vocabulary's upper half than of the lower."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(1, 40, (count, 9), generator=generator)
    labels = ((ids >= 20).sum(dim=1) > 4).long()
    return Items([{"input_ids": row, "labels": label} for row, label in zip(ids, labels, strict=True)])


def vit():
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_channels=1, num_labels=2, **sizes))


def images(count=64):
    """Whether the left half is brighter than the right."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(count, 1, 8, 8, generator=generator)
    labels = torch.randint(0, 2, (count,), generator=generator)
    pixels[..., :4] += 2.0 * labels[:, None, None, None]
    return Items([{"pixel_values": pixel, "labels": label} for pixel, label in zip(pixels, labels, strict=True)])


def sam_of(model, **options):
    return SAM(model.parameters(), torch.optim.AdamW, **{"rho": 0.05, "lr": 5e-3, **options})


def accuracy(model, data):
    model.eval()
    inputs = {name: torch.stack([item[name] for item in data.items]) for name in data.items[0]}
    with torch.no_grad():
        return float((model(**inputs).logits.argmax(dim=-1) == inputs["labels"]).float().mean())


@pytest.mark.parametrize(("make", "data"), [(bert, sentences), (vit, images)])
def test_a_fine_tune_learns_in_two_passes_an_update(make, data, arguments):
    model, passes = make(), []
    model.register_forward_hook(lambda *_: passes.append(1))
    args = arguments(max_steps=60, per_device_train_batch_size=16, max_grad_norm=1.0, warmup_steps=10)
    trainer = TwoPassTrainer(model, args, train_dataset=data(), optimizers=(sam_of(model), None))
    trainer.train()
    assert len(passes) == 120
    logged = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert sum(logged[-5:]) < sum(logged[:5]) / 2
    assert accuracy(model, data()) > 0.9


def test_the_updates_are_those_of_a_bare_loop(arguments):
    """Trainer's groups, loss, clipping and schedule, with accumulation whose last update has fewer batches."""
    data = sentences(20)
    model, bare = bert(dropout=0.0), bert(dropout=0.0)
    args = arguments(
        max_steps=-1,
        num_train_epochs=1,
        per_device_train_batch_size=4,
        gradient_accumulation_steps=2,
        train_sampling_strategy="sequential",
    )
    options = {"base": torch.optim.SGD, "lr": 0.1, "rho": 0.3}
    TwoPassTrainer(model, args, train_dataset=data, optimizer_cls_and_kwargs=(SAM, options)).train()
    sam = SAM(bare.parameters(), torch.optim.SGD, lr=0.1, rho=0.3, max_grad_norm=0.5)

    def loss(items):
        value = bare(**{name: torch.stack([item[name] for item in items]) for name in items[0]}).loss
        value.backward()
        return value

    for start in (0, 8, 16):
        # Trainer adds up BERT's mean losses: it takes them for divided by all of the update's items already.
        parts = [data.items[first : first + 4] for first in (start, start + 4) if first < 20]
        sam.step(lambda parts=parts: sum(map(loss, parts)))
    for (name, mine), its in zip(model.named_parameters(), bare.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6, msg=name)


def test_rho_zero_is_trainer_bit_for_bit(arguments):
    model, plain = bert(), bert()
    TwoPassTrainer(
        model, arguments(), train_dataset=sentences(), optimizers=(sam_of(model, rho=0.0, lr=1e-2), None)
    ).train()
    adamw = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    Trainer(plain, arguments(), train_dataset=sentences(), optimizers=(adamw, None)).train()
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), plain.parameters(), strict=True))


def test_a_run_resumes_bit_for_bit(arguments, tmp_path):
    def train(model, resume=None):
        args = arguments(save_strategy="steps", save_steps=3, gradient_accumulation_steps=2, output_dir=str(tmp_path))
        trainer = TwoPassTrainer(model, args, train_dataset=sentences(), optimizers=(sam_of(model), None))
        trainer.train(resume_from_checkpoint=resume)
        return weights_of(model)

    whole, resumed = train(bert()), train(bert(), str(tmp_path / "checkpoint-3"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_thin_trainer_at_an_ascent_is_the_optimizer(model, data, arguments):
    """Method(points=[Ascent(rho)]) in MethodTrainer, and SAM in a loop, on the same records in the same order."""
    other = copy.deepcopy(model).train()
    adamw = torch.optim.AdamW(model.parameters(), lr=1e-2)
    trainer = MethodTrainer(
        model, Method(Task(), points=[Ascent(0.1)]), arguments(), {"task": data["forget"]}, optimizers=(adamw, None)
    )
    trainer.train()
    sam = SAM(other.parameters(), torch.optim.AdamW, rho=0.1, lr=1e-2, max_grad_norm=0.5)
    sampler = Sampler(len(data["forget"]), 4, 3, "task")
    for step in range(1, 7):
        batch = collate(data["forget"], sampler.batch(step), 0)
        sam.step(lambda batch=batch: (loss := -answer_scores(other, batch).log_probs.mean(), loss.backward())[0])
    for (name, mine), its in zip(model.named_parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(mine, its, rtol=0, atol=1e-6, msg=name)


def test_another_optimizer_is_refused(arguments):
    model = vit()
    with pytest.raises(InputError, match="optimizers: got 'AdamW'"):
        TwoPassTrainer(model, arguments(), train_dataset=images()).train()


@pytest.mark.parametrize("kind", [FMTL, SAMO])
def test_optimizers_of_several_losses_are_refused_before_a_pass(kind, arguments):
    model, seen = vit(), []
    model.register_forward_hook(lambda *_: seen.append(1))
    optimizer = kind(model.parameters(), torch.optim.SGD, PCGrad(), lr=0.1)
    with pytest.raises(InputError, match=f"optimizers: got '{kind.__name__}'"):
        TwoPassTrainer(model, arguments(), train_dataset=images(), optimizers=(optimizer, None)).train()
    assert not seen


def test_a_plain_trainer_is_told_what_to_do(arguments):
    model = vit()
    with pytest.raises(InputError, match="TwoPassTrainer"):
        Trainer(model, arguments(), train_dataset=images(), optimizers=(sam_of(model), None)).train()
