"""Models by name: timm, torchvision, the user's own function."""

import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.core.errors import MissingExtraError, RunError, UnsupportedModelError, UsageError
from limbeck.models.from_python import Python
from limbeck.models.from_timm import Timm
from limbeck.models.from_torchvision import Torchvision, fresh_classifier
from limbeck.models.mlp import MLP
from limbeck.models.spec import DataSpec

GREY = DataSpec("image", (1, 32, 32), 7)
COLOUR = DataSpec("image", (3, 32, 32), 7)
OWN_CODE = """
from torch import nn
from limbeck.models.spec import DataSpec

def small(spec: DataSpec, width: int = 4) -> nn.Module:
    return nn.Sequential(nn.Linear(spec.input_shape[0], width), nn.Linear(width, spec.classes))

def nothing(spec):
    return None
"""


@pytest.fixture
def own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    (tmp_path / "own_nets.py").write_text(OWN_CODE)
    (tmp_path / "half_nets.py").write_text("import not_there_at_all\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)
    return "own_nets"


def test_python_calls_the_function_with_the_data_and_the_literals(own_code: str) -> None:
    net = Python(f"{own_code}:small", width=6).build(DataSpec("vector", (5,), 3))
    assert sum(part.numel() for part in net.parameters()) == 5 * 6 + 6 + 6 * 3 + 3
    assert net(torch.randn(2, 5)).shape == (2, 3)


def test_python_imports_nothing_before_build(own_code: str) -> None:
    Python(f"{own_code}:small")
    assert own_code not in sys.modules


@pytest.mark.parametrize(
    "text, arguments, message",
    [
        ("own_nets:smal", {}, "has no function 'smal'; did you mean 'small'?"),
        ("own_nets:nothing", {}, "own_nets:nothing must return a torch.nn.Module, got NoneType"),
        ("own_nets:small", {"widht": 3}, "unexpected keyword argument 'widht'"),
        ("half_nets:small", {}, "module 'half_nets' cannot be imported: No module named 'not_there_at_all'"),
        ("no_such_module_here:small", {}, "module 'no_such_module_here' cannot be imported"),
    ],
)
@pytest.mark.usefixtures("own_code")
def test_python_says_what_is_wrong(text: str, arguments: dict[str, int], message: str) -> None:
    with pytest.raises(UsageError) as caught:
        Python(text, **arguments).build(DataSpec("vector", (5,), 3))
    assert message in str(caught.value)


@pytest.mark.parametrize("text", ["small", "own_nets:", ":small", "own nets:small", "a:b:c", "a:b()"])
def test_python_refuses_other_texts(text: str) -> None:
    with pytest.raises(UsageError, match='expected "module:function"'):
        Python(text)


@pytest.mark.parametrize("kind, package", [(Timm, "timm"), (Torchvision, "torchvision")])
def test_a_missing_package_names_the_extra(kind: type, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtraError, match=r"pip install 'limbeck\[vision\]'"):
        kind("resnet18")


def test_timm(monkeypatch: pytest.MonkeyPatch) -> None:
    timm = pytest.importorskip("timm")
    with torch.no_grad():
        for name in ("resnet10t", "vit_tiny_patch16_224"):
            assert Timm(name).build(GREY).eval()(torch.randn(2, 1, 32, 32)).shape == (2, 7)
    with pytest.raises(UsageError, match="no model 'resnet81'; did you mean 'resnet18'"):
        Timm("resnet81")

    def offline(*_args: object, **_kwargs: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(RunError, match="cannot be had"):
        Timm("resnet10t", pretrained=True).build(COLOUR)


def test_torchvision() -> None:
    pytest.importorskip("torchvision")
    for spec in (GREY, COLOUR):
        net = Torchvision("shufflenet_v2_x0_5").build(spec).eval()
        with torch.no_grad():
            assert net(torch.randn(2, *spec.input_shape)).shape == (2, 7)
    with pytest.raises(UsageError, match="no classification model 'resnet81'; did you mean 'resnet18'"):
        Torchvision("resnet81")
    with pytest.raises(UsageError, match="'resnet18' has the weights DEFAULT, IMAGENET1K_V1, got 'V9'"):
        Torchvision("resnet18", weights="V9")
    with pytest.raises(UsageError, match="1 or 3 channels, got 2"):
        Torchvision("resnet18").build(DataSpec("image", (2, 32, 32), 7))


def test_torchvision_weights_are_kept_below_a_fresh_classifier(monkeypatch: pytest.MonkeyPatch) -> None:
    models = pytest.importorskip("torchvision.models")
    trained = models.shufflenet_v2_x0_5(weights=None)
    asked: dict[str, object] = {}

    def stored(_self: object, **arguments: object) -> dict[str, torch.Tensor]:
        asked.update(arguments)
        return trained.state_dict()

    monkeypatch.setattr(models.ShuffleNet_V2_X0_5_Weights, "get_state_dict", stored)
    net = Torchvision("shufflenet_v2_x0_5", weights="DEFAULT").build(COLOUR)
    assert torch.equal(net.conv1[0].weight, trained.conv1[0].weight)
    assert net.fc.out_features == 7
    assert asked["weights_only"] is True
    assert asked["check_hash"] is True

    def offline(_self: object, **_arguments: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(models.ShuffleNet_V2_X0_5_Weights, "get_state_dict", offline)
    with pytest.raises(RunError, match="cannot be had"):
        Torchvision("shufflenet_v2_x0_5", weights="DEFAULT").build(COLOUR)


def test_fresh_classifier_changes_the_last_linear_layer_only() -> None:
    net = MLP(width=6, depth=2).build(DataSpec("vector", (4,), 3))
    before = {name: part.clone() for name, part in net.state_dict().items()}
    after = fresh_classifier(net, 9).state_dict()
    assert after["fc.weight"].shape == (9, 6)
    assert all(torch.equal(after[name], before[name]) for name in before if not name.startswith("fc."))
    with pytest.raises(UnsupportedModelError, match="no linear classifier"):
        fresh_classifier(nn.Conv2d(1, 1, 1), 9)
