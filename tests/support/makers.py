"""What tests of several rooms are made of: limbeck's own makers, the reference tensors of the method sheets, a coupled term."""

from typing import final

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.outputs import Outputs, Views
from limbeck.core.term import Term
from limbeck.testing.makers import FeatureKind as FeatureKind
from limbeck.testing.makers import feature_views as feature_views
from limbeck.testing.makers import featured as featured
from limbeck.testing.makers import generator as generator
from limbeck.testing.makers import labels as labels
from limbeck.testing.makers import normal as normal
from limbeck.testing.makers import random_views as random_views
from limbeck.testing.makers import scene as scene
from limbeck.testing.makers import take as take
from limbeck.testing.makers import token_views as token_views
from limbeck.testing.makers import views as views

STUDENT = torch.tensor([[1, 0.2, -0.5, 0.3], [-0.1, 0.8, 0.4, -0.9], [0.4, -0.2, 0.1, 1.1]], dtype=torch.float64)
TEACHER = torch.tensor([[2, 0.5, -1, 1], [0.3, 1.2, 1.5, -1], [-0.5, 0.3, 0.9, 1.8]], dtype=torch.float64)
LABELS = torch.tensor([0, 1, 3])
LLM_TEACHER = torch.tensor([[2, 1, 0.5, -1], [0, 0, 3, 1]], dtype=torch.float64)
LLM_STUDENT = torch.tensor([[1, 1.5, 0, -0.5], [0.5, -0.5, 1, 2]], dtype=torch.float64)
"""The reference rows of the language models' sheets."""


def golden_views() -> Views:
    """The reference tensors of the classics' sheet."""
    return views(STUDENT, TEACHER, LABELS)


def told_teacher(batch: Batch) -> Outputs:
    """A teacher whose logits travel with the batch, in its column `teacher`."""
    return Outputs(batch.meta["teacher"])


@final
class FromTheMean(Term):
    """|s_i - mean_j s_j|^2: the simplest term that couples the samples of a batch."""

    coupled = True

    def forward(self, views: Views) -> Tensor:
        logits = views.student.logits
        return (logits - logits.mean(0)).square().flatten(1).sum(1)
