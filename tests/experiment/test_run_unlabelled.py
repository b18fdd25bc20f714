"""Whole runs on data of which most rows have no label."""

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from run_makers import rows_of, tiny

from limbeck.core.errors import UsageError
from limbeck.experiment.run import dry_run, run
from limbeck.report.content import page
from limbeck.report.gallery import gallery
from limbeck.report.reading import read_run

FEW = {"data": "FewLabels(Digits(label_noise=0.3), labels=400)", "seeds": 1, "query": 50, "batch_size": 100}


def test_the_teachers_terms_learn_from_rows_without_a_label_and_nothing_is_measured_on_them(tmp_path: Path) -> None:
    objective = "(CE() * 0.5 + DHO(KD(T=2)) * 0.5) * 2"
    content = run(tiny(objective=objective, mixture="FixedShares()", **FEW), tmp_path / "run").content
    samples = pq.read_table(tmp_path / "run" / "samples.parquet").to_pydict()
    blank = [label is None for label in samples["label"]]
    assert (sum(blank), len(blank)) == (858, 858 + 310)  # of 1797: 539 for test, 400 with a label, 50 and 40 of them cut off
    assert [truth is None for truth in samples["true_label"]] == blank
    assert max(weight for weight, own in zip(samples["weight"], blank, strict=True) if own) > 0
    assert content["data"]["flipped_in_training"] == [
        sum(label != truth for label, truth in zip(samples["label"], samples["true_label"], strict=True))
    ]
    train = [row for row in rows_of(tmp_path / "run") if row["phase"] == "train" and row["arm"] == content["main"]]
    assert [row["share_labelled"] for row in train] == [0.5] * len(train)
    found = read_run(tmp_path / "run")
    assert ("Without a label in training", "858") in page(found).facts
    assert found.samples is not None
    assert not found.samples.flipped[~found.samples.truth_known].any()
    assert len(gallery(found).harmful) > 0


def test_a_batch_must_fit_the_rows_that_have_a_label() -> None:
    with pytest.raises(UsageError, match="batch_size: 350 is more than the 310 training samples that have a label"):
        dry_run(tiny(**{**FEW, "batch_size": 350}))


def test_a_dry_run_says_how_many_have_none() -> None:
    assert "858 training samples have no label" in str(dry_run(tiny(**FEW)))
