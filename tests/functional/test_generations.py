"""The closed forms of guided and of anchored generations, against recursions and the sheets' numbers."""

import math

import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.outputs import Views
from limbeck.functional.divergences import forward_kl
from limbeck.functional.ensembles import Combine, mean_of
from limbeck.functional.generations import (
    anchor_after,
    anchored_bounds,
    best_alpha,
    drifted,
    guided_limit,
    guided_smoother,
)
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from support.makers import LABELS, STUDENT, TEACHER, normal, views

TWO = torch.tensor([[1, 0.5], [0.5, 1]], dtype=torch.float64)
Y = torch.tensor([1, 0.5], dtype=torch.float64)
EYE = torch.eye(2, dtype=torch.float64)


def kernel(size: int = 6, seed: int = 0) -> Tensor:
    root = normal(size, size, seed=seed)
    return root @ root.T / size


def recursion(k: Tensor, ridge: float, alpha: float, y: Tensor, count: int) -> list[Tensor]:
    """f_1 = A y, f_tau = A (alpha y + (1 - alpha) f_(tau - 1)): the definition."""
    smoother = torch.linalg.solve(k + ridge * torch.eye(len(k), dtype=k.dtype), k, left=False)
    found = [smoother @ y]
    for _ in range(count - 1):
        found.append(smoother @ (alpha * y + (1 - alpha) * found[-1]))
    return found


def test_golden_numbers_of_two_points() -> None:
    """K = [[1, .5], [.5, 1]], lambda = .5, y = (1, .5), alpha = .25."""
    assert_close(guided_smoother(TWO, 0.5, 0.25, 1), torch.tensor([[0.625, 0.125], [0.125, 0.625]], dtype=torch.float64))
    wanted = [(0.6875, 0.4375), (0.535156, 0.378906), (0.458252, 0.337158)]
    for number, pair in enumerate(wanted, 1):
        found = guided_smoother(TWO, 0.5, 0.25, number) @ Y
        assert_close(found, torch.tensor(pair, dtype=torch.float64), rtol=0, atol=6e-7)
    limit = torch.tensor((0.371429, 0.271429), dtype=torch.float64)
    assert_close(guided_limit(TWO, 0.5, 0.25) @ Y, limit, rtol=0, atol=6e-7)


LABELS_OF_THE_NOTEBOOK = (
    "0.38476636465198066 1.2333967683416893 1.33232242217057 0.6920159488889518 -0.29756145531871736 -0.24189291901377769 "
    "-0.7964485769175675 -0.9616480167034174 -0.49672509509916934 -0.3469066003991437 0.5589512650600734"
)


@pytest.mark.parametrize(
    ("alpha", "wanted", "limit"),
    [
        (0.0, [0.16477, 0.15076, 0.14915, 0.15561, 0.16735, 0.18251], 0.49505),
        (0.35, [0.16477, 0.15424, 0.15089, 0.14983, 0.14954, 0.14948], 0.14959),
        (0.25, [0.16477, 0.15309, 0.14958, 0.14903, 0.14946, 0.15011], 0.15250),
    ],
)
def test_the_losses_of_the_authors_notebook(alpha: float, wanted: list[float], limit: float) -> None:
    """RBF kernel exp(-80 (x - x')^2), lambda = .2, mean squared distance to sin(2 pi x) on 101 points."""
    x, grid = torch.linspace(0, 1, 11, dtype=torch.float64), torch.linspace(0, 1, 101, dtype=torch.float64)
    y = torch.tensor([float(word) for word in LABELS_OF_THE_NOTEBOOK.split()], dtype=torch.float64)
    k, across = (torch.exp(-80 * (one[:, None] - x[None]) ** 2) for one in (x, grid))
    inverse = torch.linalg.inv(k + 0.2 * torch.eye(11, dtype=torch.float64))

    def loss(previous: Tensor) -> float:
        found = across @ inverse @ (alpha * y + (1 - alpha) * previous)
        return float((found - torch.sin(2 * math.pi * grid)).square().mean())

    before = [y] + [guided_smoother(k, 0.2, alpha, number) @ y for number in range(1, 6)]
    assert [loss(previous) for previous in before] == pytest.approx(wanted, abs=6e-6)
    assert loss(guided_limit(k, 0.2, alpha) @ y) == pytest.approx(limit, abs=6e-6)


@pytest.mark.parametrize("alpha", [0.0, 0.3, 1.0])
def test_the_closed_form_is_the_recursion(alpha: float) -> None:
    k, y = kernel(), normal(6, 2, seed=9)
    for number, wanted in enumerate(recursion(k, 0.4, alpha, y, 6), 1):
        assert_close(guided_smoother(k, 0.4, alpha, number) @ y, wanted)


def test_limits_of_alpha_and_of_the_ridge() -> None:
    k, one = kernel(), guided_smoother(kernel(), 0.4, 0.5, 1)
    assert_close(guided_smoother(k, 0.4, 1.0, 7), one)
    assert_close(guided_smoother(k, 0.4, 0.0, 3), one @ one @ one)
    assert_close(guided_smoother(k, 1e-12, 0.3, 4), torch.eye(6, dtype=torch.float64), rtol=0, atol=1e-6)
    assert_close(guided_smoother(k, 0.4, 0.3, 200), guided_limit(k, 0.4, 0.3), rtol=0, atol=1e-12)
    assert not guided_limit(k, 0.4, 0.0).any()


def test_smoothers_are_symmetric_shrink_and_shrink_less_with_more_labels() -> None:
    traces = []
    for number in range(1, 6):
        found = guided_smoother(kernel(), 0.4, 0.3, number)
        assert_close(found, found.T)
        values = torch.linalg.eigvalsh(found)
        assert ((values > 0) & (values < 1)).all()
        traces.append(float(found.trace()))
    assert traces == sorted(traces, reverse=True)
    assert float(guided_smoother(kernel(), 0.4, 0.6, 5).trace()) > traces[-1]


def test_the_best_alpha() -> None:
    """Golden number, and the minimiser of the parabola."""
    v, u, w = (
        torch.tensor(part, dtype=torch.float64)
        for part in ((0.47, 0.24, 0.32), (0.5375, 0.2375, 0.375), (0.371875, 0.221875, 0.28125))
    )
    found = best_alpha(u, w, v)
    assert found == pytest.approx(0.553080, abs=1e-6)

    def loss(alpha: float) -> float:
        return float((alpha * u + (1 - alpha) * w - v).square().mean())

    assert [loss(alpha) for alpha in (found, 0.0, 1.0)] == pytest.approx([0.000101, 0.003820, 0.002529], abs=6e-7)
    assert loss(found) < min(loss(found - 0.01), loss(found + 0.01))
    assert best_alpha(u, w, w - 10 * (u - w)) == 0
    assert best_alpha(u, w, u + 10 * (u - w)) == 1
    assert best_alpha(u, u, v) == 1


def test_deep_guided_generations_are_a_sum_of_two_terms() -> None:
    """alpha CE + (1 - alpha) KD(T=1) has the gradient of cross-entropy with the target alpha y + (1 - alpha) previous."""
    logits = STUDENT.clone().requires_grad_()
    both: Views = views(logits, TEACHER, LABELS)
    (found,) = torch.autograd.grad((CE() * 0.3 + KD(T=1) * 0.7).per_sample(both).sum(), logits)
    target = 0.3 * torch.nn.functional.one_hot(LABELS, 4) + 0.7 * TEACHER.softmax(1)
    (wanted,) = torch.autograd.grad(-(target * logits.log_softmax(1)).sum(), logits)
    assert_close(found, wanted)


B, P = (torch.tensor([part], dtype=torch.float64) for part in ((0.7, 0.2, 0.1), (0.2, 0.3, 0.5)))
GOLDEN: list[tuple[Combine, list[tuple[float, float, float]], list[float], float]] = [
    (
        "probability",
        [(0.35, 0.27, 0.38), (0.455, 0.249, 0.296), (0.5285, 0.2343, 0.2372)],
        [0.291682, 0.149202, 0.078696],
        0.093435,
    ),
    (
        "logit",
        [(0.336539, 0.306958, 0.356503), (0.449511, 0.289435, 0.261054), (0.530252, 0.267565, 0.202184)],
        [0.299861, 0.140166, 0.065801],
        0.072946,
    ),
]


def anchored(combine: Combine, anchor: float, b: Tensor, p: Tensor, count: int) -> list[Tensor]:
    """p_k = M(b, p_(k - 1)), log-probabilities."""
    found = []
    for _ in range(count):
        p = mean_of([b, p], [anchor, 1 - anchor], combine).log_softmax(-1)
        found.append(p)
    return found


@pytest.mark.parametrize(("combine", "rows", "forward", "reverse"), GOLDEN, ids=["linear", "geometric"])
def test_golden_numbers_of_anchored_generations(
    combine: Combine, rows: list[tuple[float, float, float]], forward: list[float], reverse: float
) -> None:
    found = anchored(combine, 0.3, B.log(), P.log(), 3)
    assert_close(torch.cat(found).exp(), torch.tensor(rows, dtype=torch.float64), rtol=0, atol=6e-7)
    assert [float(forward_kl(B.log(), p)) for p in found] == pytest.approx(forward, abs=6e-7)
    assert float(forward_kl(found[-1], B.log())) == pytest.approx(reverse, abs=6e-7)


@pytest.mark.parametrize("combine", ["probability", "logit"])
@pytest.mark.parametrize("anchor", [0.1, 0.5, 0.9])
def test_recursion_closed_form_and_bounds(combine: Combine, anchor: float) -> None:
    b, p = normal(20, 5, seed=1).log_softmax(1), (3 * normal(20, 5, seed=2)).log_softmax(1)
    before = forward_kl(p, b)
    for number, found in enumerate(anchored(combine, anchor, b, p, 6), 1):
        share = anchor_after(anchor, number)
        assert_close(found, mean_of([b, p], [share, 1 - share], combine).log_softmax(1))
        bound = (1 - anchor) ** number
        assert (forward_kl(b, found) <= bound * forward_kl(b, p) + 1e-12).all()
        reverse = forward_kl(found, b)
        if combine == "probability":
            assert (reverse <= bound * forward_kl(p, b) + 1e-12).all()
        assert (reverse <= before + 1e-12).all()
        before = reverse


def test_the_geometric_operators_exact_identity() -> None:
    """KL(b || M) = (1 - a) KL(b || p) + log sum b^a p^(1 - a)."""
    b, p = normal(20, 5, seed=1).log_softmax(1), normal(20, 5, seed=2).log_softmax(1)
    found = mean_of([b, p], [0.3, 0.7], "logit")
    assert_close(forward_kl(b, found.log_softmax(1)), 0.7 * forward_kl(b, p) + found.logsumexp(1))


def test_the_base_is_the_fixed_point_of_both() -> None:
    for combine in ("probability", "logit"):
        assert_close(mean_of([B.log(), B.log()], [0.3, 0.7], combine).log_softmax(-1), B.log())


def test_bounds_and_when_to_stop() -> None:
    firsts = [float(forward_kl(B.log(), P.log())), float(forward_kl(P.log(), B.log()))]
    assert firsts == pytest.approx([0.634897, 0.675806], abs=6e-7)
    assert [anchored_bounds(first, 0.3, 3)[-1] for first in firsts] == pytest.approx([0.217770, 0.231801], abs=1e-6)
    assert anchored_bounds(1.0, 0.5, 2, error=0.1) == pytest.approx([0.7, 0.45])
    assert not drifted([1.0, 0.6, 0.4], 0.5, 0.1)
    assert drifted([1.0, 0.6, 0.5], 0.5, 0.1)
    assert not drifted([1.0], 0.5, 0.0)
