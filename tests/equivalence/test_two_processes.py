"""Two processes with half of each batch end where one with the whole batch does, and write the same of it."""

from pathlib import Path
from typing import Any

import pytest
import torch
import two_processes
from training_makers import distance
from training_processes import together

from limbeck.engine.local import LocalEngine

pytestmark = pytest.mark.dist
OTHERS = tuple(name for name in two_processes.CASES if name not in two_processes.QUICK)
Found = dict[str, Any]


def launched(folder: Path, names: tuple[str, ...]) -> Found:
    found, _ = together(two_processes.results, names, folder, folder=folder)
    assert isinstance(found, dict), found
    return found


@pytest.fixture(scope="module")
def quick(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory.mktemp("quick"), two_processes.QUICK)


@pytest.fixture(scope="module")
def full(tmp_path_factory: pytest.TempPathFactory) -> Found:
    return launched(tmp_path_factory.mktemp("full"), OTHERS)


def compare(two: Found, one: Found) -> None:
    assert distance(two["state"], one["state"]) < 1e-6
    torch.testing.assert_close(two["mean"], one["mean"], rtol=0, atol=1e-5)
    torch.testing.assert_close(two["last"], one["last"], rtol=0, atol=1e-5)
    assert torch.equal(two["seen"], one["seen"])
    assert len(two["rows"]) == len(one["rows"])
    for ours, theirs in zip(two["rows"], one["rows"], strict=True):
        assert ours.keys() == theirs.keys()
        assert ours["loss"] == pytest.approx(theirs["loss"], abs=1e-5)
        for part in ("terms", "weights"):
            assert ours.get(part, {}) == pytest.approx(theirs.get(part, {}), abs=1e-4)


@pytest.mark.parametrize("name", two_processes.QUICK)
def test_two_processes_equal_one(quick: Found, name: str) -> None:
    assert quick["processes"] == 2
    compare(quick[name], two_processes.outcome(name, LocalEngine()))


def test_all_processes_have_the_same_student_to_the_last_bit(quick: Found) -> None:
    assert quick["alike"]


def test_two_processes_that_were_stopped_go_on_to_the_same_bits(quick: Found) -> None:
    stopped, calm = quick["stopped"]["stopped"], quick["stopped"]["calm"]
    assert distance(stopped["state"], calm["state"]) == 0
    assert stopped["rows"][-1] == calm["rows"][-1]


def test_a_batch_that_does_not_divide_is_refused(quick: Found) -> None:
    assert quick["odd"] == "batch_size: 9 samples do not divide among 2 processes; choose a multiple."


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_two_processes_equal_one_in_every_way(full: Found, name: str) -> None:
    compare(full[name], two_processes.outcome(name, LocalEngine()))
