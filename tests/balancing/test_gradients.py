"""A step that knows its terms' gradients goes along their sum without another backward pass: the same as with one."""

from typing import final

import torch
from torch import Tensor, nn
from torch.testing import assert_close
from training_makers import parts

from limbeck.balancing.balancer import Balancer, Level
from limbeck.losses.heads.onhead import OnHead
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD


@final
class Fixed(Balancer):
    """Factors 0.3, 1.7 and 0.5, with a look at the gradients."""

    def __init__(self, level: Level) -> None:
        self.level = level

    def factors(self, losses: Tensor, gramian: Tensor | None) -> Tensor:
        assert gramian is None or gramian.shape == (3, 3)
        return torch.tensor([0.3, 1.7, 0.5])


def ran(level: Level) -> tuple[dict[str, Tensor | None], float, int]:
    """Every gradient by name, the loss, and how often a backward pass went through the student."""
    made = parts(kind="dropout", objective=KD(T=2.0) + CE() * 0.4 + OnHead(KD(T=3.0), head="mlp"), balancer=Fixed(level))
    distiller, student, passes = made.distiller, made.distiller.student.model, []
    student.register_parameter("idle", nn.Parameter(torch.ones(2)))
    student[2].register_full_backward_hook(lambda *told: passes.append(told))
    torch.manual_seed(0)
    loss = distiller(next(made.loader.epoch(0)))
    loss.total.backward()
    named = {**dict(distiller.student.named_parameters()), **dict(distiller.objective.named_parameters())}
    return {name: part.grad for name, part in named.items()}, float(loss.total.detach()), len(passes)


def test_the_sum_of_known_gradients_is_the_gradient_of_the_sum() -> None:
    (plain, value, _), (known, other, _) = ran("none"), ran("all")
    assert value == other
    assert plain.keys() == known.keys()
    for name, gradient in plain.items():
        if gradient is None:
            assert known[name] is None  # as it would be after a backward pass: the optimiser passes it over
        else:
            assert_close(known[name], gradient, rtol=1e-5, atol=1e-7)
    assert plain["model.idle"] is None


def test_there_is_one_backward_pass_a_term() -> None:
    """The last layer's gradients are compared without a pass through the net below."""
    assert [ran(level)[2] for level in ("none", "last_layer", "all")] == [1, 1, 3]
