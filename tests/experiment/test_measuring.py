"""What a run notes of each sample."""

import torch
from torch import nn
from torch.testing import assert_close

from limbeck.align.taps import Tapped
from limbeck.data.source import InMemory
from limbeck.experiment.measuring import label_columns, opinion

VOCABULARY = 7


def test_of_language_only_tokens_that_count_and_have_a_label_are_noted() -> None:
    generator = torch.Generator().manual_seed(0)
    truth = torch.randint(0, VOCABULARY, (3, 4), generator=generator)
    counted = torch.tensor([[1, 1, 1, 1], [1, 1, 1, 0], [1, 1, 1, 1]]).bool()
    unknown = torch.tensor([[0, 0, 1, 0], [0, 1, 0, 0], [0, 0, 0, 0]]).bool()
    labels, truth = truth.clone().masked_fill(unknown, -1), truth.masked_fill(unknown, -1)
    labels[0, 0] = (truth[0, 0] + 1) % VOCABULARY
    source = InMemory(torch.zeros(3, 4, dtype=torch.int64), labels, truth=truth, vocabulary=VOCABULARY, mask=counted)
    torch.manual_seed(0)
    net = Tapped(nn.Embedding(VOCABULARY, VOCABULARY))
    probs = net.model.weight[0].softmax(0)
    found = opinion(net, source, torch.arange(3), labels)
    for row in range(3):
        own = labels[row, counted[row] & ~unknown[row]]
        assert_close(found.prob[row], probs[own].mean().detach())
        assert_close(found.label[row], (own == probs.argmax()).float().mean())
    assert label_columns(source, torch.arange(3), labels) == ([1.0, 1.0, 1.0], [2 / 3, 1.0, 1.0])
