"""Terms on features in a real run: built for two convolutional nets, trained with influence weights, told the time, kept."""

from functools import reduce

import pytest
import torch
from torch.testing import assert_close

from limbeck.catalogue import Makers, rows
from limbeck.core.term import Term
from limbeck.data.loader import Loader, whole
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.influence.curvature.identity import Identity
from limbeck.losses.features.crd import CRD
from limbeck.losses.labels.ce import CE
from limbeck.models.resnet import ResNet8
from limbeck.models.spec import DataSpec
from limbeck.models.wrn import WRN
from limbeck.teachers.single import Single
from limbeck.training.fit import fit
from limbeck.weighting.influence import InfluenceWeighting
from support.makers import normal

SPEC = DataSpec("image", (3, 8, 8), 3)
NAMES = [row.name for row in rows("terms") if ".features." in row.path and row.name != "DepthKD"]  # no net regresses maps


def run(terms: list[Term]) -> Distiller:
    """Two steps of eight images with influence weights, whose products go forwards through every term."""
    labels = torch.arange(24) % 3
    source = InMemory(normal(24, 3, 8, 8, dtype=torch.float32), labels, classes=("a", "b", "c"), name="Noise()")
    torch.manual_seed(0)
    student, teacher = ResNet8().build(SPEC), WRN(depth=10, width=2).build(SPEC)
    loader = Loader(source, torch.arange(16), batch_size=8, seed=0, labels=labels)
    objective = reduce(lambda sofar, term: sofar + term * 1e-2, terms, CE() * 1.0)
    weighting = InfluenceWeighting(solver=Identity(), refresh=1, samples=8)
    distiller = Distiller(student, Single(teacher), objective, weighting=weighting).build(loader)
    before = [part.detach().clone() for part in distiller.trained()]
    optimizer = torch.optim.SGD(distiller.trained(), lr=1e-2)
    torch.manual_seed(1)
    fit(distiller, loader, optimizer, queries=whole(source, torch.arange(16, 24), labels))
    assert all(torch.isfinite(part).all() for part in distiller.trained())
    for part, old in zip(distiller.trained(), before, strict=True):
        if part.dim() > 1:  # what normalisation divides out again moves by less than a float's last digit
            assert not torch.equal(part, old)
    return distiller


@pytest.mark.slow
@pytest.mark.parametrize("names", [NAMES[start::3] for start in range(3)], ids=",".join)
def test_terms_train_together_and_every_part_of_theirs_moves(names: list[str]) -> None:
    makers = Makers("terms")
    changes = {"FT": {"epochs": 2}}
    terms = [makers[name](**changes.get(name, {})) for name in names]
    run([term for term in terms if isinstance(term, Term)])


def test_a_runs_bank_is_that_of_the_samples_seen() -> None:
    (term,) = [term for _, term in run([CRD(8)]).objective.parts if isinstance(term, CRD)]
    assert term.student_bank.shape == (24, 8)
    assert_close(term.student_bank.norm(dim=1), torch.ones(24))
    assert not term.student_bank.requires_grad
