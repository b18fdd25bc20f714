"""What a trained model says of samples, some at a time, so that the logits of all of them are never held at once for language."""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.core.batch import UNLABELLED, Batch
from limbeck.core.outputs import Outputs
from limbeck.data.everyone import LOGITS
from limbeck.data.loader import whole
from limbeck.data.source import Source
from limbeck.evaluation.figures import Figures, evaluate
from limbeck.evaluation.tokens import TokenAnswers
from limbeck.functional.divergences import log_softmax, token_mean
from limbeck.influence.restoring import modes_restored

ROWS = 1024
"""Samples that a model answers for together at the most."""


def rows_together(length: int, vocabulary: int) -> int:
    """How many samples of language a model answers for at once."""
    return max(1, min(ROWS, LOGITS // (length * vocabulary)))


def figures_of(model: nn.Module, batch: Batch, teacher: nn.Module | None = None) -> Figures:
    """A model's figures on labelled samples, and its agreement with a teacher on them; for language per counted token."""
    assert batch.targets is not None
    guides = [] if teacher is None else [teacher]
    if batch.targets.dim() == 2:
        found = []
        for piece in pieces(model, batch):
            logits, *theirs = (_answer(one, piece).cpu() for one in (model, *guides))
            own = piece.to("cpu")
            assert own.targets is not None
            found.append(TokenAnswers.of(logits, own.targets, own.label_mask, *theirs))
        return TokenAnswers.figures(found)
    logits, *theirs = (torch.cat([_answer(one, piece) for piece in _slices(batch, ROWS)]).cpu() for one in (model, *guides))
    return evaluate(logits, batch.targets.cpu(), *theirs)


def validated(figures: Figures) -> dict[str, float | None]:
    """What of the figures on validation samples a unit keeps: what the choice of a seed is made on."""
    return {"validation_accuracy": figures.accuracy, **({} if figures.perplexity is None else {"validation_nll": figures.nll})}


@dataclass(frozen=True)
class Opinion:
    """What a model says of labelled samples.

    Args:
        label: [N] the class that it chooses; for language the share of counted tokens at which it chooses the given one.
        prob: [N] its probability of the given label, NaN where there is none; for language the mean over the counted tokens.
    """

    label: Tensor
    prob: Tensor


def opinion(model: nn.Module, source: Source, rows: Tensor, labels: Tensor) -> Opinion:
    """What the model says of these rows, beside the labels of the source's rows that are given."""
    chosen, probs = [], []
    for some in torch.split(rows, ROWS):
        for piece in pieces(model, whole(source, some, labels)):
            log_p = log_softmax(_answer(model, piece))
            given = labels[piece.index]
            known, choice = given != UNLABELLED, log_p.argmax(-1)
            prob = log_p.exp().gather(-1, given.where(known, 0).unsqueeze(-1)).squeeze(-1).where(known, torch.nan)
            chosen.append(choice if given.dim() == 1 else token_mean((choice == given).float(), piece.label_mask))
            probs.append(token_mean(prob, piece.label_mask))
    return Opinion(torch.cat(chosen), torch.cat(probs))


def label_columns(source: Source, rows: Tensor, labels: Tensor) -> tuple[list[float | None], list[float | None]]:
    """The columns `label` and `true_label` of samples.parquet.

    Class numbers, None for both where there is no label; for language shares of the counted tokens: of those that are given, 1,
    and of those of them that are true.
    """
    if source.kind != "language":
        found = labels[rows].tolist()
        truth = [None] * len(rows) if source.truth is None else source.truth[rows].tolist()
        pairs = [(None, None) if own == UNLABELLED else (own, true) for own, true in zip(found, truth, strict=True)]
        return [own for own, _ in pairs], [true for _, true in pairs]
    given: list[float | None] = [1.0] * len(rows)
    if source.truth is None:
        return given, [None] * len(rows)
    batches = (whole(source, some, labels) for some in torch.split(rows, ROWS))
    kept = [token_mean((labels[one.index] == source.truth[one.index]).double(), one.label_mask) for one in batches]
    return given, torch.cat(kept).tolist()


def _answer(model: nn.Module, batch: Batch) -> Tensor:
    with modes_restored(model, training=False), torch.no_grad():
        answer: Outputs = model(batch)
    return answer.logits


def pieces(model: nn.Module, batch: Batch) -> Iterator[Batch]:
    """The batch, cut so that the answers to a piece can be held; how many logits there are the first sample shows."""
    if batch.targets is None or batch.targets.dim() == 1:
        yield batch
        return
    yield from _slices(batch, rows_together(batch.inputs.shape[1], _answer(model, batch.take(slice(0, 1))).shape[-1]))


def _slices(batch: Batch, size: int) -> Iterator[Batch]:
    return (batch.take(slice(start, start + size)) for start in range(0, len(batch), size))
