"""The problems of `attribution.py`: data, models as people train them, and what is true of them, by slow and independent means.

Nothing of `limbeck.influence` is used here. Gradients and the Gauss-Newton matrix come from explicit Jacobians of every sample
(torch.func); leave-one-out and half-set models are trained.
One file, though over 300 lines: a problem is of no use without its truths, which share its Jacobians.
"""

import hashlib
import inspect
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vmap

from limbeck.models.resnet import ResNet

IMAGES = Path("runs/data/mnist_half.npz")
FLIPS, L2, BATCH = 0.1, 1e-3, 64


@dataclass(frozen=True)
class Problem:
    """A model and its data.

    Args:
        name: Its name on the command line.
        title: Its name on the page.
        count: Training samples.
        queries: Query samples.
        epochs: Of training; 0 for the exact minimum of a convex loss.
        subsets: Half sets that are trained on, for the linear datamodelling score.
        seeds: Models trained on each half set, with different first weights; their losses are averaged.
        flips: The share of training labels that are wrong.
    """

    name: str
    title: str
    count: int
    queries: int
    epochs: int
    subsets: int
    seeds: int
    flips: float = FLIPS

    @property
    def convex(self) -> bool:
        """Whether the loss has one minimum, at which the model stands."""
        return self.epochs == 0

    def net(self, seed: int = 0) -> nn.Module:
        """The untrained model."""
        torch.manual_seed(seed)
        if self.convex:
            return nn.Sequential(nn.Linear(64, 10))
        if self.name == "resnet":
            return ResNet(1, (8, 8, 16, 32), channels=1, classes=10, norm="batch")
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))

    def data(self) -> "Data":
        """The same samples and flips on every call."""
        if self.name == "resnet":
            if not IMAGES.exists():
                sys.exit(f"attribution: {IMAGES} is not there; make it with benchmarks/prepare_data.py (mnist, --halve).")
            with np.load(IMAGES) as arrays:
                x = torch.tensor(arrays["inputs"]).float().flatten(1) / 255
                y = torch.tensor(arrays["labels"]).long()
            x = x.view(-1, 1, 14, 14)
        else:
            digits = load_digits()
            x, y = torch.tensor(digits.data).float() / 16, torch.tensor(digits.target).long()
        generator = torch.Generator().manual_seed(0)
        order = torch.randperm(len(x), generator=generator)[: self.count + self.queries]
        x, y = x[order], y[order]
        rows, asked = slice(0, self.count), slice(self.count, None)
        flipped = torch.rand(self.count, generator=generator) < self.flips
        other = (y[rows] + torch.randint(1, 10, (self.count,), generator=generator)) % 10
        return Data(x[rows], torch.where(flipped, other, y[rows]), x[asked], y[asked], flipped)


PROBLEMS = {
    problem.name: problem
    for problem in (
        Problem("logreg", "Logistic regression, digits, at its minimum", 1000, 200, 0, 50, 1),
        Problem("mlp", "MLP 64-32-10, digits", 1000, 200, 40, 50, 3),
        Problem("mlp-clean", "The same MLP, no wrong label", 1000, 200, 40, 50, 3, flips=0.0),
        Problem("resnet", "ResNet-8 of half width, 14 x 14 MNIST", 600, 100, 25, 30, 2),
    )
}


@dataclass(frozen=True)
class Data:
    """Training samples, with labels as given, and queries.

    Args:
        x: Inputs of the training samples.
        y: Their labels as given.
        query_x: Inputs of the queries.
        query_y: Their labels, which are right.
        flipped: Which training labels are wrong.
    """

    x: Tensor
    y: Tensor
    query_x: Tensor
    query_y: Tensor
    flipped: Tensor


@dataclass(frozen=True)
class Truth:
    """What is true of a problem.

    Args:
        state: The trained model's parameters and buffers.
        damping: lambda of the dense oracle: the L2 weight at a minimum, else a hundredth of the top eigenvalue.
        level: The mean eigenvalue of the Gauss-Newton matrix.
        oracle: -v_j' (G + lambda I)^-1 g_i, [Q, N].
        own: g_i' (G + lambda I)^-1 g_i, [N].
        removal: Change of the mean query loss after training without sample i, [N]; empty where not convex.
        members: Which samples each half set has, bool [M, N].
        losses: Each query's loss after training on each half set, [M, Q].
        accuracy: Of the trained model on the queries.
    """

    state: dict[str, Tensor]
    damping: float
    level: float
    oracle: Tensor
    own: Tensor
    removal: Tensor
    members: Tensor
    losses: Tensor
    accuracy: float


def trained(problem: Problem, x: Tensor, y: Tensor, seed: int = 0) -> nn.Module:
    """The model after training: mean cross-entropy + L2 / 2 |theta|^2."""
    net = problem.net(seed)
    if problem.convex:
        return minimised(net.double(), x.double(), y)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, weight_decay=L2)
    generator = torch.Generator().manual_seed(seed)
    steps = problem.epochs * -(-len(x) // BATCH)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for _ in range(problem.epochs):
        for rows in torch.randperm(len(x), generator=generator).split(BATCH):
            optimizer.zero_grad()
            F.cross_entropy(net(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    return net.eval()


def minimised(net: nn.Module, x: Tensor, y: Tensor) -> nn.Module:
    """The minimum of the convex loss, to a gradient of 1e-9."""
    optimizer = torch.optim.LBFGS(
        net.parameters(), max_iter=1000, tolerance_grad=1e-10, tolerance_change=0, history_size=50, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(net(x), y) + L2 / 2 * sum(part.square().sum() for part in net.parameters())
        loss.backward()
        return loss

    optimizer.step(closure)
    assert max(float(part.grad.abs().max()) for part in net.parameters() if part.grad is not None) < 1e-8
    return net


def jacobians(net: nn.Module, x: Tensor) -> tuple[Tensor, Tensor]:
    """Of every sample's logits in all parameters, [N, C, P], and the probabilities, [N, C]."""
    parameters = {name: part.detach() for name, part in net.named_parameters()}

    def logits(where: dict[str, Tensor], one: Tensor) -> Tensor:
        return functional_call(net, where, (one[None],))[0]

    rows = []
    for piece in x.split(50):
        found = vmap(jacrev(logits), (None, 0))(parameters, piece)
        rows.append(torch.cat([part.flatten(2) for part in found.values()], 2))
    with torch.no_grad():
        return torch.cat(rows), net(x).softmax(1)


def slopes(jacobian: Tensor, probabilities: Tensor, y: Tensor) -> Tensor:
    """The gradient of every sample's cross-entropy, [N, P]."""
    return torch.einsum("ncp,nc->np", jacobian, probabilities - F.one_hot(y, probabilities.shape[1]))


def roots(jacobian: Tensor, probabilities: Tensor) -> Tensor:
    """R [N C, P] with R'R the sum of the samples' Gauss-Newton matrices J' (diag p - p p') J.

    S = diag(sqrt p) - p sqrt(p)' has S S' = diag p - p p', so R = S' J.
    """
    root = probabilities.sqrt()
    return (root.unsqueeze(2) * jacobian - root.unsqueeze(2) * (probabilities.unsqueeze(1) @ jacobian)).flatten(0, 1)


def inverse(root: Tensor, count: int, damping: float) -> Callable[[Tensor], Tensor]:
    """Rows V -> V (R'R / N + damping I)^-1, by the smaller of the two dense systems (Woodbury's identity)."""
    if root.shape[1] <= root.shape[0]:
        matrix = (root.T @ root).double() / count
        factor = torch.linalg.cholesky(matrix + damping * torch.eye(len(matrix), dtype=torch.float64))
        return lambda rows: torch.cholesky_solve(rows.double().T, factor).T
    gram = (root @ root.T).double()
    factor = torch.linalg.cholesky(gram + count * damping * torch.eye(len(gram), dtype=torch.float64))
    return lambda rows: (
        (rows.double() - (torch.cholesky_solve((root @ rows.to(root.dtype).T).double(), factor).to(root.dtype).T @ root).double())
        / damping
    )


def top_eigenvalue(root: Tensor, count: int) -> float:
    """Of R'R / N, by power iteration."""
    v = torch.ones(root.shape[1], dtype=root.dtype)
    for _ in range(50):
        v = root.T @ (root @ (v / v.norm()))
    return float(v.norm() / count)


def left_out(net: nn.Module, data: Data, solve: Callable[[Tensor], Tensor]) -> Tensor:
    """The exact change of the mean query loss when sample i is left out, [N], for logistic regression.

    Every minimum is found by Newton steps with the full set's Hessian, which differs by 1 / N: each step gains some digits, and
    all samples take it together. Ends when every gradient is below 1e-9.
    """
    x = F.pad(data.x.double(), (0, 1), value=1.0)
    weight, bias = net.parameters()
    start = torch.cat([weight, bias[:, None]], 1).detach().double()
    hot, count = F.one_hot(data.y, 10).double(), len(x)
    theta = start.expand(count, *start.shape).clone()
    for _ in range(60):
        logits = torch.einsum("kcf,nf->knc", theta, x)
        residual = logits.softmax(2) - hot
        residual[torch.arange(count), torch.arange(count)] = 0
        gradient = torch.einsum("knc,nf->kcf", residual, x) / (count - 1) + L2 * theta
        if float(gradient.abs().max()) < 1e-9:
            break
        flat = torch.cat([gradient[..., :-1].flatten(1), gradient[..., -1]], 1)
        step = solve(flat)
        theta -= torch.cat([step[:, :-10].view(count, 10, -1), step[:, -10:, None]], 2)
    else:
        raise RuntimeError("attribution: leave-one-out did not converge")
    asked = F.pad(data.query_x.double(), (0, 1), value=1.0)
    logits = torch.einsum("kcf,nf->knc", torch.cat([start[None], theta]), asked)
    losses = F.cross_entropy(logits.flatten(0, 1), data.query_y.repeat(count + 1), reduction="none").view(count + 1, -1).mean(1)
    return losses[1:] - losses[0]


def half_sets(problem: Problem, data: Data) -> tuple[Tensor, Tensor]:
    """Members [M, N] of random half sets, and each query's loss after training on each, [M, Q]."""
    generator = torch.Generator().manual_seed(1)
    members = torch.zeros(problem.subsets, problem.count, dtype=torch.bool)
    losses = torch.zeros(problem.subsets, problem.queries)
    for row in range(problem.subsets):
        rows = torch.randperm(problem.count, generator=generator)[: problem.count // 2]
        members[row, rows] = True
        for seed in range(problem.seeds):
            net = trained(problem, data.x[rows], data.y[rows], seed)
            with torch.no_grad():
                x = data.query_x.to(next(net.parameters()).dtype)
                losses[row] += F.cross_entropy(net(x), data.query_y, reduction="none").float() / problem.seeds
    return members, losses


def found(problem: Problem, data: Data) -> Truth:
    """Everything that is true of a problem."""
    net = trained(problem, data.x, data.y)
    own = net.double() if problem.name != "resnet" else net
    dtype = next(own.parameters()).dtype
    jacobian, chances = jacobians(own, data.x.to(dtype))
    gradients = slopes(jacobian, chances, data.y).double()
    root = roots(jacobian, chances)
    del jacobian
    asked, right = jacobians(own, data.query_x.to(dtype))
    damping = L2 if problem.convex else 0.01 * top_eigenvalue(root, problem.count)
    solve = inverse(root, problem.count, damping)
    oracle = -solve(slopes(asked, right, data.query_y)) @ gradients.T
    members, losses = half_sets(problem, data)
    return Truth(
        state={name: part.detach().float() if part.is_floating_point() else part for name, part in own.state_dict().items()},
        damping=damping,
        level=float(root.double().square().sum()) / problem.count / root.shape[1],
        oracle=oracle.float(),
        own=(solve(gradients) * gradients).sum(1).float(),
        removal=left_out(own, data, solve).float() if problem.convex else torch.empty(0),
        members=members,
        losses=losses,
        accuracy=float((right.argmax(1) == data.query_y).float().mean()),
    )


def truth(problem: Problem, out: Path) -> Truth:
    """As `found`, kept in a file under `out` for as long as this file and the problem stay the same."""
    words = json.dumps(asdict(problem)) + inspect.getsource(sys.modules[__name__])
    file = out / f"truth-{problem.name}-{hashlib.sha256(words.encode()).hexdigest()[:10]}.pt"
    if not file.exists():
        print(f"{problem.name}: training and solving", file=sys.stderr, flush=True)
        out.mkdir(parents=True, exist_ok=True)
        part = file.with_suffix(".part")
        torch.save(vars(found(problem, problem.data())), part)
        part.replace(file)
    return Truth(**torch.load(file, weights_only=True))


def scored(problem: Problem, truth: Truth) -> nn.Module:
    """The trained model, in single precision and in evaluation mode: what every library gets."""
    net = problem.net()
    net.load_state_dict(truth.state)
    return net.eval()
