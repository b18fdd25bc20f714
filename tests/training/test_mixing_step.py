from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close
from training_makers import QUERIES, ROWS, Parts, parts, same, train

from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs
from limbeck.data.domains import Domains
from limbeck.data.loader import Loader
from limbeck.engine.local import LocalEngine
from limbeck.functional.divergences import cross_entropy
from limbeck.influence.curvature.identity import Identity
from limbeck.losses.labels.ce import CE
from limbeck.mixtures.ddk import DDK
from limbeck.mixtures.fixedshares import FixedShares
from limbeck.mixtures.mixture import Mixture
from limbeck.training.callback import Callback
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.mixing import Mixing, domain_losses
from limbeck.training.steps.offline import Offline
from limbeck.training.steps.student import Student
from limbeck.training.training import Record, Training

NAMES = ("even", "odd")


def mixed(every: int = 3) -> Parts:
    """A run whose batches are drawn by domain: even and odd rows."""
    made = parts(kind="dropout")
    source = made.loader.source
    source.groups, source.group_names = torch.arange(len(source)) % 2, NAMES
    sampler = Domains(source, torch.arange(ROWS), seed=3, every=every)
    made.loader = Loader(source, torch.arange(ROWS), batch_size=12, seed=3, labels=source.labels, sampler=sampler)
    return made


def losses(made: Parts, model: torch.nn.Module) -> torch.Tensor:
    """The slow way: the mean cross-entropy of the query samples of each domain."""
    found: Outputs = model(made.queries)
    assert made.queries.targets is not None
    loss = cross_entropy(found.logits, made.queries.targets).double()
    return torch.stack([loss[torch.tensor(QUERIES) % 2 == number].mean() for number in range(2)])


def test_shares_follow_the_measured_lag_from_the_next_stretch_on() -> None:
    made = mixed()
    made.distiller.student.eval()
    assert made.distiller.teacher is not None
    ratio = (losses(made, made.distiller.student) - losses(made, made.distiller.teacher)).exp()
    ran = train(made, Mixing(Student(), DDK(every=3)), steps=7)
    shares = [[record.figures[f"share_{name}"] for name in NAMES] for record in ran.records]
    assert_close(torch.tensor(shares[0], dtype=torch.float64), ratio.detach().softmax(0))
    assert shares[0] == shares[1] == shares[2] != shares[3] == shares[5] != shares[6]
    lags = [ran.records[0].figures[f"lag_{name}"] for name in NAMES]
    assert_close(torch.tensor(lags, dtype=torch.float64), ratio.detach())


def test_a_second_fit_begins_all_streams_anew() -> None:
    made, seen = mixed(), []
    for _ in range(2):
        ran = train(made, Mixing(Student(), DDK(a=0, every=3)), steps=7)  # shares do not depend on what was learnt
        seen.append([record.batch.index.tolist() for record in ran.records[3:]])
    assert seen[0] == seen[1]


def test_both_trainings_of_an_offline_run_see_all_rows() -> None:
    made, seen = mixed(1), []
    student = made.distiller.student
    student.register_forward_pre_hook(lambda net, batch: seen.append(batch[0].index) if net.training else None)
    ran = train(made, Mixing(Offline(Identity(), epochs=6), DDK(a=0, every=1)), steps=24)
    batches = [index for index in seen if len(index) == 12]
    for drawn in (batches[:24], [record.batch.index for record in ran.records]):
        assert len(torch.cat(drawn).unique()) == ROWS


def test_domains_that_nobody_mixes_go_through_all_rows() -> None:
    made = mixed(1)
    for _ in range(2):
        assert len(torch.cat([record.batch.index for record in train(made, steps=24).records]).unique()) == ROWS


class Cut(Callback):
    def after_step(self, training: Training, record: Record) -> None:
        if training.number == 5:
            raise KeyboardInterrupt


@pytest.mark.parametrize("mixture", [lambda: DDK(every=3), lambda: FixedShares([3, 1])], ids=["DDK", "FixedShares"])
def test_a_run_that_was_stopped_within_a_stretch_ends_in_the_same_bits(mixture: type[Mixture], tmp_path: Path) -> None:
    def step() -> Mixing:
        return Mixing(Student(), mixture())

    calm, keeper = train(mixed(mixture().every), step(), steps=9), Keeper(tmp_path / "k.pt", every=1, pause_s=0.0)
    with pytest.raises(KeyboardInterrupt):
        train(mixed(mixture().every), step(), steps=9, keeper=keeper, callbacks=[Cut()])
    gone_on = train(mixed(mixture().every), step(), steps=9, keeper=keeper, callbacks=[Callback()])
    assert same(gone_on.student, calm.student)
    assert gone_on.records[-1].figures == calm.records[-1].figures
    assert gone_on.records[-1].batch.index.tolist() == calm.records[-1].batch.index.tolist()


class TheSecondOfTwo(LocalEngine):
    """What the second of two processes sees, when the first one has found the same sums."""

    processes, rank = 2, 1

    def gather(self, values: torch.Tensor) -> torch.Tensor:
        self.own = values
        return torch.cat([values, values])


def test_processes_share_the_query_samples_out_and_language_counts_by_token() -> None:
    made, groups = mixed(), torch.tensor(QUERIES) % 2
    engine, seen = TheSecondOfTwo(), []
    domain_losses(lambda batch: seen.extend(batch.index.tolist()) or batch.index.float(), made.queries, groups, 2, engine)
    assert seen == list(QUERIES)[1::2]
    assert engine.own[0, 1].sum() == len(seen)
    tokens = torch.zeros(3, 4, dtype=torch.int64)
    counted = torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0], [1, 1, 0, 0]]).bool()
    batch = type(made.queries)(tokens, tokens, torch.arange(3), counted)
    found = domain_losses(lambda some: some.index.double() + 1, batch, torch.tensor([0, 0, 1]), 2, LocalEngine())
    assert found.tolist() == [(1 * 3 + 2 * 1) / 4, 3]
    unlabelled = replace(batch, targets=tokens.index_put((torch.tensor([0]), torch.tensor([1])), torch.tensor(-1)))
    found = domain_losses(lambda some: some.index.double() + 1, unlabelled, torch.tensor([0, 0, 1]), 2, LocalEngine())
    assert found.tolist() == [(1 * 2 + 2 * 1) / 3, 3]


def test_what_cannot_be_mixed_is_refused() -> None:
    made = mixed()
    with pytest.raises(UsageError, match="drawn by domain; pass sampler=Domains"):
        train(made, Mixing(Student(), DDK(every=4)))
    with pytest.raises(UsageError, match="the run has none; pass queries="):
        train(made, Mixing(Student(), DDK(every=3)), queries=None)
    with pytest.raises(UsageError, match="domain 'odd' has no sample in the query set"):
        train(made, Mixing(Student(), DDK(every=3)), queries=made.queries.take(torch.tensor([0, 2])))
    made.distiller.teacher, made.distiller.objective = None, CE() * 1.0
    with pytest.raises(UsageError, match="must give all logits"):
        train(made, Mixing(Student(), DDK(every=3)))


def test_shares_that_are_never_renewed_are_told_of() -> None:
    with pytest.warns(UserWarning, match="stay as they begin, since the run has 4 steps"):
        train(mixed(50), Mixing(Student(), DDK(every=50)), steps=4)
