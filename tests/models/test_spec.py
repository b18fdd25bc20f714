import dataclasses

import pytest

from limbeck.core.errors import UsageError
from limbeck.models.deepensemble import DeepEnsemble
from limbeck.models.from_python import Python
from limbeck.models.mlp import MLP
from limbeck.models.resnet import ResNet8x4, ResNet20
from limbeck.models.spec import Architecture, DataSpec
from limbeck.models.transformer import Transformer
from limbeck.models.wrn import WRN

NAMES = {kind.__name__: kind for kind in (DeepEnsemble, MLP, ResNet8x4, ResNet20, WRN, Transformer, Python)}

EXPRESSIONS = [
    (MLP(), "MLP()"),
    (MLP(width=32, depth=1), "MLP(width=32)"),
    (MLP(512, 3, dropout=0.1), "MLP(width=512, depth=3, dropout=0.1)"),
    (ResNet8x4(), "ResNet8x4()"),
    (ResNet20(norm="group"), "ResNet20(norm='group')"),
    (WRN(), "WRN(depth=16, width=2)"),
    (WRN(40, 1, dropout=0.3), "WRN(depth=40, width=1, dropout=0.3)"),
    (Transformer(width=32, heads=2), "Transformer(width=32, heads=2)"),
    (DeepEnsemble([MLP(), MLP(32)]), "DeepEnsemble(members=(MLP(), MLP(width=32)))"),
    (Python("nets:small", width=8, name="x", sizes=[1, 2]), "Python('nets:small', width=8, name='x', sizes=[1, 2])"),
]


@pytest.mark.parametrize("architecture, text", EXPRESSIONS, ids=[row[1] for row in EXPRESSIONS])
def test_repr_is_the_recipe_expression(architecture: Architecture, text: str) -> None:
    assert repr(architecture) == text
    assert eval(text, NAMES) == architecture
    assert hash(eval(text, NAMES)) == hash(architecture)


def test_architectures_are_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        MLP().width = 3  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        Python("a:b").function = "c:d"  # type: ignore[misc]


@pytest.mark.parametrize(
    "arguments, message",
    [
        (("image", (8, 8), 10), r"shape of one sample of kind 'image' is \(channels, height, width\), got \(8, 8\)"),
        (("vector", (1, 8, 8), 10), r"\(features,\), got \(1, 8, 8\)"),
        (("vector", (0,), 10), r"got \(0,\)"),
        (("vector", (4,), 1), "classes must be a whole number of at least 2"),
        (("tokens", (4,), 2), "pass vocabulary="),
        (("sound", (4,), 2), "kind must be one of image, vector, tokens, language, got 'sound'"),
    ],
    ids=str,
)
def test_data_spec_refuses_what_fits_no_data(arguments: tuple, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        DataSpec(*arguments)
