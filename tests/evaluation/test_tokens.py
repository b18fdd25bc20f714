import math

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import RunError, UsageError
from limbeck.evaluation.figures import evaluate
from limbeck.evaluation.tokens import TokenAnswers


def make(rows: int = 5, length: int = 7, vocabulary: int = 11, seed: int = 0) -> tuple[torch.Tensor, ...]:
    draw = torch.Generator().manual_seed(seed)
    logits, teacher = (3 * torch.randn(rows, length, vocabulary, generator=draw) for _ in range(2))
    labels = torch.randint(vocabulary, (rows, length), generator=draw)
    return logits, labels, torch.rand(rows, length, generator=draw) < 0.6, teacher


def test_by_hand() -> None:
    # Logits log 3 and 0: probabilities 3/4 and 1/4. Labels 0, 1, and one that does not count.
    logits = torch.tensor([[[3.0, 1.0], [3.0, 1.0], [1.0, 1.0]]]).log()
    labels, mask = torch.tensor([[0, 1, 1]]), torch.tensor([[True, True, False]])
    found = TokenAnswers.figures([TokenAnswers.of(logits, labels, mask)])
    loss = (math.log(4 / 3) + math.log(4)) / 2
    assert found.accuracy == 0.5
    assert found.nll == pytest.approx(loss)
    assert found.perplexity == pytest.approx(4 / math.sqrt(3))
    assert found.ece == pytest.approx(0.25)  # confidence 3/4, right half of the time
    assert found.agreement is None
    assert found.named()["perplexity"] == found.perplexity


def test_in_pieces_it_is_what_a_classifier_of_all_counted_tokens_gets() -> None:
    logits, labels, mask, teacher = make()
    pieces = [slice(0, 2), slice(2, 3), slice(3, 5)]
    found = TokenAnswers.figures([TokenAnswers.of(*(part[rows] for part in (logits, labels, mask, teacher))) for rows in pieces])
    wanted = evaluate(logits[mask], labels[mask], teacher[mask])
    for name, value in wanted.named().items():
        assert found.named()[name] == pytest.approx(value, abs=1e-6), name


def test_what_does_not_count_changes_nothing() -> None:
    logits, labels, mask, teacher = make()
    broken = torch.where(mask.unsqueeze(-1), logits, torch.nan)
    one, other = (TokenAnswers.figures([TokenAnswers.of(own, labels, mask, teacher)]) for own in (logits, broken))
    assert one == other
    everywhere = TokenAnswers.of(logits, labels, torch.ones_like(mask))
    assert_close(TokenAnswers.of(logits, labels).nll, everywhere.nll)


def test_a_copy_agrees_and_has_no_divergence() -> None:
    logits, labels, mask, _ = make()
    found = TokenAnswers.figures([TokenAnswers.of(logits, labels, mask, logits)])
    assert (found.agreement, found.fidelity_kl) == (1.0, 0.0)


def test_a_teacher_of_another_vocabulary_is_not_compared() -> None:
    logits, labels, mask, _ = make()
    wider = make(vocabulary=13)[0]
    found, alone = (TokenAnswers.figures([TokenAnswers.of(logits, labels, mask, *guide)]) for guide in ((wider,), ()))
    assert found == alone
    assert (found.agreement, found.fidelity_kl) == (None, None)


def test_nan_and_nothing_are_refused() -> None:
    logits, labels, mask, _ = make()
    broken = logits.masked_fill(mask.unsqueeze(-1), torch.inf)
    with pytest.raises(RunError, match=f"NaN or infinite at {int(mask.sum())} of {int(mask.sum())} tokens"):
        TokenAnswers.of(broken, labels, mask)
    with pytest.raises(UsageError, match="no token counts"):
        TokenAnswers.figures([TokenAnswers.of(logits, labels, torch.zeros_like(mask))])
