"""The battery runs on every row of the catalogue: a new method is one row and inherits every check. And it bites."""

from collections.abc import Iterable
from typing import final

import pytest
from torch import Tensor
from torch.autograd import gradcheck
from torch.autograd.gradcheck import GradcheckError

from limbeck.catalogue import Row, everything
from limbeck.core.outputs import Views
from limbeck.core.term import Term
from limbeck.testing import Check, checks, compile_checks
from limbeck.testing.terms import assert_gradcheck, assert_sum_of_split_batches, at
from support.makers import FromTheMean, random_views, take

SECOND = "-gradgradcheck"
"""Takes a quarter of the battery's time."""
each_row = pytest.mark.parametrize("row", everything(), ids=lambda row: f"{row.kind}-{row.name}")


@each_row
def test_contract(row: Row) -> None:
    """One test a method, all its checks: a failure names those that failed."""
    hold(check for check in checks([row]) if not check.name.endswith(SECOND))


@pytest.mark.slow
@each_row
def test_second_derivatives(row: Row) -> None:
    hold(check for check in checks([row]) if check.name.endswith(SECOND))


def hold(each: Iterable[Check]) -> None:
    failed = []
    for check in each:
        try:
            check()
        except AssertionError as error:
            failed.append(str(error))
    assert not failed, "\n\n".join(failed)


@pytest.mark.slow
@pytest.mark.parametrize("check", compile_checks(everything()), ids=str)
def test_torch_compile(check: Check) -> None:
    check()


@final
class Branching(Term):
    """Asks a value which way to go, and does not say so."""

    def forward(self, views: Views) -> Tensor:
        logits = views.student.logits
        return logits.sum(1) if bool((logits > 0).any()) else logits[:, 0]


@final
class Honest(Term):
    """The same, and says so."""

    compiles = False

    def forward(self, views: Views) -> Tensor:
        return Branching()(views)


def test_a_term_that_cannot_be_compiled_must_say_so() -> None:
    row = Row("Branching", "terms", f"{__name__}:Branching", "A liar")
    with pytest.raises(AssertionError, match="set compiles = False"):
        compile_checks([row])[0]()
    compile_checks([Row("Honest", "terms", f"{__name__}:Honest", "Says it")])[0]()


@final
class Liar(Term):
    """Couples the samples and does not say so."""

    def forward(self, views: Views) -> Tensor:
        return FromTheMean()(views)


def test_the_battery_bites() -> None:
    with pytest.raises(AssertionError):
        assert_sum_of_split_batches(Liar(), random_views())
    failed = []
    for check in checks([Row("Liar", "terms", f"{__name__}:Liar", "A liar")]):
        try:
            check()
        except AssertionError as error:
            failed.append(str(error))
    assert any(
        words.startswith(
            "Liar-samples-sum_of_split_batches: A term that does not couple samples gives each sample the same value"
        )
        for words in failed
    )


@final
class OwnFactor(Term):
    """s times s, the first of the two held fixed."""

    def forward(self, views: Views) -> Tensor:
        logits = views.student.logits
        return (logits.detach() * logits).sum(1)


def test_what_a_term_detaches_stands_still_under_finite_differences() -> None:
    both = take(random_views(), slice(0, 3))
    assert_gradcheck(OwnFactor(), both)
    with pytest.raises(GradcheckError):
        gradcheck(lambda logits: at(OwnFactor(), both, [logits]), both.student.logits.clone().requires_grad_())
