"""VT-ResNets work in every variant, and their logits do not depend on the order of tokens."""

import pytest
import torch

from model_export.models.registry import build, dimensions_of
from model_export.models.resnet import ResNet
from model_export.models.vt_resnet import VTResNet
from tests.model_export.networks import noise, randomised

VARIANTS = {
    "default": {},
    "filter": {"tokenizer": "filter"},
    "pooling": {"tokenizer": "pooling"},
    "clustering": {"tokenizer": "clustering"},
    "graph": {"token_relation": "graph"},
    "no relation": {"token_relation": "none"},
    "no projector": {"projector": False},
    "32 tokens": {"tokens": 32},
    "64 tokens": {"tokens": 64},
    "4 heads": {"heads": 4},
}


def network_of(model: str = "vt_resnet18", **changes) -> VTResNet:
    torch.manual_seed(0)
    return randomised(build(dimensions_of(model, classes=5, **changes)))


@pytest.fixture(scope="module")
def vt_resnet18() -> VTResNet:
    return network_of()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_runs_forward_and_backward(changes):
    network = network_of(**changes)
    tokens, attention = network.visual_tokens(noise())
    count = changes.get("tokens", 16)
    assert tokens.shape == (4, 1024, count)
    if changes.get("tokenizer") == "pooling":
        assert attention is None
        assert not network.has_attention
    else:
        modules = 1 if changes.get("projector") is False else 2
        assert attention.shape == (4, modules, count, 4, 4)
        torch.testing.assert_close(attention.sum(dim=(3, 4)), torch.ones(4, modules, count))
    with torch.enable_grad():
        network(noise()).square().sum().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize(
    ("model", "modules", "in_channels", "out_channels"),
    [
        ("vt_resnet18", 2, 256, 512),
        ("vt_resnet34", 3, 256, 512),
        ("vt_resnet50", 3, 1024, 1024),
        ("vt_resnet101", 3, 1024, 1024),
    ],
)
def test_the_modules_have_the_widths_of_the_published_models(
    model, modules, in_channels, out_channels
):
    with torch.device("meta"):
        network = build(dimensions_of(model))
    vts = network.visual_transformers
    assert len(vts) == modules
    assert vts[0].tokenizer.coef.in_channels == in_channels
    assert vts[0].projector.query[0].out_channels == out_channels
    assert [vt.projector is None for vt in vts] == [*[False] * (modules - 1), True]
    assert type(vts[-1].tokenizer).__name__ == "RecurrentTokenizer"


def test_a_bottleneck_vt_resnet_runs():
    network = network_of("vt_resnet50", stride_in_1x1=True)
    assert network(noise()).shape == (4, 5)


def test_the_trunk_is_the_first_three_stages_of_the_resnet(vt_resnet18):
    with torch.device("meta"):
        whole = ResNet(18, classes=1000).state_dict().keys()
    trunk = {key for key in whole if not key.startswith(("layer4.", "fc."))}
    assert vt_resnet18.trunk.state_dict().keys() == trunk


@pytest.mark.parametrize("size", [(32, 32), (64, 96), (96, 32), (128, 64)])
def test_any_height_and_width_that_is_a_multiple_of_32_works(vt_resnet18, size):
    images = noise(1, *size)
    _, attention = vt_resnet18.visual_tokens(images)
    assert attention.shape[3:] == (size[0] // 16, size[1] // 16)
    assert torch.isfinite(vt_resnet18(images)).all()


def test_permuting_the_first_tokenizers_coefficients_leaves_the_logits_unchanged():
    """Through every module: recurrent tokenizers and projectors carry the order along."""
    network = network_of()
    logits, tokens = network(noise()), network.visual_tokens(noise()).tokens
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    coef = network.visual_transformers[0].tokenizer.coef
    coef.weight.copy_(coef.weight[order])
    torch.testing.assert_close(
        network.visual_tokens(noise()).tokens, tokens[:, :, order], rtol=1e-3, atol=1e-4
    )
    torch.testing.assert_close(network(noise()), logits, rtol=1e-4, atol=1e-5)


def test_permuting_the_tokens_before_the_head_leaves_the_logits_unchanged(vt_resnet18):
    tokens = vt_resnet18.visual_tokens(noise()).tokens
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        vt_resnet18.classify(tokens[:, :, order]), vt_resnet18.classify(tokens)
    )


def test_permuting_the_pixels_of_the_map_permutes_the_next_map_and_keeps_the_tokens(vt_resnet18):
    module = vt_resnet18.visual_transformers[0]
    x = vt_resnet18.trunk.features(noise())[-1]  # [B, 256, 4, 4]
    order = torch.randperm(16, generator=torch.Generator().manual_seed(0))

    def shuffled(y):
        return y.flatten(2)[:, :, order].reshape(y.shape)

    next_map, (tokens, _) = module(x, None)
    moved_map, (same_tokens, _) = module(shuffled(x), None)
    torch.testing.assert_close(moved_map, shuffled(next_map), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(same_tokens, tokens, rtol=1e-4, atol=1e-4)


def test_different_images_have_different_logits(vt_resnet18):
    first, second, *_ = vt_resnet18(noise())
    assert (first - second).abs().max() > 1e-3


def test_an_images_logits_do_not_depend_on_the_batch(vt_resnet18):
    together = vt_resnet18(noise())
    alone = torch.cat([vt_resnet18(image[None]) for image in noise()])
    torch.testing.assert_close(together, alone, rtol=1e-3, atol=1e-3)
