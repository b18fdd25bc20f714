import pytest
import torch
from torch import Tensor

from limbeck.core.errors import DataError
from limbeck.data.domains import Domains
from limbeck.data.loader import Loader
from limbeck.data.source import InMemory

SHARES = torch.tensor([0.6, 0.3, 0.1], dtype=torch.float64)


def source(rows: int = 90, named: tuple[str, ...] = ("a", "b", "c")) -> InMemory:
    made = InMemory(torch.arange(rows).float().unsqueeze(1), torch.arange(rows) % 2, name="Rows()")
    made.groups, made.group_names = torch.arange(rows) % 3, named
    return made


def drawing(every: int = 5, shares: Tensor = SHARES) -> Domains:
    domains = Domains(source(), torch.arange(90), seed=3, every=every)
    domains.shares = shares
    return domains


def read(domains: Domains, *, epoch: int = 0, start: int = 0, workers: int = 0) -> list[list[int]]:
    loader = Loader(source(), torch.arange(90), batch_size=8, seed=3, labels=source().labels, sampler=domains, workers=workers)
    return [batch.index.tolist() for batch in loader.epoch(epoch, start)]


def test_domains_are_drawn_by_their_shares() -> None:
    drawn = drawing().draw(0, 100_000)
    found = torch.bincount(drawn % 3, minlength=3) / 100_000
    assert float((found - SHARES).abs().max()) < 0.01


def test_a_stream_gives_every_row_once_before_any_twice_across_stretches() -> None:
    domains, drawn = drawing(), []
    for stretch in range(6):
        drawn.append(domains.draw(stretch, 40))
        domains.turn(stretch, 40, SHARES)
    for number in range(3):
        own = [row for row in torch.cat(drawn).tolist() if row % 3 == number]
        turns = [own[at : at + 30] for at in range(0, len(own), 30)]
        assert all(len(set(turn)) == len(turn) for turn in turns)
        assert len(turns) < 2 or turns[0] != sorted(turns[0]) != turns[1]
    assert domains.passed.sum() == 240


def test_an_epoch_has_as_many_batches_and_goes_on_from_any_step() -> None:
    domains = drawing(every=4)
    whole = read(domains)
    assert [len(batch) for batch in whole] == [8] * 11
    for start in (0, 3, 4, 7):
        assert read(domains, start=start) == whole[start:]


def test_reading_ahead_changes_nothing() -> None:
    assert read(drawing(every=4), workers=1) == read(drawing(every=4))


def test_new_shares_count_from_the_next_stretch_on_also_within_an_epoch() -> None:
    domains = drawing(every=4)
    loader = Loader(source(), torch.arange(90), batch_size=8, seed=3, labels=source().labels, sampler=domains)
    batches = loader.epoch(0)
    for _ in range(4):
        next(batches)
    domains.turn(0, 32, torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64))
    assert all(row % 3 == 2 for batch in batches for row in batch.index.tolist())


def test_a_twin_with_the_state_draws_the_same() -> None:
    domains, twin = drawing(), drawing(shares=torch.full((3,), 1 / 3, dtype=torch.float64))
    domains.turn(0, 40, SHARES.flip(0))
    twin.load_state(domains.state())
    assert torch.equal(domains.draw(1, 40), twin.draw(1, 40))


def test_no_domains_and_empty_ones_are_refused() -> None:
    plain = source()
    plain.groups = None
    with pytest.raises(DataError, match="there are none; name their column with group="):
        Domains(plain, torch.arange(90), seed=0, every=1)
    with pytest.raises(DataError, match="domain 'c' has no training row"):
        Domains(source(), torch.tensor([0, 1, 3]), seed=0, every=1)
