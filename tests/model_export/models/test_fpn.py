"""The feature pyramid and its head compute class scores for each pixel of any image."""

import math

import pytest
import torch

from model_export.models.fpn import FeaturePyramid, SegmentationHead, add_top_down
from model_export.models.registry import build, dimensions_of
from tests.model_export.networks import features, noise, randomised

CHANNELS = (64, 128, 256, 512)


@pytest.fixture(autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


def maps_of(channels=CHANNELS, side: int = 16) -> list[torch.Tensor]:
    return [
        features(width, 1, side >> level, side >> level, seed=level)
        for level, width in enumerate(channels)
    ]


@pytest.fixture(scope="module")
def fpn() -> torch.nn.Module:
    torch.manual_seed(0)
    return randomised(build(dimensions_of("fpn_resnet18", classes=5)))


@pytest.mark.parametrize("size", [(32, 32), (32, 96), (96, 64)])
def test_logits_have_the_size_of_the_image(fpn, size):
    assert fpn(noise(1, *size)).shape == (1, 5, *size)


def test_each_level_takes_the_one_above_it_by_nearest_neighbour():
    fine, coarse = features(256, 1, 4, 4), features(256, 1, 2, 2, seed=9)
    finer, coarsest = add_top_down([fine, coarse])
    assert coarsest is coarse
    for row in range(4):
        for column in range(4):
            expected = fine[..., row, column] + coarse[..., row // 2, column // 2]
            torch.testing.assert_close(finer[..., row, column], expected)


def test_the_pyramid_is_laterals_sums_and_3x3_convolutions():
    pyramid, maps = randomised(FeaturePyramid(CHANNELS)), maps_of()
    summed = add_top_down([lat(x) for lat, x in zip(pyramid.lateral, maps, strict=True)])
    outputs = pyramid(maps)
    assert [tuple(x.shape[1:]) for x in outputs] == [(256, s, s) for s in (16, 8, 4, 2)]
    for output, conv, x in zip(outputs, pyramid.output, summed, strict=True):
        assert conv.kernel_size == (3, 3)
        torch.testing.assert_close(output, conv(x))


def test_the_head_has_a_convolution_for_each_doubling_of_the_resolution():
    head = SegmentationHead(5)
    convolutions = [[m for m in level if isinstance(m, torch.nn.Conv2d)] for level in head.levels]
    upsamplings = [[m for m in level if isinstance(m, torch.nn.Upsample)] for level in head.levels]
    assert [len(level) for level in convolutions] == [1, 1, 2, 3]
    assert [len(level) for level in upsamplings] == [0, 1, 2, 3]
    assert all(conv.bias is None for level in convolutions for conv in level)
    assert head(maps_of((256,) * 4)).shape == (1, 5, 16, 16)


def test_every_level_reaches_the_prediction():
    head, maps = randomised(SegmentationHead(5)), maps_of((256,) * 4)
    before = head(maps)
    for level in range(4):
        changed = [x.roll(1, dims=3) if index == level else x for index, x in enumerate(maps)]
        assert (head(changed) - before).abs().max() > 1e-3


@pytest.mark.parametrize("model", ["fpn_resnet18", "vt_fpn_resnet18"])
def test_a_fresh_segmenter_predicts_all_classes_alike(model):
    torch.manual_seed(0)
    network = build(dimensions_of(model, classes=2)).train()
    truth = torch.zeros(4, 64, 64, dtype=torch.int64)
    loss = torch.nn.functional.cross_entropy(network(noise()), truth)
    assert abs(float(loss) - math.log(2)) < 0.3
