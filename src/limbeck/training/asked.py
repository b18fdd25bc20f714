"""What `fit` asks of its parts before any work; whatever is missing is said in one sentence."""

from collections.abc import Callable, Sequence

from torch.optim import Optimizer

from limbeck.balancing.static import Static
from limbeck.core.batch import Batch
from limbeck.core.checks import of_kind
from limbeck.core.errors import UsageError
from limbeck.data.loader import Loader
from limbeck.distiller import Distiller
from limbeck.training.callback import Callback
from limbeck.training.training import Update

UPDATE = ("trains_teacher", "writes", "prepare", "__call__", "state", "load_state")
"""All that a step object must have."""


def check_kinds(
    loader: Loader, optimizer: Optimizer, queries: Batch | None, rate: Callable[[int, int], float], callbacks: Sequence[Callback]
) -> None:
    """See that every argument is what it should be.

    Raises:
        UsageError: One is another thing.
    """
    of_kind(loader, Loader, "fit: loader", "make one of a source, Loader(source, rows, ...), and a source of tensors by InMemory")
    of_kind(optimizer, Optimizer, "fit: optimizer", "make one of the parameters, such as SGD(student.parameters(), lr=0.1)")
    if queries is not None:
        of_kind(queries, Batch, "fit: queries", "put them into one batch, whole(source, rows, labels)")
    if not callable(rate) or isinstance(rate, type):
        raise UsageError(
            f"fit: rate must be a function of (step, steps in all), got {rate!r}; pass the learning rate to the optimizer."
        )
    of_kind(callbacks, Sequence, "fit: callbacks", "write them as a list")
    for callback in callbacks:
        of_kind(callback, Callback, "fit: a callback", "write a class of your own below it")


def check_step(step: Update) -> None:
    """See that a step object has all that the loop asks of it.

    Raises:
        UsageError: It has not.
    """
    if isinstance(step, type):
        raise UsageError(f"fit: step must be an object, got the class {step.__name__}; write it with its brackets.")
    missing = [name for name in UPDATE if not hasattr(step, name)]
    if missing:
        raise UsageError(
            f"fit: the step {type(step).__name__} lacks {', '.join(missing)}; what a step has to offer is said in "
            "limbeck.training.training.Update."
        )


def check_parts(distiller: Distiller, optimizer: Optimizer, accumulate: int, queries: Batch | None) -> None:
    """See that all that is to be trained is there and will be updated.

    Raises:
        UsageError: A term's parts were never made, nothing is to be trained, the optimiser leaves it out, or a balancer would see
            a part of a batch or lacks its query set.
    """
    if distiller.balancer.needs_queries and (queries is None or not len(queries)):
        raise UsageError(f"fit: {distiller.balancer!r} needs a query set, but the run has none; pass queries=... to fit.")
    if accumulate > 1 and not isinstance(distiller.balancer, Static):
        raise UsageError(f"fit: {distiller.balancer!r} balances whole batches; use accumulate=1, or no balancer.")
    if distiller.objective.unbuilt:
        raise UsageError(
            f"fit: {', '.join(distiller.objective.unbuilt)} have parts that the nets' shapes decide; "
            "call distiller.build(loader) first, and make the optimiser of distiller.trained()."
        )
    _check_held(distiller, optimizer)


def _check_held(distiller: Distiller, optimizer: Optimizer) -> None:
    """See that the optimiser moves the student and all of the objective's own parts.

    Raises:
        UsageError: It does not, or nothing is to be trained.
    """
    trained = distiller.trained()
    if not trained:
        raise UsageError(
            "fit: all parameters of the student are frozen; say student.requires_grad_(True), and where it is its own teacher "
            "teach by a copy, Single(copy.deepcopy(student)): a teacher is frozen."
        )
    held = {id(part) for group in optimizer.param_groups for part in group["params"]}
    if not any(id(part) in held for part in trained):
        raise UsageError("fit: the optimiser holds nothing that is to be trained; make it of student.parameters().")
    missing = sum(id(part) not in held for _, term in distiller.objective.parts for part in term.trained())
    if missing:
        raise UsageError(
            f"fit: the optimiser leaves out {missing} parameters of the objective's own parts; make it of distiller.trained()."
        )


def check_drawn(distiller: Distiller, step: Update) -> None:
    """See that terms on drawn tokens get such: those of the data they would take for the student's, and lead it astray.

    Raises:
        UsageError: They do not.
    """
    named = zip(distiller.objective.names, distiller.objective.parts, strict=True)
    drawn = [name for name, (_, term) in named if term.drawn is not None]
    if drawn and not step.writes:
        raise UsageError(
            f"fit: {', '.join(drawn)} would take the data's tokens for such as the student drew, since {step!r} writes none; "
            "take step: OnPolicy(1.0), or GRPO(...) for terms that read rewards."
        )
