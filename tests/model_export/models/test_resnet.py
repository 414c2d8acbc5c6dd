"""The ResNets have torchvision's parameter names and compute what their layers define."""

import pytest
import torch
from torch.nn import functional

from model_export.models.resnet import Bottleneck, ResNet
from tests.model_export.networks import noise, randomised


def norm(name: str) -> list[str]:
    fields = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    return [f"{name}.{field}" for field in fields]


def torchvision_names(blocks: list[int], convolutions: int, downsampled_stages: set[int]) -> set:
    """The keys of torchvision's `resnet18` (2 convolutions per block) and `resnet50` (3)."""
    names = ["conv1.weight", *norm("bn1"), "fc.weight", "fc.bias"]
    for stage, count in enumerate(blocks, start=1):
        for block in range(count):
            place = f"layer{stage}.{block}"
            for number in range(1, convolutions + 1):
                names += [f"{place}.conv{number}.weight", *norm(f"{place}.bn{number}")]
            if block == 0 and stage in downsampled_stages:
                names += [f"{place}.downsample.0.weight", *norm(f"{place}.downsample.1")]
    return set(names)


@pytest.mark.parametrize(
    ("depth", "blocks", "convolutions", "downsampled", "count"),
    [
        pytest.param(18, [2, 2, 2, 2], 2, {2, 3, 4}, 122, id="resnet18"),
        pytest.param(34, [3, 4, 6, 3], 2, {2, 3, 4}, 218, id="resnet34"),
        pytest.param(50, [3, 4, 6, 3], 3, {1, 2, 3, 4}, 320, id="resnet50"),
        pytest.param(101, [3, 4, 23, 3], 3, {1, 2, 3, 4}, 626, id="resnet101"),
    ],
)
def test_parameters_have_the_names_of_torchvision(depth, blocks, convolutions, downsampled, count):
    with torch.device("meta"):
        names = ResNet(depth, classes=1000).state_dict().keys()
    assert names == torchvision_names(blocks, convolutions, downsampled)
    assert len(names) == count


def test_some_shapes_are_those_of_torchvision():
    with torch.device("meta"):
        shapes = {k: list(v.shape) for k, v in ResNet(50, classes=1000).state_dict().items()}
    assert shapes["conv1.weight"] == [64, 3, 7, 7]
    assert shapes["layer1.0.downsample.0.weight"] == [256, 64, 1, 1]
    assert shapes["layer3.0.conv1.weight"] == [256, 512, 1, 1]
    assert shapes["layer4.2.conv3.weight"] == [2048, 512, 1, 1]
    assert shapes["fc.weight"] == [1000, 2048]


@pytest.mark.parametrize(
    ("depth", "channels"), [(18, (64, 128, 256, 512)), (50, (256, 512, 1024, 2048))]
)
def test_a_trunk_gives_one_map_per_stage_at_strides_4_to_32(depth, channels):
    trunk = randomised(ResNet(depth, classes=None))
    maps = trunk.features(noise(1, 64, 96))
    expected = zip(channels, (4, 8, 16, 32), strict=True)
    assert [tuple(x.shape) for x in maps] == [(1, c, 64 // s, 96 // s) for c, s in expected]
    assert "fc.weight" not in trunk.state_dict()


def test_the_stride_is_in_the_first_1x1_or_in_the_3x3():
    first = Bottleneck(256, 128, stride=2, stride_in_1x1=True)
    default = Bottleneck(256, 128, stride=2, stride_in_1x1=False)
    assert (first.conv1.stride, first.conv2.stride) == ((2, 2), (1, 1))
    assert (default.conv1.stride, default.conv2.stride) == ((1, 1), (2, 2))
    assert first.state_dict().keys() == default.state_dict().keys()


def test_a_basic_block_is_two_convolutions_around_a_shortcut():
    network = randomised(ResNet(18, classes=3))
    block, x = network.layer2[0], torch.randn(1, 64, 8, 8)

    def normalised(y, bn):
        mean, var = bn.running_mean[:, None, None], bn.running_var[:, None, None]
        scaled = (y - mean) / torch.sqrt(var + 1e-5)
        return scaled * bn.weight[:, None, None] + bn.bias[:, None, None]

    with torch.no_grad():
        y = functional.conv2d(x, block.conv1.weight, stride=2, padding=1)
        y = functional.conv2d(normalised(y, block.bn1).relu(), block.conv2.weight, padding=1)
        shortcut = functional.conv2d(x, block.downsample[0].weight, stride=2)
        expected = normalised(y, block.bn2) + normalised(shortcut, block.downsample[1])
        torch.testing.assert_close(block(x), expected.relu(), rtol=1e-4, atol=1e-4)


def test_the_stem_is_a_7x7_convolution_and_a_3x3_maximum():
    network = randomised(ResNet(18, classes=3))
    seen = []
    hook = network.layer1.register_forward_hook(lambda module, given, output: seen.append(given))
    with torch.no_grad():
        network(noise())
        x = functional.conv2d(noise(), network.conv1.weight, stride=2, padding=3)
        expected = functional.max_pool2d(network.bn1(x).relu(), 3, stride=2, padding=1)
    hook.remove()
    torch.testing.assert_close(seen[0][0], expected)


def test_logits_come_from_the_mean_of_the_last_map():
    network = randomised(ResNet(18, classes=7))
    with torch.no_grad():
        last = network.features(noise())[-1]
        expected = last.mean(dim=(2, 3)) @ network.fc.weight.T + network.fc.bias
        torch.testing.assert_close(network(noise()), expected)
