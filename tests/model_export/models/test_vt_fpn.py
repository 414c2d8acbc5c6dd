"""VT-FPN: tokens of all levels meet in one transformer and return to their own pixels."""

import pytest
import torch

from model_export.models.registry import build, dimensions_of
from tests.model_export.networks import noise, randomised

VARIANTS = {
    "default": {},
    "recurrent": {"tokenizer": "recurrent"},
    "pooling": {"tokenizer": "pooling"},
    "clustering": {"tokenizer": "clustering"},
    "graph": {"token_relation": "graph"},
    "no relation": {"token_relation": "none"},
    "16 tokens": {"tokens": 16},
    "4 heads": {"heads": 4},
}


def network_of(**changes) -> torch.nn.Module:
    torch.manual_seed(0)
    dimensions = dimensions_of("vt_fpn_resnet18", classes=5, **changes)
    return randomised(build(dimensions))


@pytest.fixture(scope="module")
def vt_fpn() -> torch.nn.Module:
    return network_of()


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.mark.parametrize("changes", VARIANTS.values(), ids=VARIANTS.keys())
def test_every_variant_runs_forward_and_backward(changes):
    network = network_of(**changes)
    assert network(noise()).shape == (4, 5, 64, 64)
    with torch.enable_grad():
        network(noise()).square().sum().backward()
    silent = [n for n, p in network.named_parameters() if p.grad is None or not p.grad.any()]
    assert silent == []


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (96, 64)])
def test_any_height_and_width_that_is_a_multiple_of_32_works(vt_fpn, size):
    logits = vt_fpn(noise(1, *size))
    assert logits.shape == (1, 5, *size)
    assert torch.isfinite(logits).all()


def test_there_are_no_3x3_convolutions_in_the_pyramid(vt_fpn):
    kernels = {m.kernel_size for m in vt_fpn.pyramid.modules() if hasattr(m, "kernel_size")}
    assert kernels == {(1, 1), (1,)}


def test_thirty_two_tokens_meet_in_one_transformer(vt_fpn):
    seen = []
    hook = vt_fpn.pyramid.relation.register_forward_hook(lambda m, i, o: seen.append(i[0].shape))
    vt_fpn(noise())
    hook.remove()
    assert seen == [(4, 1024, 32)]


def test_a_tokenizers_attention_sums_to_1_over_the_pixels_of_its_own_level(vt_fpn):
    pyramid = vt_fpn.pyramid
    for level, x in enumerate(vt_fpn.backbone.features(noise())):
        attention = pyramid.tokenizers[level](pyramid.lateral[level](x)).attention
        assert attention.shape == (4, 8, (16 >> level) ** 2)
        torch.testing.assert_close(attention.sum(dim=2), torch.ones(4, 8))


def test_the_order_of_a_levels_tokens_leaves_the_logits_unchanged():
    network = network_of()
    expected = network(noise())
    coef = network.pyramid.tokenizers[1].coef
    coef.weight.copy_(coef.weight[torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])])
    torch.testing.assert_close(network(noise()), expected, rtol=1e-4, atol=1e-4)


def test_projectors_whose_values_are_0_leave_the_laterals_and_their_sums():
    network = network_of()
    pyramid = network.pyramid
    maps = network.backbone.features(noise())
    for projector in pyramid.projectors:
        projector.value[0].weight.zero_()
        projector.value[1].running_mean.zero_()
        projector.value[1].bias.zero_()
    summed = pyramid(maps)
    laterals = [lateral(x) for lateral, x in zip(pyramid.lateral, maps, strict=True)]
    torch.testing.assert_close(summed[3], laterals[3], rtol=0, atol=0)
    enlarged = summed[3].repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
    torch.testing.assert_close(summed[2], laterals[2] + enlarged)


def test_a_fine_level_changes_the_map_of_a_coarse_level_through_the_tokens(vt_fpn):
    """From fine to coarse there is no other way: the sums go from coarse to fine."""
    maps = vt_fpn.backbone.features(noise())
    changed = [maps[0] * 1.5, *maps[1:]]
    before, after = vt_fpn.pyramid(maps)[3], vt_fpn.pyramid(changed)[3]
    assert (after - before).abs().max() > 1e-4
