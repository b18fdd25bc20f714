"""What a run refuses, and a teacher from a file: one sentence, before anything is written."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from run_makers import rows_of, tiny
from safetensors.torch import load_file, save_file

from limbeck.core.errors import LimbeckError, UsageError
from limbeck.engine.local import LocalEngine
from limbeck.experiment.run import dry_run, run


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"batch_size": 5000}, "batch_size: 5000 is more than the .* training samples"),
        ({"query": 1500}, "query=1500"),
        ({"data": 'Arrays("nowhere.npz")'}, "nowhere.npz"),
        ({"teacher": "Transformer()"}, "Transformer takes tokens data"),
        ({"test": 0.001}, "test"),
    ],
)
def test_what_cannot_be_run_leaves_no_folder(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        run(tiny(**changes), tmp_path / "run")
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_completions_of_what_is_no_language_are_refused() -> None:
    with pytest.raises(UsageError, match=r"completions: Digits.* has no texts that could be gone on with"):
        tiny(completions=4).build()


def test_an_empty_query_set_is_refused() -> None:
    with pytest.raises(UsageError, match="query"):
        tiny(query=0)


def test_the_oracle_needs_the_truth(tmp_path: Path) -> None:
    import numpy as np

    inputs = np.random.default_rng(0).normal(size=(400, 4)).astype("float32")
    np.savez(tmp_path / "a.npz", inputs=inputs, labels=np.arange(400) % 4)
    changes = {"data": f'Arrays("{tmp_path}/a.npz")', "batch_size": 50, "seeds": 1, "epochs": 1}
    with pytest.raises(UsageError, match="'oracle' needs the true labels"):
        run(tiny(**changes, compare=["uniform", "oracle"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    found = run(tiny(**changes, compare=["uniform"]), tmp_path / "run").content
    assert found["data"]["query_labels"] == "labels as given"
    assert found["data"]["flipped_in_training"] is None
    assert found["weights"]["flipped_auc"] is None
    assert any("labels as given" in warning for warning in found["warnings"])


def test_a_query_set_without_some_classes_is_told_of_before_and_after(tmp_path: Path) -> None:
    recipe, said = tiny(query=4, seeds=1, epochs=1, compare=[]), "query set of 4 has no sample of 6 of the 10 classes"
    assert f"note       The {said}" in str(dry_run(recipe))
    assert any(said in warning for warning in run(recipe, tmp_path / "run").content["warnings"])
    assert "note" not in str(dry_run(tiny(query=100, seeds=1)))
    assert "note" not in str(dry_run(tiny(query=4, seeds=1, weighting="Uniform()")))


def test_the_rehearsal_needs_no_more_memory_than_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int, str]] = []

    def fit(*_: object, steps: int, accumulate: int, engine: LocalEngine, **__: object) -> None:
        seen.append((steps, accumulate, engine.precision))

    monkeypatch.setattr("limbeck.experiment.rehearsal.fit", fit)
    dry_run(tiny(accumulate=4, precision="bf16"))
    assert seen == [(1, 4, "bf16")] * 3


class TestTeacherWeights:
    """A teacher that is read, not trained."""

    def file(self, folder: Path, classes: int = 10, width: int = 16) -> Path:
        from limbeck.models.mlp import MLP
        from limbeck.models.spec import DataSpec

        torch.manual_seed(3)
        net = MLP(width=width, depth=1).build(DataSpec("image", (1, 8, 8), classes))
        save_file(net.state_dict(), folder / "teacher.safetensors")
        return folder / "teacher.safetensors"

    def test_it_is_used_as_it_is(self, tmp_path: Path) -> None:
        path = self.file(tmp_path)
        recipe = tiny(teacher_weights=str(path), seeds=1, epochs=1)
        found = run(recipe, tmp_path / "run").content
        kept, given = load_file(tmp_path / "run" / "teacher.safetensors"), load_file(path)
        assert all(torch.equal(kept[name], part) for name, part in given.items())
        assert found["arms"]["teacher"]["per_seed"]["accuracy"][0] < 0.4
        assert not [row for row in rows_of(tmp_path / "run") if row["arm"] == "teacher"]
        assert "(0 for the teacher + " in str(dry_run(recipe))

    @pytest.mark.parametrize("trouble", ["classes", "width", "garbage", "nan", "missing"])
    def test_what_does_not_fit_is_one_sentence_and_no_folder(self, tmp_path: Path, trouble: str) -> None:
        path = self.file(tmp_path, **{"classes": {"classes": 7}, "width": {"width": 4}}.get(trouble, {}))
        if trouble == "garbage":
            path.write_bytes(b"not a file of tensors")
        if trouble == "nan":
            save_file({name: part * math.nan for name, part in load_file(path).items()}, path)
        if trouble == "missing":
            path.unlink()
        said = {
            "classes": r"does not fit MLP\(width=16\) for 10 classes \(size mismatch for fc\.weight.*\[7, 16\].*\[10, 16\]",
            "width": "size mismatch for layer1",
            "garbage": "does not fit",
            "nan": "holds NaN or infinite numbers",
            "missing": "there is no file",
        }[trouble]
        recipe = tiny(teacher_weights=str(path))
        for start in (lambda: run(recipe, tmp_path / "run"), lambda: dry_run(recipe)):
            with pytest.raises(LimbeckError, match=f"^teacher_weights: .*{said}") as caught:
                start()
            assert "\n" not in str(caught.value)
        assert not (tmp_path / "run").exists()
