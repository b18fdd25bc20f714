"""Tapped: features by name, hooks that are gone, models that take a mask."""

import pytest
import torch
from torch import Tensor, nn

from limbeck.align.taps import Tapped, matching_modules
from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UsageError
from support.makers import normal


def body() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.Tanh()), nn.Sequential(nn.Linear(4, 4), nn.Tanh()), nn.Linear(4, 2))


def batch(rows: int = 5) -> Batch:
    return Batch(normal(rows, 3, dtype=torch.float32), None, torch.arange(rows))


def hooks(model: nn.Module) -> int:
    return sum(len(module._forward_hooks) + len(module._forward_pre_hooks) for module in model.modules())


def test_features_by_name_and_by_glob_in_the_models_order() -> None:
    model, data = body(), batch()
    outputs = Tapped(model, ["1", "0.*"])(data)
    assert list(outputs.features) == ["0.0", "0.1", "1"]
    assert torch.equal(outputs.features["0.1"], model[0](data.inputs))
    assert torch.equal(outputs.features["1"], model[1](model[0](data.inputs)))
    assert torch.equal(outputs.logits, model(data.inputs))
    assert Tapped(model)(data).features == {}


def test_features_carry_gradients() -> None:
    model = body()
    Tapped(model, ["0"])(batch()).features["0"].sum().backward()
    assert model[0][0].weight.grad is not None


def test_no_hook_stays_behind() -> None:
    model = body()
    tapped = Tapped(model, ["*"])
    tapped(batch())
    assert hooks(model) == 0
    with pytest.raises(RuntimeError, match="shapes"):
        tapped(Batch(torch.zeros(2, 9), None, torch.arange(2)))
    assert hooks(model) == 0


def test_a_misspelt_name_gets_the_nearest() -> None:
    model = nn.ModuleDict({"layer1": nn.Linear(2, 2), "head": nn.Linear(2, 2)})
    with pytest.raises(UsageError, match="ModuleDict has no module that fits 'layr1'; did you mean 'layer1'"):
        matching_modules(model, ["layr1"])
    with pytest.raises(UsageError, match=r"no module that fits 'conv\*'; those at its top are layer1, head\."):
        Tapped(model, ["head", "conv*"])


class Masked(nn.Module):
    """The mean over the tokens that count."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 3)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        assert mask is not None
        return self.fc((inputs * mask.unsqueeze(2)).sum(1))


def test_the_mask_goes_to_models_that_take_one() -> None:
    inputs, mask = normal(3, 4, 2, dtype=torch.float32), torch.tensor([[1, 1, 0, 0], [1, 0, 0, 0], [1, 1, 1, 1]]).bool()
    data = Batch(inputs, None, torch.arange(3), mask)
    model = Masked()
    assert torch.equal(Tapped(model)(data).logits, model(inputs, mask))
    flat = nn.Sequential(nn.Flatten(), nn.Linear(8, 3))
    assert torch.equal(Tapped(flat)(data).logits, flat(inputs))  # takes no mask and is given none


class Tuple(nn.Module):
    def forward(self, inputs: Tensor) -> tuple[Tensor, Tensor]:
        return inputs, inputs


@pytest.mark.parametrize(
    "model, came", [(Tuple(), "tuple"), (nn.Flatten(0), r"\[15\]"), (nn.Linear(3, 1).requires_grad_(False), None)]
)
def test_a_model_that_does_not_return_logits_is_refused(model: nn.Module, came: str | None) -> None:
    if came is None:
        assert Tapped(model)(batch()).logits.shape == (5, 1)
        return
    with pytest.raises(ShapeError, match=f"returned {came} for 5 samples"):
        Tapped(model)(batch())


def test_an_activation_in_place_leaves_the_feature_as_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2))
    data = batch()
    assert torch.equal(Tapped(model, ["0"])(data).features["0"], model[0](data.inputs))


def test_only_what_is_changed_in_place_is_copied() -> None:
    model, data = nn.Sequential(nn.Linear(3, 4), nn.ReLU(inplace=True), nn.Linear(4, 2)), batch()
    handed = []
    model[1].register_forward_pre_hook(lambda _, inputs: handed.append(inputs[0]))
    model[2].register_forward_pre_hook(lambda _, inputs: handed.append(inputs[0]))
    tapped = Tapped(model, ["0", "1"])
    for copies in ([True, True], [True, False], [True, False]):  # the first pass copies all, and learns what has to be
        handed.clear()
        features = tapped(data).features
        assert [part is not own for part, own in zip(handed, features.values(), strict=True)] == copies
        assert torch.equal(features["0"], model[0](data.inputs))


class Moody(nn.Module):
    """Changes in place what its first layer gave, but only when told."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.fc = nn.Linear(3, 4), nn.Linear(4, 2)
        self.in_place = False

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.first(inputs)
        return self.fc(inner.relu_() if self.in_place else inner.relu())


def test_what_is_spoiled_later_on_is_read_again() -> None:
    model, data = Moody(), batch()
    tapped, wanted = Tapped(model, ["first"]), model.first(data.inputs)
    for in_place in (False, False, True, True):
        model.in_place = in_place
        outputs = tapped(data)
        assert torch.equal(outputs.features["first"], wanted)
        assert torch.equal(outputs.logits, model(data.inputs))


def test_where_changes_are_not_counted_everything_is_copied() -> None:
    model, data = Moody(), batch()
    model.in_place = True
    tapped, wanted = Tapped(model, ["first"]), model.first(data.inputs).detach()
    with torch.inference_mode():
        assert torch.equal(tapped(data).features["first"], wanted)

    def read(row: Tensor) -> Tensor:
        return tapped(Batch(row.unsqueeze(0), None, torch.zeros(1, dtype=torch.int64))).features["first"]

    assert torch.equal(torch.vmap(read)(data.inputs).squeeze(1), wanted)
    assert torch.equal(tapped(data).features["first"], wanted)
