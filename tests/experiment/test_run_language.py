"""Whole runs on language: the files, figures per token, the verdict on the loss, resuming, a pretrained teacher, scoring."""

import json
import math
import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from run_makers import SAME, marks, rows_of
from safetensors.torch import load_file

from limbeck.align.taps import Tapped
from limbeck.core.errors import UsageError
from limbeck.data.loader import whole
from limbeck.evaluation.tokens import TokenAnswers
from limbeck.experiment import plan
from limbeck.experiment.recipe import Recipe
from limbeck.experiment.run import dry_run, run
from limbeck.experiment.seeded import seeded
from limbeck.functional.divergences import log_softmax, token_mean
from limbeck.report.render import render

WORDS = ["the", "cat", "sat", "on", "a", "mat", "and", "then", "ran"]


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Sentences of nine words drawn at random."""
    draw, path = random.Random(0), tmp_path_factory.mktemp("text") / "t.txt"
    path.write_text(" ".join(draw.choice(WORDS) for _ in range(600)))
    return path


def tiny(text: Path, **changes: Any) -> Recipe:
    return Recipe.of(
        {
            "name": "words",
            "data": f"Text({str(text)!r}, length=16, label_noise=0.2)",
            "teacher": "GPT(width=16, depth=1, heads=2)",
            "student": "GPT(width=8, depth=1, heads=2)",
            "objective": "JSD() * 0.5 + CE() * 0.5",
            "weighting": "InfluenceWeighting(refresh=5, samples=32)",
            "optimizer": "Adam(lr=0.02)",
            "epochs": 2,
            "batch_size": 32,
            "seeds": 2,
            "query": 20,
            "test": 0.2,
            "compare": ["uniform"],
            "completions": 6,
            **changes,
        }
    )


@pytest.fixture(scope="module")
def ran(text: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Recipe, Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("run") / "words"
    return tiny(text), folder, run(tiny(text), folder).content


def test_the_loss_falls_and_the_verdict_is_about_it(ran: tuple[Recipe, Path, dict[str, Any]]) -> None:
    _, folder, content = ran
    for arm, found in content["arms"].items():
        figures = found["per_seed"]
        assert figures["perplexity"] == pytest.approx([math.exp(value) for value in figures["nll"]]), arm
        assert max(figures["nll"]) < math.log(258) - 0.3, arm
        assert all(0 <= value <= 1 for name in ("rouge_l", "exact_match") for value in figures[name]), arm
        assert ("own_kl" in figures) == (arm != "teacher")
    losses = [
        row["nll"] for row in rows_of(folder) if row["phase"] == "validation" and row["arm"] == "kd_aif" and row["seed"] == 0
    ]
    assert losses[-1] < losses[0]
    verdict, arms = content["verdict"], content["arms"]
    against = {one["against"]: one for one in verdict["comparisons"]}
    ours, theirs = (arms[name]["per_seed"]["nll"] for name in ("kd_aif", "uniform"))
    gain = sum(other - own for own, other in zip(ours, theirs, strict=True)) / 2
    assert (against["uniform"]["metric"], against["uniform"]["effect"]) == ("nll", pytest.approx(gain))
    assert "nats of test loss a token" in verdict["sentence"]
    best = min(range(2), key=lambda seed: arms["kd_aif"]["per_seed"]["validation_nll"][seed])
    assert content["kept_seed"] == best
    assert (content["data"]["kind"], content["data"]["vocabulary"], content["data"]["classes"]) == ("language", 258, [])


def test_figures_are_means_over_counted_tokens_of_the_kept_student(ran: tuple[Recipe, Path, dict[str, Any]]) -> None:
    recipe, folder, content = ran
    parts = recipe.build()
    data = seeded(recipe, parts, content["kept_seed"])
    student = parts.student.build(data.spec).eval()
    student.load_state_dict(load_file(folder / "student.safetensors"))
    with torch.no_grad():
        logits = Tapped(student)(data.test).logits
    found = TokenAnswers.figures([TokenAnswers.of(logits, data.test.targets, data.test.mask)])
    place = content["seeds"].index(content["kept_seed"])
    assert content["arms"]["kd_aif"]["per_seed"]["nll"][place] == pytest.approx(found.nll, rel=1e-6)
    table = pq.read_table(folder / "samples.parquet").to_pydict()
    rows = [row for row, seed in enumerate(table["seed"]) if seed == content["kept_seed"]]
    batch = whole(parts.data, torch.tensor([table["index"][row] for row in rows]), data.labels)
    with torch.no_grad():
        log_p = log_softmax(student(batch.inputs))
    prob = token_mean(log_p.exp().gather(-1, batch.targets.unsqueeze(-1)).squeeze(-1), batch.mask)
    torch.testing.assert_close(torch.tensor([table["student_prob"][row] for row in rows]), prob)
    right = token_mean((log_p.argmax(-1) == batch.targets).float(), batch.mask)
    torch.testing.assert_close(torch.tensor([table["student_label"][row] for row in rows]), right)
    wrong = torch.tensor([table["true_label"][row] != table["label"][row] for row in rows])
    assert torch.equal(wrong, ~data.clean[batch.index])
    assert content["data"]["flipped_in_training"][place] == int(wrong.sum()) > 0


def test_the_report_and_the_gallery_show_the_text(ran: tuple[Recipe, Path, dict[str, Any]]) -> None:
    _, folder, _ = ran
    shown = json.loads((folder / "gallery.json").read_text())["samples"]
    assert all(one["kind"] == "text" and any(word in one["text"] for word in WORDS) for one in shown)
    page = render(folder).read_text("utf-8")
    assert "test perplexity" in page
    assert "a vocabulary of 258 tokens" in page
    assert "% of tokens" in page
    assert "What they write on held-out prompts" in page


@pytest.mark.slow
def test_a_run_that_was_stopped_ends_in_the_same_bytes(ran: tuple[Recipe, Path, dict[str, Any]], tmp_path: Path) -> None:
    recipe, folder, _ = ran

    class StopError(Exception):
        pass

    class Stopping:
        """Stops the run in its third unit."""

        units = 0

        def start(self, units: int) -> None: ...
        def done(self) -> None: ...
        def unit(self, title: str, steps: int) -> None:
            self.units += 1

        def advance(self, steps: int = 1) -> None:
            if self.units == 3:
                raise StopError

    with pytest.raises(StopError):
        run(recipe, tmp_path / "run", progress=Stopping())
    run(recipe, tmp_path / "run", resume=True)
    again = marks(tmp_path / "run")
    assert {name: again[name] for name in SAME} == marks(folder)


def test_completions_beyond_the_test_rows_are_refused_and_many_are_told_of(text: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match=r"completions: 100000 is more than the \d+ test rows; choose \d+ or fewer"):
        dry_run(tiny(text, completions=100000))
    monkeypatch.setattr(plan, "MANY", 500)
    # two seeds of teacher, rival and method, six rows of 16 tokens each
    assert "completions: 6 nets write up to 576 tokens" in str(dry_run(tiny(text)))


def test_a_dry_run_says_what_would_be_done(text: Path) -> None:
    said = str(dry_run(tiny(text)))
    assert "logits are [32, 16, 258]" in said
    assert "training labels are wrong" in said


@pytest.mark.slow
def test_per_token_and_a_teacher_as_it_is_built(text: Path, tmp_path: Path) -> None:
    recipe = tiny(text, per="token", teacher_epochs=0, epochs=1, seeds=1, compare=["uniform"])
    content = run(recipe, tmp_path / "run").content
    assert {row["arm"] for row in rows_of(tmp_path / "run")} == {"uniform", "kd_aif"}
    assert content["arms"]["teacher"]["per_seed"]["nll"][0] > 5  # nobody has trained it
    with pytest.raises(UsageError, match="per='token' is for answers at every token"):
        run(
            Recipe.of({**recipe.model_dump(), "data": "Digits()", "teacher": "MLP()", "student": "MLP()", "completions": 0}),
            tmp_path / "no",
        )


@pytest.mark.slow
def test_a_student_of_adapters_runs_resumes_and_is_kept_whole(text: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("peft")
    small = {"vocab_size": 258, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.LlamaConfig(**small, max_position_embeddings=32).save_pretrained(tmp_path / "llama")
    student = f"HFModel({str(tmp_path / 'llama')!r}, lora=LoRA(rank=2), pretrained=False)"
    recipe = tiny(text, student=student, seeds=1, epochs=1, compare=["uniform"])
    content = run(recipe, tmp_path / "run").content
    kept = load_file(tmp_path / "run" / "student.safetensors")
    parts = recipe.build()
    data = seeded(recipe, parts, 0)
    model = parts.student.build(data.spec).eval()
    model.load_state_dict(kept)
    with torch.no_grad():
        logits = Tapped(model)(data.test).logits
    found = TokenAnswers.figures([TokenAnswers.of(logits, data.test.targets, data.test.mask)])
    assert content["arms"]["kd_aif"]["per_seed"]["nll"][0] == pytest.approx(found.nll, rel=1e-5)
