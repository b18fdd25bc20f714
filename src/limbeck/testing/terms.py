"""Properties that every term has: each takes a term and views and fails with an assertion.

What belongs to the student, its logits and its features, is handed over as a list of tensors to differentiate in. Random
numbers (dropout, drawn negatives) are the same in every evaluation, as they are where influence looks.
Over 300 lines: a list of like parts, one for each property.
"""

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import gradcheck, gradgradcheck
from torch.overrides import TorchFunctionMode
from torch.testing import assert_close

from limbeck.align.taps import PENULTIMATE, Tapped
from limbeck.core.batch import UNLABELLED
from limbeck.core.objective import Objective
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term
from limbeck.influence.gradients import forward_rules
from limbeck.testing.makers import generator, take

Property = Callable[[Term, Views], None]


def parts_of(outputs: Outputs) -> list[Tensor]:
    """Logits and features."""
    return [outputs.logits, *outputs.features.values()]


def of_parts(outputs: Outputs, parts: Sequence[Tensor]) -> Outputs:
    """The outputs with other logits and features, in the order of `parts_of`."""
    return replace(outputs, logits=parts[0], features=dict(zip(outputs.features, parts[1:], strict=True)))


def leaves_of(outputs: Outputs) -> list[Tensor]:
    """Logits and features to differentiate in."""
    return [part.clone().requires_grad_() for part in parts_of(outputs)]


def value_of(term: Callable[..., Any], views: Views) -> Tensor:
    """The term, with the same random numbers each time."""
    torch.default_generator.manual_seed(0)  # all here is on the processor: no other device is asked
    value: Tensor = term(views)
    return value


def at(term: Callable[..., Any], views: Views, parts: Sequence[Tensor]) -> Tensor:
    """The term with other student logits and features."""
    return value_of(term, replace(views, student=of_parts(views.student, parts)))


def gradients(value: Tensor, leaves: Sequence[Tensor]) -> list[Tensor]:
    """The sum's gradients in those that it depends on."""
    return [g for g in torch.autograd.grad(value.sum(), leaves, allow_unused=True) if g is not None]


class Held(TorchFunctionMode):
    """What a term detaches keeps its value of the first evaluation: finite differences then see what derivatives leave out."""

    def __init__(self) -> None:
        super().__init__()
        self.values: list[Tensor] = []
        self.turn = 0

    def __enter__(self) -> "Held":
        self.turn = 0
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  whatever the function returns
        """Let `detach` give what it gave the first time."""
        result = func(*args, **(kwargs or {}))
        if func is not Tensor.detach:
            return result
        if self.turn == len(self.values):
            self.values.append(result.clone())
        self.turn += 1
        return self.values[self.turn - 1]


def assert_per_sample(term: Term, views: Views) -> None:
    """One finite value per sample, and a finite gradient for something that is the student's."""
    leaves = leaves_of(views.student)
    value = at(term, views, leaves)
    assert value.shape == (len(views.batch),)
    assert torch.isfinite(value).all()
    slopes = gradients(value, leaves)
    assert slopes
    assert all(torch.isfinite(slope).all() for slope in slopes)


def without_dropout(term: Term) -> Term:
    """A copy whose samples are not told apart by the masks that their places in the batch draw."""
    term = copy.deepcopy(term)
    for part in term.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
    return term


def assert_permutation_equivariant(term: Term, views: Views) -> None:
    """Samples in another order give the same values in that order."""
    term = without_dropout(term)
    order = torch.randperm(len(views.batch), generator=generator(0))
    assert_close(value_of(term, take(views, order)), value_of(term, views)[order])


def assert_sum_of_split_batches(term: Term, views: Views) -> None:
    """A term that does not couple samples gives each sample the same value in any batch."""
    if term.coupled:
        return
    term = without_dropout(term)
    middle = len(views.batch) // 3
    parts = [value_of(term, take(views, slice(0, middle))), value_of(term, take(views, slice(middle, None)))]
    assert_close(torch.cat(parts), value_of(term, views), rtol=1e-12, atol=1e-12)


def assert_masked_tokens_do_not_count(term: Term, views: Views) -> None:
    """Logits and labels of masked tokens may be anything, NaN and -100 as well, and get no gradient."""
    mask, targets = views.batch.mask, views.batch.targets
    if mask is None or targets is None or targets.shape != mask.shape:
        return
    none = torch.tensor(-100)
    soiled = replace(views, batch=replace(views.batch, targets=targets.where(mask, none)))
    logits = views.student.logits.where(mask.unsqueeze(2), torch.tensor(1e3, dtype=torch.float64)).requires_grad_()
    value = at(term, soiled, [logits])
    assert_close(value, value_of(term, views))
    (slope,) = gradients(value, [logits])
    assert (slope[~mask] == 0).all()
    assert views.teacher is not None
    for nothing in (torch.nan, torch.inf):
        broken = [part.detach().masked_fill(~mask.unsqueeze(2), nothing) for part in (logits, views.teacher.logits)]
        both = replace(soiled, teacher=replace(views.teacher, logits=broken[1]))
        assert_close(at(term, both, broken[:1]), value_of(term, views))


def assert_no_counted_token_is_0(term: Term, views: Views) -> None:
    """Samples without a counted token give 0 with gradients of 0, whether they fill a batch or stand among others."""
    mask = views.batch.mask
    if mask is None or views.student.logits.dim() != 3:
        return
    for none in (mask & (torch.arange(len(mask)) % 2 == 0).unsqueeze(1), torch.zeros_like(mask)):
        logits = views.student.logits.clone().requires_grad_()
        value = at(term, replace(views, batch=replace(views.batch, mask=none)), [logits])
        (slope,) = gradients(value, [logits])
        empty = ~none.any(1)
        assert (value[empty] == 0).all()
        assert (slope[empty] == 0).all()
        assert torch.isfinite(slope).all()


def assert_finite_at_extreme_numbers(term: Term, views: Views) -> None:
    """Logits of +-10,000 and features of +-1,000 in any precision give finite values and gradients, evaluated in float32.

    Of larger features the square's true gradient can lie beyond the 65,504 of half precision.
    """
    assert views.teacher is not None
    term = copy.deepcopy(term).float()

    def extreme(outputs: Outputs, dtype: torch.dtype, side: float) -> list[Tensor]:
        logits, *features = parts_of(outputs)
        return [(size * side * part.sign()).to(dtype) for size, part in ((1e4, logits), *((1e3, part) for part in features))]

    for dtype in (torch.float16, torch.bfloat16, torch.float32):
        student = [part.requires_grad_() for part in extreme(views.student, dtype, 1)]
        teacher = of_parts(views.teacher, extreme(views.teacher, dtype, -1))
        value = at(term, replace(views, teacher=teacher), student)
        assert value.dtype == torch.float32
        assert torch.isfinite(value).all()
        assert all(torch.isfinite(slope).all() for slope in gradients(value, student))


def assert_autocast_changes_nothing(term: Term, views: Views) -> None:
    """What a term without trained parts computes is not rounded where models run in mixed precision."""
    if term.trained():
        return
    term = copy.deepcopy(term).float()
    assert views.teacher is not None
    single = replace(views, student=views.student.map(Tensor.float), teacher=views.teacher.map(Tensor.float))
    wanted = value_of(term, single)
    with torch.autocast("cpu", torch.bfloat16):
        assert_close(value_of(term, single), wanted)


def assert_gradcheck(term: Term, views: Views) -> None:
    """Backward and forward derivatives in what is the student's are those of differences, what is detached held.

    Along random directions, which find a wrong entry almost surely; entry by entry takes many times as long.
    """
    forward_rules()
    value, leaves = _of_the_students(term, views)
    assert gradcheck(value, leaves, check_forward_ad=True, fast_mode=True, check_undefined_grad=False)


def assert_gradgradcheck(term: Term, views: Views) -> None:
    """Second derivatives in what is the student's are those of differences, what is detached held; along random directions."""
    value, leaves = _of_the_students(term, views)
    assert gradgradcheck(value, leaves, fast_mode=True, check_undefined_grad=False)


def _of_the_students(term: Term, views: Views) -> tuple[Callable[..., Tensor], list[Tensor]]:
    """A term as a function of what is the student's, of three samples, and where it is looked at."""
    few, held = take(views, slice(0, 3)), Held()
    leaves = leaves_of(few.student)

    def value(*parts: Tensor) -> Tensor:
        with held:
            return at(term, few, parts)

    value(*leaves)
    return value, leaves


def assert_zero_at_teacher(term: Term, views: Views) -> None:
    """A term that knows the teacher only is 0 for every sample, and flat, when the student equals the teacher; never below 0.

    Where trained parts stand between the two sides there is no such point.
    """
    if term.needs - {"teacher", "teacher_topk", "teacher_features", "student_features"} or views.teacher is None or term.builds:
        return
    if not term.needs or not term.rests:
        return
    assert (value_of(term, views) >= -1e-12).all()
    leaves = leaves_of(views.teacher)
    value = value_of(term, replace(views, student=of_parts(views.teacher, leaves)))
    assert_close(value, torch.zeros_like(value), rtol=0, atol=1e-12)
    for slope in gradients(value, leaves):
        assert_close(slope, torch.zeros_like(slope), rtol=0, atol=1e-12)


def assert_zero_without_a_label(term: Term, views: Views) -> None:
    """In an objective a term that needs labels is 0 and flat for a sample without one, and for the others what it was."""
    targets = views.batch.targets
    if "targets" not in term.needs or targets is None or targets.dim() != 1 or term.coupled:
        return
    blank = torch.arange(len(targets)) % 2 == 0
    views = replace(views, batch=replace(views.batch, targets=targets.masked_fill(blank, UNLABELLED)))
    leaves = leaves_of(views.student)
    value = at(Objective([(1.0, term)]), views, leaves)[0]
    filled = replace(views, batch=replace(views.batch, targets=targets))
    assert_close(value, value_of(term, filled).masked_fill(blank, 0))
    for slope in gradients(value, leaves):
        assert not slope[blank].any()


def assert_state_round_trips(term: Term, views: Views) -> None:
    """All that a term keeps is in its state, after a remembered step too: a blank twin that loads it gives the same values."""
    term = copy.deepcopy(term)
    if term.remembers:
        term.remember(replace(views, student=views.student.detach()))
    twin = copy.deepcopy(term)
    for part in twin.state_dict().values():
        part.zero_()
    twin.load_state_dict(term.state_dict())
    assert torch.equal(value_of(twin, views), value_of(term, views))


def assert_parts_are_trained(term: Term, views: Views) -> None:
    """Every trainable parameter of a term gets a finite gradient."""
    trained = term.trained()
    if not trained:
        return
    for slope in torch.autograd.grad(value_of(term, views).sum(), trained, allow_unused=True):
        assert slope is not None
        assert torch.isfinite(slope).all()


def assert_evaluation_changes_nothing(term: Term, views: Views) -> None:
    """In evaluation mode nothing that a term keeps moves: memory is for `remember`."""
    term = copy.deepcopy(term).eval()
    kept = copy.deepcopy(term.state_dict())
    value_of(term, views)
    assert all(torch.equal(part, kept[name]) for name, part in term.state_dict().items())


def assert_views_untouched(term: Term, views: Views) -> None:
    """Neither logits nor features are changed in place."""
    kept = copy.deepcopy(views)
    value_of(term, views)
    assert views.teacher is not None
    assert kept.teacher is not None
    for now, before in ((views.student, kept.student), (views.teacher, kept.teacher)):
        assert all(torch.equal(a, b) for a, b in zip(parts_of(now), parts_of(before), strict=True))


def assert_answers_for_the_net_in_use(term: Term, views: Views) -> None:
    """What a term answers is what the net that it deploys answers, for students whose feature goes into one linear layer."""
    if not term.deploys or not set(term.student_taps) <= {PENULTIMATE}:
        return
    feature = views.student.features.get(PENULTIMATE, views.student.logits)
    student = nn.Sequential(nn.Identity(), nn.Linear(feature.shape[-1], views.student.logits.shape[-1])).double()
    batch, term = replace(views.batch, inputs=feature), copy.deepcopy(term).eval()
    own = Tapped(student, term.student_taps)(batch)
    found = term.answer(replace(views, student=own, batch=batch))
    assert_close(found, Tapped(term.deploy(student).eval())(batch).logits)


def assert_compiles(term: Term, views: Views) -> None:
    """`torch.compile` takes a term as one graph, forwards and backwards, with the same values; or the term says that it does not.

    Traced and not translated: what the compiler's last stage makes of the graph is not the term's.
    """
    wanted = at(term, views, leaves := leaves_of(views.student))
    torch._dynamo.reset()
    compiled = torch.compile(copy.deepcopy(term), backend="aot_eager", fullgraph=True)
    own, refused = leaves_of(views.student), ""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of what it looks through, such as the cache of fnmatch
            found = at(compiled, views, own)
    except torch._dynamo.exc.TorchDynamoException as error:
        refused = str(error).strip().partition("\n")[0] or type(error).__name__
    assert term.compiles or refused, "it can be compiled; leave out compiles = False."
    assert not (term.compiles and refused), f"it cannot be compiled ({refused}); set compiles = False."
    if refused:
        return
    assert_close(found, wanted)
    for slope, other in zip(gradients(found, own), gradients(wanted, leaves), strict=True):
        assert_close(slope, other)


PROPERTIES: tuple[Property, ...] = (
    assert_per_sample,
    assert_permutation_equivariant,
    assert_sum_of_split_batches,
    assert_masked_tokens_do_not_count,
    assert_no_counted_token_is_0,
    assert_finite_at_extreme_numbers,
    assert_autocast_changes_nothing,
    assert_gradcheck,
    assert_gradgradcheck,
    assert_zero_at_teacher,
    assert_zero_without_a_label,
    assert_state_round_trips,
    assert_parts_are_trained,
    assert_evaluation_changes_nothing,
    assert_views_untouched,
    assert_answers_for_the_net_in_use,
)
