"""The nets of the benchmark papers: parameter counts, shapes, names, derivatives."""

import pytest
import torch
from torch import nn
from torch.func import functional_call, jvp

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.models.mobilenet import MobileNetV2
from limbeck.models.resnet import ResNet8, ResNet8x4, ResNet20, ResNet32, ResNet32x4, ResNet56, ResNet110
from limbeck.models.shufflenet_v1 import ShuffleNetV1
from limbeck.models.shufflenet_v2 import ShuffleNetV2
from limbeck.models.spec import Architecture, DataSpec
from limbeck.models.vgg import VGG8, VGG13
from limbeck.models.wrn import WRN

CIFAR100 = DataSpec("image", (3, 32, 32), 100)
TINY = DataSpec("image", (1, 8, 8), 5)

# Millions of parameters for CIFAR-100 in the benchmark papers' tables (RepDistiller, mdistiller); and the exact count, worked
# out from the layers' sizes.
COUNTS = [
    (ResNet8(), 0.08, 83_892),
    (ResNet20(), 0.28, 278_324),
    (ResNet32(), 0.47, 472_756),
    (ResNet56(), 0.86, 861_620),
    (ResNet110(), 1.74, 1_736_564),
    (ResNet8x4(), 1.23, 1_233_540),
    (ResNet32x4(), 7.43, 7_433_860),
    (WRN(16, 2), 0.70, 703_284),
    (WRN(40, 1), 0.57, 569_780),
    (WRN(40, 2), 2.26, 2_255_156),
    (VGG8(), 3.97, 3_965_028),
    (VGG13(), 9.46, 9_462_180),
    (MobileNetV2(), 0.81, 812_836),
    (ShuffleNetV1(), 0.95, 949_258),
    (ShuffleNetV2(), 1.36, 1_355_528),
]
SMALL = [
    ResNet20(),
    ResNet20(norm="group"),
    WRN(10, 1, dropout=0.2),
    VGG8(),
    MobileNetV2(),
    ShuffleNetV1(),
    ShuffleNetV2(),
]
THREE_LAYERS = ["layer1", "layer2", "layer3", "pool", "fc"]


def build(architecture: Architecture, spec: DataSpec, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return architecture.build(spec)


@pytest.mark.parametrize("architecture, millions, count", COUNTS, ids=[repr(row[0]) for row in COUNTS])
def test_has_the_papers_parameter_count(architecture: Architecture, millions: float, count: int) -> None:
    net = architecture.build(CIFAR100)
    own = sum(part.numel() for part in net.parameters())
    assert own == count
    assert round(own / 1e6, 2) == millions


def test_resnet20_count_by_hand() -> None:
    def convolution(inputs: int, outputs: int, kernel: int) -> int:
        return inputs * outputs * kernel**2 + 2 * outputs  # weights and the normalisation's two

    stem = convolution(3, 16, 3)
    first = 6 * convolution(16, 16, 3)
    second = convolution(16, 32, 3) + 5 * convolution(32, 32, 3) + convolution(16, 32, 1)
    third = convolution(32, 64, 3) + 5 * convolution(64, 64, 3) + convolution(32, 64, 1)
    assert stem + first + second + third + 64 * 100 + 100 == 278_324


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 9, 8)], ids=str)
@pytest.mark.parametrize("architecture", SMALL, ids=repr)
def test_answers_for_images_of_any_size(architecture: Architecture, shape: tuple[int, ...]) -> None:
    net = build(architecture, DataSpec("image", shape, 7)).eval()
    with torch.no_grad():
        logits = net(torch.randn(2, *shape))
    assert logits.shape == (2, 7)
    assert logits.isfinite().all()


@pytest.mark.parametrize("architecture", SMALL, ids=repr)
def test_weights_depend_on_the_seed_only(architecture: Architecture) -> None:
    first, again, other = (build(architecture, TINY, seed).state_dict() for seed in (3, 3, 4))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("architecture", SMALL, ids=repr)
def test_gradient_reaches_every_parameter(architecture: Architecture) -> None:
    net = build(architecture, TINY).double().eval()
    net(torch.randn(4, 1, 8, 8, dtype=torch.float64)).logsumexp(1).sum().backward()
    for name, part in net.named_parameters():
        assert part.grad is not None, name
        assert part.grad.abs().sum() > 0, name


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own, at its first jvp
@pytest.mark.parametrize("architecture", SMALL, ids=repr)
def test_forward_mode_equals_reverse_mode(architecture: Architecture) -> None:
    net = build(architecture, TINY).double().eval()
    inputs = torch.randn(2, 1, 8, 8, dtype=torch.float64)
    weights = {name: part.detach() for name, part in net.named_parameters()}
    direction = {name: torch.randn_like(part) for name, part in weights.items()}

    def losses(parts: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(net, parts, (inputs,)).logsumexp(1)

    _, forward = jvp(losses, (weights,), (direction,))
    for row in range(2):
        gradients = torch.autograd.grad(net(inputs[row : row + 1]).logsumexp(1).sum(), list(net.parameters()))
        reverse = sum((grad * step).sum() for grad, step in zip(gradients, direction.values(), strict=True))
        torch.testing.assert_close(forward[row], reverse, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("architecture", SMALL, ids=repr)
def test_no_operation_is_in_place(architecture: Architecture) -> None:
    net = build(architecture, TINY)
    assert not [name for name, module in net.named_modules() if getattr(module, "inplace", False)]
    inputs = torch.randn(2, 1, 8, 8)
    before = inputs.clone()
    net(inputs)
    assert torch.equal(inputs, before)


def test_group_normalisation_keeps_samples_apart() -> None:
    net = build(ResNet20(norm="group"), TINY).double()
    assert net.training
    inputs = torch.randn(4, 1, 8, 8, dtype=torch.float64)
    torch.testing.assert_close(net(inputs)[:1], net(inputs[:1]))


@pytest.mark.parametrize(
    "architecture, names",
    [
        (ResNet8x4(), ["stem", "layer1", "layer1.0", *THREE_LAYERS[1:]]),
        (WRN(10, 1), ["stem", "layer1", "layer1.0", "layer2", "layer3", "last", "pool", "fc"]),
        (VGG8(), ["layer1", "layer2", "layer3", "layer4", "layer5", "pool", "fc"]),
        (MobileNetV2(), ["stem", "layer1", "layer1.0", "layer2", "layer3", "layer4", "last", "pool", "fc"]),
        (ShuffleNetV1(), ["stem", "layer1", "layer1.0", *THREE_LAYERS[1:]]),
        (ShuffleNetV2(), ["stem", "layer1", "layer1.0", "layer2", "layer3", "last", "pool", "fc"]),
    ],
    ids=lambda value: repr(value) if isinstance(value, Architecture) else "",
)
def test_documented_taps_give_features(architecture: Architecture, names: list[str]) -> None:
    net = build(architecture, DataSpec("image", (1, 16, 16), 5)).eval()
    with torch.no_grad():
        outputs = Tapped(net, names)(Batch(torch.randn(2, 1, 16, 16), None, torch.arange(2)))
    assert set(outputs.features) == set(names)
    assert outputs.features["pool"].dim() == 2
    assert outputs.features["layer1"].dim() == 4
    assert torch.equal(outputs.features["fc"], outputs.logits)


@pytest.mark.parametrize("architecture", SMALL, ids=repr)
def test_refuses_what_is_no_image_or_too_small(architecture: Architecture) -> None:
    with pytest.raises(UsageError, match=r"takes image data, but this data is of kind 'vector'; use MLP\(\)"):
        architecture.build(DataSpec("vector", (14,), 2))
    with pytest.raises(UsageError, match="at least 8x8 pixels, got 8x7"):
        architecture.build(DataSpec("image", (1, 8, 7), 2))


def test_refuses_wrong_arguments() -> None:
    with pytest.raises(UsageError, match="norm must be 'batch' or 'group', got 'layer'"):
        ResNet20(norm="layer")
    with pytest.raises(UsageError, match="6n \\+ 4"):
        WRN(depth=20, width=2)
    with pytest.raises(UsageError, match="WRN: width"):
        WRN(depth=16, width=0)
    with pytest.raises(UsageError, match="dropout"):
        WRN(depth=16, width=1, dropout=1.0)
