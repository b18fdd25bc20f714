import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.errors import UsageError
from limbeck.mixtures.ddk import DDK, lag, next_factors
from limbeck.mixtures.fixedshares import FixedShares
from limbeck.mixtures.mixture import DomainLosses

SIZES = torch.tensor([10, 10, 10])


def measured(student: list[float], teacher: list[float]) -> DomainLosses:
    """Losses with these perplexities."""
    return DomainLosses(*(torch.tensor(side, dtype=torch.float64).log() for side in (student, teacher)))


def near(found: Tensor, wanted: list[float]) -> None:
    assert_close(found, torch.tensor(wanted, dtype=torch.float64), rtol=0, atol=1e-6)


def test_golden_numbers() -> None:
    ddk, before, after = DDK(a=0.5), measured([8, 12, 6], [6, 6, 5]), measured([7, 9, 5.5], [6, 6, 5])
    near(lag(before), [1.333333, 2, 1.2])
    first = ddk.start(SIZES, before)
    near(first, [0.261581, 0.509490, 0.228929])
    near(first * lag(after).exp(), [0.840007, 2.283377, 0.687740])
    near(ddk.renew(after), [0.276871, 0.466234, 0.256895])
    near(ddk.figures()["lag"], [1.166667, 1.5, 1.1])


def test_shares_are_a_distribution_with_a_floor_and_follow_the_domains() -> None:
    found, order = measured([30, 3, 9, 4], [3, 3, 3, 4]), torch.tensor([2, 0, 3, 1])
    moved = DomainLosses(found.student[order], found.teacher[order])
    ddk, twin = DDK(a=0.3), DDK(a=0.3)
    ddk.start(torch.ones(4), found)
    twin.start(torch.ones(4), moved)
    for _ in range(20):
        shares = ddk.renew(found)
        assert float(shares.sum()) == pytest.approx(1)
        assert float(shares.min()) >= 0.7 / 4
        assert_close(shares[order], twin.renew(moved))


def test_a_decides_between_alike_and_multiplied() -> None:
    r, lags = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64), torch.tensor([1.0, 3.0, 2.0], dtype=torch.float64)
    near(next_factors(r, lags, 0.0), [1 / 3] * 3)
    assert_close(next_factors(r, lags, 1.0), r * lags.exp() / (r * lags.exp()).sum())
    uniform = torch.full((3,), 1 / 3, dtype=torch.float64)
    assert_close(next_factors(uniform, torch.full((3,), 1.7, dtype=torch.float64), 0.5), uniform)


def test_a_student_that_equals_the_teacher_ends_with_all_domains_alike() -> None:
    ddk = DDK(a=0.5)
    ddk.start(SIZES, measured([9, 3, 2], [2, 3, 2]))
    for _ in range(60):
        shares = ddk.renew(measured([2, 3, 2], [2, 3, 2]))
    near(shares, [1 / 3] * 3)


def test_constant_lags_have_one_fixed_point_that_is_larger_where_they_are() -> None:
    lags, ends = torch.tensor([1.1, 2.0, 1.4], dtype=torch.float64), []
    for start in ([0.98, 0.01, 0.01], [0.01, 0.01, 0.98]):
        r = torch.tensor(start, dtype=torch.float64)
        for _ in range(300):
            r = next_factors(r, lags, 0.5)
        ends.append(r)
    assert_close(ends[0], ends[1])
    assert ends[0].argsort().tolist() == lags.argsort().tolist()


def test_a_huge_ratio_counts_as_twenty() -> None:
    found = DDK().start(SIZES, DomainLosses(torch.tensor([800.0, 1, 1]).double(), torch.ones(3).double()))
    assert_close(found, torch.tensor([20.0, 1, 1]).double().softmax(0))


def test_alike_at_first_and_by_the_lag_from_then_on() -> None:
    ddk, plain, losses = DDK(uniform_first=True), DDK(), measured([8, 12, 6], [6, 6, 5])
    near(ddk.start(SIZES, losses), [1 / 3] * 3)
    plain.start(SIZES, losses)
    assert_close(ddk.renew(losses), plain.renew(losses))


@pytest.mark.parametrize("make", [DDK, FixedShares])
def test_a_twin_with_the_state_goes_on(make: type[DDK | FixedShares]) -> None:
    mixture, twin, losses = make(), make(), measured([8, 12, 6], [6, 6, 5])
    mixture.start(SIZES, losses)
    twin.load_state(mixture.state())
    assert torch.equal(mixture.renew(losses), twin.renew(losses))


def test_fixed_shares_are_as_given_or_alike() -> None:
    near(FixedShares([2, 1, 1]).start(SIZES, None), [0.5, 0.25, 0.25])
    equal = FixedShares()
    near(equal.start(SIZES, None), [1 / 3] * 3)
    near(equal.renew(None), [1 / 3] * 3)
    with pytest.raises(UsageError, match="one share for each of the 3 domains, got 2"):
        FixedShares([1, 1]).start(SIZES, None)


def test_one_domain_is_no_choice() -> None:
    with pytest.raises(UsageError, match="at least two domains"):
        DDK().start(torch.tensor([5]), measured([2], [1]))
