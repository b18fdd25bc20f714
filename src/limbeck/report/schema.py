"""What the report reads of `result.json` and `gallery.json`, version 1 (docs/guide/run-folder.md).

Unknown fields are passed over.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field

SCHEMA = 1
"""The newest version of the run folder that this report can read."""

Answer = Literal["better", "not better", "undecided"]
Number = float | None


def _listed(value: object) -> object:
    return [] if value is None else value


Numbers = Annotated[list[Number], BeforeValidator(_listed)]
"""One number per seed; `null` stands for an empty list."""


class Part(BaseModel):
    """Frozen; fields that this version does not know are passed over."""

    model_config = ConfigDict(frozen=True, extra="ignore", protected_namespaces=())


class Data(Part):
    """Which data were used, and how many samples each split has."""

    name: str
    kind: str
    classes: tuple[str, ...]
    vocabulary: int | None = None
    counts: dict[str, int]
    flipped_in_training: Numbers = []
    unlabelled_in_training: int = 0
    query_labels: str | None = None


class Model(Part):
    """The cost of one network: parameters, and floating-point operations of one sample's forward pass."""

    name: str
    parameters: int | None = None
    flops: Number = None


class PerSeed(Part):
    """Figures on the test split, one per seed; `validation_accuracy` is on the validation split."""

    accuracy: Numbers = []
    nll: Numbers = []
    ece: Numbers = []
    agreement: Numbers = []
    perplexity: Numbers = []
    rouge_l: Numbers = []
    exact_match: Numbers = []
    same_completion: Numbers = []
    copied_errors: Numbers = []
    own_agreement: Numbers = []
    own_kl: Numbers = []
    validation_accuracy: Numbers = []


class Arm(Part):
    """One way of training under the same budget: a title and its figures."""

    title: str
    per_seed: PerSeed


class Assistant(Model):
    """A net between teacher and student: its cost, a title and its figures."""

    title: str
    per_seed: PerSeed


class Comparison(Part):
    """A paired comparison of the main arm with a rival; effect, low and high in the metric's own unit."""

    against: str
    metric: str = "accuracy"
    effect: Number = None
    low: Number = None
    high: Number = None
    p: Number = None
    test: str = ""
    reason: str = ""
    answer: Answer


class Verdict(Part):
    """The answer in a word and in a sentence, and the comparisons that it rests on."""

    answer: Answer
    sentence: str
    against: dict[str, Answer] = {}
    comparisons: tuple[Comparison, ...] = ()
    margin: float = 0.0


class Weights(Part):
    """When the main arm's weights were taken, and what they looked like at the end, one figure per seed."""

    schedule: str = ""
    flipped_auc: Numbers = []
    mean_weight_flipped: Numbers = []
    mean_weight_clean: Numbers = []
    effective_sample_size: Numbers = []
    saturated: Numbers = []


class Event(Part):
    """Something that a run did on its own, for instance the guard's fall-back to uniform weights."""

    seed: int | None = None
    arm: str | None = None
    step: int | None = None
    what: str


class Result(Part):
    """All of `result.json`."""

    schema_version: int = Field(alias="schema")
    limbeck: str = ""
    name: str
    status: str
    seeds: tuple[int, ...]
    data: Data
    models: dict[str, Model] = {}
    arms: dict[str, Arm]
    assistants: tuple[Assistant, ...] = ()
    main: str
    verdict: Verdict | None = None
    weights: Weights | None = None
    events: tuple[Event, ...] = ()
    warnings: tuple[str, ...] = ()

    def title(self, arm: str) -> str:
        """The arm's title, or its key where the arm is not in the result."""
        return self.arms[arm].title if arm in self.arms else arm


class Shown(Part):
    """One sample as a person can look at it."""

    index: int
    kind: Literal["image", "text", "row"]
    png_base64: str | None = None
    text: str | None = None
    row: dict[str, str | int | float | bool | None] | None = None


class Gallery(Part):
    """All of `gallery.json`."""

    samples: tuple[Shown, ...] = ()
