"""The diagonal of the Fisher matrix."""

from collections.abc import Mapping
from copy import deepcopy
from typing import final

import torch
from torch import Tensor
from torch.func import grad, vmap

from limbeck.core.batch import Batch
from limbeck.core.checks import positive, whole
from limbeck.core.errors import LimbeckError, UnsupportedModelError, UsageError
from limbeck.core.shown import shown
from limbeck.functional.divergences import cross_entropy, token_mean
from limbeck.influence.curvature.capture import Fisher, check_fisher, draw_labels, drawn_loss
from limbeck.influence.curvature.solver import Problem, Solver
from limbeck.influence.gradients import at, plain_attention
from limbeck.influence.restoring import modes_restored
from limbeck.influence.task import answer_of
from limbeck.influence.vectors import Vector, scaled, trainable, zeros_like


@final
class Diagonal(Solver):
    """q_p = v_p / (F_pp + lambda) with F_pp the mean square of the per-sample gradients of parameter p.

    Taken in evaluation mode: per-sample gradients exist only where samples do not mix.

    Args:
        damping: lambda relative to the mean of F_pp over all parameters, > 0.
        fisher: `true` draws labels from the model, `empirical` takes those given.
        refresh: Steps between two estimates in training, >= 1.

    Raises:
        UnsupportedModelError: The model has a layer that torch cannot vectorise over samples, such as an LSTM.

    >>> Diagonal()
    Diagonal(damping=0.1)
    """

    ROWS = 128

    def __init__(self, damping: float = 0.1, *, fisher: Fisher = "true", refresh: int = 50) -> None:
        self.damping = positive(damping, "Diagonal: damping")
        self.fisher = check_fisher(fisher, "Diagonal")
        self.refresh = whole(refresh, "Diagonal: refresh")
        self._squares: Vector | None = None
        self._updated = 0

    def wants(self, step: int, most: int) -> int:
        """All, where the squares are missing or older than `refresh` steps."""
        return most if self._squares is None or step - self._updated >= self.refresh else 0

    def obstacles(self, problem: Problem) -> list[str]:
        """Labels are missing, or the model cannot be vectorised over samples."""
        try:
            deepcopy(self).update(problem)
        except LimbeckError as error:
            return [str(error).rstrip(".")]
        return []

    def update(self, problem: Problem, step: int | None = None) -> None:
        """Mean squared per-sample gradients over the problem's samples."""
        own = {name: part.detach() for name, part in trainable(problem.model).items()}
        total = zeros_like(own)
        with modes_restored(problem.model, training=False):
            for batch in problem.batches:
                for start in range(0, len(batch), self.ROWS):
                    squares = self._squares_of(problem, own, batch.take(slice(start, start + self.ROWS)))
                    total = {name: part + squares[name] for name, part in total.items()}
        self._squares, self._updated = scaled(total, 1 / problem.count), step or 0

    def _squares_of(self, problem: Problem, own: Vector, batch: Batch) -> Vector:
        """Sum over the samples of their squared gradients.

        Raises:
            UsageError: The empirical Fisher is asked for and there are no labels.
            UnsupportedModelError: A layer cannot be vectorised over samples.
        """
        with torch.no_grad():
            labels = (
                draw_labels(answer_of(problem.task, problem.model(batch), batch), problem.generator)
                if self.fisher == "true"
                else batch.targets
            )
        if labels is None:
            raise UsageError("Diagonal: the empirical Fisher needs labels, but the batch has none; use fisher='true'.")
        mask = torch.ones(len(batch), 0, dtype=torch.bool) if batch.mask is None else batch.mask

        def loss(parameters: Vector, inputs: Tensor, label: Tensor, counted: Tensor) -> Tensor:
            one = Batch(
                inputs.unsqueeze(0), label.unsqueeze(0), batch.index[:1], None if batch.mask is None else counted.unsqueeze(0)
            )
            logits, target = answer_of(problem.task, at(problem.model, parameters)(one), one), label.unsqueeze(0)
            if self.fisher == "true":
                return drawn_loss(logits, target, one.mask).sum()
            return token_mean(cross_entropy(logits, target), one.label_mask).sum()

        try:
            with plain_attention():
                grads = vmap(grad(loss), in_dims=(None, 0, 0, 0))(own, batch.inputs, labels, mask)
        except RuntimeError as error:
            why, who = str(error).partition("\n")[0], type(problem.model).__name__
            raise UnsupportedModelError(
                f"Diagonal: {who} cannot be differentiated sample by sample ({why}); use EKFAC()."
            ) from error
        return {name: part.square().sum(0).detach() for name, part in grads.items()}

    def solve(self, v: Vector, problem: Problem) -> Vector:
        """V divided, parameter by parameter."""
        if self._squares is None:
            self.update(problem)
        assert self._squares is not None
        count = sum(part.numel() for part in self._squares.values())
        level = self.damping * sum(float(part.sum()) for part in self._squares.values()) / count
        return {name: part / (self._squares[name] + level) if level > 0 else part for name, part in v.items()}

    def solve_many(self, rows: Vector, problem: Problem) -> Vector:
        """As `solve`: what divides one gradient divides all."""
        return self.solve(rows, problem)

    def state(self) -> dict[str, Tensor]:
        """The squares and when they were taken."""
        return {} if self._squares is None else {**self._squares, "/updated": torch.tensor(self._updated)}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Take back what `state` gave."""
        self._squares = {name: part for name, part in state.items() if name != "/updated"} or None
        self._updated = int(state.get("/updated", torch.tensor(0)))

    def __repr__(self) -> str:
        return shown(self, "damping")
