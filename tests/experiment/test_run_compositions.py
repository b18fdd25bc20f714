"""Whole runs of averages, ensembles, generations, assistants, chains of transforms, and choices on validation samples."""

from pathlib import Path
from typing import Any

import pytest
import torch
from run_makers import marks, rows_of, tiny
from safetensors.torch import load_file

from limbeck.core.errors import UsageError
from limbeck.core.outputs import Views
from limbeck.experiment.logbook import Advance
from limbeck.experiment.run import dry_run, run
from limbeck.experiment.scoring import score_run
from limbeck.experiment.seeded import seeded
from limbeck.losses.heads.dho import DHO
from limbeck.report.content import page
from limbeck.report.reading import read_run
from limbeck.training.averages.wakd import WAKD
from limbeck.training.training import Record, Training

SHORT: dict[str, Any] = {"seeds": 1, "compare": ["no_kd", "uniform"]}
ENSEMBLE = {"teacher": "DeepEnsemble([MLP(width=16), MLP(width=12)], combine='logit')"}


def last_validation(folder: Path, arm: str) -> float:
    found = [row for row in rows_of(folder) if row["arm"] == arm and row["phase"] == "validation"]
    return float(found[-1]["accuracy"])


@pytest.mark.slow
def test_an_average_is_kept_in_the_place_of_the_last_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[torch.Tensor] = []
    after = WAKD.after_step

    def watch(self: WAKD, training: Training, record: Record) -> None:
        if training.number > self.start:
            seen.append(training.distiller.student.model.fc.weight.detach().clone())
        after(self, training, record)

    monkeypatch.setattr(WAKD, "after_step", watch)
    averaged = run(tiny(**SHORT, average="WAKD(start=6)"), tmp_path / "averaged").content
    plain = run(tiny(**SHORT), tmp_path / "plain").content
    assert len(seen) == 2 * 4  # 10 steps, of `uniform` and of the method; `no_kd` is trained as ever
    kept = load_file(tmp_path / "averaged" / "student.safetensors")["fc.weight"]
    torch.testing.assert_close(kept, torch.stack(seen[4:]).mean(0))
    assert averaged["arms"]["no_kd"] == plain["arms"]["no_kd"]
    assert averaged["arms"]["kd_aif"] != plain["arms"]["kd_aif"]
    assert last_validation(tmp_path / "averaged", "kd_aif") == averaged["arms"]["kd_aif"]["per_seed"]["validation_accuracy"][0]


@pytest.mark.parametrize(
    ("average", "said"),
    [("WAKD()", "start=5000 must lie within the training, which has 10 steps; take 1"), ("SWAD(every=4)", "3 segments of 4")],
)
def test_an_average_that_could_never_begin_is_refused(average: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        dry_run(tiny(**SHORT, average=average))


@pytest.mark.slow
def test_an_average_that_never_began_is_told_of(tmp_path: Path) -> None:
    """The validation loss falls to the end, so that SWAD's valley never starts."""
    found = run(tiny(**SHORT, average="SWAD(every=1, patience=10)"), tmp_path / "run").content
    assert any(
        event["what"].startswith("SWAD(every=1, patience=10, ") and "never began" in event["what"] for event in found["events"]
    )


@pytest.mark.slow
def test_the_members_of_an_ensemble_are_trained_one_by_one(tmp_path: Path) -> None:
    recipe, folder = tiny(**SHORT, **ENSEMBLE), tmp_path / "run"
    found, parts = run(recipe, folder).content, recipe.build()
    data = seeded(recipe, parts, 0)
    teacher = parts.teacher.build(data.spec)
    teacher.load_state_dict(load_file(folder / "teacher.safetensors"))
    with torch.no_grad():
        each = [net.eval()(data.test.inputs) for net in teacher.nets]
    right = ((each[0] + each[1]) / 2).argmax(1) == data.test.targets
    assert found["arms"]["teacher"]["per_seed"]["accuracy"] == [pytest.approx(float(right.double().mean()))]
    rows = [row for row in rows_of(folder) if row["arm"].startswith("teacher")]
    assert {row["arm"] for row in rows} == {"teacher-1", "teacher-2"}
    for number, own in enumerate(each, start=1):
        (last,) = [row for row in rows if (row["arm"], row["phase"], row["epoch"]) == (f"teacher-{number}", "validation", 2)]
        assert float((own.argmax(1) == data.test.targets).double().mean()) == pytest.approx(last["accuracy"], abs=0.15)


def test_an_ensemble_stands_for_teachers_of_logits_only() -> None:
    with pytest.raises(UsageError, match="no inner activations"):
        dry_run(tiny(**ENSEMBLE, objective="SimKD()"))
    with pytest.raises(UsageError, match="name one net"):
        dry_run(tiny(student="DeepEnsemble([MLP(), MLP()])"))


def test_each_generation_is_taught_by_the_one_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    guides: list[tuple[torch.Tensor, torch.Tensor]] = []
    told = Advance.after_step

    def watch(self: Advance, training: Training, record: Record) -> None:
        made = training.distiller
        if "teacher" in made.objective.needs and training.number == training.steps:
            guides.append((made.student.model.fc.weight.detach().clone(), made.teacher.tapped.model.fc.weight.clone()))
        told(self, training, record)

    monkeypatch.setattr(Advance, "after_step", watch)
    recipe = tiny(**SHORT, generations=3)
    found = run(recipe, tmp_path / "run").content
    assert len(guides) == 6  # three generations of `uniform`, then of the method; no teacher elsewhere
    for first in (0, 3):
        assert torch.equal(guides[first][0], guides[first + 1][1])
        assert torch.equal(guides[first + 1][0], guides[first + 2][1])
    assert torch.equal(load_file(tmp_path / "run" / "teacher.safetensors")["fc.weight"], guides[4][0])
    arms = list(dict.fromkeys(row["arm"] for row in rows_of(tmp_path / "run")))
    assert arms == ["teacher", "no_kd", "uniform-1", "uniform-2", "uniform", "kd_aif-1", "kd_aif-2", "kd_aif"]
    assert score_run(tmp_path / "run", tmp_path / "scores.parquet").count == found["data"]["counts"]["train"]
    assert "1 seed x (10 for the teacher + 7 x 10 for the students)" in str(dry_run(recipe))


@pytest.mark.slow
def test_assistants_hand_on_and_an_anchor_keeps_their_last_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, nets = Advance.after_step, list[tuple[torch.nn.Module, Any]]()

    def watch(self: Advance, training: Training, record: Record) -> None:
        if training.number == training.steps:
            nets.append((training.distiller.student.model, training.distiller.teacher))
        told(self, training, record)

    def same(one: torch.nn.Module, other: torch.nn.Module) -> bool:
        own, others = one.state_dict(), other.state_dict()
        return own.keys() == others.keys() and all(torch.equal(own[name], others[name]) for name in own)

    monkeypatch.setattr(Advance, "after_step", watch)
    recipe = tiny(**SHORT, assistants=["MLP(width=14, depth=2)", "MLP(width=12)"], generations=3, anchor=0.25)
    found = run(recipe, tmp_path / "run").content
    arms = list(dict.fromkeys(row["arm"] for row in rows_of(tmp_path / "run")))
    chain = ["uniform-1", "uniform-2", "uniform", "kd_aif-1", "kd_aif-2", "kd_aif"]
    assert arms == ["teacher", "assistant-1", "assistant-2", "no_kd", *chain]
    named = dict(zip(arms, nets, strict=True))
    for arm, guide in {"assistant-1": "teacher", "assistant-2": "assistant-1", "uniform-1": "assistant-2"}.items():
        assert same(named[arm][1].tapped.model, named[guide][0])
    for arm, before in {"uniform-2": "uniform-1", "uniform": "uniform-2", "kd_aif": "kd_aif-2"}.items():
        mixed = named[arm][1]
        assert (mixed.weights, mixed.combine) == ([0.25, 0.75], "probability")
        assert same(mixed.teachers[0].tapped.model, named["assistant-2"][0])
        assert same(mixed.teachers[1].tapped.model, named[before][0])
    assert [net["name"] for net in found["assistants"]] == ["MLP(width=14, depth=2)", "MLP(width=12)"]
    assert found["assistants"][1]["parameters"] == 64 * 12 + 12 + 12 * 10 + 10
    assert {"accuracy", "agreement"} < found["assistants"][0]["per_seed"].keys()
    assert [row.title for row in page(read_run(tmp_path / "run")).rows][:3] == ["Teacher", "Assistant 1", "Assistant 2"]
    assert score_run(tmp_path / "run", tmp_path / "scores.parquet").count == found["data"]["counts"]["train"]
    assert "(10 for the teacher + 9 x 10 for the students)" in str(dry_run(recipe))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"generations": 2, "objective": "SimKD()"}, "generations: .*cannot teach the next"),
        ({"assistants": "MLP()", "objective": "SimKD()"}, "assistants: .*cannot teach the next"),
        ({"assistants": "MLP()", "objective": "CE()"}, "nothing is handed on"),
        ({"assistants": "DeepEnsemble([MLP(), MLP()])"}, "assistants: DeepEnsemble is for teachers"),
        ({"generations": 2, "anchor": 0.5, "objective": "FitNet(student='layer1', teacher='layer1')"}, "no inner activations"),
        ({"generations": 2, "anchor": 0.5, "step": "TeacherOnly()"}, "has no net to update"),
        ({"assistants": "MLP()", "step": "MeanTeacher()"}, "forgets any other; leave assistants out"),
        ({"assistants": "MLP()", "step": "Mutual()"}, "learn side by side; leave assistants out"),
        ({"anchor": 0.5}, "set generations: 3"),
    ],
)
def test_chains_that_could_not_hand_on_are_refused(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(UsageError, match=said):
        dry_run(tiny(**SHORT, **changes))


@pytest.mark.slow
@pytest.mark.parametrize("step", ["MeanTeacher(0.9)", "Mutual()"])
def test_a_teacher_that_begins_with_the_student_is_not_trained_before(step: str, tmp_path: Path) -> None:
    own = tiny(**SHORT, step=step, teacher="MLP(width=8, depth=1, dropout=0.1)")
    found = run(own, tmp_path / "run").content
    assert list(dict.fromkeys(row["arm"] for row in rows_of(tmp_path / "run"))) == ["no_kd", "uniform", "kd_aif"]
    assert found["arms"]["teacher"]["per_seed"] == {}
    assert found["arms"]["kd_aif"]["per_seed"]["teacher_accuracy_after"][0] > 0.1
    assert not [said for said in found["warnings"] if "teacher" in said]
    assert page(read_run(tmp_path / "run")).rows[0].title == "Teacher"


@pytest.mark.slow
def test_dhos_mixture_is_chosen_on_validation_samples(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    tune = DHO.tune

    def watch(self: DHO, views: Views) -> None:
        asked.append(len(views.batch))
        tune(self, views)

    monkeypatch.setattr(DHO, "tune", watch)
    recipe = tiny(**SHORT, objective="CE() * 0.5 + DHO(KD(T=2)) * 0.5")
    found = run(recipe, tmp_path / "run").content
    data = seeded(recipe, recipe.build(), 0)
    assert set(asked) == {len(data.validation)} != {len(data.test)}
    alpha, beta = load_file(tmp_path / "run" / "objective.safetensors")["terms.1.mixture"].tolist()
    assert found["arms"]["kd_aif"]["tuned"] == [f"CE() * 0.5 + DHO(KD(T=2), alpha={alpha:g}, beta={beta:g}) * 0.5"]
    assert f"alpha={alpha:g}, beta={beta:g}" in (tmp_path / "run" / "card.md").read_text()
    assert "tuned" not in found["arms"]["no_kd"]
    assert last_validation(tmp_path / "run", "kd_aif") == found["arms"]["kd_aif"]["per_seed"]["validation_accuracy"][0]


class Power(BaseException):
    """The power fails; nothing catches it."""


CHANGES: dict[str, dict[str, Any]] = {
    "ensemble, generations, average": {
        **ENSEMBLE,
        "assistants": "MLP(width=10)",
        "generations": 2,
        "anchor": 0.5,
        "average": "WAKD(start=3)",
    },
    "chain, choice, valley": {
        "transform": "Chain(CropFlip(padding=1, flip=False), MixUp(mixed=0.2))",
        "objective": "CE() * 0.5 + DHO(KD(T=2)) * 0.5",
        "average": "SWAD(every=2, patience=1, tolerance=1)",
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("name", CHANGES)
def test_killed_in_every_unit_and_gone_on_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    recipe, folder = tiny(**{**SHORT, **CHANGES[name]}, checkpoint_every=2), tmp_path / "killed"
    run(recipe, tmp_path / "calm")
    told, killed = Advance.after_step, set[int]()

    def stop(self: Advance, training: Training, record: Record) -> None:
        unit = len(list((folder / "checkpoints").glob("*.json")))
        if training.number == 7 and unit not in killed:
            killed.add(unit)
            raise Power
        told(self, training, record)

    monkeypatch.setattr(Advance, "after_step", stop)
    while not (folder / "result.json").exists():
        try:
            run(recipe, folder, resume=folder.exists())
        except Power:
            assert list((folder / "checkpoints").glob("*.pt"))
    assert len(killed) == (8 if "generations" in name else 4)
    assert marks(folder) == marks(tmp_path / "calm")


def test_a_chain_is_written_in_the_resolved_recipe(tmp_path: Path) -> None:
    recipe = tiny(transform="Chain(CropFlip(padding=1), MixUp())", **ENSEMBLE)
    assert "transform: Chain(CropFlip(padding=1), MixUp())" in recipe.resolved()
    assert repr(recipe.build().teacher) == "DeepEnsemble(members=(MLP(width=16), MLP(width=12)), combine='logit')"
    with pytest.raises(UsageError, match="Chain: each part must be a transform"):
        tiny(transform="Chain(3)")
