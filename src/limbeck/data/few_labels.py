"""Takes labels away, to see what is learnt from few of them. Knows nothing of models or of training."""

from typing import final

import torch
from torch import Tensor

from limbeck.core.batch import UNLABELLED
from limbeck.core.checks import whole
from limbeck.core.errors import UsageError
from limbeck.data.seeding import seed_of
from limbeck.data.source import Shown, Source, rows_without
from limbeck.data.splits import size_of, stratified


@final
class FewLabels(Source):
    """Another data set of whose training rows only some keep their labels, each class in its share; the others have none.

    The test split and a query set that the data set names keep theirs. Where it fixes no test split, one is cut and fixed here,
    so that it is not cut from the few rows that are left with a label. What label noise did stays done.

    Args:
        source: The data set, of samples with one label each.
        labels: How many rows outside of the test split and a named query set keep their labels, at least one of each class.
        test: Size of the test split where the data set fixes none: a count of rows, or a share in (0, 1).
        seed: Decides which rows these are.

    Raises:
        UsageError: The data set is one of language, or a size is out of its range.
        DataError: There are too few rows of a class.

    >>> from limbeck import Digits
    >>> data = FewLabels(Digits(), labels=100)
    >>> data, int(data.labelled.sum()), len(data.test_rows)
    (FewLabels(Digits(), labels=100), 639, 539)
    """

    def __init__(self, source: Source, labels: int, *, test: int | float = 0.3, seed: int = 0) -> None:
        if source.kind == "language":
            raise UsageError(f"FewLabels: in {source.name} every token is a label; take a data set of one label per sample.")
        said = [source.name, f"labels={whole(labels, 'FewLabels: labels')}"]
        said += [f"test={test:g}"] if source.test_rows is None and test != 0.3 else []
        self.name = f"FewLabels({', '.join([*said, *([f'seed={seed}'] if seed_of(seed, 'FewLabels') else [])])})"
        self.source, self.kind, self.classes, self.input_shape = source, source.kind, source.classes, source.input_shape
        self.vocabulary, self.tokenizer = source.vocabulary, source.tokenizer
        self.groups, self.group_names, self.meta = source.groups, source.group_names, source.meta
        self.doubts = source.doubts
        self.query_rows, self.test_rows, self.truth = source.query_rows, source.test_rows, source.truth
        fixed = torch.zeros(len(source), dtype=torch.bool)
        if self.query_rows is not None:
            fixed[self.query_rows] = True
        if self.test_rows is None:
            free = (source.labelled & ~fixed).nonzero().squeeze(1)
            count = size_of(test, len(free), "test")
            self.test_rows = stratified(self, free, source.strata, count, "test", seed).sort().values
        fixed[self.test_rows] = True
        free = (source.labelled & ~fixed).nonzero().squeeze(1)
        kept = stratified(self, free, source.strata, labels, "labels", seed)
        self.labels = source.labels.clone()
        self.labels[rows_without(len(source), torch.cat([fixed.nonzero().squeeze(1), kept]))] = UNLABELLED

    def read(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        """As the data set reads them."""
        return self.source.read(rows)

    def show(self, row: int) -> Shown:
        """As the data set shows it."""
        return self.source.show(row)
