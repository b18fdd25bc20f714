"""What all arms of one seed share: the data cut into its parts, a given teacher, and the batches."""

from dataclasses import dataclass

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from limbeck.core.batch import UNLABELLED, Batch
from limbeck.core.errors import UsageError
from limbeck.core.objective import Objective
from limbeck.data.domains import Domains
from limbeck.data.loader import Loader, whole
from limbeck.data.source import Source
from limbeck.data.splits import Splits, split
from limbeck.experiment.recipe import Parts, Recipe
from limbeck.mixtures.mixture import Mixture
from limbeck.models.spec import DataSpec
from limbeck.teachers.stored import Stored


@dataclass(frozen=True)
class Seeded:
    """All that the arms of one seed share.

    Args:
        seed: The seed.
        splits: Rows of the source.
        labels: int64 [N], or [N, L] for language: what is trained on, the labels as given, with the true ones on the query rows.
        queries: The query set with trusted labels.
        validation: What choices are made on.
        test: What figures are taken on, once.
        clean: bool [N], true where what is trained on is right; None where nobody knows.
        spec: What nets must know of the data.
    """

    seed: int
    splits: Splits
    labels: Tensor
    queries: Batch
    validation: Batch
    test: Batch
    clean: Tensor | None
    spec: DataSpec

    def of_use(self, objective: Objective, rows: Tensor) -> Tensor:
        """Which of the training rows an objective can learn from: those with a label, where each of its terms needs one."""
        return rows[self.labels[rows] != UNLABELLED] if objective.labelled_only and self.labels.dim() == 1 else rows


def seeded(recipe: Recipe, parts: Parts, seed: int) -> Seeded:
    """Cut the data for one seed. Query, validation and test carry true labels where they are known."""
    source = parts.data
    sizes = {"query": recipe.query, "validation": recipe.validation, "test": recipe.test}
    splits = split(source, seed=seed, test_seed=recipe.seed, rare=recipe.rare, **sizes)
    trusted = source.labels if source.truth is None else source.truth
    labels = source.labels.clone()
    labels[splits.query] = trusted[splits.query]
    return Seeded(
        seed=seed,
        splits=splits,
        labels=labels,
        queries=whole(source, splits.query, trusted),
        validation=whole(source, splits.validation, trusted),
        test=whole(source, splits.test, trusted),
        clean=source.right(labels),
        spec=DataSpec(source.kind, tuple(source.input_shape), source.outputs, source.vocabulary),
    )


def doubts_about_queries(source: Source, data: Seeded) -> list[str]:
    """What a reader should know of the query set, where weights come of it."""
    said = []
    if source.truth is None:
        said.append("The query set has the labels as given: influence is only as good as they are; give a trusted query set.")
    strata, size = source.strata, len(data.splits.query)
    trained = set(strata[data.splits.train[source.labelled[data.splits.train]]].tolist())
    missing = trained - set(strata[data.splits.query].tolist())
    if missing:
        what = "domains" if source.kind == "language" else "classes"
        advice = f"; ask for {len(trained)} or more" if size < len(trained) else ""
        said.append(
            f"The query set of {size} has no sample of {len(missing)} of the {len(source.strata_names)} {what}: samples of those "
            f"are weighed by what they do to the others{advice}."
        )
    elif size < 100:
        said.append(f"The query set has {size} samples; 200 or more give steadier weights.")
    return said


def given_teacher(parts: Parts, spec: DataSpec) -> nn.Module:
    """The teacher with the weights that the recipe names, or as it is built where it names none.

    Raises:
        UsageError: The file is no safetensors file, does not fit the teacher, or holds NaN.
    """
    model, path = parts.teacher.build(spec), parts.teacher_weights
    if path is None:
        return model
    if isinstance(model, Stored):
        model.check_weights(load_file(path))
        return model
    try:
        model.load_state_dict(load_file(path))
    except Exception as error:
        why = str(error).strip().splitlines()[:2][-1].strip().rstrip(".")
        raise UsageError(f"teacher_weights: {path} does not fit {parts.teacher!r} for {spec.classes} classes ({why}).") from error
    if not all(bool(torch.isfinite(part).all()) for part in model.state_dict().values()):
        raise UsageError(f"teacher_weights: {path} holds NaN or infinite numbers; train the teacher anew.")
    return model


def loader_for(recipe: Recipe, parts: Parts, data: Seeded, rows: Tensor, mixture: Mixture | None = None) -> Loader:
    """Training batches of these rows, in the order that all arms of the seed share; with a mixture they are drawn by domain."""
    return Loader(
        parts.data,
        rows,
        batch_size=recipe.batch_size,
        seed=data.seed,
        labels=data.labels,
        transform=parts.transform,
        sampler=None if mixture is None else Domains(parts.data, rows, seed=data.seed, every=mixture.every),
    )
