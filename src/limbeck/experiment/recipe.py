"""The recipe: checked settings of a run, and the objects that they name. Knows nothing of how a run goes.

Over 300 lines, since every key stands here three times: checked, documented, made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, Self, cast

from pydantic import BaseModel, ConfigDict, Field, PrivateAttr, ValidationError, field_validator, model_validator

from limbeck import catalogue
from limbeck.core.errors import UsageError, nearest
from limbeck.experiment import recipe_text
from limbeck.experiment.expressions import Expression, Names, apart, parse
from limbeck.experiment.mistakes import as_argument, in_a_collection, in_words

if TYPE_CHECKING:
    from limbeck.core.objective import Objective
    from limbeck.data.source import Source
    from limbeck.experiment.optimizers import OptimizerSpec
    from limbeck.experiment.schedules import Schedule
    from limbeck.models.spec import Architecture
    from limbeck.transforms.chain import Transform

Arm = Literal["no_kd", "uniform", "query_in_training", "random_weights", "shuffled", "own_loss", "oracle", "fixed_mixture"]
Count = Annotated[int, Field(ge=1)]

EXPRESSIONS: Mapping[str, tuple[catalogue.Kind, ...]] = {
    "data": ("data", "texts"),
    "teacher": ("models", "adapters", "teachers"),
    "student": ("models", "adapters"),
    "assistants": ("models", "adapters"),
    "objective": ("terms",),
    "weighting": ("weightings", "solvers", "terms"),
    "balancer": ("balancers",),
    "mixture": ("mixtures",),
    "step": ("steps", "weightings", "solvers", "terms", "optimizers", "rewards"),
    "average": ("averages",),
    "optimizer": ("optimizers",),
    "teacher_optimizer": ("optimizers",),
    "schedule": ("schedules",),
    "transform": ("transforms",),
}
"""The keys whose values are expressions, `assistants` a list of them: what each takes, then what may stand in its brackets."""
EXAMPLES = {"optimizer": "SGD", "objective": "KD", "weighting": "InfluenceWeighting", "data": "Digits", "student": "MLP"}
"""What messages name for a key, and for others of its kind."""
ALSO: Mapping[str, tuple[catalogue.Kind, ...]] = {"teacher": ("teachers",)}
"""Further kinds that a key takes."""
STATEFUL = ("weighting", "balancer", "mixture", "step", "average")
"""The keys whose objects every arm of every seed has of its own."""


@dataclass(frozen=True)
class Parts:
    """What a recipe names, made. Weighting, balancer, mixture, step and average have state: call for a fresh one of each arm."""

    data: Source
    teacher: Architecture
    student: Architecture
    assistants: tuple[Architecture, ...]
    objective: Objective
    weighting: Callable[[], object]
    balancer: Callable[[], object]
    mixture: Callable[[], object] | None
    step: Callable[[], object]
    average: Callable[[], object] | None
    optimizer: OptimizerSpec
    teacher_optimizer: OptimizerSpec
    schedule: Schedule
    transform: Transform | None
    teacher_weights: Path | None

    @property
    def forgets_teacher(self) -> bool:
        """Whether the step makes the teacher of its own, whatever it holds before: to train one first would be in vain."""
        from limbeck.training.steps.mean_teacher import MeanTeacher

        return isinstance(self.step(), MeanTeacher)

    @property
    def learns_beside(self) -> bool:
        """Whether the teacher is a peer that learns while the student does, from the first step, and not before."""
        from limbeck.training.steps.mutual import Mutual

        return isinstance(self.step(), Mutual)


class Recipe(BaseModel):
    """All settings of a run. Make one by `load` or `Recipe.of`, whose messages are for people.

    Attributes:
        name: Names the run's folder and the report.
        data: Where the samples come from.
        teacher: The large net.
        student: The small net.
        teacher_weights: A .safetensors file; None trains the teacher first.
        objective: The sum of terms.
        weighting: How much each sample counts.
        balancer: Factors on the coefficients of the objective, set anew at every step.
        mixture: How often each domain of the data is drawn; None draws every row once an epoch.
        step: Which nets are updated, and in which order.
        average: The average of the student's weights along its training that is kept in place of the last ones.
        assistants: Nets between teacher and student, each taught by the one before.
        generations: How many students follow one another, each the teacher of the next; the last is kept.
        anchor: Share of the first student's teacher in what later generations are taught.
        anchor_combine: Of which the two are mixed: their probabilities, or their logits.
        optimizer: Of the student.
        teacher_optimizer: Of the teacher; None takes the student's.
        schedule: Of the learning rate.
        epochs: Of each student.
        teacher_epochs: Of the teacher; None takes the student's, 0 takes the teacher as it is built, for pretrained ones.
        batch_size: Samples per step.
        seeds: How often all is repeated.
        seed: The first seed.
        compare: The arms beside the main one.
        query: Samples of the query set.
        validation: Share of the training part that is held out to look at.
        test: Share of all samples that is held out for the figures.
        rare: Classes with fewer rows than this are trained on and cut into no other split.
        query_in_training: Let the main arm train on the query set too.
        clip: Largest norm of the gradient; None for none.
        accumulate: Parts that each batch is cut into to save memory; the step stays the same.
        completions: For language, test rows whose beginnings teacher and students complete, for figures of what they write.
        per: For language, what counts alike in a step: every sample, or every token that counts.
        precision: Of forward and backward passes.
        transform: Changes each batch of images at random.
        checkpoint_every: Steps between checkpoints; 0 writes one per epoch.
        threads: Of the processor; part of the recipe, since results depend on it in their last bits.
        device: Where it runs.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    data: str
    teacher: str
    student: str
    teacher_weights: str | None = None
    objective: str = "KD(T=4) * 0.7 + CE() * 0.3"
    weighting: str = "InfluenceWeighting()"
    balancer: str = "Static()"
    mixture: str | None = None
    step: str = "Student()"
    average: str | None = None
    assistants: Annotated[tuple[str, ...], Field(strict=False)] = ()
    generations: Count = 1
    anchor: Annotated[float, Field(ge=0, lt=1)] = 0.0
    anchor_combine: Literal["probability", "logit"] = "probability"
    optimizer: str = "SGD(lr=0.05, momentum=0.9)"
    teacher_optimizer: str
    schedule: str = "Constant()"
    epochs: Count
    teacher_epochs: Annotated[int, Field(ge=0)]
    batch_size: Count = 64
    seeds: Annotated[int, Field(ge=1, le=1000)] = 3
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    compare: Annotated[tuple[Arm, ...], Field(strict=False)] = ("no_kd", "uniform", "query_in_training", "random_weights")
    query: Count = 200
    validation: Annotated[float, Field(gt=0, lt=1)] = 0.1
    test: Annotated[float, Field(gt=0, lt=1)] = 0.3
    rare: Annotated[int, Field(ge=0)] = 0
    query_in_training: bool = False
    clip: Annotated[float, Field(gt=0)] | None = None
    accumulate: Count = 1
    completions: Annotated[int, Field(ge=0)] = 0
    per: Literal["sample", "token"] = "sample"
    precision: Literal["fp32", "bf16"] = "fp32"
    transform: str | None = None
    checkpoint_every: Annotated[int, Field(ge=0)] = 0
    threads: Annotated[int, Field(ge=1, le=256)] = 1
    device: Literal["cpu", "cuda", "auto"] = "cpu"

    _allow_python: bool = PrivateAttr(default=False)

    @model_validator(mode="before")
    @classmethod
    def _teacher_like_student(cls, values: object) -> object:
        """The teacher's optimizer and epochs are the student's where none are given."""
        if not isinstance(values, dict):
            return values
        optimizer, epochs = values.get("optimizer"), values.get("epochs")
        if values.get("teacher_optimizer") is None:
            values = {
                **values,
                "teacher_optimizer": optimizer if isinstance(optimizer, str) else cls.model_fields["optimizer"].default,
            }
        if values.get("teacher_epochs") is None:  # 1 where `epochs` is wrong itself: one mistake, one message
            values = {**values, "teacher_epochs": epochs if type(epochs) is int and epochs > 0 else 1}
        return values

    @field_validator("assistants", mode="before")
    @classmethod
    def _one_by_one(cls, value: object) -> object:
        """A list as it was meant: YAML cuts `[MLP(width=64, depth=2)]` at the comma inside the brackets too."""
        parts = [value] if isinstance(value, str) else value
        if not isinstance(parts, list | tuple) or not parts or not all(isinstance(part, str) for part in parts):
            return () if value is None else value
        return () if parts == ["[]"] else tuple(apart(", ".join(parts)))

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.validation + self.test >= 1:
            raise UsageError(
                f"validation {self.validation:g} and test {self.test:g} leave nothing to train on; together they must be below 1."
            )
        if len(set(self.compare)) < len(self.compare):
            raise UsageError("compare names an arm twice.")
        if self.anchor and self.generations == 1:
            raise UsageError(
                f"anchor: {self.anchor:g} is a share in what later generations are taught, but there is one; set generations: 3."
            )
        if self.anchor_combine != "probability" and not self.anchor:
            raise UsageError(
                f"anchor_combine: {self.anchor_combine} says how an anchor is mixed in, but there is none; set anchor: 0.3."
            )
        if self.mixture is None and "fixed_mixture" in self.compare:
            raise UsageError("compare: 'fixed_mixture' is the method without its mixture, but there is none; leave it out.")
        if self.mixture is not None and self.query_in_training:
            raise UsageError("query_in_training: the query set says how far the domains lag, so it cannot be trained on as well.")
        return self

    @classmethod
    def of(cls, values: Mapping[str, object], *, allow_python: bool = False) -> Recipe:
        """The recipe of these values, all checked; everything but the data has been made once.

        Args:
            values: Keys and values as in a recipe file, without `sizes`.
            allow_python: Let `Python("module:function")` stand.

        Raises:
            UsageError: A key, a name, an argument or a value is not one that can be taken.
        """
        for key in values:
            known(key)
        try:
            recipe = cls.model_validate(dict(values))
        except ValidationError as error:
            raise UsageError(in_words(error)) from None
        recipe._allow_python = allow_python
        for key, expression in recipe.expressions().items():
            if key != "data":  # read when the run begins: it may be large
                expression.build()
        for expression in recipe.assistant_expressions():
            expression.build()
        return recipe

    def expressions(self) -> dict[str, Expression]:
        """Every expression but the assistants', read and checked but not made, by key."""
        texts = {key: getattr(self, key) for key in EXPRESSIONS if key != "assistants"}
        return {key: self._parsed(key, text) for key, text in texts.items() if text is not None}

    def assistant_expressions(self) -> list[Expression]:
        """The assistants, from the one that the teacher teaches; read and checked but not made."""
        return [self._parsed("assistants", text) for text in self.assistants]

    def _parsed(self, key: str, text: str) -> Expression:
        return parse(text, names_for(key), key=key, allow_python=self._allow_python)

    def build(self) -> Parts:
        """Make all that the recipe names; reads the data. Nothing is written.

        Raises:
            UsageError: Something can't be made, or a file is missing.
        """
        from limbeck.core.objective import as_objective
        from limbeck.experiment.ready import Ready
        from limbeck.teachers.teacher import Teacher

        weights = None if self.teacher_weights is None else Path(self.teacher_weights)
        if weights is not None and not weights.is_file():
            raise UsageError(
                f"teacher_weights: there is no file {weights}; give a .safetensors file, or leave it out to train the teacher."
            )
        made = self.expressions()
        single = {key: made[key].build() for key in made if key not in STATEFUL}
        teacher = single["teacher"]
        parts = Parts(
            data=cast("Source", single["data"]),
            teacher=Ready(teacher) if isinstance(teacher, Teacher) else cast("Architecture", teacher),
            student=cast("Architecture", single["student"]),
            assistants=tuple(cast("Architecture", part.build()) for part in self.assistant_expressions()),
            objective=as_objective(cast("Objective", single["objective"])),
            weighting=made["weighting"].build,
            balancer=made["balancer"].build,
            mixture=made["mixture"].build if "mixture" in made else None,
            step=made["step"].build,
            average=made["average"].build if "average" in made else None,
            optimizer=cast("OptimizerSpec", single["optimizer"]),
            teacher_optimizer=cast("OptimizerSpec", single["teacher_optimizer"]),
            schedule=cast("Schedule", single["schedule"]),
            transform=cast("Transform | None", single.get("transform")),
            teacher_weights=weights,
        )
        self._check_made(parts)
        return parts

    def _check_made(self, parts: Parts) -> None:
        """See that what was made can be used together.

        Raises:
            UsageError: An ensemble stands where one net is needed, a mixture has no domains, a term is for replies that the data
                have not, or the parts of a chain do not fit.
        """
        from limbeck.losses.logits.onreplies import OnReplies
        from limbeck.models.deepensemble import DeepEnsemble

        for key, net in [("student", parts.student), *(("assistants", net) for net in parts.assistants)]:
            if isinstance(net, DeepEnsemble):
                raise UsageError(f"{key}: DeepEnsemble is for teachers, which are trained one by one; name one net.")
        if isinstance(parts.teacher, DeepEnsemble) and "teacher_features" in parts.objective.needs:
            raise UsageError("teacher: DeepEnsemble has no inner activations; use terms on logits, or one net.")
        if self.completions and (parts.data.kind != "language" or parts.data.tokenizer is None):
            raise UsageError(
                f"completions: {parts.data.name} has no texts that could be gone on with; leave it out, or take Text(...)."
            )
        if self.mixture is not None and parts.data.drawn_by is None:
            raise UsageError(f"mixture: {parts.data.name} has no domains to mix; name their column with group=...")
        for term in parts.objective.modules():
            if isinstance(term, OnReplies):
                term.check(parts.data)
        self._check_chain(parts)

    def _check_chain(self, parts: Parts) -> None:
        """See that each net of a chain can teach the next.

        Raises:
            UsageError: The chain ends in other nets than it begins with, hands nothing on, or what nobody keeps or knows.
        """
        from limbeck.experiment.ready import Ready

        needs, teacher = parts.objective.needs, parts.teacher
        chains = {"assistants": bool(self.assistants), "generations": self.generations > 1}
        for key, given in {**chains, "teacher_weights": parts.teacher_weights is not None}.items():
            if given and parts.forgets_teacher:
                raise UsageError(f"{key}: {self.step} makes its teacher of the student and forgets any other; leave {key} out.")
        for key, chain in chains.items():
            if chain and parts.objective.deploys:
                raise UsageError(f"{key}: {parts.objective!r} keeps another net than the student, which cannot teach the next.")
        if self.assistants and parts.learns_beside:
            raise UsageError(f"assistants: {self.step} has student and teacher learn side by side; leave assistants out.")
        if self.assistants and "teacher" not in needs:
            raise UsageError(
                f"assistants: {parts.objective!r} asks no teacher, so nothing is handed on; add KD(), or leave them out."
            )
        if self.anchor and "teacher_features" in needs:
            raise UsageError("anchor: a mixture of teachers has no inner activations; use terms on logits, or leave anchor out.")
        if self.anchor and not self.assistants and isinstance(teacher, Ready) and "logits" not in teacher.teacher.offers:
            raise UsageError(f"anchor: mixes all logits, but {teacher!r} does not offer them; leave anchor out.")

    def first_teacher(self, parts: Parts) -> Architecture:
        """What teaches the first student: the last assistant, or the teacher where there is none."""
        return parts.assistants[-1] if parts.assistants else parts.teacher

    def last_teacher(self, parts: Parts) -> Architecture:
        """What taught the student that is kept: as the first one's, or in a chain of generations the student before it."""
        from limbeck.experiment.ready import Anchored

        first = self.first_teacher(parts)
        if self.generations == 1 or "teacher" not in parts.objective.needs:
            return first
        return Anchored(first, parts.student, self.anchor, self.anchor_combine) if self.anchor else parts.student

    def resolved(self) -> str:
        """The recipe as YAML with every key written out; loads again to the same recipe."""
        values = self.model_dump(mode="json")
        return "# The recipe as it was run, with every setting written out.\n" + recipe_text.text_of(values)


def load(
    source: str | Path,
    *,
    size: str | None = None,
    settings: Sequence[str] = (),
    seeds: int | None = None,
    allow_python: bool = False,
) -> Recipe:
    """The recipe of that name or file; first the size is applied, then the settings, then the seeds.

    Args:
        source: Name of a built-in recipe, or a YAML file.
        size: One of the sizes in the recipe; `full` is the recipe as it is written.
        settings: Changes, each "key=value".
        seeds: How often all is repeated.
        allow_python: Let `Python("module:function")` stand, which runs the user's own code.

    Raises:
        UsageError: There is no such recipe, or something in it can't be taken.
    """
    name, text = recipe_text.find(source)
    where = f"recipe {source}"
    values = recipe_text.mapping_of(text, where)
    sizes = _sizes(values.pop("sizes", None), where)
    if size is not None and size != "full" and size not in sizes:
        near = nearest(size, sizes) or f"; it has {', '.join(dict.fromkeys([*sizes, 'full']))}."
        raise UsageError(f"{where}: there is no size '{size}'{near}")
    values = {"name": name, **values, **sizes.get(size or "full", {}), **dict(map(_setting, settings))}
    if seeds is not None:
        values["seeds"] = seeds
    return Recipe.of(values, allow_python=allow_python)


def known(key: str) -> str:
    """The key, when a recipe has it.

    Raises:
        UsageError: A recipe has no such key.
    """
    if key not in Recipe.model_fields:
        makers = {name: catalogue.Makers(EXPRESSIONS[name][0])[example] for name, example in EXAMPLES.items()}
        near = as_argument(key, makers) or nearest(key, Recipe.model_fields) or f"; it has {', '.join(Recipe.model_fields)}."
        raise UsageError(f"a recipe has no key '{key}'{near}")
    return key


def names_for(key: str) -> Names:
    """What may be named in the value of this key."""
    own, *others = EXPRESSIONS[key]
    return Names(
        what=catalogue.WORDS[own],
        makers=catalogue.Makers(own, *ALSO.get(key, ())),
        inner=catalogue.Makers(own, *others),
        hint=f"`limbeck list {own}` shows all",
        elsewhere={row.name: catalogue.WORDS[row.kind] for row in catalogue.everything()},
        suggest=in_a_collection if own == "models" else None,
        example=next((word for other, word in EXAMPLES.items() if EXPRESSIONS[other][0] == own), ""),
    )


def _sizes(content: object, where: str) -> dict[str, dict[str, object]]:
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(changes, dict) for changes in content.values()):
        raise UsageError(f"{where}: sizes must be of the form `smoke: {{epochs: 3, seeds: 2}}`, one line per size.")
    for changes in content.values():
        for key in changes:
            known(str(key))
    return {str(name): dict(changes) for name, changes in content.items()}


def _setting(text: str) -> tuple[str, object]:
    key, sign, value = (part.strip() for part in text.partition("="))
    if not sign:
        raise UsageError(f"--set {text!r}: write key=value, such as --set epochs=30.")
    known(key)
    if key not in EXPRESSIONS:
        return key, recipe_text.value_of(value, f"--set {key}")
    return key, None if value.lower() in {"", "none", "null"} else value
