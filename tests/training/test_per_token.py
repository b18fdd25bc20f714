"""A batch of sequences of different lengths: every sample counts alike, or every token; cut or whole, on one process or two."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.batch import UNLABELLED, Batch
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.data.loader import Loader
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.engine.local import LocalEngine
from limbeck.functional.divergences import cross_entropy, kd_divergence
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.gradients import at
from limbeck.influence.vectors import flatten, trainable
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.models.gpt import GPT
from limbeck.models.mlp import MLP
from limbeck.models.spec import DataSpec
from limbeck.teachers.single import Single
from limbeck.training.fit import fit
from limbeck.training.shares import gradient_shares
from limbeck.training.steps.student import Student
from limbeck.training.teacher_update import TeacherRule, teacher_backward
from limbeck.training.training import Record, Training
from limbeck.training.weighted import weighted_backward
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Step, Weighting

LENGTH, VOCABULARY, ROWS = 6, 9, 8
LENGTHS = torch.tensor([6, 1, 3, 2, 6, 1, 4, 2])
SPEC = DataSpec("language", (LENGTH,), VOCABULARY, VOCABULARY)


class Rising(Weighting):
    """Weights 1, 2, 3, ... by the samples' identities."""

    def __call__(self, step: Step) -> Tensor:
        return step.batch.index.to(step.losses) + 1


def net(width: int, seed: int) -> nn.Module:
    torch.manual_seed(seed)
    return GPT(width=width, depth=1, heads=2).build(SPEC).double()


def loader(blank: Tensor | None = None) -> Loader:
    """Batches of all rows; where `blank` is true a token has no label."""
    ids = torch.randint(VOCABULARY, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(LENGTH) < LENGTHS.unsqueeze(1)
    source = InMemory(ids[:, :-1], ids[:, 1:].clone(), vocabulary=VOCABULARY, mask=mask)
    labels = source.labels if blank is None else source.labels.masked_fill(blank, UNLABELLED)
    return Loader(source, torch.arange(ROWS), batch_size=ROWS, seed=0, labels=labels, shuffle=False)


def distiller(per: str, weighting: Weighting | None = None) -> Distiller:
    return Distiller(net(8, 1), Single(net(8, 2)), KD(T=2.0) * 0.4 + CE() * 0.6, per=per, weighting=weighting)


def gradient(made: Distiller, accumulate: int = 1, batches: Loader | None = None) -> Tensor:
    """The gradient of one step, in all parameters."""
    optimizer = torch.optim.SGD(made.trained(), lr=0.0)
    queries = next(iter(loader()))
    kept: list[Tensor] = []

    class Look(Student):
        def __call__(self, training: Training, batch: Batch) -> Any:
            record, _ = weighted_backward(training, batch)
            kept.append(torch.cat([part.grad.flatten() for part in training.student.parameters()]))
            training.apply()
            return record

    fit(made, batches or loader(), optimizer, steps=1, step=Look(), accumulate=accumulate, queries=queries)
    return kept[0]


def by_hand(per: str, weights: Tensor) -> Tensor:
    """sum over tokens of w_i l_it, over the number of tokens; or the mean over samples of w_i times their means."""
    made, batch = distiller(per), next(iter(loader()))
    own, theirs = made.student(batch).logits, made.teacher(batch).logits
    values = 0.4 * kd_divergence(own, theirs, 2.0) + 0.6 * cross_entropy(own, batch.targets)
    values = values * batch.mask * weights.unsqueeze(1)
    loss = values.sum() / LENGTHS.sum() if per == "token" else (values.sum(1) / LENGTHS).mean()
    return torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(made.student.parameters()))])


@pytest.mark.parametrize("accumulate", [1, 3, 8])
@pytest.mark.parametrize("per", ["sample", "token"])
def test_a_step_is_the_one_by_hand_however_it_is_cut(per: str, accumulate: int) -> None:
    weights = torch.arange(1.0, ROWS + 1, dtype=torch.float64)
    found = gradient(distiller(per, Rising()), accumulate)
    torch.testing.assert_close(found, by_hand(per, weights), rtol=1e-9, atol=1e-12)
    plain = gradient(distiller(per, Uniform()), accumulate)
    torch.testing.assert_close(plain, by_hand(per, torch.ones_like(weights)), rtol=1e-9, atol=1e-12)
    assert not torch.allclose(plain, found)


@pytest.mark.parametrize("accumulate", [1, 3])
@pytest.mark.parametrize(("per", "soft"), [("sample", 0.0), ("token", 0.0), ("token", 0.4)])
def test_a_token_without_a_label_does_not_count_where_labels_are_needed(per: str, soft: float, accumulate: int) -> None:
    """Beside KD, which learns from it, a row counts by all its tokens, and its CE is the mean over those with a label."""
    blank = torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(1)) < 0.4
    blank[:2] = True  # the longest row has no label at all, and one of a single token
    objective = KD(T=2.0) * soft + CE() if soft else CE()
    made = Distiller(net(8, 1), Single(net(8, 2)) if soft else None, objective, per=per)
    found, batch = gradient(made, accumulate, loader(blank)), next(iter(loader()))
    own, kept = made.student(batch).logits, batch.mask & ~blank
    hard = (cross_entropy(own, batch.targets) * kept).sum(1) / kept.sum(1).clamp(min=1)
    counts = LENGTHS if soft else kept.sum(1)
    loss = (hard * counts).sum() / counts.sum() if per == "token" else hard.mean()
    if soft:
        loss = loss + soft * (kd_divergence(own, made.teacher(batch).logits, 2.0) * batch.mask).sum() / LENGTHS.sum()
    wanted = torch.cat([part.flatten() for part in torch.autograd.grad(loss, list(made.student.parameters()))])
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("per", ["sample", "token"])
@pytest.mark.parametrize("way", ["captured", "carried", "separate"])
def test_every_way_of_an_influence_step_counts_tokens_alike(per: str, way: str) -> None:
    steps = [
        gradient(distiller(per, InfluenceWeighting(Identity(), way=own, samples=ROWS)), cut)
        for own, cut in ((way, 1), ("separate", 3))
    ]
    torch.testing.assert_close(steps[0], steps[1], rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("per", ["sample", "token"])
def test_the_teachers_feedback_counts_tokens_as_the_students_step_does(per: str) -> None:
    """Against double backward through that step."""
    batch, weights, found = next(iter(loader())), torch.arange(1.0, ROWS + 1, dtype=torch.float64), []
    for factor in (1.0, 0.0):
        teacher = Single(net(8, 2), trained=True)
        made = Distiller(net(8, 1), teacher, KD(T=2.0) * 0.4 + CE() * 0.6, per=per)
        optimizer = torch.optim.SGD(made.trained(), lr=0.3)
        training = Training(made, made.student, optimizer, LocalEngine(), lambda *_: 1.0, 1, queries=batch)
        record, pieces = weighted_backward(training, batch, weights)
        teacher_backward(training, teacher, TeacherRule(feedback=factor), pieces, record.weights, weighted=False)
        found.append(flatten({name: part.grad for name, part in trainable(teacher).items() if part.grad is not None}))
    own, theirs = made.student(batch).logits, teacher.tapped(batch).logits
    values = 0.4 * kd_divergence(own, theirs, 2.0) + 0.6 * cross_entropy(own, batch.targets)
    values = values * batch.mask * weights.unsqueeze(1)
    loss = values.sum() / LENGTHS.sum() if per == "token" else (values.sum(1) / LENGTHS).mean()
    student = trainable(made.student)
    slopes = torch.autograd.grad(loss, list(student.values()), create_graph=True)
    ahead = {name: part - 0.3 * slope for (name, part), slope in zip(student.items(), slopes, strict=True)}
    query_loss = made.task().query_loss(at(made.student, ahead), batch).mean()
    wanted = torch.cat([part.flatten() for part in torch.autograd.grad(query_loss, list(teacher.parameters()))])
    torch.testing.assert_close(found[0] - found[1], wanted, rtol=1e-8, atol=1e-12)


@pytest.mark.parametrize("per", ["sample", "token"])
def test_a_terms_share_of_the_gradient_is_that_of_the_loss(per: str) -> None:
    made, batch = distiller(per), next(iter(loader()))
    training = fit(made, loader(), torch.optim.SGD(made.trained(), lr=0.0), steps=1)
    values = made.objective(Views(made.student(batch), made.teach(batch), batch))
    counted = LENGTHS / LENGTHS.double().mean() if per == "token" else torch.ones(ROWS).double()
    norms = [
        coef
        * torch.cat([g.flatten() for g in torch.autograd.grad(loss, list(made.student.parameters()), retain_graph=True)]).norm()
        for coef, loss in zip((0.4, 0.6), (values * counted).mean(1), strict=True)
    ]
    found = gradient_shares(training, Record(batch, 0.0, {}, torch.ones(ROWS, dtype=torch.float64)))
    assert found["KD"] == pytest.approx(float(norms[0] / sum(norms)), rel=1e-9)


def test_samples_of_one_length_count_alike_either_way() -> None:
    batch = Batch(torch.zeros(3, 2, dtype=torch.int64), None, torch.arange(3), torch.tensor([[1, 0], [0, 1], [1, 0]]).bool())
    assert distiller("token").amounts(batch).tolist() == [1, 1, 1]
    assert distiller("sample").amounts(batch) is None
    nothing = Batch(batch.inputs, None, batch.index, torch.zeros(3, 2, dtype=torch.bool))
    assert distiller("token").amounts(nothing).tolist() == [0, 0, 0]


def test_two_processes_count_the_tokens_of_both() -> None:
    batch = next(iter(loader()))
    counts = [part.mask.sum(1).double() for part in batch.split(2)]
    made = distiller("token")
    parts = [made.amounts(part, lambda own, at=at: torch.cat([own, counts[1 - at]])) for at, part in enumerate(batch.split(2))]
    torch.testing.assert_close(torch.cat(parts), made.amounts(batch))


def test_answers_of_one_a_sample_have_no_tokens() -> None:
    spec = DataSpec("vector", (4,), 3)
    source = InMemory(torch.randn(6, 4), torch.arange(6) % 3)
    batches = Loader(source, torch.arange(6), batch_size=3, seed=0, labels=source.labels)
    with pytest.raises(UsageError, match="per='token' is for answers at every token"):
        Distiller(MLP(width=4).build(spec), None, CE(), per="token").check(next(iter(batches)))
    with pytest.raises(UsageError, match="Distiller: per must be one of sample, token, got 'batch'"):
        Distiller(MLP(width=4).build(spec), None, CE(), per="batch")
