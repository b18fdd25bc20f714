"""DHO against the numbers and the invariants of its sheet."""

import pytest
import torch
from test_onhead import ROWS, distiller, loader, small
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.distiller import Distiller
from limbeck.losses.heads.dho import DHO
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.students.dual_head import ALPHAS, BETAS, best_mixture, mix
from support.makers import LABELS, STUDENT, TEACHER, labels, normal, views


def test_golden_numbers_of_the_loss() -> None:
    """dho.md: the label head's logits are the rows of s reversed, the other head's are s, T = 2, lambda = 0.5."""
    hard = CE()(views(STUDENT.flip(1), None, LABELS)).mean()
    soft = KD(T=2)(views(STUDENT, TEACHER, LABELS)).mean()
    assert float(hard) == pytest.approx(1.382955, abs=5e-7)
    assert float(soft) == pytest.approx(0.124476, abs=5e-7)
    assert float(0.5 * hard + 0.5 * soft) == pytest.approx(0.753715, abs=1e-6)


def test_golden_numbers_of_inference() -> None:
    p = mix(STUDENT.flip(1), STUDENT, 0.4, 0.5).exp()
    wanted = [[0.492036, 0.121999, 0.102800, 0.283165], [0.092521, 0.482741, 0.340615, 0.084123]]
    assert_close(p[:2], torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=6e-7)


def test_the_ends_of_the_mixture_are_the_heads_and_it_is_a_distribution() -> None:
    one, other = normal(5, 4, seed=1), normal(5, 4, seed=2)
    assert_close(mix(one, other, 1, 3.0), one.log_softmax(1))
    assert_close(mix(one, other, 0, 1.0), other.log_softmax(1))
    for alpha in ALPHAS:
        for beta in BETAS:
            assert_close(mix(one, other, alpha, beta).exp().sum(1), torch.ones(5, dtype=torch.float64))
    assert torch.equal(mix(one, other, 0.05, 1e9).argmax(1), one.argmax(1))


@pytest.mark.parametrize("seed", range(4))
def test_the_search_is_never_worse_than_either_head(seed: int) -> None:
    truth = labels(40, classes=4, seed=seed)
    one, other = (normal(40, 4, seed=seed + k) + torch.nn.functional.one_hot(truth, 4) for k in (10, 20))

    def accuracy(logits: torch.Tensor) -> float:
        return float((logits.argmax(1) == truth).double().mean())

    found = best_mixture(one, other, truth)
    assert accuracy(mix(one, other, found.alpha, found.beta)) >= max(accuracy(one), accuracy(other))


def test_labels_reach_one_head_and_the_teacher_the_other() -> None:
    made = distiller(CE() * 0.5 + DHO() * 0.5)
    batch = next(loader().epoch(0))
    hard, soft = made(batch).values.mean(1)
    own, second = made.student.model[2].weight, made.objective.terms[1].second.heads[0].weight
    below = made.student.model[0].weight
    reached = {
        (side, name): bool(torch.autograd.grad(loss, part, retain_graph=True)[0].any())
        for side, loss in (("labels", hard), ("teacher", soft))
        for name, part in (("own", own), ("second", second), ("below", below))
    }
    assert {pair for pair, there in reached.items() if not there} == {("labels", "second"), ("teacher", "own")}


def test_a_second_head_that_is_the_first_is_plain_distillation() -> None:
    made = distiller(CE() * 0.5 + DHO() * 0.5)
    made.objective.terms[1].second.heads[0].load_state_dict(made.student.model[2].state_dict())
    batch = next(loader().epoch(0))
    plain = Distiller(made.student.model, made.teacher, CE() * 0.5 + KD(T=2) * 0.5)
    assert_close(made(batch).total, plain(batch).total)


def test_the_net_that_is_kept_mixes_both_heads_and_has_one_head_more() -> None:
    made = distiller(CE() * 0.5 + DHO(alpha=0.3, beta=2.0) * 0.5)
    inputs = normal(ROWS, 5, seed=11)
    hidden = made.student.model[1](made.student.model[0](inputs))
    second = made.objective.terms[1].second.heads[0]
    kept = made.deployed().model
    assert_close(kept(inputs), mix(made.student.model(inputs), second(hidden), 0.3, 2.0))
    extra = sum(part.numel() for part in second.parameters())
    assert sum(part.numel() for part in kept.parameters()) == sum(part.numel() for part in small().parameters()) + extra


def test_tuning_is_kept_in_the_state_and_used_by_the_net() -> None:
    made = distiller(CE() * 0.5 + DHO() * 0.5)
    term, batch = made.objective.terms[1], next(loader().epoch(0))
    seen = made.student(batch)
    term.tune(Views(seen, None, batch))
    (second,) = term.second.answers(Views(seen, None, batch))
    found = best_mixture(seen.logits, second, batch.targets)
    assert repr(term) == f"DHO(KD(T=2), alpha={found.alpha:g}, beta={found.beta:g})"
    twin = distiller(CE() * 0.5 + DHO() * 0.5)
    twin.objective.load_state_dict(made.objective.state_dict())
    assert twin.objective.terms[1].mixture.tolist() == [found.alpha, found.beta]
    assert_close(made.deployed()(batch).logits, mix(seen.logits, second, found.alpha, found.beta))


def test_what_is_refused() -> None:
    with pytest.raises(UsageError, match="DHO: alpha must lie in"):
        DHO(alpha=1.5)
    with pytest.raises(UsageError, match="DHO: beta must be above 0"):
        DHO(beta=0)
    with pytest.raises(UsageError, match="OnHead: its heads have not been made"):
        DHO()(Views(Outputs(STUDENT), Outputs(TEACHER), views(STUDENT, None, LABELS).batch))
