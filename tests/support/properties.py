"""Properties that every term has, under the names of STYLE: each takes a term and views and fails with an assertion."""

import copy
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd import gradcheck, gradgradcheck
from torch.testing import assert_close

from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term
from limbeck.influence.gradients import forward_rules
from support.makers import generator, take


def at_logits(term: Term, views: Views, logits: Tensor) -> Tensor:
    """The term with other student logits."""
    value: Tensor = term(replace(views, student=replace(views.student, logits=logits)))
    return value


def assert_per_sample(term: Term, views: Views) -> None:
    """One finite value per sample, and a gradient for the student only."""
    student = views.student.logits.clone().requires_grad_()
    value = at_logits(term, views, student)
    assert value.shape == (len(views.batch),)
    assert torch.isfinite(value).all()
    value.sum().backward()
    assert student.grad is not None
    assert torch.isfinite(student.grad).all()


def assert_permutation_equivariant(term: Term, views: Views) -> None:
    """Samples in another order give the same values in that order."""
    order = torch.randperm(len(views.batch), generator=generator(0))
    assert_close(term(take(views, order)), term(views)[order])


def assert_sum_of_split_batches(term: Term, views: Views) -> None:
    """A term that does not couple samples gives each sample the same value in any batch."""
    if term.coupled:
        return
    middle = len(views.batch) // 3
    parts = [term(take(views, slice(0, middle))), term(take(views, slice(middle, None)))]
    assert_close(torch.cat(parts), term(views), rtol=1e-12, atol=1e-12)


def assert_finite_at_extreme_logits(term: Term, views: Views) -> None:
    """Logits of +-10,000 in half, brain and single precision give finite values and gradients, evaluated in float32."""
    assert views.teacher is not None
    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        student = (views.student.logits.sign() * 1e4).to(dtype).requires_grad_()
        teacher = Outputs((views.teacher.logits.sign() * -1e4).to(dtype))
        value = at_logits(term, replace(views, teacher=teacher), student)
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        (gradient,) = torch.autograd.grad(value.sum(), student)
        assert torch.isfinite(gradient).all()


def assert_gradcheck(term: Term, views: Views) -> None:
    """Backward, forward and second derivatives in the student's logits are those of finite differences."""
    forward_rules()
    views = take(views, slice(0, 3))
    student = views.student.logits.clone().requires_grad_()
    assert gradcheck(lambda s: at_logits(term, views, s), student, check_forward_ad=True)
    assert gradgradcheck(lambda s: at_logits(term, views, s), student, fast_mode=True)


def assert_zero_at_teacher(term: Term, views: Views) -> None:
    """A term that knows the teacher only is 0 for every sample, and flat, when the student equals the teacher; never below 0."""
    if term.needs - {"teacher", "teacher_features", "student_features"} or views.teacher is None:
        return
    assert (term(views) >= 0).all()
    student = views.teacher.logits.clone().requires_grad_()
    value = at_logits(term, views, student)
    assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-12)
    (gradient,) = torch.autograd.grad(value.sum(), student)
    assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-12)


def assert_state_round_trips(term: Term, views: Views) -> None:
    """All that a term keeps is in its state: a blank twin that loads it gives the same values."""
    wanted = copy.deepcopy(term)(views)
    twin = copy.deepcopy(term)
    for part in twin.state_dict().values():
        part.zero_()
    twin.load_state_dict(term.state_dict())
    assert torch.equal(twin(views), wanted)


def assert_views_untouched(term: Term, views: Views) -> None:
    """Neither logits nor batch are changed in place."""
    kept = copy.deepcopy(views)
    term(views)
    assert torch.equal(views.student.logits, kept.student.logits)
    assert views.teacher is not None
    assert kept.teacher is not None
    assert torch.equal(views.teacher.logits, kept.teacher.logits)


PROPERTIES = [
    assert_per_sample,
    assert_permutation_equivariant,
    assert_sum_of_split_batches,
    assert_finite_at_extreme_logits,
    assert_gradcheck,
    assert_zero_at_teacher,
    assert_state_round_trips,
    assert_views_untouched,
]
