"""A layer that fails at any pass of a captured step, the trial of ways included, leaves no hook and no switch behind."""

import pytest
from training_makers import parts, prepared, weighting

from limbeck.training.steps.student import Student
from support.fuses import BlownError, fuse, last_linear, switches


@pytest.mark.parametrize("backward", [False, True], ids=["forward", "backward"])
def test_every_pass_of_a_captured_step_may_fail(backward: bool) -> None:
    made, step = parts(kind="layernorm", weights=weighting()), Student()
    training, batch = prepared(made, step)
    student, failed, over = training.distiller.student, 0, False
    before = switches(student)
    while not over:
        training.way = None  # so that the trial comes again
        with fuse(last_linear(student), failed + 1, backward=backward):
            during = switches(student)
            try:
                step(training, batch)
                over = True
            except BlownError:
                failed += 1
                assert switches(student) == during
        assert switches(student) == before
        assert failed < 30
    assert training.way is not None
    assert training.way.way == "captured"
    assert failed >= (2 if backward else 3)
