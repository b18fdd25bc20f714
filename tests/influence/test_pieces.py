"""A mean gradient taken in pieces is that of the whole batch, and a batch whose samples meet stays whole."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.influence import pieces
from limbeck.influence.gradients import mean_gradient
from limbeck.influence.pieces import Pieces
from limbeck.influence.task import Supervised
from support.makers import labels, normal

LOSS = Supervised().query_loss


class Centred(nn.Module):
    """Samples meet in the model's own code."""

    def forward(self, inputs: Tensor) -> Tensor:
        return inputs - inputs.mean(0)


def model(*middle: nn.Module) -> Tapped:
    torch.manual_seed(0)
    return Tapped(nn.Sequential(nn.Linear(6, 8), *middle, nn.Tanh(), nn.Linear(8, 3)).double())


def batch() -> Batch:
    return Batch(normal(50, 6), labels(50, classes=3), torch.arange(50))


@pytest.mark.parametrize("middle", [(), (nn.Dropout(0.0),), (nn.LayerNorm(8),)], ids=["linear", "dropout", "norm"])
def test_pieces_give_the_gradient_of_the_whole(middle: tuple[nn.Module, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    net = model(*middle)
    monkeypatch.setattr(pieces, "NUMBERS", 200)  # numbers that the layers give for about ten samples
    cut = Pieces(net, LOSS)(batch())
    assert len(cut) >= 5
    (found, loss), (wanted, mean) = (mean_gradient(net, LOSS, parts) for parts in (cut, [batch()]))
    assert loss == pytest.approx(mean, rel=1e-14)
    assert_close(found, wanted, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("middle", [Centred, lambda: nn.BatchNorm1d(8), lambda: nn.Dropout(0.5)], ids=["own", "norm", "dropout"])
def test_only_what_does_not_meet_is_cut(middle: Callable[[], nn.Module], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pieces, "NUMBERS", 1)
    net = model(middle())
    state, random = {name: part.clone() for name, part in net.state_dict().items()}, torch.get_rng_state()
    assert len(Pieces(net, LOSS)(batch())) == (50 if isinstance(net.model[1], nn.Dropout) else 1)
    assert all(module.training for module in net.modules())
    assert_close(net.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)


def test_under_batch_statistics_pieces_are_as_large_as_a_training_batch() -> None:
    net = model(nn.BatchNorm1d(8))
    queries = Batch(normal(200, 6), labels(200, classes=3), torch.arange(200))
    cut = Pieces(net, LOSS)(queries)
    assert [part.index.tolist() for part in cut] == [list(range(start, 200, 3)) for start in range(3)]
    (found, loss), alone = mean_gradient(net, LOSS, cut), [mean_gradient(net, LOSS, [part]) for part in cut]
    assert loss == pytest.approx(sum(own * len(part) for (_, own), part in zip(alone, cut, strict=True)) / 200, rel=1e-12)
    for name, part in found.items():
        assert_close(part, sum(own[name] * len(one) for (own, _), one in zip(alone, cut, strict=True)) / 200)
    assert len(Pieces(net.eval(), LOSS)(queries)) == 1


def test_a_small_model_is_asked_in_one_go() -> None:
    assert len(Pieces(model(), LOSS)(batch())) == 1
