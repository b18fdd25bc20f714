"""<q, g_i> by every way equals the explicit per-sample gradients, on nets that are known to break influence engines."""

import copy
import warnings

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UnsupportedModelError
from limbeck.core.outputs import Outputs
from limbeck.influence.gradients import Way, inner_products, mean_gradient, per_sample_gradients_slow
from limbeck.influence.restoring import random_state
from limbeck.influence.task import Distillation
from limbeck.influence.vectors import Vector, flatten, trainable
from limbeck.losses.labels.ce import CE
from support.makers import FromTheMean, generator
from support.nets import BY_NAME, CASES, TASK, Case

each_case = pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
each_small_case = pytest.mark.parametrize("case", CASES[:-2], ids=lambda case: case.name)


def direction(model: nn.Module, seed: int = 5) -> Vector:
    random = generator(seed)
    return {name: torch.randn(part.shape, generator=random, dtype=part.dtype) for name, part in trainable(model).items()}


def slow(model: Tapped, batch: Batch, q: Vector, rng: Tensor) -> Tensor:
    """The oracle: one backward pass per sample."""
    with random_state(rng):
        return per_sample_gradients_slow(model, TASK.training_loss, batch) @ flatten(q)


def ways(case: Case) -> list[tuple[Way, bool]]:
    forward: list[tuple[Way, bool]] = [("forward", True), ("forward", False)] if case.forward else []
    return [*forward, ("reverse", True), ("auto", True)]


@each_case
def test_every_way_equals_explicit_gradients(case: Case) -> None:
    model, batch = case.make(), case.batch()
    q, rng = direction(model), torch.get_rng_state()
    wanted = slow(model, batch, q, rng)
    assert wanted.abs().min() > 1e-6
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*two backward passes")
        for way, coupled in ways(case):
            found = inner_products(model, TASK.training_loss, batch, q, way=way, coupled=coupled, rng=rng)
            assert not found.requires_grad
            assert_close(found, wanted, rtol=1e-10, atol=1e-10, msg=lambda text, way=way: f"{way}: {text}")


@each_small_case
def test_model_is_afterwards_bit_for_bit_what_it_was(case: Case) -> None:
    model, batch = case.make(), case.batch()
    model.requires_grad_(True)
    state, modes, rng = copy.deepcopy(model.state_dict()), [m.training for m in model.modules()], torch.get_rng_state()
    buffers = {name: id(part) for name, part in model.named_buffers()}
    q = direction(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*two backward passes")
        inner_products(model, TASK.training_loss, batch, q, rng=rng)
    with random_state(rng):
        mean_gradient(model, TASK.query_loss, [batch])
        per_sample_gradients_slow(model, TASK.training_loss, batch)
    assert all(torch.equal(part, state[name]) for name, part in model.state_dict().items())
    assert {name: id(part) for name, part in model.named_buffers()} == buffers
    assert [m.training for m in model.modules()] == modes
    assert all(part.grad is None for part in model.parameters())
    assert torch.equal(torch.get_rng_state(), rng)


@each_small_case
def test_single_precision_keeps_five_digits(case: Case) -> None:
    """Or as many as explicit gradients keep, where a net is ill-conditioned (batch statistics over four values)."""
    exact, model = case.make(), case.make(torch.float32)
    q, rng, batch = direction(exact), torch.get_rng_state(), case.batch(torch.float32)
    rough = {name: part.float() for name, part in q.items()}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*two backward passes")
        found = inner_products(model, TASK.training_loss, batch, rough, coupled=False, rng=rng)
    explicit = slow(model, batch, rough, rng)
    wanted = explicit.double() if "dropout" in case.name else slow(exact, case.batch(), q, rng)  # other precision, other mask
    errors = [float((part.double() - wanted).norm() / wanted.norm()) for part in (found, explicit)]
    assert errors[0] < max(1e-5, 3 * errors[1])


def test_products_are_linear_in_the_direction_and_may_be_taken_elsewhere() -> None:
    case = BY_NAME["batch norm, train mode"]
    model, batch = case.make(), case.batch()
    one, two = direction(model, 1), direction(model, 2)
    both = {name: 2 * one[name] - 3 * two[name] for name in one}
    first, second = (inner_products(model, TASK.training_loss, batch, q) for q in (one, two))
    assert_close(inner_products(model, TASK.training_loss, batch, both), 2 * first - 3 * second)
    moved = {name: part.detach() + 0.1 * one[name] for name, part in trainable(model).items()}
    elsewhere = inner_products(model, TASK.training_loss, batch, two, parameters=moved)
    model.load_state_dict(moved, strict=False)
    assert_close(elsewhere, inner_products(model, TASK.training_loss, batch, two))
    assert not torch.allclose(elsewhere, second)


def test_mean_gradient_is_the_mean_of_the_samples_and_takes_batches() -> None:
    case = BY_NAME["group norm"]
    model, batch = case.make(), case.batch()
    rows = per_sample_gradients_slow(model, TASK.query_loss, batch)
    for batches in ([batch], [batch.take(slice(0, 1)), batch.take(slice(1, None))]):
        v, value = mean_gradient(model, TASK.query_loss, batches)
        assert_close(flatten(v), rows.mean(0))
        assert value == pytest.approx(float(TASK.query_loss(model, batch).mean().detach()))


def test_a_coupled_loss_needs_the_coupled_way() -> None:
    case = BY_NAME["mlp"]
    model, batch = case.make(), case.batch()
    task = Distillation(FromTheMean() + CE(), None)
    q = direction(model)
    wanted = per_sample_gradients_slow(model, task.training_loss, batch) @ flatten(q)
    for way in ("forward", "reverse"):
        assert_close(inner_products(model, task.training_loss, batch, q, way=way), wanted)
    wrong = inner_products(model, task.training_loss, batch, q, coupled=False)
    assert not torch.allclose(wrong, wanted)
    assert_close(wrong.sum(), wanted.sum())  # only the sum over the batch survives


def test_dropout_without_replay_is_another_mask() -> None:
    case = BY_NAME["dropout"]
    model, batch = case.make(), case.batch()
    q, rng = direction(model), torch.get_rng_state()
    torch.manual_seed(1)
    assert not torch.allclose(inner_products(model, TASK.training_loss, batch, q), slow(model, batch, q, rng))


def test_features_count_where_the_loss_reads_them() -> None:
    model = Tapped(BY_NAME["mlp"].build(), ["1"]).double()
    batch = BY_NAME["mlp"].batch()
    q = direction(model)

    def loss(student: Tapped, part: Batch) -> Tensor:
        answer: Outputs = student(part)
        return answer.features["1"].square().sum(1) + answer.logits[:, 0]

    wanted = per_sample_gradients_slow(model, loss, batch) @ flatten(q)
    for coupled in (True, False):
        assert_close(inner_products(model, loss, batch, q, coupled=coupled), wanted)


@pytest.mark.parametrize("name", [case.name for case in CASES if not case.forward])
def test_a_missing_forward_derivative_is_said_and_mended(name: str) -> None:
    case = BY_NAME[name]
    model, batch = case.make(), case.batch()
    q = direction(model)
    with pytest.raises(UnsupportedModelError, match="no forward derivative"):
        inner_products(model, TASK.training_loss, batch, q, way="forward")
    with pytest.warns(UserWarning, match="two backward passes"):
        inner_products(model, TASK.training_loss, batch, q)


def test_what_cannot_be_differentiated_at_all_is_refused_in_one_line() -> None:
    model = Tapped(nn.Sequential(nn.EmbeddingBag(9, 4), nn.Linear(4, 3)))
    batch = Batch(
        torch.arange(12).view(4, 3) % 9, torch.tensor([0, 1, 2, 0]), torch.arange(4), None, {"teacher": torch.ones(4, 3)}
    )
    with (
        pytest.raises(UnsupportedModelError, match="neither forwards nor twice backwards") as caught,
        pytest.warns(UserWarning, match="no forward"),
    ):
        inner_products(model, TASK.training_loss, batch, direction(model))
    assert "\n" not in str(caught.value)
