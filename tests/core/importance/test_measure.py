from __future__ import annotations

import importlib.util

import pytest
import torch
from torch import nn
from torch.nn import functional

from remanent.core.batch import collate
from remanent.core.importance import (
    answer_nll,
    class_nll,
    fisher,
    importance,
    positions_nll,
    sampled_answer_nll,
    sampled_class_nll,
    squared_answer_logits,
    token_nll,
)
from remanent.core.weights import Weights
from remanent.errors import InputError, UnsupportedError

POWERS = {"sum_of_squares": torch.square, "sum_of_abs": torch.abs}
DTYPES = {"float32": (torch.float32, 1e-5), "float64": (torch.float64, 1e-10)}


def one_by_one(model, batches, loss, power):
    """The definition: autograd's gradient of each record's loss, its power, added up."""
    chosen = Weights.of(model).trainable()
    totals = {name: torch.zeros_like(weight) for name, weight in chosen.items()}
    for batch in batches:
        for value in loss(model, batch).unbind():
            gradients = torch.autograd.grad(value, list(chosen.values()), retain_graph=True, allow_unused=True)
            for name, gradient in zip(chosen, gradients, strict=True):
                if gradient is not None:
                    totals[name] += POWERS[power](gradient)
    return totals


def assert_equal(found, expected, relative):
    assert list(found) == list(expected)
    for name, value in expected.items():
        assert found[name].shape == value.shape
        # Relative to a weight's largest importance: what cancels to nothing has no relative error.
        assert float((found[name] - value).abs().max()) <= relative * float(value.abs().max()), name


@pytest.fixture
def models(tiny_llama, tiny_gpt2, lora):
    def make(name, dtype=torch.float32):
        made = {
            "tied": lambda: tiny_llama(tied=True),
            "untied": lambda: tiny_llama(tied=False),
            "gpt2": tiny_gpt2,
            "lora": lambda: lora(tiny_llama()),
        }[name]()
        return made.to(dtype)

    return make


@pytest.fixture
def batches(make_records):
    records = make_records(7)
    return [collate(records, range(4), 0), collate(records, range(4, 7), 0)]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce", POWERS)
@pytest.mark.parametrize("name", ["tied", "untied", "gpt2", "lora"])
def test_records_are_autograds_own(models, batches, name, reduce, dtype):
    kind, relative = DTYPES[dtype]
    model = models(name, kind)
    found = importance(model, batches, positions_nll, reduce=reduce, on_warning=pytest.fail)
    assert all(value.dtype == kind for value in found.values())
    assert_equal(found, one_by_one(model, batches, positions_nll, reduce), relative)


def test_logits_made_only_where_they_are_scored_give_the_same(models, batches):
    model = models("tied")
    found = importance(model, batches, answer_nll, on_warning=pytest.fail)
    assert_equal(found, one_by_one(model, batches, answer_nll, "sum_of_squares"), 1e-5)


def test_a_classifier_is_vmap_of_grad():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 9), nn.LayerNorm(9), nn.ReLU(), nn.Linear(9, 4, bias=False), nn.RMSNorm(4))
    model = model.double()
    inputs, labels = torch.randn(20, 6).double(), torch.randint(0, 4, (20,))

    def one(parameters, x, y):
        return functional.cross_entropy(torch.func.functional_call(model, parameters, (x[None],)), y[None])

    parameters = {name: p.detach() for name, p in model.named_parameters()}
    each = torch.func.vmap(torch.func.grad(one), in_dims=(None, 0, 0))(parameters, inputs, labels)
    split = [(inputs[:13], labels[:13]), (inputs[13:], labels[13:])]
    found = fisher(model, split, class_nll, on_warning=pytest.fail)
    assert_equal(found, {name: value.square().mean(dim=0) for name, value in each.items()}, 1e-10)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduce", POWERS)
@pytest.mark.parametrize("name", ["tied", "untied", "gpt2"])
def test_positions_are_the_gradients_of_weights_of_their_own(models, batches, name, reduce, dtype):
    """Each position gets a copy of every matrix it meets, so that autograd itself tells the positions apart."""
    kind, relative = DTYPES[dtype]
    model = models(name, kind)
    found = importance(model, batches, positions_nll, reduce=reduce, unit="position", on_warning=pytest.fail)
    expected = {key: torch.zeros_like(value) for key, value in found.items()}
    by_memory = {id(weight): key for key, weight in Weights.of(model).items()}

    for batch in batches:
        copies = {}

        def own(weight, positions, copies=copies):
            """One copy per position; a tied weight's layers share them."""
            key = by_memory[id(weight)]
            if key not in copies:
                copies[key] = weight.detach().expand(*positions, *weight.shape).clone().requires_grad_()
            return copies[key]

        undo = []
        for module in model.modules():
            forward = _with_copies(module, own, batch.input_ids.shape)
            if forward is not None:
                module.forward = forward
                undo.append(module)
        positions_nll(model, batch).sum().backward()
        for module in undo:
            del module.forward
        for key, copy in copies.items():
            expected[key] += POWERS[reduce](copy.grad).sum(dim=(0, 1))
    assert_equal(found, expected, relative)


def _with_copies(module, own, positions):
    kind = type(module).__name__

    def bias(y):
        return y if getattr(module, "bias", None) is None else y + own(module.bias, positions)

    if isinstance(module, nn.Linear):
        return lambda x: bias(torch.einsum("bpoi,bpi->bpo", own(module.weight, positions), x))
    if kind == "Conv1D":
        return lambda x: bias(torch.einsum("bpio,bpi->bpo", own(module.weight, positions), x))
    if isinstance(module, nn.Embedding):
        return lambda index: _looked_up(own(module.weight, positions), index.expand(positions), module.padding_idx)
    if kind == "LayerNorm":
        return lambda x: bias(functional.layer_norm(x, x.shape[-1:], eps=module.eps) * own(module.weight, positions))
    if kind == "LlamaRMSNorm":

        def norm(x):  # in float32, whatever the weights are, as Llama's own
            wide = x.float()
            scale = torch.rsqrt(wide.square().mean(-1, keepdim=True) + module.variance_epsilon)
            return (wide * scale).to(x.dtype) * own(module.weight, positions)

        return norm
    return None


def _looked_up(copies, index, padding):
    rows = copies.gather(2, index[:, :, None, None].expand(*index.shape, 1, copies.shape[-1]))[:, :, 0]
    return rows if padding is None else torch.where((index == padding)[..., None], rows.detach(), rows)


def test_tied_weights_are_added_up_before_the_square(models, batches):
    """The square of a sum is not the sum of squares: of separate matrices the importances differ."""
    tied = importance(models("tied"), batches)["model.embed_tokens.weight"]
    model = models("tied")
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())
    apart = importance(model, batches)
    assert not torch.allclose(tied, apart["model.embed_tokens.weight"] + apart["lm_head.weight"], rtol=0.01)


def test_abs_of_sum_and_batches(models, batches):
    model = models("untied")
    chosen = Weights.of(model)

    def gradients(loss):
        return torch.autograd.grad(loss, list(chosen.values()))

    whole = gradients(sum(answer_nll(model, batch).sum() for batch in batches))
    found = importance(model, batches, reduce="abs_of_sum")
    assert_equal(found, {name: g.abs() for name, g in zip(chosen, whole, strict=True)}, 1e-5)

    each = [gradients(token_nll(model, batch).mean()) for batch in batches]
    found = importance(model, batches, token_nll, reduce="batch_mean_squared")
    expected = {n: sum(g[i] ** 2 for g in each) / len(each) for i, n in enumerate(chosen)}
    assert_equal(found, expected, 1e-5)
    found = importance(model, batches, token_nll, reduce="sum_of_abs", unit="batch")
    assert_equal(found, {n: sum(g[i].abs() for g in each) for i, n in enumerate(chosen)}, 1e-5)


def test_one_batch_of_one_record_is_the_same_in_every_way(models, make_records):
    model, batch = models("tied"), collate(make_records(1), [0], 0)
    expected = importance(model, [batch], reduce="batch_mean_squared")
    assert_equal(importance(model, [batch]), expected, 1e-5)
    assert_equal(importance(model, [batch], unit="batch"), expected, 1e-5)


def test_how_records_are_batched_changes_nothing(models, make_records):
    model, records = models("tied"), make_records(6)
    whole = fisher(model, [collate(records, range(6), 0)])
    parts = fisher(model, [collate(records, [i], 0) for i in range(6)])
    assert_equal(parts, whole, 1e-5)


def test_labels_of_the_model_and_none(models, batches):
    model = models("untied")
    loss = sampled_answer_nll(torch.Generator().manual_seed(3))
    first = fisher(model, batches, loss, on_warning=pytest.fail)
    assert_equal(fisher(model, batches, sampled_answer_nll(torch.Generator().manual_seed(3))), first, 0)
    other = fisher(model, batches, sampled_answer_nll(torch.Generator().manual_seed(4)))
    assert not torch.equal(other["lm_head.weight"], first["lm_head.weight"])
    assert all(bool(v.any()) for v in importance(model, batches, squared_answer_logits, reduce="abs_of_sum").values())


def test_sampled_labels_average_to_the_exact_fisher():
    torch.manual_seed(0)
    model, inputs = nn.Linear(3, 4).double(), torch.randn(5, 3).double()
    probabilities = model(inputs).softmax(dim=-1).detach()
    exact = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()}
    for label in range(4):
        for x, share in zip(inputs, probabilities[:, label], strict=True):
            loss = functional.cross_entropy(model(x[None]), torch.tensor([label]))
            for name, gradient in zip(exact, torch.autograd.grad(loss, list(model.parameters())), strict=True):
                exact[name] += share * gradient**2 / len(inputs)
    many = inputs.repeat(4000, 1)
    found = fisher(model, [many], sampled_class_nll(torch.Generator().manual_seed(0)))
    assert_equal(found, exact, 0.05)


class Odd(nn.Module):
    """A weight that no layer of a known kind owns, one used past its layer, and a layer passed positions first."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.rand(5) + 0.5)
        self.table = nn.Embedding(7, 5)
        self.mix = nn.Linear(5, 5)
        self.twice = nn.Linear(5, 5)
        self.conv = nn.Conv1d(5, 5, 2)

    def forward(self, index):
        hidden = self.table(index) * self.scale
        hidden = self.mix(hidden.transpose(0, 1)).transpose(0, 1)
        hidden = self.twice(torch.relu(self.twice(hidden)))
        hidden = hidden + self.conv(hidden.mT)[..., :1].mT
        return functional.linear(hidden, self.table.weight).mean(dim=1)


def test_what_is_not_known_goes_record_by_record_and_is_named():
    torch.manual_seed(0)
    model, said = Odd().double().eval(), []
    batches = [(torch.randint(0, 7, (4, 3)), torch.randint(0, 7, (4,))) for _ in range(2)]
    found = importance(model, batches, class_nll, on_warning=said.append)
    assert_equal(found, one_by_one(model, batches, class_nll, "sum_of_squares"), 1e-10)
    (sentence,) = said
    for name in ("scale", "table.weight", "mix.weight", "mix.bias", "conv.weight", "conv.bias"):
        assert name in sentence
    assert "twice" not in sentence
    with pytest.raises(UnsupportedError, match="no positions are known in scale"):
        importance(model, batches, class_nll, unit="position")


class Routed(nn.Module):
    """Two experts, of which the first records reach one; it gets its samples in a flat list."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(3, 3) for _ in range(2))

    def forward(self, x):
        out, chosen = torch.zeros_like(x), x[:, 0] > 0
        for expert, mask in zip(self.experts, (chosen, ~chosen), strict=True):
            if mask.any():
                out = out.index_put((mask.nonzero()[:, 0],), expert(x[mask]))
        return out


def test_a_layer_that_gets_other_rows_later_is_not_misread():
    torch.manual_seed(0)
    model, inputs = Routed().double(), torch.randn(8, 3).double()
    inputs[:2, 0], inputs[2:5, 0] = 1.0, -1.0
    batches = [(inputs, torch.randint(0, 3, (8,)))]
    assert_equal(importance(model, batches, class_nll), one_by_one(model, batches, class_nll, "sum_of_squares"), 1e-10)


def test_inputs_changed_in_place_are_refused():
    class Changed(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(3, 3)

        def forward(self, x):
            x = x * 1
            out = self.inner(x)
            x.add_(1)
            return out + x

    with pytest.raises(UnsupportedError, match="changed in place"):
        importance(Changed(), [(torch.randn(4, 3), torch.zeros(4).long())], class_nll)


def test_a_relu_in_place_is_no_matter():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 5), nn.ReLU(inplace=True), nn.Linear(5, 3), nn.ReLU(inplace=True)).double()
    batches = [(torch.randn(4, 3).double(), torch.randint(0, 3, (4,)))]
    found = importance(model, batches, class_nll, on_warning=pytest.fail)
    assert_equal(found, one_by_one(model, batches, class_nll, "sum_of_squares"), 1e-10)


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing_changes_nothing(models, batches, reentrant):
    model = models("lora")
    plain = importance(model, batches)
    model.base_model.model.enable_input_require_grads()
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": reentrant})
    for module in model.modules():  # transformers checkpoints in train mode only; there is no dropout here
        module.eval = lambda module=module: module
    model.train()
    assert_equal(importance(model, batches), plain, 1e-5)


@pytest.mark.parametrize("unit", ["record", "batch"])
def test_the_model_is_given_back_as_it_was(models, batches, snapshot, same_bits, unit):
    model = models("tied").train()
    model.model.layers[0].requires_grad_(False)
    before, flags = snapshot(model), [p.requires_grad for p in model.parameters()]
    first = next(model.parameters())
    first.grad = torch.ones_like(first)
    hooks = sum(len(module._forward_hooks) for module in model.modules())
    found = importance(model, batches, unit=unit)
    assert not any("layers.0." in name for name in found)
    assert same_bits(snapshot(model), before)
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(module.training for module in model.modules())
    assert bool((first.grad == 1).all())
    assert all(p.grad is None for p in list(model.parameters())[1:])
    assert sum(len(module._forward_hooks) for module in model.modules()) == hooks
    assert not any(value.requires_grad for value in found.values())


def test_only_the_weights_that_are_asked_for(models, batches):
    model = models("tied")
    names = ["model.layers.1.mlp.up_proj.weight", "model.norm.weight"]
    found = importance(model, batches, weights=Weights.of(model).only(names))
    whole = importance(model, batches)
    assert_equal(found, {name: whole[name] for name in names}, 1e-6)


def test_progress(models, batches):
    seen = []
    importance(models("tied"), batches, on_batch=seen.append)
    importance(models("tied"), batches, reduce="abs_of_sum", on_batch=seen.append)
    assert seen == [4, 3, 4, 3]


def test_16_bit_weights_have_float32_importances(models, batches):
    found = importance(models("tied", torch.bfloat16), batches)
    close = importance(models("tied"), batches)
    for name, value in close.items():
        assert found[name].dtype == torch.float32
        assert float((found[name] - value).norm()) < 0.1 * float(value.norm())


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("bitsandbytes") is None, reason="needs bitsandbytes")
def test_a_lora_on_a_packed_base(tiny_llama, lora, batches, tmp_path):
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    tiny_llama().save_pretrained(tmp_path / "base")
    packed = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(
        tmp_path / "base", quantization_config=packed, device_map={"": "cpu"}, dtype=torch.float32
    )
    model = lora(base)
    found = importance(model, batches, on_warning=pytest.fail)
    assert all("lora_" in name for name in found)
    assert_equal(found, one_by_one(model, batches, answer_nll, "sum_of_squares"), 1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_on_a_gpu(models, batches):
    on_cpu = importance(models("tied", torch.float64), batches, positions_nll)
    model = models("tied", torch.float64).cuda()
    found = importance(model, [batch.to("cuda") for batch in batches], positions_nll)
    assert all(value.is_cuda for value in found.values())
    assert_equal({name: value.cpu() for name, value in found.items()}, on_cpu, 1e-8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"reduce": "sum_of_square"}, "did you mean 'sum_of_squares'"),
        ({"unit": "token"}, "unit"),
        ({"batches": []}, "at least one batch"),
        ({"batches": [], "reduce": "abs_of_sum"}, "at least one batch"),
        ({"loss": token_nll}, r"a loss for each of the \d records"),
        ({"weights": Weights({})}, "at least one weight"),
    ],
)
def test_what_is_wrong_is_named(models, batches, options, message):
    with pytest.raises(InputError, match=message):
        importance(models("tied"), **{"batches": batches, **options})
