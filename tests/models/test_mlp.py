import pytest
import torch

from limbeck.core.errors import UsageError
from limbeck.models.mlp import MLP
from limbeck.models.spec import DataSpec

DIGITS = DataSpec("image", (1, 8, 8), 10)


@pytest.mark.parametrize(
    "mlp, count",
    [
        (MLP(width=128), 64 * 128 + 128 + 128 * 10 + 10),
        (MLP(width=32, depth=1), 64 * 32 + 32 + 32 * 10 + 10),
        (MLP(width=32, depth=3), 64 * 32 + 32 + 2 * (32 * 32 + 32) + 32 * 10 + 10),
        (MLP(depth=0), 64 * 10 + 10),
    ],
    ids=repr,
)
def test_parameter_count(mlp: MLP, count: int) -> None:
    assert sum(part.numel() for part in mlp.build(DIGITS).parameters()) == count


def test_takes_images_and_vectors() -> None:
    assert MLP(width=8).build(DIGITS)(torch.randn(3, 1, 8, 8)).shape == (3, 10)
    assert MLP(width=8).build(DataSpec("vector", (14,), 2))(torch.randn(3, 14)).shape == (3, 2)


def test_computes_the_formula() -> None:
    torch.manual_seed(0)
    net = MLP(width=5, depth=1).build(DataSpec("vector", (4,), 3)).double()
    inputs = torch.randn(6, 4, dtype=torch.float64)
    weights = dict(net.named_parameters())
    hidden = (inputs @ weights["layer1.0.weight"].T + weights["layer1.0.bias"]).clamp(min=0)
    torch.testing.assert_close(net(inputs), hidden @ weights["fc.weight"].T + weights["fc.bias"])


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    net = MLP(width=64, dropout=0.5).build(DIGITS)
    inputs = torch.randn(2, 64)
    assert not torch.equal(net(inputs), net(inputs))
    net.eval()
    assert torch.equal(net(inputs), net(inputs))


def test_same_seed_same_weights() -> None:
    nets = []
    for _ in range(2):
        torch.manual_seed(7)
        nets.append(MLP(width=8).build(DIGITS))
    assert all(torch.equal(a, b) for a, b in zip(nets[0].parameters(), nets[1].parameters(), strict=True))


@pytest.mark.parametrize(
    "wrong", [{"width": 0}, {"width": 2.5}, {"depth": -1}, {"dropout": 1.0}, {"dropout": -0.1}, {"width": True}], ids=str
)
def test_refuses_wrong_arguments(wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"MLP: {next(iter(wrong))}"):
        MLP(**wrong)


def test_refuses_tokens() -> None:
    with pytest.raises(
        UsageError, match=r"MLP takes vector or image data, but this data is of kind 'tokens'; use Transformer\(\)"
    ):
        MLP().build(DataSpec("tokens", (8,), 2, vocabulary=10))
