"""Recipes: found, read, changed, resolved and built; and each mistake in one sentence."""

import contextlib
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from limbeck.core.errors import DataError, UsageError
from limbeck.core.objective import Objective
from limbeck.experiment import recipe_text
from limbeck.experiment.optimizers import SGD
from limbeck.experiment.recipe import Recipe, load

LEAST = {"name": "x", "data": "Digits()", "teacher": "MLP()", "student": "MLP(width=8)", "epochs": 2}


def of(**changes: object) -> Recipe:
    return Recipe.of({key: value for key, value in {**LEAST, **changes}.items() if value is not ...})


def said(mistake: pytest.ExceptionInfo[UsageError]) -> str:
    text = str(mistake.value)
    assert "\n" not in text
    assert "pydantic" not in text
    assert text.endswith((".", "?"))
    return text


@pytest.mark.parametrize("name", recipe_text.built_in())
def test_built_in_recipes_load_at_every_size(name: str) -> None:
    sizes = recipe_text.mapping_of(recipe_text.built_in()[name], name).get("sizes")
    assert isinstance(sizes, dict)
    assert "smoke" in sizes
    assert recipe_text.summary_of(recipe_text.built_in()[name])
    for size in [None, "full", *sizes]:
        assert load(name, size=size).name == name


def test_defaults_are_those_of_the_guide() -> None:
    recipe = of()
    assert recipe.objective == "KD(T=4) * 0.7 + CE() * 0.3"
    assert recipe.compare == ("no_kd", "uniform", "query_in_training", "random_weights")
    assert (recipe.teacher_epochs, recipe.teacher_optimizer) == (2, recipe.optimizer)


def test_the_teacher_follows_the_student_unless_told() -> None:
    assert of(optimizer="SGD(lr=1)").teacher_optimizer == "SGD(lr=1)"
    assert of(optimizer="SGD(lr=1)", teacher_optimizer="Adam(lr=0.1)", teacher_epochs=7).teacher_epochs == 7


def test_size_then_settings_then_seeds(tmp_path: Path) -> None:
    file = tmp_path / "own.yaml"
    lines = [f"{key}: {value}" for key, value in LEAST.items()]
    file.write_text("\n".join([*lines, "seeds: 4", "sizes:", "  smoke: {epochs: 1, seeds: 2, batch_size: 10}"]))
    assert load(file).epochs == 2
    recipe = load(file, size="smoke", settings=["epochs=5", "clip=1e-1", "compare=[uniform]"], seeds=9)
    assert (recipe.epochs, recipe.seeds, recipe.batch_size, recipe.clip, recipe.compare) == (5, 9, 10, 0.1, ("uniform",))
    recipe = load(file, settings=["objective=KD(T=2) + CE()", "transform=none"])
    assert (recipe.objective, recipe.transform) == ("KD(T=2) + CE()", None)


def test_assistants_are_read_as_they_were_meant(tmp_path: Path) -> None:
    """YAML cuts a list at every comma, also inside the brackets of a net."""
    file = tmp_path / "own.yaml"
    lines = [f"{key}: {value}" for key, value in LEAST.items()]
    file.write_text("\n".join([*lines, "assistants: [MLP(width=64, depth=2), MLP(32)]"]))
    named = ("MLP(width=64, depth=2)", "MLP(32)")
    assert load(file).assistants == named
    for text in ("[MLP(width=64, depth=2), MLP(32)]", "MLP(width=64, depth=2), MLP(32)"):
        assert load(file, settings=[f"assistants={text}"]).assistants == named
    for none in ("none", "[]"):
        assert load(file, settings=[f"assistants={none}"]).assistants == ()
    assert of(assistants="MLP()").assistants == ("MLP()",)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"name": "1e3", "clip": 1e-5, "transform": "CropFlip()", "compare": [], "assistants": "MLP(8, depth=2), MLP()"},
        {"name": "true"},
    ],
)
def test_resolved_loads_again_to_the_same(tmp_path: Path, changes: dict[str, object]) -> None:
    recipe = of(**changes)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.resolved())
    assert load(file) == recipe
    assert load(file).resolved() == recipe.resolved()


def test_build_makes_the_parts() -> None:
    parts = of(objective="CE()", optimizer="SGD(lr=1)").build()
    assert isinstance(parts.objective, Objective)
    assert parts.optimizer == SGD(lr=1)
    assert len(parts.data) == 1797
    assert parts.weighting() is not parts.weighting()
    assert type(parts.step()) is type(parts.step())
    assert (parts.transform, parts.teacher_weights) == (None, None)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lr": 0.1}, "a recipe has no key 'lr'; it is an argument: write optimizer: SGD(lr=...)."),
        ({"learning_rate": 0.1}, "write optimizer: SGD(lr=...)."),
        ({"student": "resnet18"}, "there is no model called 'resnet18'; did you mean Torchvision(\"resnet18\")?"),
        ({"student": "torchvision:resnet18"}, "can't read 'torchvision:resnet18'; did you mean Torchvision(\"resnet18\")?"),
        ({"objective": "KD(T=4) + (CE()"}, "objective: can't read 'KD(T=4) + (CE()': '(' was never closed."),
        ({"objective": "KD(T=4))"}, "objective: can't read 'KD(T=4))': unmatched ')'."),
        ({"optimizer": "0.1"}, "optimizer: expected an optimizer such as"),
        ({"assistants": ["64"]}, "assistants: expected a model such as MLP(...), got '64'."),
        ({"epoch": 3}, "a recipe has no key 'epoch'; did you mean 'epochs'?"),
        ({"data": ...}, "recipe: data is missing"),
        ({"epochs": ...}, "recipe: epochs is missing; add a line `epochs: ...`."),
        ({"epochs": "many"}, "epochs: must be a whole number, got 'many'."),
        ({"epochs": True}, "epochs: must be a whole number, got True."),
        ({"epochs": 0}, "epochs: must be at least 1, got 0."),
        ({"epochs": 2.5}, "epochs: must be a whole number, got 2.5."),
        ({"validation": 1.5}, "validation: must be below 1, got 1.5."),
        ({"validation": 0.5, "test": 0.5}, "leave nothing to train on"),
        ({"clip": float("nan")}, "clip: must be a finite number"),
        ({"clip": 0}, "clip: must be above 0, got 0."),
        ({"query": 0}, "query: must be at least 1, got 0."),
        ({"query_in_training": "yes"}, "query_in_training: must be true or false, got 'yes'."),
        ({"name": "a/b"}, "name: must be at most 64 letters"),
        ({"name": 3}, "name: must be a text, got 3."),
        ({"compare": ["unifrom"]}, "did you mean 'uniform'?"),
        ({"compare": ["uniform", "uniform"]}, "compare names an arm twice"),
        ({"compare": "uniform"}, "compare: must be a list in square brackets, got 'uniform'."),
        ({"assistants": "MPL()"}, "assistants: there is no model called 'MPL'; did you mean 'MLP'?"),
        ({"assistants": "MLP(width=64"}, "assistants: can't read 'MLP(width=64'"),
        ({"assistants": 3}, "assistants: must be a list in square brackets, got 3."),
        ({"assistants": "KD()"}, "assistants: KD is a term; expected a model"),
        ({"anchor": 1}, "anchor: must be below 1, got 1."),
        ({"anchor_combine": "logit", "generations": 3}, "anchor_combine: logit says how an anchor is mixed in, but"),
        ({"precision": "fp16"}, "precision: must be one of 'fp32' or 'bf16', got 'fp16'; did you mean"),
        ({"objective": "KDD()"}, "objective: there is no term called 'KDD'; did you mean 'KD'? `limbeck list terms` shows all."),
        ({"objective": "EKFAC()"}, "objective: EKFAC is a solver; expected a term"),
        ({"objective": "KD(temp=4)"}, 'objective: KD has no argument "temp"; it takes T (default 4.0)'),
        ({"objective": "KD(T=-1)"}, "objective: KD: T must be above 0"),
        ({"weighting": "EKFAC()"}, "weighting: EKFAC is a solver; expected a weighting"),
        ({"weighting": "InfluenceWeighting(solver=KD())"}, "takes a"),
        ({"optimizer": "SGD()"}, "optimizer: SGD needs its argument lr"),
        ({"optimizer": "SGD(lr=0.1, momentum=0, nesterov=True)"}, "nesterov needs a momentum above 0"),
        ({"schedule": "Steps(at=(3, 2))"}, "schedule: Steps: at must be rising epochs"),
        ({"schedule": "Cosine(warmup=-1)"}, "schedule: Cosine: warmup must be 0 or above"),
        ({"data": "Digits(noise=3)"}, "data: Digits's argument noise takes"),
        ({"data": 'Python("os:getcwd")'}, "add --allow-python"),
        ({"student": 'Python("os:getcwd")'}, "add --allow-python"),
        ({"epochs": "x" * 500, "seeds": 0, "query": 0, "seed": -1}, "(and 1 more)"),
    ],
)
def test_mistakes_are_one_sentence(changes: dict[str, object], words: str) -> None:
    with pytest.raises(UsageError) as mistake:
        of(**changes)
    assert words in said(mistake)
    assert len(said(mistake)) < 700


def test_missing_files_are_found_before_anything_is_made(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="teacher_weights: there is no file"):
        of(teacher_weights=str(tmp_path / "no.safetensors")).build()
    with pytest.raises(DataError, match=r"^data: .*no\.npz"):
        of(data=f'Arrays("{tmp_path / "no.npz"}")').build()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: 1\na: 2\n", "the key 'a' is given twice"),
        ("a: &x 1\nb: *x\n", "no anchors"),
        ("a: [1\n", "can't be read as YAML"),
        ("- a\n", "made of lines `key: value`"),
        ("", "made of lines `key: value`"),
        ("a: !!python/object/apply:os.getcwd []\n", "can't be read as YAML"),
        ("a: 2020-13-45\n", "can't be read as YAML"),
        ("a: " + "[" * 5000, "can't be read as YAML"),
        ('a: !!int ""\n', "can't be read as YAML"),
        ("a: !!bool x\n", "can't be read as YAML"),
        ("a: !!timestamp x\n", "can't be read as YAML"),
        ("? [a]\n: 1\n", "can't be read as YAML"),
        ("1: 2\n", "made of lines `key: value`"),
        ("sizes: 3\n", "sizes must be of the form"),
        ("sizes: {smoke: {epoch: 3}}\n", "no key 'epoch'; did you mean 'epochs'?"),
        ("\x00", "can't be read as YAML"),
    ],
)
def test_wrong_files_are_refused(tmp_path: Path, text: str, words: str) -> None:
    file = tmp_path / "own.yaml"
    file.write_text(text)
    with pytest.raises(UsageError) as mistake:
        load(file)
    assert words in said(mistake)


@settings(deadline=None)
@given(
    st.text(max_size=80)
    | st.lists(st.sampled_from(["a", ":", " ", "\n", "- ", "[", "{", "!!int", "&x", "*x", "?", "'", "1e3", "|"])).map("".join)
)
def test_any_text_is_read_or_refused(text: str) -> None:
    with contextlib.suppress(UsageError):
        Recipe.of(recipe_text.mapping_of(text, "x"))


def test_unknown_recipes_name_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("a: 1")
    with pytest.raises(UsageError, match=r"no recipe 'digts'; did you mean 'digits'.*recipe files here: mine\.yaml"):
        load("digts")
    with pytest.raises(UsageError, match=r"no recipe file mime\.yaml; did you mean 'mine\.yaml'"):
        load("mime.yaml")
    with pytest.raises(UsageError, match="is a folder"):
        load(tmp_path)
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(UsageError, match="text in UTF-8"):
        load("binary.yaml")
    (tmp_path / "large.yaml").write_bytes(b"#" * 200_000)
    with pytest.raises(UsageError, match="at most 100,000 bytes"):
        load("large.yaml")


@pytest.mark.parametrize(
    ("changes", "size", "words"),
    [
        (["epochs"], None, "write key=value"),
        (["epoch=3"], None, "did you mean 'epochs'?"),
        (["epochs=[1"], None, "can't be read as YAML"),
        (["epochs=x"], None, "epochs: must be a whole number, got 'x'."),
        ([], "smok", "no size 'smok'; did you mean 'smoke'?"),
    ],
)
def test_wrong_changes_are_refused(changes: list[str], size: str | None, words: str) -> None:
    with pytest.raises(UsageError) as mistake:
        load("digits", settings=changes, size=size)
    assert words in said(mistake)


def test_own_code_is_a_matter_of_the_command_not_of_the_recipe(tmp_path: Path) -> None:
    recipe = Recipe.of({**LEAST, "data": 'Python("os:getcwd")'}, allow_python=True)
    file = tmp_path / "recipe.yaml"
    file.write_text(recipe.resolved())
    with pytest.raises(UsageError, match="--allow-python"):
        load(file)
    assert load(file, allow_python=True) == recipe
