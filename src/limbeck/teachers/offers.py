"""Whether a teacher can answer with what the terms of an objective read, and for the student's classes."""

from limbeck.core.errors import ShapeError, UsageError
from limbeck.core.objective import Objective
from limbeck.core.outputs import Outputs
from limbeck.core.term import Term
from limbeck.teachers.teacher import Offer, Teacher


def check_offers(teacher: Teacher, objective: Objective) -> None:
    """See that the teacher can answer with all that the terms read.

    Raises:
        UsageError: It cannot.
    """
    offered = teacher.offers | ({"topk"} if "logits" in teacher.offers else set())
    for term, wanted in [(one, wanted) for _, one in objective.parts for wanted in _wanted(one)]:
        if wanted in offered:
            continue
        ways = {
            "features": "take terms on logits, or a live teacher such as Single(model)",
            "logits": f"write TopKTail({term!r})" if term.lumps else "write TopKTail(KD(T=1)), or take a teacher with all logits",
            "topk": "take a teacher that offers logits or topk",
            "reference": "take AlignedPair(after, before), or Aligned(after, before) of stored ones",
        }
        raise UsageError(
            f"Distiller: {term!r} reads the teacher's {wanted}, but {type(teacher).__name__} offers "
            f"{', '.join(sorted(teacher.offers))} only; {ways[wanted]}."
        )


def check_classes(student: Outputs, teacher: Outputs, *, crosses: bool) -> None:
    """See that both answer for the same classes.

    Args:
        student: What the student answered.
        teacher: What the teacher answered.
        crosses: Whether the terms compare across classes.

    Raises:
        ShapeError: They do not.
    """
    classes = student.logits.shape[-1]
    if not crosses and teacher.classes not in (None, classes):
        if student.logits.dim() == 3:
            raise ShapeError(
                f"Distiller: the student's vocabulary has {classes} tokens and the teacher's {teacher.classes}; where the "
                "larger one is only filled up, cut it with HFModel(..., crop=True), else take GOLD(shared=...), which "
                "compares the tokens that both have, or ULD(), which needs none in common."
            )
        raise ShapeError(
            f"Distiller: the student answers for {classes} classes and the teacher for {teacher.classes}; "
            "they must be the same classes."
        )
    if teacher.sparse is not None and int(teacher.sparse.ids.max()) >= classes:
        raise ShapeError(
            f"Distiller: the student answers for {classes} classes, but the teacher speaks of class "
            f"{int(teacher.sparse.ids.max())}; they must be the same classes."
        )


def _wanted(term: Term) -> list[Offer]:
    """What a term reads of the teacher."""
    reference: list[Offer] = ["reference"] if "teacher_reference" in term.needs else []
    if "teacher_features" in term.needs:
        return [*reference, "features"]
    if "teacher_topk" in term.needs:
        return [*reference, "topk"]
    return [*reference, "logits"] if "teacher" in term.needs else reference
