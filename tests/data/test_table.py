import numpy as np
import pyarrow as pa
import pytest
import torch
from pyarrow import csv, parquet
from torch.testing import assert_close

from limbeck.core.errors import DataError, UsageError
from limbeck.data import split
from limbeck.data.table import Table
from limbeck.data.words import BETWEEN, PAD, UNKNOWN, Words

ROWS = 24
COLUMNS = {
    "age": list(range(ROWS)),
    "height": [1.5 + 0.01 * row for row in range(ROWS)],
    "colour": ["red", "blue", "red"] * 8,
    "label": ["yes", "no"] * 12,
}


@pytest.fixture(params=["parquet", "csv", "tsv"])
def save(request, tmp_path):
    def write(**changes):
        columns = {name: values for name, values in {**COLUMNS, **changes}.items() if values is not None}
        path = tmp_path / f"t.{request.param}"
        if request.param == "parquet":
            parquet.write_table(pa.table(columns), path)
        else:
            csv.write_csv(pa.table(columns), path, csv.WriteOptions(delimiter="\t" if request.param == "tsv" else ","))
        return str(path)

    return write


def test_numbers_are_standardised_and_words_one_hot(save):
    source = Table(save())
    inputs, mask = source.read(torch.arange(ROWS))
    assert mask is None
    assert (source.kind, source.classes, source.columns) == (
        "vector",
        ("no", "yes"),
        ("age", "height", "colour=blue", "colour=red"),
    )
    assert_close(inputs[:, :2].mean(0), torch.zeros(2), atol=1e-6, rtol=0)
    assert_close(inputs[:, :2].std(0, correction=0), torch.ones(2))
    assert inputs[:3, 2:].tolist() == [[0, 1], [1, 0], [0, 1]]
    assert source.labels[:2].tolist() == [1, 0]
    assert source.show(1).row == {"age": 1, "height": pytest.approx(1.51), "colour": "blue"}


def test_the_column_split_fixes_the_test_rows_and_only_the_others_set_the_scale(save):
    age = [*range(12), *[1000] * 12]
    colour = ["red", "blue"] * 6 + ["green"] * 12
    source = Table(save(age=age, colour=colour, split=["train"] * 12 + ["test"] * 12))
    inputs, _ = source.read(torch.arange(12))
    assert source.test_rows.tolist() == list(range(12, 24))
    assert_close(inputs[:, 0].mean(), torch.tensor(0.0), atol=1e-6, rtol=0)
    assert source.columns == ("age", "height", "colour=blue", "colour=red", "colour=other")
    assert source.read(torch.tensor([20]))[0][0, 2:].tolist() == [0, 0, 1]
    assert "split" not in source.show(0).row


def test_validation_is_the_test_split_where_there_is_no_test(save):
    assert Table(save(split=["train"] * 20 + ["validation"] * 4)).test_rows.tolist() == [20, 21, 22, 23]
    assert Table(save(split=["train"] * 16 + ["validation"] * 4 + ["test"] * 4)).test_rows.tolist() == [20, 21, 22, 23]
    assert Table(save(split=["train"] * 24)).test_rows is None


def test_columns_query_and_true_label_are_no_inputs(save):
    source = Table(save(query=[1, 1, 0, 0] * 6, true_label=["no", "yes"] * 12))
    assert source.query_rows.tolist()[:3] == [0, 1, 4]
    assert torch.equal(source.truth, 1 - source.labels)
    assert source.columns == ("age", "height", "colour=blue", "colour=red")


def test_labels_may_be_numbers_and_columns_left_out(save):
    source = Table(save(label=None, target=[0, 1, 2] * 8), label="target", ignore=["age", "colour"])
    assert (source.classes, source.columns) == (("0", "1", "2"), ("height",))


def test_rare_words_share_a_place(tmp_path):
    words = [f"w{row % 40}" for row in range(400)] + ["w0"] * 40
    csv.write_csv(pa.table({"word": words, "label": [0, 1] * 220}), tmp_path / "t.csv")
    source = Table(str(tmp_path / "t.csv"))
    assert source.input_shape == (33,)
    assert source.columns[-1] == "word=other"
    assert_close(source.read(torch.arange(440))[0].sum(1), torch.ones(440))


def test_a_constant_column_becomes_zero(save):
    assert Table(save(age=[5] * ROWS)).read(torch.arange(ROWS))[0][:, 0].abs().max() == 0


def test_text_becomes_token_ids(save):
    text = [f"{'Great' if row % 2 else 'bad'} film number {row} !" for row in range(ROWS)]
    source = Table(save(review=text), text=Words("review", size=4, length=6))
    inputs, mask = source.read(torch.arange(2))
    assert (source.kind, source.vocabulary, source.input_shape) == ("tokens", 7, (6,))
    assert inputs.tolist() == [[6, 4, 5, 1, 3, 0], [1, 4, 5, 1, 3, 0]]
    assert mask.sum(1).tolist() == [5, 5]
    assert source.show(3).text == "Great film number 3 !"
    assert Table(save(review=text), text="review").name.endswith("text='review')")


def test_noise_is_counted_over_the_open_rows(save):
    source = Table(save(split=["train"] * 20 + ["test"] * 4), label_noise=0.25)
    assert int((source.labels != source.truth).sum()) == 5
    assert torch.equal(source.labels[20:], source.truth[20:])


@pytest.mark.parametrize(
    "changes, said, message",
    [
        ({}, {"label": "lable"}, "has no column 'lable', only age, height, colour, label; did you mean 'label'?"),
        ({}, {"text": "colours"}, "has no column 'colours', only age, height, colour, label; did you mean 'colour'?"),
        ({}, {"text": "age"}, "column 'age' holds int64, but text is needed."),
        ({}, {"ignore": ["agee"]}, "there is no column 'agee' to ignore; did you mean 'age'?"),
        ({}, {"ignore": ["age", "height", "colour"]}, "no column but the label is left to learn from"),
        ({"age": [1, None] * 12}, {}, "column 'age' has 12 empty cells, the first in row 1; fill or remove them."),
        ({"colour": ["red", "blue"] * 11 + ["red", " "]}, {}, "column 'colour' has 1 empty cell, the first in row 23; fill"),
        ({"height": [1.0, float("inf")] * 12}, {}, "column 'height' is inf in row 1; mend or remove that row."),
        ({"label": [0, 1.5] * 12}, {}, "labels must be whole numbers from 0, got 1.5 in row 1"),
        ({"label": [0, -2] * 12}, {}, "labels must be whole numbers from 0, got -2 in row 1"),
        ({"label": [1, 2] * 12}, {}, "class '0' (number 0) has no rows"),
        ({"label": ["yes"] * 24}, {}, "at least 2 classes are needed, got 1."),
        ({"label": [0, 99] * 12}, {}, "label 99 means 100 classes, more than the 24 rows"),
        ({"query": [0, 2] * 12}, {}, "column 'query' must hold 0 and 1, or false and true."),
        ({"query": [0] * 24}, {}, "the query rows are named, but there are none"),
    ],
)
def test_wrong_tables_are_refused(save, changes, said, message):
    with pytest.raises(DataError) as caught:
        Table(save(**changes), **said)
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("rows", [60, 1200])
def test_a_slip_among_numbers_does_not_make_them_words(tmp_path, rows):
    path = tmp_path / "t.csv"
    values = [f"{row / 7:.3f}" if row != 4 else "1,5x" for row in range(rows)]
    csv.write_csv(pa.table({"height": values, "label": [0, 1] * (rows // 2)}), path)
    with pytest.raises(DataError, match=r"column 'height' holds numbers, but '1,5x' in row 4; mend or remove that row"):
        Table(str(path))


def test_codes_that_are_partly_numbers_stay_words(tmp_path):
    path = tmp_path / "t.csv"
    csv.write_csv(pa.table({"size": ["36", "38", "40", "S", "M", "L"] * 4, "label": [0, 1] * 12}), path)
    assert Table(str(path)).columns == ("size=36", "size=38", "size=40", "size=L", "size=M", "size=S")


def test_free_text_is_not_taken_for_a_category(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"note": [f"text {row}" for row in range(1200)], "label": [0, 1] * 600}), path)
    with pytest.raises(DataError, match=r"column 'note' looks like free text; say text='note' or ignore=\['note'\]"):
        Table(str(path))


def test_columns_of_another_kind_and_broken_files_are_refused(tmp_path):
    path = tmp_path / "t.parquet"
    parquet.write_table(pa.table({"x": [[1, 2], [3]], "label": [0, 1]}), path)
    with pytest.raises(
        DataError, match=r"column 'x' holds list<.*>, neither numbers nor words; leave it out with ignore=\['x'\]"
    ):
        Table(str(path))
    parquet.write_table(pa.table({"x": [0.0, float("nan")], "label": [0, 1]}), path)
    with pytest.raises(DataError, match="column 'x' is nan in row 1"):
        Table(str(path))
    parquet.write_table(pa.table({"x": pa.array([], pa.float64()), "label": pa.array([], pa.int64())}), path)
    with pytest.raises(DataError, match="has no rows"):
        Table(str(path))
    for name, body, message in [
        ("a.parquet", b"nothing", "cannot be read"),
        ("a.csv", b"", "cannot be read"),
        ("b.csv", b"x,label\n1,2,3\n", "cannot be read"),
        ("a.xlsx", b"x", "must end in .parquet, .csv, .tsv or .jsonl"),
    ]:
        (tmp_path / name).write_bytes(body)
        with pytest.raises(DataError, match=message):
            Table(str(tmp_path / name))
    with pytest.raises(DataError, match=r"there is no file '.*t\.parket'; did you mean 't\.parquet'\?"):
        Table(str(tmp_path / "t.parket"))


def test_two_text_columns_have_a_sign_between_them():
    ids, mask, vocabulary = Words("a + b", length=5).encode([["x y", "x"], ["", "z"]], torch.tensor([0]))
    assert Words("a + b").columns == ["a", "b"]
    assert ids.tolist() == [[3, 4, BETWEEN, 3, PAD], [BETWEEN, UNKNOWN, PAD, PAD, PAD]]
    assert vocabulary == 5
    assert torch.equal(mask, ids != PAD)


def test_an_empty_text_has_one_token():
    ids, mask, _ = Words(length=3).encode([[""], ["a"]], torch.tensor([0, 1]))
    assert ids[0].tolist() == [UNKNOWN, PAD, PAD]
    assert mask.any(1).all()


def test_words_outside_the_training_rows_are_unknown():
    ids, _, vocabulary = Words(length=2).encode([["a a"], ["b a"]], torch.tensor([0]))
    assert (ids.tolist(), vocabulary) == ([[3, 3], [UNKNOWN, 3]], 4)


def test_words_checks_its_arguments():
    with pytest.raises(UsageError, match="Words: length must be a whole number of at least 1, got 0"):
        Words(length=0)
    with pytest.raises(UsageError, match="Words: size"):
        Words(size=0)


@pytest.mark.slow
def test_census_rows_carry_a_learnable_label(shared_data):
    from sklearn.linear_model import LogisticRegression

    source = Table(str(shared_data / "adult.parquet"))
    assert (len(source), len(source.test_rows), len(source.classes)) == (48842, 16281, 2)
    splits = split(source, seed=0)
    train, test = splits.validation, splits.test[:3000]
    model = LogisticRegression(max_iter=300).fit(source.read(train)[0].numpy(), source.labels[train].numpy())
    assert np.mean(model.predict(source.read(test)[0].numpy()) == source.labels[test].numpy()) > 0.83


def test_real_texts_are_read_with_their_fixed_test_split(shared_data):
    source = Table(str(shared_data / "mrpc.parquet"), text=Words("sentence1+sentence2", size=500, length=40))
    inputs, mask = source.read(torch.arange(100))
    assert (source.input_shape, source.vocabulary, len(source.test_rows)) == ((40,), 503, 1725)
    assert bool(mask.any(1).all())
    assert int((inputs == BETWEEN).any(1).sum()) > 90


def test_a_column_that_numbers_or_names_the_rows_is_told_of(tmp_path):
    path, rows = tmp_path / "t.parquet", range(7, 67)
    columns = {"id": list(rows), "name": [f"row {row}" for row in rows], "size": [row % 9 for row in rows], "label": [0, 1] * 30}
    parquet.write_table(pa.table(columns), path)
    assert [said.split()[1] for said in Table(str(path)).doubts] == ["'id'", "'name'"]
    assert not Table(str(path), ignore=["id", "name"]).doubts
