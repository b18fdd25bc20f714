import pytest
import torch
from torch import Tensor

from limbeck.core.errors import DataError
from limbeck.data import InMemory, Shown, Source, check


def source(**changes):
    made = InMemory(torch.arange(12.0).view(6, 2), torch.tensor([0, 0, 1, 1, 2, 2]), classes="abc", name="S()")
    for name, value in changes.items():
        setattr(made, name, value)
    return made


def with_cell(value):
    inputs = torch.arange(12.0).view(6, 2)
    inputs[4, 1] = value
    return inputs


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"inputs": with_cell(float("nan"))}, "S(): row 4 has NaN or infinite values; mend or remove it."),
        ({"inputs": with_cell(float("inf"))}, "S(): row 4 has NaN or infinite values; mend or remove it."),
        ({"labels": torch.tensor([0, 0, 1, 1, 2, 3])}, "S(): labels must lie in 0 to 2, got 3 in row 5."),
        ({"labels": torch.tensor([0, -2, 1, 1, 2, 2])}, "S(): labels must lie in 0 to 2, got -2 in row 1."),
        (
            {"labels": torch.tensor([0.0, 0, 1, 1, 2, 2])},
            "S(): labels must be int64 of shape [N], got torch.float32 of shape [6].",
        ),
        ({"truth": torch.tensor([0, 0, 1, 1, 2, 9])}, "S(): true labels must lie in 0 to 2, got 9 in row 5."),
        ({"truth": torch.tensor([0, 1])}, "S(): 6 labels and 2 true labels; give one for each sample."),
        (
            {"labels": torch.tensor([0, 0, 2, 2, 2, 2])},
            "S(): class 'b' (number 1) has no rows; leave it out and number the others from 0.",
        ),
        (
            {"labels": torch.tensor([-1, -1, 1, 1, 2, 2])},
            "S(): class 'a' (number 0) has no rows; number the classes from 0, since the -1 of 2 rows is no class, but says "
            "that a row has no label.",
        ),
        ({"labels": torch.full((6,), -1)}, "S(): no row has a label; teacher, query set and test need some of each class."),
        ({"classes": tuple("abcdefg")}, "S(): 6 rows are fewer than the 7 classes; give more data."),
        ({"classes": ("a",)}, "S(): at least 2 classes are needed, got 1."),
        (
            {"test_rows": torch.tensor([], dtype=torch.long)},
            "S(): the test rows are named, but there are none; name at least one.",
        ),
        ({"test_rows": torch.tensor([6])}, "S(): the test rows must be different rows from 0 to 5."),
        ({"query_rows": torch.tensor([1, 1])}, "S(): the query rows must be different rows from 0 to 5."),
        (
            {"test_rows": torch.tensor([1, 2]), "query_rows": torch.tensor([2, 3])},
            "S(): row 2 is in the test split and in the query set; the query set is for training.",
        ),
        ({"input_shape": (3,)}, "S(): a sample has shape [3], but reading gave [2]."),
        ({"inputs": torch.tensor([[0, 7]] * 6), "vocabulary": 7}, "S(): token ids must lie in 0 to 6, row 0 has another."),
    ],
)
def test_wrong_input_gets_one_clear_sentence(changes, message):
    with pytest.raises(DataError) as caught:
        check(source(**changes))
    assert str(caught.value) == message


def test_a_sound_source_passes():
    check(source(truth=torch.tensor([0, 1, 1, 1, 2, 2]), test_rows=torch.tensor([0, 5]), query_rows=torch.tensor([1])))


class Half(Source):
    def read(self, rows: Tensor) -> tuple[Tensor, Tensor | None]:
        return torch.zeros(len(rows), 1), None

    def show(self, row: int) -> Shown:
        return Shown("text", text=str(row))


def test_a_source_of_ones_own_must_be_complete():
    with pytest.raises(DataError, match="Half: a Source must set name, kind, classes, labels, input_shape"):
        check(Half())
