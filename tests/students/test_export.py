"""A finished net leaves as one file that needs torch and nothing of this package."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.errors import RunError, UnsupportedModelError
from limbeck.models.mlp import MLP
from limbeck.models.resnet import ResNet8
from limbeck.models.spec import Architecture, DataSpec
from limbeck.models.transformer import Transformer
from limbeck.students.dual_head import DualHead, Mixture
from limbeck.students.export import export
from support.makers import labels, normal

LOAD = """
import sys, torch
model = torch.export.load(sys.argv[1]).module()
torch.save(model(*torch.load(sys.argv[2])), sys.argv[3])
assert not any(name.split(".")[0] == "limbeck" for name in sys.modules)
"""


def loaded(model: nn.Module, example: Tensor | tuple[Tensor, ...], inputs: tuple[Tensor, ...], home: Path) -> Tensor:
    """What the exported net says in a fresh process that has not imported this package."""
    torch.save(inputs, home / "inputs.pt")
    path = export(model, example, home / "student.pt2")
    kept = torch.export.load(path).parameters()
    assert sum(part.numel() for part in kept) == sum(part.numel() for part in model.parameters())
    assert [file.name for file in home.iterdir() if file.suffix == ".partial"] == []
    words = [str(file) for file in (path, home / "inputs.pt", home / "logits.pt")]
    subprocess.run([sys.executable, "-W", "ignore", "-c", LOAD, *words], check=True, timeout=120)
    found: Tensor = torch.load(home / "logits.pt")
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("net", "shape"), [(MLP(8, depth=2, dropout=0.2), (5,)), (ResNet8(), (3, 8, 8))], ids=["mlp", "resnet"])
def test_it_says_the_same_for_any_number_of_samples(net: Architecture, shape: tuple[int, ...], tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = net.build(DataSpec("vector" if len(shape) == 1 else "image", shape, 3))
    inputs = normal(7, *shape, dtype=torch.float32)
    found = loaded(model, inputs[:1], (inputs,), tmp_path)
    assert model.training
    with torch.no_grad():
        torch.testing.assert_close(found, model.eval()(inputs), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_two_heads_leave_together(tmp_path: Path) -> None:
    torch.manual_seed(0)
    head = DualHead(nn.Linear(4, 3), nn.Linear(4, 3), Mixture(0.3, 2.0))
    model, inputs = nn.Sequential(nn.Linear(5, 4), nn.Tanh(), head), normal(6, 5, dtype=torch.float32)
    with torch.no_grad():
        torch.testing.assert_close(loaded(model, inputs, (inputs,), tmp_path), model(inputs), rtol=0, atol=1e-6)


@pytest.mark.slow
def test_a_net_of_several_inputs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = Transformer().build(DataSpec("tokens", (6,), 3, 11))
    inputs = labels(5, 6, classes=11), torch.arange(6) < torch.arange(2, 7).unsqueeze(1)
    with torch.no_grad():
        wanted = model.eval()(*inputs)
    torch.testing.assert_close(loaded(model, inputs, inputs, tmp_path), wanted, rtol=0, atol=1e-5)


class Counting(nn.Module):
    def forward(self, inputs: Tensor) -> Tensor:
        return inputs * 2 if float(inputs.sum()) > 0 else inputs


def test_what_cannot_be_exported_is_told_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(UnsupportedModelError, match=r"^export: Counting cannot be exported \(.*\); keep its weights\.$"):
        export(Counting(), torch.ones(1, 2), tmp_path / "x.pt2")
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RunError, match="could not write"):
        export(nn.Linear(2, 2), torch.ones(1, 2), tmp_path / "file" / "x.pt2")
