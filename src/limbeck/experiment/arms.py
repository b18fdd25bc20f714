"""The arms of a run: the method under test and its rivals, all with the same budget, seeds and first weights."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import cast

from limbeck.balancing.balancer import Balancer
from limbeck.balancing.static import Static
from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective, as_objective
from limbeck.data.preferences import REPLY
from limbeck.data.source import Source
from limbeck.experiment.recipe import Parts, Recipe
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.onreplies import OnReplies
from limbeck.mixtures.mixture import Mixture
from limbeck.training.averages.average import Average
from limbeck.training.steps.mixing import Mixing
from limbeck.training.steps.offline import Offline
from limbeck.training.steps.sequential import Sequential
from limbeck.training.steps.simultaneous import Simultaneous
from limbeck.training.steps.student import Student
from limbeck.training.steps.teacher_only import TeacherOnly
from limbeck.training.training import Update
from limbeck.weighting.controls import Oracle, OwnLoss, Random, Shuffled
from limbeck.weighting.influence import InfluenceWeighting
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Weighting


def _last_weights() -> None:
    """No average."""


def _as_it_is() -> None:
    """No mixture."""


@dataclass(frozen=True)
class Arm:
    """One way to train the student.

    Args:
        name: As in result.json.
        title: As people read it.
        weighting: Makes fresh weights for one seed.
        step: Makes a fresh step for one seed.
        objective: Makes a fresh objective for one seed, so that no arm inherits what another one trained.
        balancer: Makes a fresh balancer for one seed.
        average: Makes a fresh average of the student's weights for one seed, or None to keep the last weights.
        query_in_training: Whether it trains on the query set too.
        mixture: Makes a fresh mixture of domains for one seed, or None to have every row once an epoch.
    """

    name: str
    title: str
    weighting: Callable[[], Weighting]
    step: Callable[[], Update]
    objective: Callable[[], Objective]
    balancer: Callable[[], Balancer] = Static
    average: Callable[[], Average | None] = _last_weights
    query_in_training: bool = False
    mixture: Callable[[], Mixture | None] = _as_it_is

    def mixing(self, step: Update) -> Update:
        """The step, on samples that the mixture chooses where there is one."""
        mixture = self.mixture()
        return step if mixture is None else Mixing(step, mixture)

    def schedule(self, epochs: int) -> str:
        """When its weights are taken in a run of that many epochs, in words."""
        return self.weighting().schedule(epochs, written=self.objective().written)

    def extra(self, epochs: int) -> float:
        """What its weights take beyond the plain steps of such a run, in parts of those; rough."""
        return self.weighting().extra(epochs, written=self.objective().written)


ACTING_ON_WEIGHTS = (Offline, Sequential, Simultaneous, TeacherOnly)
"""Steps that are nothing without influence weights: their rivals take the plain step; other steps are the rivals' too."""

UNMIXED = ("no_kd", "query_in_training", "fixed_mixture")
"""Rivals that see every row once an epoch: without a teacher nothing lags, and queries that are trained on cannot judge."""

TITLES = {
    "no_kd": "No distillation (labels only)",
    "uniform": "Plain KD (all weights 1)",
    "query_in_training": "Plain KD + query set in training",
    "random_weights": "KD, random weights",
    "shuffled": "KD, shuffled influence weights",
    "own_loss": "KD, weights from own loss",
    "oracle": "KD, flipped labels dropped (oracle)",
    "fixed_mixture": "The same, domains as they come",
}


def labels_only(source: Source) -> Objective:
    """Cross-entropy with the labels as given; of preference data those of the preferred replies."""
    return as_objective(OnReplies(CE(), "chosen") if REPLY in source.meta else CE())


def objective_of(recipe: Recipe) -> Objective:
    """The recipe's objective, made afresh: nobody inherits what another one trained."""
    return as_objective(cast("Objective", recipe.expressions()["objective"].build()))


def assistant(recipe: Recipe, parts: Parts, number: int) -> Arm:
    """How an assistant is trained, counted from 1: as the student of plain distillation is."""
    balancer = cast("Callable[[], Balancer]", parts.balancer)
    return Arm(f"assistant-{number}", f"Assistant {number}", Uniform, Student, lambda: objective_of(recipe), balancer)


def arms_of(recipe: Recipe, parts: Parts) -> list[Arm]:
    """The rivals in the recipe's order, then the method itself.

    Raises:
        UsageError: The oracle is asked for, but nobody knows the true labels.
    """
    if "oracle" in recipe.compare and parts.data.truth is None:
        raise UsageError("compare: 'oracle' needs the true labels, but the data has none; leave it out.")
    main = cast("Callable[[], Weighting]", parts.weighting)

    balancer = cast("Callable[[], Balancer]", parts.balancer)
    step = cast("Callable[[], Update]", parts.step)
    average = cast("Callable[[], Average | None]", parts.average or _last_weights)
    mixture = cast("Callable[[], Mixture | None]", parts.mixture or _as_it_is)

    def objective() -> Objective:
        return objective_of(recipe)

    weightings: dict[str, Callable[[], Weighting]] = {
        "random_weights": Random,
        "shuffled": lambda: Shuffled(main()),
        "own_loss": OwnLoss,
        "oracle": Oracle,
        "fixed_mixture": main,
    }
    rivals = [
        Arm(
            name=name,
            title=TITLES[name],
            weighting=weightings.get(name, Uniform),
            step=Student if name == "no_kd" or (isinstance(step(), ACTING_ON_WEIGHTS) and name != "fixed_mixture") else step,
            objective=(lambda: labels_only(parts.data)) if name == "no_kd" else objective,
            balancer=Static if name == "no_kd" else balancer,
            average=_last_weights if name == "no_kd" else average,
            query_in_training=name == "query_in_training",
            mixture=_as_it_is if name in UNMIXED else mixture,
        )
        for name in recipe.compare
    ]
    name, title = _named(recipe, parts)
    return [*rivals, Arm(name, title, main, step, objective, balancer, average, recipe.query_in_training, mixture)]


def _named(recipe: Recipe, parts: Parts) -> tuple[str, str]:
    """What the method under test is called: KD-AIF where influence makes the weights, else by its weighting.

    Parts stand as they were typed, with every argument that somebody thought of.
    """
    step = parts.step()
    if isinstance(step, Offline) and recipe.step == "Offline()":
        return "kd_aif", "KD-AIF (offline)"
    told = [*([] if isinstance(step, Student) else [recipe.step]), *([] if recipe.mixture is None else [recipe.mixture])]
    suffix = f" ({', '.join(told)})" if told else ""
    if isinstance(step, Offline) or isinstance(parts.weighting(), InfluenceWeighting):
        return "kd_aif", f"KD-AIF{suffix}"
    return "main", f"KD, {recipe.weighting}{suffix}"
