"""What test_two_processes.py does in one process, and in each of two: cases and what comes of them."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from training_makers import Parts, half_and_half, parts, random_weights, train, weighting

from limbeck.balancing.balancer import Balancer
from limbeck.balancing.dynamic_lambda import DynamicLambda
from limbeck.core.objective import Objective
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.data.domains import Domains
from limbeck.data.loader import Loader, whole
from limbeck.data.source import InMemory
from limbeck.data.tokens import Bytes, Tokens
from limbeck.distiller import Distiller
from limbeck.engine.engine import Engine
from limbeck.experiment.logbook import Logbook, SampleTracker
from limbeck.influence.curvature.ekfac import EKFAC
from limbeck.llm.adaptivereplay import AdaptiveReplay
from limbeck.llm.grpo import GRPO
from limbeck.llm.onpolicy import OnPolicy
from limbeck.llm.rewards import Reward
from limbeck.llm.withtext import WithText
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.chunked import Chunked
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.minillm import MiniLLM
from limbeck.losses.logits.taid import TAID
from limbeck.losses.logits.tgeokd import TGeoKD
from limbeck.losses.logits.trrd import TRRD
from limbeck.mixtures.ddk import DDK
from limbeck.models.gpt import GPT
from limbeck.models.spec import DataSpec
from limbeck.teachers.single import Single
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.bilevel import Bilevel
from limbeck.training.steps.mixing import Mixing
from limbeck.training.steps.offline import Offline
from limbeck.training.steps.sequential import Sequential
from limbeck.training.steps.simultaneous import Simultaneous
from limbeck.training.steps.student import Student
from limbeck.training.steps.teacher_only import TeacherOnly
from limbeck.training.training import Update
from limbeck.weighting.controls import Oracle, OwnLoss, Shuffled
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Weighting


class Projected(Term):
    """A term with a trainable part of its own."""

    needs = frozenset({"targets"})

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(8)
        self.head = nn.Linear(3, 3)

    def forward(self, views: Views) -> Tensor:
        assert views.batch.targets is not None
        return nn.functional.cross_entropy(self.head(views.student.logits), views.batch.targets, reduction="none")


def projected() -> Parts:
    made = parts(objective=Objective([(0.5, Projected())]) + half_and_half(), weights=weighting())
    trained = [*made.distiller.student.parameters(), *made.distiller.objective.parameters()]
    made.optimizer = torch.optim.SGD(trained, lr=0.1, momentum=0.9)
    return made


def balanced(balancer: Balancer) -> Parts:
    return parts(objective=KD(T=2.0) + CE(), balancer=balancer, weights=ekfac())


def ekfac() -> InfluenceWeighting:
    return weighting(solver=EKFAC(statistics=4, basis=7))


class Odd(Reward):
    """How many odd characters a completion has."""

    def __call__(self, prompt: str, wrote: str, answer: str) -> float:
        return float(sum(ord(one) % 2 for one in wrote))


def language(objective: Term | Objective, weights: Weighting, tokens: Tokens | None = None) -> Parts:
    """Rows of one to six tokens that count, so that the processes of a step have other numbers of them."""
    rows, length, vocabulary = 57, 6, 9 if tokens is None else tokens.size
    ids = torch.randint(vocabulary, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    mask = torch.arange(length) < (torch.arange(rows) % length + 1).unsqueeze(1)
    source = InMemory(ids[:, :-1], ids[:, 1:].clone(), vocabulary=vocabulary, mask=mask)
    source.tokenizer = tokens
    nets = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        nets.append(GPT(width=8, depth=1, heads=2).build(DataSpec("language", (length,), vocabulary, vocabulary)))
    distiller = Distiller(nets[0], Single(nets[1]), objective, weighting=weights, per="token")
    loader = Loader(source, torch.arange(48), batch_size=12, seed=3, labels=source.labels)
    optimizer = torch.optim.SGD(distiller.trained(), lr=0.1, momentum=0.9)
    queries = whole(source, torch.arange(48, rows), source.labels)
    return Parts(distiller, loader, optimizer, queries, torch.ones(rows, dtype=torch.bool))


def by_domain() -> Parts:
    made = parts(weights=Uniform())
    source, rows = made.loader.source, made.loader.rows
    source.groups, source.group_names = torch.arange(len(source)) % 2, ("even", "odd")
    sampler = Domains(source, rows, seed=3, every=2)
    made.loader = Loader(source, rows, batch_size=made.loader.batch_size, seed=3, labels=source.labels, sampler=sampler)
    return made


Case = tuple[Callable[[], Parts], Callable[[], Update], dict[str, Any]]
CASES: dict[str, Case] = {
    "uniform": (lambda: parts(weights=Uniform()), Student, {}),
    "uniform, layer norm": (lambda: parts(kind="layernorm", weights=Uniform()), Student, {}),
    "influence": (lambda: parts(weights=ekfac()), Student, {}),
    "influence, layer norm": (lambda: parts(kind="layernorm", weights=ekfac()), Student, {}),
    "influence, clipped, with a rate": (lambda: parts(weights=ekfac()), Student, {"clip": 0.3, "rate": lambda n, t: 1 - n / t}),
    "influence, in parts": (lambda: parts(weights=ekfac()), Student, {"accumulate": 3}),
    "uniform, in parts": (lambda: parts(weights=Uniform()), Student, {"accumulate": 3}),
    "mixture": (by_domain, lambda: Mixing(Student(), DDK(every=2)), {}),
    "stored": (lambda: parts(weights=InfluenceWeighting(EKFAC(), refresh="epochs:1", samples=24)), Student, {}),
    "random": (lambda: parts(weights=random_weights()), Student, {}),
    "own loss": (lambda: parts(weights=OwnLoss()), Student, {}),
    "oracle": (lambda: parts(weights=Oracle()), Student, {}),
    "shuffled": (lambda: parts(weights=Shuffled(ekfac())), Student, {}),
    "teacher only": (lambda: parts(weights=ekfac(), trained=True), TeacherOnly, {}),
    "simultaneous": (lambda: parts(weights=ekfac(), trained=True), lambda: Simultaneous(feedback=0.5), {}),
    "simultaneous, in parts": (
        lambda: parts(weights=ekfac(), trained=True),
        lambda: Simultaneous(feedback=0.5),
        {"accumulate": 2},
    ),
    "first order": (lambda: parts(weights=ekfac(), trained=True), lambda: TeacherOnly(feedback=0.5, order="first"), {}),
    "sequential": (lambda: parts(weights=ekfac(), trained=True), Sequential, {}),
    "offline": (lambda: parts(weights=Uniform()), lambda: Offline(epochs=1), {}),
    "a trained term": (projected, Student, {}),
    "dynamic lambda": (lambda: balanced(DynamicLambda()), Student, {}),
    "dynamic lambda by queries": (lambda: balanced(DynamicLambda("A", "val", level="all")), Student, {}),
    "per token": (lambda: language(Chunked(TAID(alpha=0.1), 5) + CE(), Uniform()), Student, {}),
    "per token, influence, in parts": (lambda: language(JSD() + CE(), ekfac()), Student, {"accumulate": 3}),
    "per token, rollouts": (lambda: language(JSD(), Uniform()), lambda: OnPolicy(0.5, length=3), {}),
    "per token, replay": (
        lambda: language(JSD(), Uniform()),
        lambda: AdaptiveReplay(capacity=20, every=1, rise=0.5, tolerance=0.0, length=3),
        {},
    ),
    "rollouts of both, used again, beside the data": (
        lambda: language(MiniLLM(whiten=False), Uniform()),
        lambda: WithText(OnPolicy(1.0, "both", length=3, reuse=2)),
        {},
    ),
    "rollouts, used again, influence": (lambda: language(JSD(), ekfac()), lambda: OnPolicy(0.5, length=3, reuse=3), {}),
    "groups with rewards, used again, beside a text": (
        lambda: language(TRRD(beta=0.1), Uniform(), Bytes()),
        lambda: WithText(GRPO(Odd(), group=3, length=3, reuse=2), Path(__file__).with_name("plain.txt")),
        {},
    ),
    "groups with rewards, influence, in parts": (
        lambda: language(TRRD(), ekfac(), Bytes()),
        lambda: GRPO(Odd(), group=2, length=3),
        {"accumulate": 2},
    ),
    "a learned ratio": (lambda: parts(objective=TGeoKD() * 0.8, weights=ekfac()), lambda: Bilevel(lr=0.01), {}),
}


def outcome(name: str, engine: Engine, keeper: Keeper | None = None, **options: Any) -> dict[str, Any]:
    """What a case ends in: parameters, and what a run would write of it."""
    make, step, own = CASES[name]
    made = make()
    log = Logbook({}, len(made.loader), made.queries, made.clean)
    tracker = SampleTracker(len(made.clean))
    ran = train(made, step(), engine=engine, callbacks=[log, tracker], keeper=keeper, **{**own, **options})
    return {
        "state": ran.training.distiller.state_dict(),
        "rows": log.rows,
        "mean": tracker.mean,
        "last": tracker.last,
        "seen": tracker.seen,
    }


QUICK = ("influence, layer norm", "a trained term")
"""Cases of the fast test set."""


def results(names: tuple[str, ...], folder: Path) -> dict[str, Any]:
    """Of these cases, and of one that is stopped and gone on with; called in every process."""
    from limbeck.engine.accelerate import AccelerateEngine

    engine = AccelerateEngine(cpu=True)
    found: dict[str, Any] = {name: outcome(name, engine) for name in names}
    keeper = Keeper(folder / "keep.pt", every=1, pause_s=0)
    calm = outcome("influence", engine)
    outcome("influence", engine, keeper, steps=5)  # stopped in the middle of an epoch
    stopped = outcome("influence", engine, keeper)
    found["stopped"] = {"calm": calm, "stopped": stopped}
    try:
        train(parts(batch=9), engine=engine)
    except ValueError as error:
        found["odd"] = str(error)
    states = engine.gather(torch.cat([part.reshape(-1) for part in calm["state"].values()]).unsqueeze(0))
    return {**found, "processes": engine.processes, "alike": bool((states == states[0]).all())}
