import math

import numpy as np
import pytest

from limbeck.report.gallery import gallery
from limbeck.report.reading import LABELS, Run, Samples
from limbeck.report.schema import Gallery, Result, Shown
from limbeck.report.statistics import band, differences, found_curve, interval, learning_band, own_loss, rank, scaled_score
from limbeck.report.wording import amount, number, percent, points, probability_of, significant


def samples(**columns):
    size = len(columns["score"])
    base = {name: np.zeros(size) for name in ("seed", "index", *LABELS, "teacher_prob", "student_prob", "weight", "mean_weight")}
    base |= {name: np.asarray(values, dtype=float) for name, values in columns.items() if name != "split"}
    return Samples(base, np.array(columns.get("split", ["train"] * size)))


def test_interval_is_that_of_student():
    found = interval([1.0, 2.0, 3.0])
    half = 4.302653 / math.sqrt(3)  # t(0.975, 2) from a table; the standard deviation is 1
    assert (found.mean, found.seeds) == (2.0, 3)
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half), abs=1e-6)


def test_interval_of_one_seed_has_no_ends():
    found = interval([0.5, None, float("nan")])
    assert (found.mean, found.low, found.high, found.seeds) == (0.5, None, None, 1)
    assert interval([]) is None


def test_differences_skip_seeds_that_one_side_lacks():
    assert differences([1.0, None, 3.0], [0.5, 2.0, 1.0]) == [0.5, 2.0]


def test_band_is_mean_lowest_and_highest_of_the_seeds():
    found = band({0: {1.0: [1.0, 3.0], 2.0: [5.0]}, 1: {1.0: [4.0]}})
    assert (found.x, found.mean, found.low, found.high) == ([1.0, 2.0], [3.0, 5.0], [2.0, 5.0], [4.0, 5.0])


def test_learning_band_reads_nested_values_and_passes_over_what_is_no_number():
    records = [
        {"seed": 0, "arm": "a", "phase": "train", "epoch": 1, "weights": {"clean": 1.5}},
        {"seed": 1, "arm": "a", "phase": "train", "epoch": 1, "weights": {"clean": 2.5}},
        {"seed": 0, "arm": "a", "phase": "train", "epoch": 2, "weights": None},
        {"seed": 0, "arm": "a", "phase": "train", "epoch": 3, "weights": {"clean": "much"}},
        {"seed": 0, "arm": "b", "phase": "train", "epoch": 1, "weights": {"clean": 9.0}},
        {"seed": 0, "arm": "a", "phase": "validation", "epoch": 1, "weights": {"clean": 9.0}},
    ]
    found = learning_band(records, "a", "train", ("weights", "clean"))
    assert (found.x, found.mean) == ([1.0], [2.0])


def test_found_curve_by_hand():
    found = found_curve(
        samples(score=[4, 3, 2, 1], label=[1, 0, 1, 0], true_label=[0, 0, 0, 0]), np.array([4.0, 3, 2, 1]), points=5
    )
    assert found.looked == [0, 0.25, 0.5, 0.75, 1]
    assert found.found == [0, 0.5, 0.5, 1, 1]
    assert found.flipped == 0.5


def test_found_curve_of_equal_scores_is_the_random_line():
    data = samples(score=[0] * 10, label=[1] * 5 + [0] * 5, true_label=[0] * 10)
    found = found_curve(data, data["score"], points=11)
    assert found.found == pytest.approx(found.looked)


def test_found_curve_needs_flipped_and_clean_training_samples():
    assert found_curve(samples(score=[1, 2], label=[0, 0], true_label=[0, 0]), np.array([1.0, 2])) is None
    assert found_curve(samples(score=[1, 2], label=[1, 0], true_label=[np.nan, np.nan]), np.array([1.0, 2])) is None
    query = samples(score=[1, 2], label=[1, 0], true_label=[0, 0], split=["query", "query"])
    assert found_curve(query, np.array([1.0, 2])) is None


def test_own_loss_is_minus_the_logarithm_and_finite():
    assert own_loss(samples(score=[0, 0], student_prob=[0.5, 0.0])) == pytest.approx([math.log(2), -math.log(1e-12)])


def test_scores_are_scaled_within_their_seed():
    data = samples(score=[3, -3, 30, -30, 7], seed=[0, 0, 1, 1, 1], split=["train"] * 4 + ["query"])
    assert scaled_score(data)[:4].tolist() == [1, -1, 1, -1]
    assert np.isnan(scaled_score(data)[4])
    assert rank(data, 3) == (2, 2)


def test_gallery_takes_each_sample_as_the_first_seed_that_trained_on_it_saw_it(tmp_path):
    data = samples(
        score=[9, 0.2, 0.5, -1, 0.3],
        index=[5, 5, 6, 7, 5],
        seed=[0, 2, 0, 0, 1],
        split=["query", *["train"] * 4],
        true_label=[np.nan] * 5,
    )
    shown = Gallery(samples=tuple(Shown(index=i, kind="text", text="x") for i in (5, 6, 7, 8)))
    content = {"schema": 1, "name": "n", "status": "done", "seeds": [0, 1, 2], "main": "a"}
    content |= {"data": {"name": "d", "kind": "tokens", "classes": ["no", "yes"], "counts": {}}}
    result = Result.model_validate(content | {"arms": {"a": {"title": "A", "per_seed": {}}}})
    made = gallery(Run(tmp_path, result, "", {}, {}, (), data, shown))
    assert [(card.index, card.seed) for card in made.harmful] == [(5, 1), (6, 0)]
    assert [card.index for card in made.helpful] == [7]
    assert made.harmful[0].given == "no"
    assert made.harmful[0].wrong is None


def test_numbers_read_as_people_write_them():
    assert percent(0.9321) == "93.2\u202f%"
    assert points(-0.02) == "−2.0"
    assert amount(1_124_352) == "1.12\u202fM"
    assert significant(0.11, sign=True) == "+0.110"
    assert significant(-1.234e-7) == "−1.23·10^−7"
    assert probability_of(0.0002) == "<\u202f0.1\u202f%"
    assert [f(None) for f in (percent, points, amount, significant)] == ["–"] * 4
    assert percent(float("nan")) == "–"


def test_what_rounds_to_0_has_no_sign():
    assert [number(-0.0004), number(-0.0006), number(0.0)] == ["0.000", "−0.001", "0.000"]
