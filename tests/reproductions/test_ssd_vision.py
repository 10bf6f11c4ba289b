"""SSD on a convolutional net with batch norm and on a vision transformer: a class of the digits is forgotten.

    python -m tests.reproductions.test_ssd_vision

writes results/ssd-vision.md beside this file, and goes on where it was cut off. Training was settled on seeds 0 to 2;
asked are others. Falsified where random dampening forgets as well, or where the paper's alpha (10 for ResNet-18, 5 for
a ViT) does not forget to 5 % with 80 % of the rest kept: so it is for this transformer, of which no alpha serves every
seed.
"""

from __future__ import annotations

from itertools import pairwise
from statistics import fmean

import pytest
import torch
from torch import nn

from remanent.core.displacement import Dampening
from remanent.core.files import write_atomic
from remanent.core.importance import class_nll
from remanent.core.model_inputs import logits_of
from remanent.errors import InputError
from remanent.unlearning.ssd import damped, dampen, importances

from .study_rows import RESULTS, Rows, markdown, mean_and_interval
from .test_ssd import shuffled
from .vision_world import digits

SEEDS = range(3, 8)
FORGOTTEN, BATCH = 3, 64
EPOCHS = {"convolutional": (10, 2e-3), "transformer": (30, 3e-3)}
ALPHAS = {False: (5.0, 10.0, 25.0), True: (3.0, 5.0, 8.0)}
PAPERS = {"convolutional": "alpha 10", "transformer": "alpha 5"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]


def made(kind, seed):
    torch.manual_seed(seed)
    if kind == "convolutional":
        widths, layers = (1, 16, 32, 32), []
        for place, (one, two) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(one, two, 3, stride=1 + (place > 0), padding=1, bias=False)]
            layers += [nn.BatchNorm2d(two), nn.ReLU()]
        return nn.Sequential(*layers, nn.Flatten(), nn.Linear(128, 10))
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    return ViTForImageClassification(ViTConfig(**sizes, image_size=8, patch_size=2, num_channels=1, num_labels=10))


def trained(kind, data, seed):
    model = made(kind, seed).train()
    epochs, rate = EPOCHS[kind]
    optimizer = torch.optim.Adam(model.parameters(), lr=rate)
    images, labels = data
    for _ in range(epochs):
        for rows in torch.randperm(len(labels)).split(BATCH):
            optimizer.zero_grad()
            class_nll(model, (images[rows], labels[rows])).mean().backward()
            optimizer.step()
    return model.eval()


@torch.no_grad()
def accuracies(model, data):
    """Of the forgotten class and of the others, in percent."""
    images, labels = data
    right, forgotten = logits_of(model(images)).argmax(dim=1) == labels, labels == FORGOTTEN
    return [100 * float(right[part].float().mean()) for part in (forgotten, ~forgotten)]


def of_seed(kind, seed):
    """way -> [forget, retain] in percent of the test set."""
    split = digits(seed, 1200)
    data, test = ((images.view(-1, 1, 8, 8), labels) for images, labels in (split.train, split.test))
    model = trained(kind, data, seed)
    chosen = data[1] == FORGOTTEN
    everything, forget = (
        list(zip(images.split(BATCH), labels.split(BATCH), strict=True))
        for images, labels in (data, (data[0][chosen], data[1][chosen]))
    )
    found = {"before": accuracies(model, test)}
    for label_free, alphas in ALPHAS.items():
        of_all = importances(model, everything, label_free=label_free)
        for alpha in alphas:
            way = f"{'label-free ' * label_free}alpha {alpha:g}"
            try:
                edited = dampen(model, of_all, forget, alpha=alpha, label_free=label_free)
            except InputError:  # selects no weight
                found[way] = found["before"]
                continue
            found[way] = accuracies(model, test)
            edited.undo.undo()
    of_all, of_forget = importances(model, everything), importances(model, forget)
    factors = damped(of_all, of_forget, float(PAPERS[kind].split()[1])).dampening.factors
    with Dampening(shuffled({n: factors.get(n, torch.ones_like(v)) for n, v in of_all.items()}, seed)).at(model):
        found["random"] = accuracies(model, test)
    return found


@pytest.fixture(scope="module", params=EPOCHS)
def table(request):
    """kind, and way -> means of forget and of retain."""
    seeds = [of_seed(request.param, seed) for seed in SEEDS]
    means = {way: [fmean(found[way][side] for found in seeds) for side in (0, 1)] for way in seeds[0]}
    print(request.param, means)
    return request.param, means


def test_the_class_is_forgotten_and_the_rest_kept_by_a_convolutional_net(table):
    kind, means = table
    assert min(means["before"]) > 85
    forget, retain = means[PAPERS[kind]]
    if kind == "transformer":  # a negative: of some seeds the class stays, of others the rest goes
        assert forget > 5
        assert retain < 80
    else:
        assert forget <= 5
        assert retain >= 80


def test_a_higher_alpha_forgets_less_and_keeps_more(table):
    _, means = table
    retained = [means[f"alpha {alpha:g}"][1] for alpha in ALPHAS[False]]
    assert retained == sorted(retained)
    assert means["alpha 5"][0] <= means["alpha 25"][0]


def test_random_dampening_forgets_less(table):
    kind, means = table
    assert means["random"][0] > means[PAPERS[kind]][0] + 30


if __name__ == "__main__":
    torch.set_num_threads(1)
    rows = Rows(RESULTS / "ssd-vision.jsonl")
    parts = []
    for kind in EPOCHS:
        seeds = [rows.get(f"{kind} {seed}", lambda kind=kind, seed=seed: of_seed(kind, seed)) for seed in SEEDS]
        lines = [
            [
                way,
                *(mean_and_interval([found[way][side] for found in seeds], ".1f") for side in (0, 1)),
                f"{min(found[way][1] for found in seeds):.0f}",
            ]
            for way in seeds[0]
            if way != "name"
        ]
        parts.append(f"## {kind}\n\n{markdown(['way', 'forgotten class', 'the others', 'worst of the others'], lines)}")
    text = f"""# SSD on vision models

Made by `python -m tests.reproductions.test_ssd_vision` on one thread: 8 x 8 digits, 1200 to train on, class 3
forgotten, batches of 64; a net of three convolutions with batch norm and a ViT of transformers, two layers of width 32.
Accuracy on the test set in percent, mean over {len(SEEDS)} seeds with its 95% interval by Student's t. "random": the
factors of the paper's alpha ({", ".join(f"{kind}: {way}" for kind, way in PAPERS.items())}) on random weights. Where no
weight is selected the model is as before.

{(chr(10) * 2).join(parts)}
"""
    write_atomic(RESULTS / "ssd-vision.md", text)
