"""The methods that `attribution.py` compares, each as its library documents it: a class per library, a row per setting.

A library that has no mean query takes the mean of its matrix. Its scores are turned so that a large one is harmful, as phi is.
Libraries are imported where they are used: each method runs in a process of its own.
One file, though over 300 lines: it is a list of like parts, one for each library.
"""

import logging
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from attribution_problems import Data

BATCH = 256


@dataclass(frozen=True)
class Setting:
    """What every method gets.

    Args:
        net: The trained model, in evaluation mode.
        data: Samples and queries.
        damping: That of the oracle, for inverses of a whole matrix.
        kronecker: A tenth of the mean eigenvalue, for EK-FAC without a rule of its own: what the others' rule comes to.
        convex: Whether the Hessian may be used as it is.
    """

    net: nn.Module
    data: Data
    damping: float
    kronecker: float
    convex: bool


class Method(ABC):
    """One way of one library.

    Args:
        setting: The model and its data.
        how: What is chosen of the library.
    """

    def __init__(self, setting: Setting, how: str) -> None:
        self.setting, self.how = setting, how
        self.net, self.data = setting.net, setting.data

    def loaders(self, batch: int = BATCH) -> tuple[DataLoader, DataLoader]:
        """Training samples and queries in their order."""
        train, asked = TensorDataset(self.data.x, self.data.y), TensorDataset(self.data.query_x, self.data.query_y)
        return DataLoader(train, batch_size=batch), DataLoader(asked, batch_size=batch)

    def prepare(self) -> None:  # noqa: B027 - some have nothing to prepare
        """All that depends on the model and the training set alone."""

    @abstractmethod
    def full(self) -> Tensor:
        """Every query against every sample, [Q, N]."""

    def mean(self) -> Tensor | None:
        """Every sample against the mean query loss, [N]; None where the library has no such thing."""
        return None

    def own(self) -> Tensor | None:
        """Every sample on itself, [N]; None where the library has no such thing."""
        return None


class Limbeck(Method):
    """This package; `how` is a solver as typed in a recipe."""

    def prepare(self) -> None:
        """The solver's curvature."""
        from limbeck import Batch, Supervised, Tapped
        from limbeck.influence.curvature.solver import Problem

        self.model, self.task = Tapped(self.net), Supervised()
        data = self.data
        self.train = [Batch(data.x, data.y, torch.arange(len(data.x)))]
        self.asked = [Batch(data.query_x, data.query_y, torch.arange(len(data.query_x)))]
        self.solver = self.named()
        self.solver.update(Problem(self.model, self.task, self.train, torch.Generator().manual_seed(0)))
        self.solver.update = lambda *_: None  # type: ignore[method-assign] - the estimate is kept for all three scores

    def named(self):
        """The solver."""
        from limbeck import EKFAC, ConjugateGradient, Exact, Identity

        kind = "hessian" if self.setting.convex else "gauss_newton"
        return {
            "EKFAC()": lambda: EKFAC(),
            "ConjugateGradient(steps=5, preconditioner=EKFAC())": lambda: ConjugateGradient(steps=5, preconditioner=EKFAC()),
            "ConjugateGradient(lambda, steps=20, relative=False)": lambda: ConjugateGradient(
                self.setting.damping, 20, relative=False
            ),
            "Exact(lambda, relative=False)": lambda: Exact(self.setting.damping, relative=False, curvature=kind),
            "Identity()": lambda: Identity(),
        }[self.how]()

    def mean(self) -> Tensor:
        """`score`."""
        from limbeck import score

        return score(self.model, self.task, self.train, self.asked, self.solver).phi

    def full(self) -> Tensor:
        """`score_matrix`."""
        from limbeck import score_matrix

        return torch.cat([tile.phi for tile in score_matrix(self.model, self.task, self.train, self.asked, self.solver)])

    def own(self) -> Tensor:
        """`self_influence`."""
        from limbeck import self_influence

        return self_influence(self.model, self.task, self.train, self.solver).value


class Kronfluence(Method):
    """Factors on disk, as the library keeps them; damping None is its heuristic, a tenth of the mean eigenvalue."""

    def prepare(self) -> None:
        """Covariances, eigenvectors and eigenvalues."""
        from kronfluence.analyzer import Analyzer, prepare_model
        from kronfluence.arguments import FactorArguments
        from kronfluence.task import Task

        class Classify(Task):
            def compute_train_loss(self, batch, model, sample=False):
                logits = model(batch[0])
                labels = batch[1]
                if sample:
                    labels = torch.multinomial(logits.detach().softmax(-1), 1).flatten()
                return F.cross_entropy(logits, labels, reduction="sum")

            def compute_measurement(self, batch, model):
                return F.cross_entropy(model(batch[0]), batch[1], reduction="sum")

        task = Classify()
        self.folder = tempfile.TemporaryDirectory()
        self.analyzer = Analyzer(
            "bench", prepare_model(self.net, task), task, cpu=True, output_dir=self.folder.name, disable_tqdm=True,
            log_level=logging.ERROR,
        )  # fmt: skip
        self.train, self.asked = (loader.dataset for loader in self.loaders())
        self.analyzer.fit_all_factors(
            "factors", self.train, per_device_batch_size=BATCH, factor_args=FactorArguments(strategy=self.how)
        )

    def _scores(self, name: str, *, aggregate: bool) -> Tensor:
        from kronfluence.arguments import ScoreArguments

        self.analyzer.compute_pairwise_scores(
            name, "factors", self.asked, self.train, per_device_query_batch_size=BATCH, per_device_train_batch_size=BATCH,
            score_args=ScoreArguments(damping_factor=None, aggregate_query_gradients=aggregate), overwrite_output_dir=True,
        )  # fmt: skip
        return -self.analyzer.load_pairwise_scores(name)["all_modules"]

    def full(self) -> Tensor:
        """Pairwise scores."""
        return self._scores("full", aggregate=False)

    def mean(self) -> Tensor:
        """Pairwise scores with the queries' gradients added up."""
        return self._scores("mean", aggregate=True)[0] / len(self.data.query_x)

    def own(self) -> Tensor:
        """Self-influence scores."""
        from kronfluence.arguments import ScoreArguments

        self.analyzer.compute_self_scores(
            "own", "factors", self.train, per_device_train_batch_size=BATCH,
            score_args=ScoreArguments(damping_factor=None), overwrite_output_dir=True,
        )  # fmt: skip
        return self.analyzer.load_self_scores("own")["all_modules"]


class Dattri(Method):
    """All samples in one batch: its solvers add up the inverses of batches."""

    def prepare(self) -> None:
        """The attributor and its cache."""
        from dattri.algorithm.influence_function import (
            IFAttributorArnoldi,
            IFAttributorCG,
            IFAttributorEKFAC,
            IFAttributorExplicit,
        )
        from dattri.task import AttributionTask

        def loss(parameters: dict, data: tuple[Tensor, Tensor]) -> Tensor:
            x, y = data
            return F.cross_entropy(torch.func.functional_call(self.net, parameters, x), y)

        task, damping = AttributionTask(loss, self.net, self.net.state_dict()), self.setting.damping
        makes: dict[str, Callable] = {
            "explicit": lambda: IFAttributorExplicit(task, regularization=damping),
            "CG, 20 steps": lambda: IFAttributorCG(task, max_iter=20, regularization=damping),
            "Arnoldi, 100": lambda: IFAttributorArnoldi(task, proj_dim=100, max_iter=100, regularization=damping),
            "EK-FAC": lambda: IFAttributorEKFAC(task, damping=self.setting.kronecker),
        }
        self.train, self.asked = self.loaders(len(self.data.x))
        self.attributor = makes[self.how]()
        self.attributor.cache(self.train)

    def full(self) -> Tensor:
        """`attribute`."""
        return -self.attributor.attribute(self.train, self.asked).detach().T


class PyDVL(Method):
    """Needs cross-entropy itself, not a mean of it by hand."""

    def prepare(self) -> None:
        """`fit`."""
        from pydvl.influence.torch import CgInfluence, DirectInfluence, EkfacInfluence, NystroemSketchInfluence

        damping = self.setting.damping
        makes: dict[str, Callable] = {
            "Direct": lambda: DirectInfluence(self.net, F.cross_entropy, damping),
            "CG, 20 steps": lambda: CgInfluence(
                self.net, F.cross_entropy, damping, maxiter=20, solve_simultaneously=True, warn_on_max_iteration=False
            ),
            "Nystroem, 100": lambda: NystroemSketchInfluence(self.net, F.cross_entropy, damping, rank=100),
            "EK-FAC": lambda: EkfacInfluence(self.net, update_diagonal=True, hessian_regularization=self.setting.kronecker),
        }
        self.influence = makes[self.how]().fit(self.loaders()[0])

    def full(self) -> Tensor:
        """`influences`."""
        data = self.data
        return -self.influence.influences(data.query_x, data.query_y, data.x, data.y).detach()


class Trak(Method):
    """One model, gradients projected to 256 numbers by BasicProjector, single precision: what there is on a CPU."""

    WIDTH = 256

    def prepare(self) -> None:
        """Features of the training set."""
        from trak import TRAKer

        self.folder = tempfile.TemporaryDirectory()
        self.tracker = TRAKer(
            self.net, "image_classification", train_set_size=len(self.data.x), save_dir=self.folder.name, device="cpu",
            proj_dim=self.WIDTH, use_half_precision=False, logging_level=logging.ERROR,
        )  # fmt: skip
        self.tracker.load_checkpoint(self.net.state_dict(), model_id=0)
        for batch in self.loaders()[0]:
            self.tracker.featurize(batch, num_samples=len(batch[0]))
        self.tracker.finalize_features()

    def full(self) -> Tensor:
        """Scores of the queries' margins; a larger margin is a smaller loss."""
        self.tracker.start_scoring_checkpoint("q", self.net.state_dict(), model_id=0, num_targets=len(self.data.query_x))
        for batch in self.loaders()[1]:
            self.tracker.score(batch, num_samples=len(batch[0]))
        return -torch.tensor(self.tracker.finalize_scores("q")).T


class Captum(Method):
    """TracIn at the last checkpoint, without an inverse, and Arnoldi influence."""

    def prepare(self) -> None:
        """The object; for Arnoldi the projection."""
        from captum.influence import TracInCP, TracInCPFast
        from captum.influence._core.arnoldi_influence_function import ArnoldiInfluenceFunction  # not exported, but documented

        self.folder = tempfile.TemporaryDirectory()
        file = str(Path(self.folder.name) / "checkpoint.pt")
        torch.save(self.net.state_dict(), file)
        layers = [name for name, part in self.net.named_modules() if isinstance(part, nn.Linear | nn.Conv2d)]
        loss, train = nn.CrossEntropyLoss(reduction="sum"), self.loaders()[0].dataset
        plain = {"checkpoints_load_func": lambda *_: 1.0, "loss_fn": loss, "batch_size": BATCH}
        makes: dict[str, Callable] = {
            "TracInCP": lambda: TracInCP(self.net, train, [file], layers=layers, sample_wise_grads_per_batch=True, **plain),
            "TracInCPFast": lambda: TracInCPFast(
                self.net, self.net.get_submodule(layers[-1]), train, [file], **plain
            ),
            "Arnoldi, 50": lambda: ArnoldiInfluenceFunction(
                self.net, train, file, layers=layers, sample_wise_grads_per_batch=True,
                hessian_reg=self.setting.damping * len(self.data.x), **plain,
            ),
        }  # fmt: skip
        self.influence = makes[self.how]()

    def full(self) -> Tensor:
        """`influence`."""
        return -self.influence.influence((self.data.query_x, self.data.query_y)).detach()

    def mean(self) -> Tensor | None:
        """TracIn can add up the queries."""
        if self.how != "TracInCP":
            return None
        found = self.influence.influence((self.data.query_x, self.data.query_y), aggregate=True)
        return -found.detach().flatten() / len(self.data.query_x)

    def own(self) -> Tensor | None:
        """`self_influence`."""
        return None if self.how == "TracInCPFast" else self.influence.self_influence().detach()


@dataclass(frozen=True)
class Row:
    """A line of the table.

    Args:
        library: The distribution's name.
        kind: Its class here.
        how: What is chosen of it.
        covers: What of a convolution net it covers, where that is not all.
        problems: Where it is tried; empty for everywhere.
    """

    library: str
    kind: type[Method]
    how: str
    covers: str = ""
    problems: tuple[str, ...] = field(default=())


SMALL = ("logreg", "mlp", "mlp-clean")
ROWS = [
    Row("limbeck", Limbeck, "EKFAC()"),
    Row("limbeck", Limbeck, "ConjugateGradient(steps=5, preconditioner=EKFAC())"),
    Row("limbeck", Limbeck, "ConjugateGradient(lambda, steps=20, relative=False)"),
    Row("limbeck", Limbeck, "Exact(lambda, relative=False)"),
    Row("limbeck", Limbeck, "Identity()"),
    Row("kronfluence", Kronfluence, "ekfac", "no normalisation layers"),
    Row("kronfluence", Kronfluence, "kfac", "no normalisation layers"),
    Row("kronfluence", Kronfluence, "identity", "no normalisation layers"),
    Row("dattri", Dattri, "explicit", problems=SMALL),
    Row("dattri", Dattri, "CG, 20 steps"),
    Row("dattri", Dattri, "Arnoldi, 100"),
    Row("dattri", Dattri, "EK-FAC", "linear layers only"),
    Row("pyDVL", PyDVL, "Direct", problems=SMALL),
    Row("pyDVL", PyDVL, "CG, 20 steps"),
    Row("pyDVL", PyDVL, "Nystroem, 100"),
    Row("pyDVL", PyDVL, "EK-FAC", "linear layers only"),
    Row("traker", Trak, "projected to 256"),
    Row("captum", Captum, "TracInCP", "no normalisation layers"),
    Row("captum", Captum, "TracInCPFast", "last layer only"),
    Row("captum", Captum, "Arnoldi, 50", "no normalisation layers"),
]
