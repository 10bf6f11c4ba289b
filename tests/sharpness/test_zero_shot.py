"""CLIP's zero-shot classifier against CLIP itself, and as the thing that is fine-tuned and interpolated."""

from __future__ import annotations

import pytest
import torch

from remanent.core.displacement import Interpolation
from remanent.errors import InputError, UnsupportedError
from remanent.sharpness.interpolation import weights_of
from remanent.sharpness.layers import layers_of
from remanent.sharpness.zero_shot import ZeroShotClassifier

CLASSES = ["cat", "dog", "train"]


@pytest.fixture
def clip():
    from transformers import CLIPConfig, CLIPModel

    text = {"vocab_size": 32, "max_position_embeddings": 16, "eos_token_id": 3, "bos_token_id": 1, "pad_token_id": 0}
    vision = {"image_size": 8, "patch_size": 4}
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = CLIPConfig(text_config={**text, **sizes}, vision_config={**vision, **sizes}, projection_dim=12)
    with torch.random.fork_rng([]):
        torch.manual_seed(0)
        model = CLIPModel(config)
        for parameter in model.parameters():  # as drawn, all images look alike
            if parameter.dim() > 1:
                torch.nn.init.normal_(parameter, std=0.3)
    return model.eval()


@pytest.fixture
def tokenizer():
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    words = ["<pad>", "<s>", "<unk>", "</s>", *["a", "photo", "of", "cat", "dog", "train", "drawing", "the", "."]]
    made = Tokenizer(models.WordLevel({word: place for place, word in enumerate(words)}, unk_token="<unk>"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", 1), ("</s>", 3)])
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<pad>", model_max_length=16)


def test_with_one_template_its_logits_are_clips_own(clip, tokenizer):
    pixels = torch.randn(5, 3, 8, 8)
    inputs = tokenizer([f"a photo of a {name}." for name in CLASSES], padding=True, return_tensors="pt")
    with torch.no_grad():
        expected = clip(
            input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], pixel_values=pixels
        ).logits_per_image
        found = ZeroShotClassifier(clip, tokenizer, CLASSES, batch_size=2)(pixels)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_several_templates_are_averaged_after_each_was_normalized(clip, tokenizer):
    templates = ["a photo of a {}.", "the drawing of {}"]
    rows = []
    with torch.no_grad():
        for name in CLASSES:
            found = []
            for template in templates:  # one at a time: no padding has a part in it
                inputs = tokenizer(template.format(name), return_tensors="pt")
                features = clip.text_model(inputs["input_ids"], inputs["attention_mask"])
                features = clip.text_projection(features.pooler_output)[0]
                found.append(features / features.norm())
            mean = sum(found) / 2
            rows.append(clip.logit_scale.exp() * mean / mean.norm())
    head = ZeroShotClassifier(clip, tokenizer, CLASSES, templates).head
    torch.testing.assert_close(head.weight.detach(), torch.stack(rows), rtol=1e-4, atol=1e-5)


def test_it_trains_without_the_text_side_and_goes_back_along_the_path(clip, tokenizer):
    model = ZeroShotClassifier(clip, tokenizer, CLASSES)
    assert not any("text" in name or name == "logit_scale" for name, _ in model.named_parameters())
    assert set(layers_of(model)) >= {"vision_model.encoder.layers.0", "vision_model.encoder.layers.1", "head"}
    before, pixels = weights_of(model), torch.randn(6, 3, 8, 8)
    zero_shot = model(pixels).detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    torch.nn.functional.cross_entropy(model(pixels), torch.tensor([0, 1, 2, 0, 1, 2])).backward()
    optimizer.step()
    tuned = model(pixels).detach()
    assert not torch.allclose(tuned, zero_shot)
    with Interpolation(before, 1.0).at(model), torch.no_grad():
        torch.testing.assert_close(model(pixels), zero_shot)
    with torch.no_grad():
        assert torch.equal(model(pixels), tuned)


@pytest.mark.parametrize(
    ("classes", "templates", "field"),
    [
        ([], ["{}"], "classes"),
        (["cat", "cat"], ["{}"], "classes"),
        (["cat"], ["a cat"], "templates"),
        (["cat"], [], "templates"),
    ],
)
def test_bad_input(clip, tokenizer, classes, templates, field):
    with pytest.raises(InputError, match=field):
        ZeroShotClassifier(clip, tokenizer, classes, templates)


def test_a_model_that_has_no_text_side(tokenizer):
    with pytest.raises(UnsupportedError, match="get_text_features"):
        ZeroShotClassifier(torch.nn.Linear(2, 2), tokenizer, ["cat"])
