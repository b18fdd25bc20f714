"""Runs of a few steps on rows of letters, for steps that write."""

from typing import Any

import torch
from torch import Tensor, nn

from limbeck.core.objective import Objective
from limbeck.core.term import Term
from limbeck.data.loader import Loader, whole
from limbeck.data.source import InMemory
from limbeck.data.tokens import Bytes
from limbeck.distiller import Distiller
from limbeck.losses.logits.jsd import JSD
from limbeck.models.gpt import CausalTransformer
from limbeck.teachers.single import Single
from limbeck.training.callback import Callback
from limbeck.training.fit import fit
from limbeck.training.training import Record, Training, Update

LENGTH, ROWS, BATCH = 8, 24, 6


def source() -> InMemory:
    """Rows of eight bytes; the first `row % 3 + 1` tokens are the prompt."""
    ids = torch.randint(97, 123, (ROWS, LENGTH + 1), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(LENGTH) >= (torch.arange(ROWS) % 3).unsqueeze(1)
    made = InMemory(ids[:, :-1], ids[:, 1:].clone(), vocabulary=Bytes.size, mask=mask, name="Letters()")
    made.tokenizer = Bytes()
    return made


def net(seed: int, dropout: float = 0.1) -> nn.Module:
    torch.manual_seed(seed)
    return CausalTransformer(8, 1, 2, dropout, length=LENGTH, vocabulary=Bytes.size, tied=False)


class Seen(Callback):
    def __init__(self) -> None:
        self.records: list[Record] = []

    def after_step(self, training: Training, record: Record) -> None:
        self.records.append(record)


def train(
    step: Update, objective: Term | Objective | None = None, *, steps: int = 8, dropout: float = 0.1, **changes: Any
) -> tuple[Training, Seen]:
    data, seen = source(), Seen()
    loader = Loader(data, torch.arange(ROWS - 4), batch_size=BATCH, seed=3, labels=data.labels)
    distiller = Distiller(net(1, dropout), Single(net(2)), JSD() if objective is None else objective)
    optimizer = torch.optim.Adam(distiller.trained(), lr=0.01)
    changes = {"queries": whole(data, torch.arange(ROWS - 4, ROWS), data.labels), **changes}
    torch.manual_seed(0)
    return fit(distiller, loader, optimizer, steps=steps, step=step, callbacks=[seen], **changes), seen


def state(training: Training) -> list[Tensor]:
    return list(training.distiller.student.state_dict().values())


def same(first: list[Tensor], second: list[Tensor]) -> bool:
    return all(torch.equal(one, other) for one, other in zip(first, second, strict=True))
