"""Losses of torchdistill as terms of ours: what the same method takes in an independent implementation, on the same nets.

They come with layers of their own, as in torchdistill's recipes for these methods, and give one number for the batch.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchdistill.losses.mid_level import AltActTransferLoss, HierarchicalContextLoss, RKDLoss, VIDLoss
from torchdistill.models.wrapper import AttentionBasedFusion, Connector4DAB, Regressor4VID

from limbeck.core.outputs import Views
from limbeck.core.term import Scene
from limbeck.losses.features.reviewkd import ReviewKD
from limbeck.losses.features.term import FeatureTerm

Read = dict[str, dict[str, object]]
"""What torchdistill's losses are given: by path of a module, its input or output."""


def read(**outputs: object) -> Read:
    """Outputs by path."""
    return {path: {"output": output} for path, output in outputs.items()}


def pairs(count: int, weights: list[float]) -> dict[str, dict[str, object]]:
    """Pairs of the paths s0 and t0, s1 and t1, ..."""
    return {
        f"pair{k}": {
            "student": {"io": "output", "path": f"s{k}"},
            "teacher": {"io": "output", "path": f"t{k}"},
            "weight": weights[k],
        }
        for k in range(count)
    }


class Theirs(FeatureTerm):
    """A loss that is one number for the batch, which every sample is given.

    Args:
        layers: Makes the layer for a stage, of the channels of student and teacher.
        loss: Makes the loss, of the number of stages.
        tap: Of both sides.
    """

    builds = True
    coupled = True

    def __init__(self, layers: Callable[[int, int], nn.Module], loss: Callable[[int], nn.Module], tap: str) -> None:
        super().__init__(tap, tap)
        self.make, self.made = layers, loss
        self.layers = nn.ModuleList()
        self.loss: nn.Module

    def build(self, scene: Scene) -> None:
        """Make the layers."""
        stages = self.stages(scene.views)
        self.layers.extend(self.make(own.shape[1], other.shape[1]) for own, other in stages)
        self.loss = self.made(len(stages))

    def forward(self, views: Views) -> Tensor:
        """The same for all, [B]."""
        student, teacher = {}, {}
        for k, (layer, (own, other)) in enumerate(zip(self.layers, self.stages(views), strict=True)):
            student[f"s{k}"], teacher[f"t{k}"] = layer(own), other
        value: Tensor = self.loss(read(**student), read(**teacher))
        return value.expand(len(views.batch))


class TheirReviewKD(FeatureTerm):
    """Knowledge review: the fusions from the deepest level on, and the loss of each; levels are read as `ReviewKD` reads them."""

    builds = True
    coupled = True

    def __init__(self) -> None:
        super().__init__("layer?", "layer?")
        self.levels = ReviewKD()
        self.fusions = nn.ModuleList()
        self.loss = HierarchicalContextLoss("s", "output", "t", "output")

    @property
    def student_taps(self) -> tuple[str, ...]:
        """The stages, and the vector under the classifier."""
        return self.levels.student_taps

    @property
    def teacher_taps(self) -> tuple[str, ...]:
        """The stages, and the vector under the classifier."""
        return self.levels.teacher_taps

    def build(self, scene: Scene) -> None:
        """Make the fusions."""
        levels = self.levels.both(scene.views)
        middle = levels[0][0].shape[1]
        for depth, (own, other) in enumerate(levels):
            self.fusions.append(AttentionBasedFusion(own.shape[1], middle, other.shape[1], depth > 0))

    def forward(self, views: Views) -> Tensor:
        """The same for all, [B]."""
        handed, total = None, torch.zeros(())
        for fusion, (own, other) in zip(self.fusions, self.levels.both(views), strict=True):
            made, handed = fusion(own, handed, other.shape[-1])
            total = total + self.loss(read(s=(made, handed)), read(t=other))
        return total.expand(len(views.batch))


def connector(inputs: int, outputs: int) -> nn.Module:
    """A convolution and normalisation."""
    made: nn.Module = Connector4DAB.build_connector(
        {"in_channels": inputs, "out_channels": outputs, "kernel_size": 1, "bias": False}, {"num_features": outputs}
    )
    return made


INDEPENDENT: dict[str, Callable[[], FeatureTerm]] = {
    "AB": lambda: Theirs(
        connector,
        lambda count: AltActTransferLoss(pairs(count, [2.0 ** (k + 1 - count) for k in range(count)]), 1.0, "mean"),
        "layer?",
    ),
    "RKD": lambda: Theirs(lambda *_: nn.Identity(), lambda _: RKDLoss("s0", "t0", 25.0, 50.0, "mean"), "penultimate"),
    "ReviewKD": TheirReviewKD,
    "VID": lambda: Theirs(
        lambda inputs, outputs: Regressor4VID(inputs, outputs, outputs, 1e-5, 5.0),
        lambda count: VIDLoss(pairs(count, [1.0] * count)),
        "layer?",
    ),
}
"""By the method's name in the table."""
