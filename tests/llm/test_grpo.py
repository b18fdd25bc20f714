"""GRPO: groups of completions, their rewards and columns, what it refuses, and that a resumed run goes on with the same ones."""

import statistics
from pathlib import Path

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import RunError, UsageError
from limbeck.data.tokens import Bytes
from limbeck.llm.grpo import GRPO
from limbeck.llm.rewards import LastNumber, Reward, SameText
from limbeck.losses.drawn import ADVANTAGE, DRAWN, REFERENCE
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.trrd import TRRD
from limbeck.training.checkpoint import Keeper
from limbeck.training.steps.student import Student
from support.letters import BATCH, net, same, source, state, train


class Early(Reward):
    """The share of the completion's bytes that are below 128, and what it was asked about."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, str]] = []

    def __call__(self, prompt: str, wrote: str, answer: str) -> float:
        self.asked.append((prompt, wrote, answer))
        return sum(ord(letter) < 128 for letter in wrote) / max(len(wrote), 1)


class Broken(Reward):
    def __call__(self, prompt: str, wrote: str, answer: str) -> float:
        return float("nan")


def test_groups_are_of_one_prompt_and_differ() -> None:
    reward = Early()
    _, seen = train(GRPO(reward, group=3, length=5), TRRD(), steps=1)
    found, data = seen.records[0].batch, source()
    assert len(found) == 3 * BATCH == len(reward.asked)
    assert found.mask is not None
    assert found.targets is not None
    for place, row in enumerate(found.index.tolist()):
        assert row == found.index[place - place % 3]
        known = row % 3 + 1
        given, wrote, answer = reward.asked[place]
        inputs, labels = data.read(torch.tensor([row]))[0][0], data.labels[row]
        assert given == Bytes().decode(inputs[:known].tolist())
        assert answer == Bytes().decode(labels[known - 1 :].tolist())
        assert wrote == Bytes().decode(found.targets[place][found.mask[place]].tolist())
    assert any(len({tuple(row) for row in group.tolist()}) == 3 for group in found.targets.split(3))


def test_the_columns() -> None:
    """Advantages by hand, and the log-probabilities of the student as it begins, which is its own reference."""
    reward = Early()
    _, seen = train(GRPO(reward, group=4), TRRD(beta=0.1), steps=1)
    found, worth = seen.records[0].batch, [Early()(*asked) for asked in reward.asked]
    for place, own in enumerate(worth):
        group = worth[place - place % 4 : place - place % 4 + 4]
        expected = (own - statistics.mean(group)) / (statistics.stdev(group) + 1e-4)
        assert float(found.meta[ADVANTAGE][place]) == pytest.approx(expected, abs=1e-9)
    assert found.mask is not None
    assert_close(found.meta[REFERENCE][found.mask], found.meta[DRAWN][found.mask])
    figures = seen.records[0].figures
    assert figures["reward"] == pytest.approx(statistics.mean(worth))
    assert figures["groups_apart"] == sum(len(set(worth[place : place + 4])) > 1 for place in range(0, len(worth), 4)) / BATCH


@pytest.mark.slow
def test_it_learns_what_is_rewarded() -> None:
    _, seen = train(GRPO(Early(), group=8, length=4), TRRD(1.0), steps=30, dropout=0.0)
    rewards = [record.figures["reward"] for record in seen.records]
    assert statistics.mean(rewards[-5:]) > statistics.mean(rewards[:5]) + 0.2


def test_it_is_resumed_exactly(tmp_path: Path) -> None:
    def step() -> GRPO:
        return GRPO(Early(), group=2, length=3, reuse=3)

    term, path = TRRD(beta=0.1), tmp_path / "a.pt"
    whole_run, seen = train(step(), term, steps=8)
    train(step(), term, steps=8, keeper=Keeper(path, every=5, pause_s=0.0))
    resumed, rest = train(step(), term, steps=8, keeper=Keeper(path, every=5, pause_s=0.0))
    assert len(rest.records) == 3
    assert same(state(whole_run), state(resumed))
    assert seen.records[-1].figures == rest.records[-1].figures


def test_a_net_that_the_reward_holds_alike_learns_nothing() -> None:
    training, seen = train(GRPO(SameText(), group=2, length=4), TRRD(), steps=2)
    assert seen.records[-1].figures["groups_apart"] == 0
    assert all(torch.equal(one, other) for one, other in zip(state(training), net(1).state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("wrote", "answer", "worth"),
    [("It is 1,200.", "#### 1200", 1.0), ("7 or 8", "7", 0.0), ("-3.50", "so -3.5", 1.0), ("none", "none", 0.0)],
)
def test_the_last_number_counts(wrote: str, answer: str, worth: float) -> None:
    assert LastNumber()("", wrote, answer) == worth


def test_what_is_refused() -> None:
    with pytest.raises(RunError, match="gave NaN or an infinite number"):
        train(GRPO(Broken(), group=2), TRRD(), steps=1)
    with pytest.raises(UsageError, match="GRPO: group must"):
        GRPO(SameText(), group=1)
    with pytest.raises(UsageError, match="fit: TRRD would take the data's tokens for such as the student drew"):
        train(Student(), TRRD(), steps=1)
    train(GRPO(SameText(), group=2, length=2), JSD(), steps=1)
