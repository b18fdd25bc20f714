"""Factor transfer (Kim et al., 2018)."""

from typing import final

import torch
from torch import Tensor, nn

from limbeck.align.taps import features_of
from limbeck.core.checks import fraction, whole
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.core.term import Scene
from limbeck.functional.divergences import full_precision
from limbeck.functional.pooling import maps_only, same_size
from limbeck.functional.similarity import unit
from limbeck.losses.features.term import FeatureTerm


@final
class FT(FeatureTerm):
    """Mean absolute difference of the two sides' factors, each flattened and brought to length 1, per sample.

    The teacher's factor is the narrow middle of an autoencoder of its map, the paraphraser, trained beforehand when the term is
    built and then frozen; the student's comes out of a translator of the same make, trained with the student.

    Args:
        ratio: Channels of the factors as a share of the teacher's, in (0, 1].
        epochs: Passes over the training set that train the paraphraser, at least 1.
        student: The student's tap.
        teacher: The teacher's tap.

    Shapes: maps [B, C, H, W] on each side -> [B]. The larger factor is average-pooled to the smaller.

    Raises:
        ShapeError: The features are no maps, or a tap stands for several.
        UsageError: An argument is out of range, there is no teacher, or no such feature.

    Reference: Kim, Park, Kwak, 2018, arXiv:1802.04977, sec. 3. Differs from the paper: the paraphraser is trained by Adam
    (rate 0.001), on samples in their order and without augmentation. The usual code averages over channels before comparing.

    >>> FT()
    FT(ratio=0.5, epochs=30)
    """

    builds = True
    coupled = True
    says = ("ratio", "epochs")

    def __init__(self, ratio: float = 0.5, epochs: int = 30, *, student: str = "layer3", teacher: str = "layer3") -> None:
        super().__init__(student, teacher)
        self.ratio = fraction(ratio, "FT: ratio")
        if not self.ratio:
            raise UsageError("FT: ratio must be above 0, got 0.")
        self.epochs = whole(epochs, "FT: epochs")
        self.paraphraser: nn.Module
        self.translator: nn.Module

    def build(self, scene: Scene) -> None:
        """Train the paraphraser on the teacher's maps, and make the translator."""
        student, teacher = (maps_only(part, "FT") for part in self.stage(scene.views))
        width = max(1, round(self.ratio * teacher.shape[1]))
        self.translator = encoder(student.shape[1], width).to(student)
        self.paraphraser, decoder = encoder(teacher.shape[1], width).to(teacher), encoder(width, teacher.shape[1]).to(teacher)
        optimizer = torch.optim.Adam([*self.paraphraser.parameters(), *decoder.parameters()], lr=1e-3)
        for _ in range(self.epochs):
            for _, answer in scene.taught():
                maps = full_precision(features_of(answer, self.teacher, "FT")[0]).detach()
                with torch.enable_grad():
                    (decoder(self.paraphraser(maps)) - maps).square().mean().backward()
                optimizer.step()
                optimizer.zero_grad()
        self.paraphraser.requires_grad_(False)
        self.train(self.training)

    def train(self, mode: bool = True) -> "FT":
        """The paraphraser stays in evaluation mode."""
        super().train(mode)
        if hasattr(self, "paraphraser"):
            self.paraphraser.eval()
        return self

    def forward(self, views: Views) -> Tensor:
        """One value per sample, [B]."""
        student, teacher = (maps_only(part, "FT") for part in self.stage(views))
        own, other = same_size(full_precision(self.translator(student)), full_precision(self.paraphraser(teacher)))
        return (unit(own.flatten(1)) - unit(other.flatten(1))).abs().mean(1)


def encoder(inputs: int, outputs: int) -> nn.Sequential:
    """Three 3x3 convolutions with batch normalisation and leaky ReLU; the second changes the channels."""
    layers: list[nn.Module] = []
    for before, after in ((inputs, inputs), (inputs, outputs), (outputs, outputs)):
        layers += [nn.Conv2d(before, after, 3, padding=1, bias=False), nn.BatchNorm2d(after), nn.LeakyReLU(0.1)]
    return nn.Sequential(*layers)
