"""The benchmark's own truths and page: the oracle is right, leave-one-out is retraining, and the page hides nothing."""

import sys
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.testing import assert_close

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))
import attribution_page  # noqa: E402
import attribution_problems  # noqa: E402
import scaling  # noqa: E402


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 3)).double()


def test_gradients_and_gauss_newton_are_those_of_plain_autograd(net: nn.Module) -> None:
    x, y = torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 0, 1, 2])
    jacobian, chances = attribution_problems.jacobians(net, x)
    for row in range(6):
        grads = torch.autograd.grad(F.cross_entropy(net(x[row : row + 1]), y[row : row + 1]), list(net.parameters()))
        assert_close(attribution_problems.slopes(jacobian, chances, y)[row], torch.cat([part.flatten() for part in grads]))
    root = attribution_problems.roots(jacobian, chances)
    middle = torch.diag_embed(chances) - chances.unsqueeze(2) * chances.unsqueeze(1)  # diag p - p p'
    assert_close(root.T @ root, torch.einsum("ncp,ncd,ndq->pq", jacobian, middle, jacobian))


@pytest.mark.parametrize("count", [2, 30])  # fewer rows than parameters: Woodbury; more: the matrix itself
def test_the_inverse_is_the_damped_inverse(net: nn.Module, count: int) -> None:
    root = attribution_problems.roots(*attribution_problems.jacobians(net, torch.randn(count, 4, dtype=torch.float64)))
    rows = torch.randn(3, root.shape[1], dtype=torch.float64)
    dense = root.T @ root / count + 0.1 * torch.eye(root.shape[1], dtype=torch.float64)
    assert_close(attribution_problems.inverse(root, count, 0.1)(rows), torch.linalg.solve(dense, rows.T).T)
    top = float(torch.linalg.eigvalsh(root.T @ root / count)[-1])
    assert attribution_problems.top_eigenvalue(root, count) == pytest.approx(top, rel=0.02)


def test_leave_one_out_is_what_training_without_the_sample_gives() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(200, 5).double(), torch.randint(0, 10, (200,))
    data = attribution_problems.Data(x, y, torch.randn(7, 5), torch.randint(0, 10, (7,)), torch.zeros(200, dtype=torch.bool))

    def minimum(rows: torch.Tensor) -> nn.Module:
        return attribution_problems.minimised(nn.Sequential(nn.Linear(5, 10)).double(), x[rows], y[rows])

    def loss(net: nn.Module) -> float:
        return float(F.cross_entropy(net(data.query_x.double()), data.query_y).detach())

    net = minimum(torch.arange(200))
    hessian = attribution_problems.roots(*attribution_problems.jacobians(net, x))
    found = attribution_problems.left_out(net, data, attribution_problems.inverse(hessian, 200, attribution_problems.L2))
    for sample in (0, 17, 199):
        without = minimum(torch.tensor([row for row in range(200) if row != sample]))
        assert float(found[sample]) == pytest.approx(loss(without) - loss(net), abs=1e-6)


def test_half_sets_are_halves_and_flips_are_there() -> None:
    problem = attribution_problems.PROBLEMS["mlp"]
    data = problem.data()
    assert len(data.x) == problem.count
    assert len(data.query_x) == problem.queries
    assert 0.07 < float(data.flipped.float().mean()) < 0.13
    assert not attribution_problems.PROBLEMS["mlp-clean"].data().flipped.any()


FACTS = {
    "title": "T",
    "count": 9,
    "queries": 3,
    "flips": 0.1,
    "subsets": 2,
    "seeds": 1,
    "parameters": 5,
    "accuracy": 0.5,
    "damping": 1,
}


def made(library: str, quality: float, seconds: float) -> dict:
    return {"library": library, "how": "h", "prepare": 1.0, "mean": seconds, "oracle_mean": quality}


@pytest.mark.parametrize(
    ("ours", "theirs", "said"),
    [
        ((0.9, 1.0), (0.5, 0.1), []),
        ((0.5, 1.0), (0.9, 9.0), ["not first"]),
        ((0.9, 5.0), (0.895, 1.0), ["not the fastest"]),
    ],
)
def test_the_page_says_where_limbeck_is_not_first(
    ours: tuple[float, float], theirs: tuple[float, float], said: list[str]
) -> None:
    lines = attribution_page.verdict([made("limbeck", *ours), made("other", *theirs)])
    assert [word for word in ("not first", "not the fastest") if any(word in line for line in lines)] == said


def test_a_failure_is_a_row_with_its_reason() -> None:
    failed = {"library": "other", "how": "h", "failed": "stopped after 40 s | so"}
    problem = {"facts": FACTS, "oracle": {}, "methods": [made("limbeck", 0.9, 1.0), failed]}
    assert "| other `h`: *stopped after 40 s / so* | - | - | - |" in attribution_page.section(problem)


@pytest.mark.parametrize("power", [0.0, 1.0, 1.5])
def test_exponents_are_those_of_a_power(power: float) -> None:
    sizes = [1.0, 2.0, 4.0, 8.0, 16.0]
    assert scaling.exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)
