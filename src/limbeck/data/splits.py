"""Cuts a source into disjoint train, query, validation and test rows. Knows nothing of models or loops."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.core.checks import finite
from limbeck.core.errors import DataError, UsageError
from limbeck.data.seeding import generator_for, seed_of
from limbeck.data.source import Source


@dataclass(frozen=True)
class Splits:
    """Disjoint rows of one source, int64, each sorted.

    Args:
        train: What the student is trained on.
        query: Trusted samples that influence is measured on; cut from the training part, never from test.
        validation: What every choice is made on.
        test: What the result is measured on, once.
    """

    train: Tensor
    query: Tensor
    validation: Tensor
    test: Tensor

    @property
    def counts(self) -> dict[str, int]:
        """How many rows each part has."""
        return {name: len(getattr(self, name)) for name in ("train", "query", "validation", "test")}


def split(
    source: Source,
    *,
    seed: int,
    query: int | float = 200,
    validation: int | float = 0.1,
    test: int | float = 0.3,
    test_seed: int = 0,
    rare: int = 0,
) -> Splits:
    """Cut a source into train, query, validation and test: classes by true labels where known, else as given; language by domain.

    Test and validation hold every class in its share (stratified); the query set holds every class equally often, one more
    or less where the number does not divide. A whole number is a count of rows, a number with a point is a share: of all rows
    for test, of the rows outside test and named query set for validation and query.

    Args:
        source: What is cut.
        seed: Decides train, query and validation.
        query: Size of the query set; not used where the source names its own.
        validation: Size of the validation split.
        test: Size of the test split; not used where the source fixes one.
        test_seed: Decides the test split, so that it stays the same for all seeds of a run.
        rare: Classes with fewer rows than this, outside what the source fixes, are trained on and cut into no other part.

    Rows without a label are trained on and cut into no other part; shares are of the others.

    Where rows follow others (`Source.follows`), the parts are cut among those that follow themselves, shares are of these, and
    each training row brings its followers with it.

    A part that would be empty, and a class with too few rows for its share, are a DataError.
    """
    seed, test_seed = seed_of(seed, "split"), seed_of(test_seed, "split: test")
    strata, test_rows, named = source.strata, source.test_rows, source.query_rows
    leading = source.leading
    blank = leading[~source.labelled[leading]]
    leading = leading[source.labelled[leading]]
    common = _common(source, leading, strata, rare)

    def cuttable(rows: Tensor) -> Tensor:
        return rows[common[strata[rows]]]

    if test_rows is None:
        free = cuttable(leading if named is None else _without(leading, named))
        test_rows = stratified(source, free, strata, size_of(test, len(leading), "test"), "test", test_seed)
    training = _without(leading, test_rows if named is None else torch.cat([test_rows, named]))
    wanted = size_of(validation, len(training), "validation")
    held = stratified(source, cuttable(training), strata, wanted, "validation", seed)
    rest = _without(training, held)
    if named is None:
        size = size_of(query, len(training), "query")
        chosen = _balanced(source, cuttable(rest), strata, common.nonzero().flatten(), size, seed)
    else:
        chosen = named
    parts = (source.led_by(torch.cat([_without(rest, chosen), blank])), chosen, held, test_rows)
    return Splits(*(part.sort().values for part in parts))


def _without(rows: Tensor, taken: Tensor) -> Tensor:
    return rows[~torch.isin(rows, taken)]


def _common(source: Source, leading: Tensor, strata: Tensor, rare: int) -> Tensor:
    """Which classes have enough rows outside what the source fixes, bool [C].

    Raises:
        DataError: None has.
    """
    fixed = [part for part in (source.test_rows, source.query_rows) if part is not None]
    free = _without(leading, torch.cat(fixed)) if fixed else leading
    sizes = torch.bincount(strata[free], minlength=len(source.strata_names))
    if int(sizes.max()) < rare:
        raise DataError(f"{source.name}: the largest class has {int(sizes.max())} rows, which is below rare={rare}; lower it.")
    return sizes >= rare


def size_of(value: int | float, total: int, part: str) -> int:
    """How many rows a count or a share of the total means.

    Raises:
        UsageError: The value is below 0, a share above 1, or no number.
        DataError: It means no row at all.
    """
    finite(value, f"split: {part}")
    if value < 0 or (isinstance(value, float) and value >= 1):
        raise UsageError(f"split: {part} must be a count of rows or a share in (0, 1), got {value!r}.")
    count = value if isinstance(value, int) else math.floor(value * total + 0.5)
    if count == 0:
        raise DataError(f"split: the {part} set would be empty ({part}={value!r} of {total} rows); ask for at least one row.")
    return count


def stratified(source: Source, rows: Tensor, strata: Tensor, count: int, part: str, seed: int) -> Tensor:
    """`count` of the rows, every class in its share.

    Raises:
        DataError: There are too few rows, in all or of a class.
    """
    from sklearn.model_selection import train_test_split  # slow to import, needed only here

    if count >= len(rows):
        raise DataError(f"{source.name}: {part}={count} leaves nothing of {len(rows)} rows to train on; ask for fewer.")
    sizes = torch.bincount(strata[rows], minlength=len(source.strata_names))
    small = ((sizes > 0) & (sizes < 2)).nonzero()
    if len(small):
        label = int(small[0])
        raise DataError(
            f"{source.name}: class '{source.strata_names[label]}' has 1 row where 2 are needed to cut off {part}; add rows, drop "
            "it, or set rare=10 to train on classes with fewer than 10 rows and cut nothing off them."
        )
    present = int((sizes > 0).sum())
    if min(count, len(rows) - count) < present:
        raise DataError(
            f"{source.name}: {part}={count} of {len(rows)} rows cannot hold each of {present} classes on both sides; "
            f"ask for {present} to {len(rows) - present}."
        )
    _, cut = train_test_split(rows.numpy(), test_size=count, stratify=strata[rows].numpy(), random_state=seed)
    return torch.from_numpy(cut)


def _balanced(source: Source, rows: Tensor, strata: Tensor, classes: Tensor, count: int, seed: int) -> Tensor:
    """`count` of the rows, every one of the classes equally often; which give one more is drawn.

    Raises:
        DataError: There are too few rows, in all or of a class.
    """
    if count >= len(rows):
        raise DataError(f"{source.name}: query={count} leaves nothing of the {len(rows)} training rows; ask for fewer.")
    generator, shares = generator_for(seed, 1), len(classes)
    wanted = torch.full((shares,), count // shares)
    wanted[torch.randperm(shares, generator=generator)[: count % shares]] += 1
    mixed = rows[torch.randperm(len(rows), generator=generator)]
    chosen = []
    for label, need in zip(classes.tolist(), wanted.tolist(), strict=True):
        own = mixed[strata[mixed] == label]
        if need >= len(own) and need:
            raise DataError(
                f"{source.name}: class '{source.strata_names[label]}' has {len(own)} training rows, too few to give {need} to a "
                f"balanced query set of {count} and keep one; ask for fewer with query=..., add rows, or set rare=... to cut "
                "nothing off classes of few rows."
            )
        chosen.append(own[:need])
    return torch.cat(chosen)
