"""What a scoring may be asked for, and the tables that are made of its finished parts."""

import re
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from limbeck.core.batch import UNLABELLED
from limbeck.core.checks import one_of, whole
from limbeck.core.errors import UsageError
from limbeck.experiment import folder as files
from limbeck.experiment.kept import Kept
from limbeck.experiment.measuring import label_columns
from limbeck.experiment.score_files import ScoreFiles
from limbeck.influence.curvature.conjugate_gradient import ConjugateGradient
from limbeck.influence.curvature.exact import Exact
from limbeck.influence.curvature.lbfgs import LBFGS
from limbeck.influence.curvature.lissa import LiSSA
from limbeck.influence.curvature.solver import Solver
from limbeck.influence.explain import explain, ranks, removal_curve
from limbeck.influence.packing import Packing
from limbeck.influence.scores import group_sums

GROUPS = ("label", "true_label", "domain")
SHARES = (0.01, 0.02, 0.05, 0.1)
"""Of the samples, the worst of which are removed in the prediction."""
SPOKEN = 0.05
"""The share that the sentence is about where none is named."""
NUMBER = re.compile(r"(\d+)|(\d+(?:\.\d+)?)%")
"""How many samples: so many, or a share."""
SIZED = (ConjugateGradient, Exact, LBFGS, LiSSA)
"""Solvers whose scores are changes of loss, not only an order."""
READABLE = "to first order, which holds for few samples and near a minimum"
ORDERED = (
    "this solver's order of samples can be trusted, the size less (ConjugateGradient(steps=5, preconditioner=EKFAC()) has both)"
)


@dataclass(frozen=True)
class Wanted:
    """What is asked for beside each sample's score for the mean query loss.

    Args:
        matrix: Every query against every training sample, in a file of its own.
        own: Self-influence.
        explain: Queries to name on either side of each sample, those that it hurts and helps most; 0 for none.
        groups: Sums over samples of one `label`, `true_label` or `domain`, in a file of their own; empty for none.
        tile: Queries in a tile of the matrix, >= 1; None for as many as the memory allows.
        keep: How a tile's directions are kept: `full`, `float16`, `int8` or `rank:R`.
        remove: The worst samples whose removal is spoken of: a number of them, or a share such as `5%`; empty for 5 %.
        retrain: Train again without them, and without as many drawn at random.

    Raises:
        UsageError: An argument is out of its range.
    """

    matrix: bool = False
    own: bool = False
    explain: int = 0
    groups: str = ""
    tile: int | None = None
    keep: str = "full"
    remove: str = ""
    retrain: bool = False

    def __post_init__(self) -> None:
        whole(self.explain, "score: --explain", least=0)
        if self.groups:
            one_of(self.groups, GROUPS, "score: --groups")
        if self.tile is not None:
            whole(self.tile, "score: --tile")
        Packing(self.keep)
        if self.remove and not NUMBER.fullmatch(self.remove):
            raise UsageError(f"score: --remove: must be a number of samples such as 50 or a share such as 5%, got {self.remove}.")

    def removed(self, count: int) -> int:
        """How many of so many samples are removed.

        Raises:
            UsageError: None or all would be removed.
        """
        found = NUMBER.fullmatch(self.remove or f"{100 * SPOKEN:g}%")
        assert found is not None
        worst = int(found[1]) if found[1] else max(1, round(float(found[2]) / 100 * count))
        if not 1 <= worst < count:
            raise UsageError(f"score: --remove: must be from 1 to {count - 1} of the {count} samples, got {self.remove}.")
        return worst

    @property
    def tiles(self) -> bool:
        """Whether single queries matter."""
        return self.matrix or self.explain > 0


def write(run: Kept, solver: Solver, wanted: Wanted, home: ScoreFiles, count: int, made_of: dict[str, object]) -> None:
    """All files from the finished parts; the summary comes last and says that all is there."""
    scores = home.part("scores")
    phi = torch.tensor(scores["phi"].to_numpy())
    given, truth = label_columns(run.parts.data, run.rows, run.data.labels)
    columns: dict[str, list[object]] = {
        "index": run.rows.tolist(),
        "label": list(given),
        "true_label": list(truth),
        "score": phi.tolist(),
        "rank": ranks(phi).tolist(),
    }
    if wanted.own:
        columns["self_influence"] = home.part("self")["value"].to_pylist()
    if wanted.explain:
        told = explain(home.tiles(count, run.rows), k=wanted.explain)
        columns |= _named("hurts", told.hurts, told.hurts_by) | _named("helps", told.helps, told.helps_by)
    written: set[Path] = set()
    if wanted.matrix:
        home.join(count)
        written.add(home.matrix)
    groups = groups_of(run, wanted.groups)
    if groups is not None:
        files.write_table(home.groups, _sums(run, wanted.groups, phi, groups))
        written.add(home.groups)
    files.write_table(home.out, columns)
    loss = float(scores["query_loss"][0].as_py())
    measured = home.part("removal").to_pylist()[0] if wanted.retrain else {}
    way, worst = str(scores["way"][0].as_py()), wanted.removed(len(phi))
    home.close(written, _summary(run, solver, phi, loss, way, worst, measured, made_of))


def _named(name: str, queries: Tensor, by: Tensor) -> dict[str, list[object]]:
    """Two columns of lists: which queries, and by how much; places that stayed empty are left out."""
    kept = [(row >= 0).tolist() for row in queries]
    pairs = ((name, queries), (f"{name}_by", by))
    return {
        column: [
            [value for value, there in zip(row, own, strict=True) if there] for row, own in zip(part.tolist(), kept, strict=True)
        ]
        for column, part in pairs
    }


def groups_of(run: Kept, name: str) -> Tensor | None:
    """The group of every training sample, int64 [N]; None where none are asked for.

    Raises:
        UsageError: The data has no such groups.
    """
    source = run.parts.data
    found = {"label": run.data.labels, "true_label": source.truth, "domain": source.groups}.get(name)
    if name and (found is None or found.dim() != 1):
        raise UsageError(f"score: --groups: {source.name} has no {name} for each sample; give another of {', '.join(GROUPS)}.")
    return None if found is None else found[run.rows]


def _sums(run: Kept, name: str, phi: Tensor, groups: Tensor) -> dict[str, list[object]]:
    """A row for each group: its number, its name, its samples, and the sum of their scores."""
    numbers, sums = group_sums(phi.double(), groups)
    counts = group_sums(torch.ones(len(phi), dtype=torch.float64), groups)[1]
    names = run.parts.data.classes if name != "domain" else run.parts.data.group_names
    return {
        "group": numbers.tolist(),
        "name": ["" if number == UNLABELLED else names[number] if names else str(number) for number in numbers.tolist()],
        "samples": counts.long().tolist(),
        "score": sums.tolist(),
    }


def foretold(phi: Tensor, worst: int, query_loss: float, trust: str) -> str:
    """What removing the samples with the highest scores is predicted to do; they are called harmful only where it does good.

    Args:
        phi: [N] scores.
        worst: How many are removed, 1 to N.
        query_loss: Mean query loss of the student, nats.
        trust: How far the prediction can be trusted.
    """
    change, harming = float(removal_curve(phi)[worst]), int((phi > 0).sum())
    these, why = "most harmful", ""
    if change >= 0:
        these, why = "highest scored", f", since {f'only {harming} of all harm' if harming else 'none of all harms'}"
    return (
        f"Without its {worst} {these} of {len(phi)} samples the student's mean query loss, {query_loss:.4g}, is predicted to "
        f"change by {change:+.2g}{why}; {trust}."
    )


def _summary(
    run: Kept,
    solver: Solver,
    phi: Tensor,
    query_loss: float,
    way: str,
    worst: int,
    measured: dict[str, float],
    made_of: dict[str, object],
) -> dict[str, object]:
    curve, count = removal_curve(phi), len(phi)
    removed = sorted({worst, *(max(1, round(share * count)) for share in SHARES)})
    sentence = foretold(phi, worst, query_loss, READABLE if isinstance(solver, SIZED) else ORDERED)
    if measured:
        sentence += (
            f" Trained again without them it changed by {measured['measured']:+.2g}, without as many drawn at random by "
            f"{measured['random']:+.2g}."
        )
    return {
        "schema": files.SCHEMA,
        "sentence": sentence,
        "seed": run.data.seed,
        "samples": count,
        "queries": len(run.data.queries),
        "query_loss": query_loss,
        "way": way,
        "removal": [
            {"count": number, "predicted": float(curve[number]), **(measured if number == worst else {})} for number in removed
        ],
        "made_of": made_of,
    }
