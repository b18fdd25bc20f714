import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.data.arrays import Arrays

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "prepare_data.py"


def prepare(*words):
    return subprocess.run([sys.executable, str(SCRIPT), *map(str, words)], capture_output=True, text=True, check=False)


@pytest.mark.slow
def test_cifar10_with_human_labels(shared_data, tmp_path):
    out = tmp_path / "c.npz"
    done = prepare(shared_data, "cifar10", "--per-class", 20, "--test-per-class", 5, "--labels", "worst", "--out", out)
    assert done.returncode == 0, done.stderr
    source = Arrays(str(out))
    assert (source.input_shape, len(source), len(source.test_rows), source.classes[0]) == ((3, 32, 32), 250, 50, "airplane")
    assert 0.25 < float((source.labels != source.truth)[:200].float().mean()) < 0.55
    assert torch.equal(source.labels[200:], source.truth[200:])
    assert torch.bincount(source.truth[:200]).tolist() == [20] * 10
    with np.load(shared_data / "cifar_human_labels.npz") as human, np.load(out) as arrays:
        assert (human["cifar10n_worst"][arrays["row"][:200]] == arrays["labels"][:200]).all()
        assert (human["cifar10n_clean"][arrays["row"][:200]] == arrays["true_labels"][:200]).all()


def test_mnist(shared_data, tmp_path):
    out = tmp_path / "m.npz"
    done = prepare(shared_data, "mnist", "--per-class", 10, "--test-per-class", 3, "--out", out)
    assert done.returncode == 0, done.stderr
    source = Arrays(str(out))
    assert (source.input_shape, len(source), len(source.test_rows)) == ((1, 28, 28), 130, 30)


@pytest.mark.slow
def test_halved_pictures_are_means_of_four_pixels(shared_data, tmp_path):
    for name, words in {"whole": [], "half": ["--halve"]}.items():
        done = prepare(shared_data, "mnist", "--per-class", 2, "--test-per-class", 1, *words, "--out", tmp_path / f"{name}.npz")
        assert done.returncode == 0, done.stderr
    with np.load(tmp_path / "whole.npz") as whole, np.load(tmp_path / "half.npz") as half:
        assert half["inputs"].shape == (30, 14, 14)
        assert half["inputs"][3, 5, 6] == np.rint(whole["inputs"][3, 10:12, 12:14].mean())


@pytest.mark.parametrize("words", [("mnist", "--labels", "worst"), ("cifar11",)])
def test_words_that_do_not_fit_are_refused(tmp_path, words):
    assert prepare(tmp_path, *words, "--out", tmp_path / "x.npz").returncode == 2
