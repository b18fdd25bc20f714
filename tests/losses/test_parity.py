"""The same inputs give the same value as an independent implementation, or the difference that the method's page explains."""

from typing import Any

import pytest
import torch
from torch import Tensor

from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term
from limbeck.losses.features.at import AT
from limbeck.losses.features.cc import CC
from limbeck.losses.features.pkt import PKT
from limbeck.losses.features.rkd import RKD
from limbeck.losses.features.sp import SP
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.dist import DIST
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.standardised import Standardised
from support.makers import normal, random_views

theirs = pytest.importorskip("torchdistill.losses.mid_level")
ROWS = 6
LOGITS = ("n", "output", "n", "output")


def mean(term: Term, views: Views) -> Tensor:
    value: Tensor = term(views).mean()
    return value


def logits_of(views: Views) -> tuple[dict[str, Any], dict[str, Any]]:
    assert views.teacher is not None
    return {"n": {"output": views.student.logits}}, {"n": {"output": views.teacher.logits}}


def with_features(student: Tensor, teacher: Tensor, name: str) -> Views:
    both = random_views(rows=len(student))
    assert both.teacher is not None
    return Views(Outputs(both.student.logits, {name: student}), Outputs(both.teacher.logits, {name: teacher}), both.batch)


def features_of(student: Tensor, teacher: Tensor) -> tuple[dict[str, Any], dict[str, Any]]:
    return {"n": {"output": student}}, {"n": {"output": teacher}}


def same(ours: Tensor, other: Tensor) -> None:
    assert float(ours) == pytest.approx(float(other), rel=1e-5)


def test_kd_and_ce() -> None:
    views = random_views()
    other = theirs.KDLoss(*LOGITS, temperature=3.0, alpha=0.3)(*logits_of(views), views.batch.targets)
    same(mean(KD(T=3), views) * 0.7 + mean(CE(), views) * 0.3, other)


def test_standardised() -> None:
    views = random_views()
    other = theirs.LogitStdKDLoss(*LOGITS, temperature=2.0, alpha=0.1, beta=9)(*logits_of(views), views.batch.targets)
    same(mean(Standardised(KD(T=2), unbiased=True), views) * 9 + mean(CE(), views) * 0.1, other)


@pytest.mark.parametrize("T", [1.0, 4.0])
def test_dist(T: float) -> None:
    views = random_views()
    same(mean(DIST(beta=2, gamma=3, T=T), views), theirs.DISTLoss(*LOGITS, beta=2.0, gamma=3.0, tau=T)(*logits_of(views)))


def test_at() -> None:
    student, teacher = normal(ROWS, 3, 4, 4), normal(ROWS, 5, 4, 4, seed=1)
    pair = {"pair": {side: {"io": "output", "path": "n"} for side in ("student", "teacher")}}
    same(mean(AT(), with_features(student, teacher, "layer1")), theirs.ATLoss(pair)(*features_of(student, teacher)))


def test_sp_has_rows_of_length_one_where_theirs_sum_to_one() -> None:
    student, teacher = normal(ROWS, 3, 4, 4), normal(ROWS, 5, 4, 4, seed=1)
    other = theirs.SPKDLoss("n", "n", "batchmean")(*features_of(student, teacher))

    def distance(p: int) -> Tensor:
        gram = [part.flatten(1) @ part.flatten(1).T for part in (student, teacher)]
        own, theirs_ = (part / part.norm(p, dim=1, keepdim=True) for part in gram)
        return (own - theirs_).square().mean()

    same(distance(1), other)
    same(mean(SP(student="layer1", teacher="layer1"), with_features(student, teacher, "layer1")), distance(2))


def test_rkd() -> None:
    student, teacher = normal(ROWS, 4), normal(ROWS, 7, seed=1)
    other = theirs.RKDLoss("n", "n", dist_factor=25, angle_factor=50, reduction="mean")(*features_of(student, teacher))
    same(mean(RKD(), with_features(student, teacher, "penultimate")), other)


def test_cc_is_the_squared_distance_of_which_theirs_is_the_root() -> None:
    student, teacher = normal(ROWS, 4), normal(ROWS, 7, seed=1)
    student, teacher = (part / part.norm(dim=1, keepdim=True) for part in (student, teacher))
    kernel = {"type": "gaussian", "gamma": 0.4, "max_p": 2}
    other = theirs.CCKDLoss("n", "n", kernel, "sum")(*features_of(student, teacher))
    same(mean(CC(gamma=0.4, order=2), with_features(student, teacher, "penultimate")) * ROWS**2, other**2)


def test_pkt_leaves_a_sample_out_of_its_own_neighbours_and_is_the_mean_over_samples() -> None:
    """Theirs counts a sample as its own neighbour and takes the mean over all pairs."""
    student, teacher = normal(ROWS, 4), normal(ROWS, 7, seed=1)
    other = theirs.PKTLoss("n", "output", "n", "output")(*features_of(student.clone(), teacher.clone()))

    def neighbours(vectors: Tensor, *, itself: bool) -> Tensor:
        unit = vectors / vectors.norm(dim=1, keepdim=True)
        kernel = (unit @ unit.T + 1) / 2
        kernel = kernel if itself else kernel * (1 - torch.eye(ROWS, dtype=torch.float64))
        return kernel / kernel.sum(1, keepdim=True)

    def divergence(*, itself: bool) -> Tensor:
        p, q = (neighbours(part, itself=itself) for part in (teacher, student))
        return torch.xlogy(p, p).sum(1) - torch.xlogy(p, q).sum(1)

    same(divergence(itself=True).mean() / ROWS, other)
    same(mean(PKT(), with_features(student, teacher, "penultimate")), divergence(itself=False).mean())
