"""CRD against the sheet's number, its negatives and its banks."""

import math
from dataclasses import replace

import pytest
import torch
from feature_makers import pair
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.losses.features.crd import CRD, nce
from support.makers import normal, scene, take


def views(rows: int = 12) -> Views:
    return pair(normal(rows, 5), normal(rows, 7, seed=1))


def built(both: Views, *, negatives: int = 16384, momentum: float = 0.5) -> CRD:
    torch.manual_seed(0)
    term = CRD(4, negatives, momentum=momentum)
    term.build(scene(both))
    return term


def test_golden_number() -> None:
    scores = torch.tensor([[0.5, 0.1, 0.05], [0.3, 0.2, 0.02]], dtype=torch.float64).log()
    log_c = torch.full((2,), math.log(2 / 10), dtype=torch.float64)
    found = nce(scores[:, 0], scores[:, 1:], torch.ones(2, 2, dtype=torch.bool), log_c)
    # The sheet's 1.132183 has the code's 1e-7 in every denominator: first order, 1e-7 sum 1 / (x + c) = 1.1e-6 more than ours.
    denominators = 1 / (scores.exp() + 0.2)
    assert float(found.mean() + 1e-7 * denominators.sum(1).mean()) == pytest.approx(1.132183, abs=5e-7)


def test_the_value_is_that_of_plain_loops() -> None:
    """Four negatives of a sample and no more, in the order drawn; both sides added; everything in probabilities."""
    both = views()
    term = built(both, negatives=4)
    torch.manual_seed(3)
    found = term(both)
    torch.manual_seed(3)
    drawn, chosen = term.draw(both.batch.index)
    sides = [(part, bank) for part, bank in zip(term.embeddings(both), (term.teacher_bank, term.student_bank), strict=True)]
    for i in range(12):
        total = 0.0
        for (own, bank), log_z in zip(sides, term.log_z.tolist(), strict=True):
            row = own[i].detach() @ bank.T / 0.07 - log_z
            scores = row.exp()
            c = 4 / 12
            total -= math.log(scores[i] / (scores[i] + c))
            total -= sum(math.log(c / (scores[j] + c)) for j in drawn[chosen[i]])
        assert float(found[i].detach()) == pytest.approx(total, abs=1e-8)


@pytest.mark.parametrize("negatives, counted", [(3, 3), (8, 8), (100, 8)])
def test_negatives_are_of_other_classes_all_different_and_as_many_as_asked(negatives: int, counted: int) -> None:
    both = views()  # three classes of four samples each
    drawn, chosen = built(both, negatives=negatives).draw(both.batch.index)
    for index, row in zip(both.batch.index, chosen, strict=True):
        found = drawn[row]
        assert len(found) == len(found.unique()) == counted
        assert not (found % 3 == index % 3).any()


def test_every_sample_of_another_class_is_drawn_equally_often() -> None:
    both = views()
    term = built(both, negatives=2)
    counts = torch.zeros(12)
    for seed in range(500):
        torch.manual_seed(seed)
        drawn, chosen = term.draw(both.batch.index[:1])
        counts[drawn[chosen[0]]] += 1
    others = counts[torch.arange(12) % 3 != 0]
    assert counts.sum() == 1000
    assert_close(others, torch.full((8,), 125.0), rtol=0.3, atol=0)


def test_z_makes_the_mean_score_one_part_in_the_number_of_samples() -> None:
    both = views()
    term = built(both)
    for scores, log_z in zip(term.scores(take(both, slice(0, 4)), term.rows), term.log_z, strict=True):
        assert float((scores - log_z).exp().mean().detach()) == pytest.approx(1 / 12)


def test_banks_move_in_remember_only_and_stay_on_the_sphere() -> None:
    both = views()
    term = built(both)
    kept = term.student_bank.clone()
    term(both).sum().backward()
    assert torch.equal(term.student_bank, kept)
    some = take(both, slice(0, 3))
    term.remember(replace(some, student=some.student.detach()))
    assert torch.equal(term.student_bank[3:], kept[3:])
    moved = 0.5 * kept[:3] + 0.5 * term.embeddings(some)[0].detach()
    assert_close(term.student_bank[:3], moved / moved.norm(dim=1, keepdim=True))
    for bank in (term.student_bank, term.teacher_bank):
        assert_close(bank.norm(dim=1), torch.ones(12, dtype=torch.float64))
        assert not bank.requires_grad


def test_labels_outside_the_training_set_are_not_looked_at() -> None:
    both = views()
    stage = scene(both)
    term = CRD(4)
    term.build(replace(stage, rows=torch.arange(9)))
    drawn, _ = term.draw(both.batch.index)
    assert drawn.max() < 9
    assert term.labels[9:].tolist() == [-1, -1, -1]


def test_arguments_are_checked() -> None:
    for wrong in ({"dim": 0}, {"negatives": 0}, {"T": 0}, {"momentum": 1.5}):
        with pytest.raises(UsageError, match=f"CRD: {next(iter(wrong))} must"):
            CRD(**wrong)  # type: ignore[arg-type]
