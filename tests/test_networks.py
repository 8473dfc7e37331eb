"""The networks: sizes against papers or arithmetic, initialisation, torch.func through them."""

from itertools import chain, pairwise
from math import sqrt

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, grad, jvp, vjp, vmap

from adatune_func.networks import (
    MLP,
    NETWORKS,
    VGG,
    DenseNet,
    LeNet,
    ResNet,
    WideResNet,
    initialize,
    network,
)
from adatune_func.networks.densenet import DenseLayer
from adatune_func.networks.resnet import Residual
from adatune_func.networks.wide_resnet import WideBlock

REDUCED = {
    "mlp": lambda: MLP((6, 5), num_classes=3, in_channels=2, image_size=8),
    "lenet": lambda: LeNet((2, 3), (6, 5), num_classes=3, in_channels=2, image_size=16),
    "vgg": lambda: VGG((1, 1, 1, 1, 1), width=2, num_classes=3, in_channels=2),
    "resnet": lambda: ResNet((1, 1), base_width=2, num_classes=3, in_channels=2),
    "bottleneck": lambda: ResNet(
        (1, 1), bottleneck=True, base_width=2, num_classes=3, in_channels=2
    ),
    "wide_resnet": lambda: WideResNet(10, 2, base_width=2, num_classes=3, in_channels=2),
    "densenet": lambda: DenseNet(10, 2, num_classes=3, in_channels=2),
}


def count(name: str, **kwargs: int) -> int:
    with torch.device("meta"):
        return sum(param.numel() for param in network(name, **kwargs).parameters())


def linear(inputs: int, outputs: int) -> int:
    return inputs * outputs + outputs


def vgg_count(groups: list[list[int]]) -> int:
    """Convolutions without bias, two numbers a BatchNorm channel, one linear layer."""
    channels = [3, *chain.from_iterable(groups)]
    convolutions = sum(9 * a * b for a, b in pairwise(channels))
    return convolutions + 2 * sum(channels[1:]) + linear(512, 10)


def wide_count(width: int) -> int:
    """WRN-28: a stem, 3 stages of 4 blocks of 2 norms and 2 convolutions, shortcuts, norm, head."""
    total, channels = 9 * 3 * 16, 16
    for stage in (16 * width, 32 * width, 64 * width):
        for block in range(4):
            total += 2 * channels + 9 * channels * stage + 2 * stage + 9 * stage * stage
            total += channels * stage if block == 0 else 0
            channels = stage
    return total + 2 * channels + linear(channels, 10)


def basic_resnet_count(blocks: tuple[int, ...]) -> int:
    total, channels = 9 * 3 * 64 + 2 * 64, 64
    for stage, repeats in zip((64, 128, 256, 512), blocks, strict=True):
        for _ in range(repeats):
            total += 9 * channels * stage + 9 * stage * stage + 4 * stage
            total += channels * stage + 2 * stage if channels != stage else 0
            channels = stage
    return total + linear(512, 10)


def bottleneck_resnet_count(blocks: tuple[int, ...]) -> int:
    total, channels = 9 * 3 * 64 + 2 * 64, 64
    for inner, repeats in zip((64, 128, 256, 512), blocks, strict=True):
        for _ in range(repeats):
            outer = 4 * inner
            total += channels * inner + 9 * inner * inner + inner * outer + 4 * inner + 2 * outer
            total += channels * outer + 2 * outer if channels != outer else 0
            channels = outer
    return total + linear(2048, 10)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("vgg_11", vgg_count([[64], [128], [256] * 2, [512] * 2, [512] * 2])),
        ("vgg_13", vgg_count([[64] * 2, [128] * 2, [256] * 2, [512] * 2, [512] * 2])),
        ("vgg_16", vgg_count([[64] * 2, [128] * 2, [256] * 3, [512] * 3, [512] * 3])),
        ("vgg_19", vgg_count([[64] * 2, [128] * 2, [256] * 4, [512] * 4, [512] * 4])),
        ("resnet_18", basic_resnet_count((2, 2, 2, 2))),
        ("resnet_34", basic_resnet_count((3, 4, 6, 3))),
        ("resnet_50", bottleneck_resnet_count((3, 4, 6, 3))),
        ("resnet_101", bottleneck_resnet_count((3, 4, 23, 3))),
        ("resnet_152", bottleneck_resnet_count((3, 8, 36, 3))),
        ("wide_resnet_28_10", wide_count(10)),
        ("wide_resnet_28_20", wide_count(20)),
    ],
)
def test_parameters_are_as_many_as_arithmetic_says(name: str, expected: int) -> None:
    assert count(name, num_classes=10, in_channels=3) == expected


def test_parameters_are_as_many_as_the_papers_say() -> None:
    colour = {"num_classes": 10, "in_channels": 3}
    assert count("wide_resnet_28_10", **colour) == pytest.approx(36.5e6, abs=0.05e6)
    assert count("densenet_bc_100_12", **colour) == pytest.approx(0.8e6, abs=0.05e6)


def test_small_networks_count_by_hand() -> None:
    grey = {"num_classes": 10, "in_channels": 1, "image_size": 28}
    assert count("mlp", **grey) == linear(784, 512) + linear(512, 256) + linear(256, 10)
    head = linear(120, 84) + linear(84, 10)
    assert count("lenet", **grey) == (
        linear(25, 20) + linear(25 * 20, 50) + linear(50 * 4 * 4, 120) + head
    )
    colour = {"num_classes": 10, "in_channels": 3, "image_size": 32}
    assert count("lenet", **colour) == (
        linear(3 * 25, 6) + linear(25 * 6, 16) + linear(16 * 5 * 5, 120) + head
    )


@pytest.mark.parametrize(("in_channels", "image_size"), [(1, 28), (3, 32)])
@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_takes_grayscale_and_colour(
    name: str, in_channels: int, image_size: int
) -> None:
    with torch.device("meta"):
        net = network(name, num_classes=7, in_channels=in_channels, image_size=image_size)
        images = torch.empty(2, in_channels, image_size, image_size)
    assert net(images).shape == (2, 7)


def test_names_without_a_size_are_the_usual_sizes() -> None:
    sized = {
        "vgg": "vgg_11",
        "resnet": "resnet_18",
        "wide_resnet": "wide_resnet_28_10",
        "densenet": "densenet_bc_100_12",
    }
    for name, same in sized.items():
        assert count(name, num_classes=10, in_channels=3) == count(
            same, num_classes=10, in_channels=3
        )


@pytest.mark.parametrize("name", REDUCED)
def test_initialisation(name: str) -> None:
    net = REDUCED[name]()
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d):
            area = layer.kernel_size[0] * layer.kernel_size[1]
            bound = sqrt(2) * sqrt(6 / (area * (layer.in_channels + layer.out_channels)))
            assert layer.weight.abs().max() <= bound
            assert layer.bias is None or layer.bias.eq(0).all()
        elif isinstance(layer, nn.BatchNorm2d):
            assert layer.weight.eq(1).all()
            assert layer.bias.eq(0).all()


def test_initialisation_fills_the_whole_range() -> None:
    convolution = nn.Conv2d(16, 48, 3)
    initialize(convolution)
    bound = sqrt(2) * sqrt(6 / (9 * (16 + 48)))
    assert convolution.weight.abs().max().item() == pytest.approx(bound, rel=0.01)
    assert convolution.weight.std().item() == pytest.approx(bound / sqrt(3), rel=0.03)


@pytest.mark.parametrize("name", REDUCED)
def test_jvp_over_grad_is_the_hessian_vector_product(name: str) -> None:
    """Forward over reverse equals reverse over reverse, in train mode, one column and two."""
    torch.manual_seed(0)
    net = REDUCED[name]().double().train()
    params = {key: param.detach() for key, param in net.named_parameters()}
    buffers = {key: buffer.detach() for key, buffer in net.named_buffers()}
    size = {"mlp": 8, "lenet": 16}.get(name, 12)
    images, labels = torch.randn(5, 2, size, size).double(), torch.tensor([0, 1, 2, 0, 1])

    def loss(params: dict[str, Tensor], buffers: dict[str, Tensor]) -> tuple[Tensor, dict]:
        buffers = {key: buffer.clone() for key, buffer in buffers.items()}
        logits = functional_call(net, (params, buffers), (images,))
        return F.cross_entropy(logits, labels), buffers

    def gradient(params: dict[str, Tensor]) -> dict[str, Tensor]:
        return grad(loss, has_aux=True)(params, buffers)[0]

    def product(v: dict[str, Tensor]) -> dict[str, Tensor]:
        return jvp(gradient, (params,), (v,))[1]

    v = {key: torch.randn(2, *param.shape).double() for key, param in params.items()}
    both = vmap(product)(v)
    for column in range(2):
        direction = {key: leaf[column] for key, leaf in v.items()}
        one = product(direction)
        (expected,) = vjp(gradient, params)[1](direction)  # the Hessian is symmetric
        for key in params:
            torch.testing.assert_close(one[key], expected[key], rtol=1e-9, atol=1e-11)
            torch.testing.assert_close(both[key][column], expected[key], rtol=1e-9, atol=1e-11)
    _, moved = loss(params, buffers)
    assert all(not torch.equal(moved[key], buffers[key]) for key in buffers)


def test_vgg_pools_28_pixels_to_the_same_one_pixel_as_32() -> None:
    net = VGG((1, 1, 1, 1, 1), width=2)
    for size in (28, 32):
        assert net.features(torch.randn(2, 3, size, size)).shape == (2, 16)


def test_wide_resnet_drops_between_the_convolutions_of_a_block() -> None:
    assert not any(isinstance(m, nn.Dropout) for m in WideResNet(10, 1).modules())
    net = WideResNet(10, 1, dropout=0.3)
    assert [m.p for m in net.modules() if isinstance(m, nn.Dropout)] == [0.3] * 3
    images = torch.randn(2, 3, 8, 8)
    assert not torch.equal(net.train()(images), net(images))
    assert torch.equal(net.eval()(images), net(images))


def test_a_block_adds_its_residual_to_what_comes_in() -> None:
    x = torch.randn(2, 4, 6, 6)
    wide, residual = WideBlock(4, 4, 1, 0.0), Residual(4, 4, 1, bottleneck=False)
    for param in (*wide.residual[-1].parameters(), *residual.residual[-1].parameters()):
        nn.init.zeros_(param)
    assert torch.equal(wide(x), x)
    assert torch.equal(residual(x), F.relu(x))
    new = DenseLayer(4, 2)(x)
    assert new.shape == (2, 6, 6, 6)
    assert torch.equal(new[:, :4], x)


def test_no_operation_works_in_place_on_its_input() -> None:
    for build in REDUCED.values():
        assert not any(getattr(layer, "inplace", False) for layer in build().modules())


def test_errors_say_what_to_do() -> None:
    with pytest.raises(
        ValueError, match="no network is called 'alexnet'; known are mlp, lenet, vgg"
    ):
        network("alexnet", num_classes=10, in_channels=3)
    with pytest.raises(ValueError, match="at least 16 x 16 pixels, not 15 x 15"):
        network("lenet", num_classes=10, in_channels=1, image_size=15)
    with pytest.raises(ValueError, match="6 n \\+ 4"):
        WideResNet(27, 10)
    with pytest.raises(ValueError, match="6 n \\+ 4"):
        DenseNet(99, 12)
    assert LeNet(image_size=16)(torch.randn(1, 1, 16, 16)).shape == (1, 10)
