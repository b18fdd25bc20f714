"""The balancer's curves in the report: what is drawn of which values, and nothing where nothing was balanced."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from fake_run import write
from page_parts import take_apart

from limbeck.report import render
from limbeck.report.balance import balance
from limbeck.report.charts import Figure
from limbeck.report.reading import read_run


def written(folder: Path, values: Callable[[int, int], dict[str, float]]) -> Path:
    """A run of two seeds and four epochs whose main arm has these values by (seed, epoch) in its rows of training."""
    write(folder, seeds=2, epochs=4)
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    for row in rows:
        if row["arm"] == "kd_aif" and row["phase"] == "train":
            row |= values(row["seed"], row["epoch"])
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def drawn(folder: Path, values: Callable[[int, int], dict[str, float]]) -> dict[str, Figure]:
    return {figure.key: figure for figure in balance(read_run(written(folder, values)))}


def lines(figure: Figure) -> dict[str, list[float]]:
    return {trace["name"]: list(trace["y"]) for trace in figure.spec["data"] if "name" in trace}


def test_lambda_the_angle_and_the_lengths(tmp_path: Path) -> None:
    found = drawn(
        tmp_path / "run",
        lambda seed, epoch: {
            "lambda": 0.1 * epoch + 0.2 * seed,
            "gradient_cosine": -0.5,
            "task_gradient": 2.0,
            "distillation_gradient": float(seed),
        },
    )
    assert list(found) == ["balance-lambda", "balance-angle", "balance-norms"]
    assert lines(found["balance-lambda"])["lambda"] == pytest.approx([0.2, 0.3, 0.4, 0.5])  # 0.1 epoch + 0.1, the seeds' mean
    band = found["balance-lambda"].spec["data"][0]["y"]
    assert band == pytest.approx([0.3, 0.4, 0.5, 0.6, 0.4, 0.3, 0.2, 0.1])  # the higher seed, and back along the lower one
    assert lines(found["balance-norms"]) == {"task loss": [2.0] * 4, "distillation loss": [0.5] * 4}
    assert found["balance-angle"].table.rows == tuple((str(epoch), "\u22120.500") for epoch in range(1, 5))
    assert "lambda 0.500" in found["balance-lambda"].label


def test_factors_are_named_by_their_terms(tmp_path: Path) -> None:
    found = drawn(tmp_path / "run", lambda seed, epoch: {"factor_KD": 1.5, "factor_CE": 0.5, "factor_<b>": 1.0})
    assert list(found) == ["balance-factors"]
    assert list(lines(found["balance-factors"])) == ["KD", "CE", "&lt;b&gt;"]


@pytest.mark.slow
def test_the_section_is_there_only_where_something_was_balanced(tmp_path: Path) -> None:
    for name, values, wanted in (("a", {"lambda": 0.5}, True), ("b", {"saturated": 0.5}, False)):
        page = take_apart(render(written(tmp_path / name, lambda seed, epoch, values=values: values)))
        assert ("Balance and mixture" in [element.text for element in page.all("h2")]) == wanted
