"""What the page says, in the order in which it says it; text and numbers only, the template gives them their looks.

Just over 300 lines: one function a section, in the page's order.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, final

from limbeck.report import figures
from limbeck.report.balance import balance
from limbeck.report.charts import Figure, Table
from limbeck.report.gallery import Gallery, gallery
from limbeck.report.judged import CEILING, compared, is_language, judged_by, said
from limbeck.report.learning import learning
from limbeck.report.reading import Run
from limbeck.report.schema import Answer, Comparison, Model, PerSeed
from limbeck.report.statistics import interval, known, mean
from limbeck.report.terms import terms
from limbeck.report.wording import (
    DASH,
    THIN,
    amount,
    count,
    duration,
    milliseconds,
    number,
    p_value,
    percent,
    percent_range,
    points,
    points_range,
    times,
)
from limbeck.report.written import written

ANSWERS: Mapping[Answer, str] = {"better": "Better", "not better": "Not better", "undecided": "Undecided"}
TOLD = 6
"""Places of an event that are named at the most."""
FAIR_RIVAL = "query_in_training"


@final
@dataclass(frozen=True)
class KeyNumber:
    """A number worth a second look: what it is, its value and what to know of it."""

    what: str
    value: str
    note: str


@final
@dataclass(frozen=True)
class Row:
    """One arm in the table of figures. Each cell is (value, its interval or an empty string)."""

    title: str
    role: str
    cells: tuple[tuple[str, str], ...]


@final
@dataclass(frozen=True)
class Happening:
    """Something that happened in one or several seeds of an arm."""

    what: str
    where: str


@final
@dataclass(frozen=True)
class Page:
    """All that the template needs, already in words."""

    name: str
    status: str
    main: str
    answer: Answer | None
    answer_word: str
    sentence: str
    against: tuple[tuple[str, str], ...]
    key_numbers: tuple[KeyNumber, ...]
    rows: tuple[Row, ...]
    seeds: int
    written: Table | None
    comparisons: Table | None
    effects: Figure | None
    learning: tuple[Figure, ...]
    terms: Table | None
    balance: tuple[Figure, ...]
    weights: tuple[Figure, ...]
    weights_schedule: str
    weights_facts: tuple[tuple[str, str], ...]
    gallery: Gallery
    found: Figure | None
    events: tuple[Happening, ...]
    event_count: int
    warnings: tuple[str, ...]
    facts: tuple[tuple[str, str], ...]
    recipe: str
    versions: tuple[tuple[str, str], ...]
    truth_known: bool
    language: bool


def page(run: Run) -> Page:
    """The page's content."""
    result, verdict = run.result, run.result.verdict
    drawn_weights = [figures.weights(run.samples) if run.samples else None, figures.weights_over_time(run)]
    drawn_learning = [learning(run, "accuracy"), learning(run, "loss")]
    return Page(
        name=result.name,
        status=result.status,
        main=result.title(result.main),
        answer=verdict.answer if verdict else None,
        answer_word=ANSWERS[verdict.answer] if verdict else "No verdict",
        sentence=verdict.sentence.replace(" %", f"{THIN}%")
        if verdict
        else "This run has no rivals to compare with, so there is no verdict.",
        against=tuple((result.title(arm), "ceiling" if arm == CEILING else answer) for arm, answer in verdict.against.items())
        if verdict
        else (),
        key_numbers=tuple(_key_numbers(run)),
        rows=tuple(_rows(run)),
        seeds=len(result.seeds),
        written=written(run),
        comparisons=_comparisons(run),
        effects=figures.effects(run),
        learning=tuple(figure for figure in drawn_learning if figure),
        terms=terms(run),
        balance=balance(run),
        weights=tuple(figure for figure in drawn_weights if figure),
        weights_schedule=_schedule(run),
        weights_facts=tuple(_weights_facts(run)),
        gallery=gallery(run),
        found=figures.found(run),
        events=_events(run),
        event_count=len(result.events),
        warnings=result.warnings,
        facts=tuple(_facts(run)),
        recipe=run.recipe,
        versions=tuple(_flat(run.environment)),
        truth_known=bool(run.samples is not None and run.samples.truth_known.any()),
        language=is_language(run),
    )


def _key_numbers(run: Run) -> list[KeyNumber]:
    result, judged = run.result, judged_by(run)
    numbers = [_main_figure(run)]
    gains = {c.against: c for c in compared(run, result.verdict.comparisons if result.verdict else ())}
    for arm in ("uniform", FAIR_RIVAL):
        if arm in gains:
            gain = gains[arm]
            unit = "nats a token" if judged.metric == "nll" else "points"
            what = f"{unit} against {result.title(arm)}"
            numbers.append(KeyNumber(what, judged.gain(gain.effect), _spread(judged.ends(gain), len(result.seeds))))
    numbers += [found for found in (_size(result.models),) if found]
    auc = mean(result.weights.flipped_auc) if result.weights else None
    if auc is not None:
        numbers.append(
            KeyNumber("area under the curve: the score finds wrong labels", number(auc), "0.5 is chance, 1 is perfect")
        )
    return numbers


def _main_figure(run: Run) -> KeyNumber:
    """What the method reaches on the test split: accuracy, or for language perplexity."""
    result, seeds = run.result, len(run.result.seeds)
    found = result.arms[result.main].per_seed
    if is_language(run):
        reached = interval(found.perplexity)
        ends = "" if reached is None or reached.low is None else f"{number(reached.low, 2)} to {number(reached.high, 2)}"
        return KeyNumber(f"test perplexity, {result.title(result.main)}", number(mean(found.perplexity), 2), _spread(ends, seeds))
    main = interval(found.accuracy)
    return KeyNumber(
        f"test accuracy, {result.title(result.main)}",
        percent(main.mean if main else None),
        _spread(percent_range(main), seeds),
    )


def _spread(text: str, seeds: int) -> str:
    if text:
        return f"{text} (95{THIN}%)"
    return "one seed, no interval" if seeds == 1 else f"the same on all {seeds} seeds, no interval"


def _size(models: Mapping[str, Model]) -> KeyNumber | None:
    teacher, student = models.get("teacher"), models.get("student")
    if not teacher or not student or not teacher.parameters or not student.parameters:
        return None
    both = f"{count(student.parameters)} against {count(teacher.parameters)}"
    if teacher.parameters >= student.parameters:
        return KeyNumber("fewer parameters than the teacher", f"{times(teacher.parameters / student.parameters)}×", both)
    return KeyNumber("more parameters than the teacher", f"{times(student.parameters / teacher.parameters)}×", both)


def _rows(run: Run) -> list[Row]:
    """The teacher first, then the assistants between it and the student, the main arm, the rivals as the result lists them."""
    result = run.result
    rows = [_row(run, arm, "teacher") for arm in ("teacher",) if arm in result.arms]
    rows += [Row(net.title, "teacher", _cells(run, net.per_seed, net, None)) for net in result.assistants]
    rows.append(_row(run, result.main, "main"))
    return rows + [_row(run, arm, "rival") for arm in result.arms if arm not in ("teacher", result.main)]


def _row(run: Run, arm: str, role: str) -> Row:
    model, latency = "teacher" if arm == "teacher" else "student", run.timings.get("latency_ms")
    time = latency.get(model) if isinstance(latency, Mapping) else None
    figures = run.result.arms[arm].per_seed
    if arm == "teacher":
        figures = figures.model_copy(update={"agreement": []})  # with itself
    return Row(run.result.title(arm), role, _cells(run, figures, run.result.models.get(model), time))


def _cells(run: Run, found: PerSeed, cost: Model | None, time: object) -> tuple[tuple[str, str], ...]:
    accuracy = interval(found.accuracy)
    return (
        (percent(accuracy.mean if accuracy else None), percent_range(accuracy)),
        (number(mean(found.nll)), ""),
        *([(number(mean(found.perplexity), 2), "")] if is_language(run) else []),
        (number(mean(found.ece)), ""),
        (percent(mean(found.agreement)), ""),
        (count(cost.parameters) if cost else DASH, ""),
        (amount(cost.flops) if cost else DASH, ""),
        (milliseconds(time) if isinstance(time, int | float) else DASH, ""),
    )


def _comparisons(run: Run) -> Table | None:
    verdict = run.result.verdict
    if verdict is None or not verdict.comparisons:
        return None
    rows = []
    for c in verdict.comparisons:
        fraction = c.metric in {"accuracy", "agreement", "ece"}
        effect = points(c.effect) if fraction else number(c.effect)
        ends = points_range(c) if fraction else (f"{number(c.low)} to {number(c.high)}" if known([c.low, c.high]) else "")
        metric = f"{c.metric}, points" if fraction else f"{c.metric}, nats gained" if c.metric == "nll" else c.metric
        rows.append((run.result.title(c.against), metric, effect, ends or DASH, p_value(c.p), _test(c), said(c)))
    head = ("Against", "Metric", "Mean difference", "95 % interval", "p", "Test", "Answer")
    return Table(f"{run.result.title(run.result.main)} against each rival, paired by seed", head, tuple(rows))


def _test(comparison: Comparison) -> str:
    return "; ".join(part for part in (comparison.test, comparison.reason) if part) or DASH


def _schedule(run: Run) -> str:
    """When weights were taken, as a sentence; empty where nothing is told of it."""
    weights = run.result.weights
    return f"Weights are {weights.schedule}." if weights is not None and weights.schedule else ""


def _weights_facts(run: Run) -> list[tuple[str, str]]:
    weights = run.result.weights
    if weights is None:
        return []
    found = [
        ("Mean weight, label is right", number(mean(weights.mean_weight_clean), 2)),
        ("Mean weight, label is wrong", number(mean(weights.mean_weight_flipped), 2)),
        ("Effective sample size", percent(mean(weights.effective_sample_size), 0) if _shares(weights.effective_sample_size) else
         count(mean(weights.effective_sample_size))),
        ("Weights at their limits", percent(mean(weights.saturated))),
    ]  # fmt: skip
    return [(what, value) for what, value in found if value != DASH]


def _shares(values: list[float | None]) -> bool:
    return all(value <= 1 for value in known(values))


def _events(run: Run) -> tuple[Happening, ...]:
    """Events with the same words in the same arm are put together, with the seeds and steps they happened at."""
    places: dict[tuple[str, str], list[str]] = defaultdict(list)
    for event in run.result.events:
        arm = run.result.title(event.arm) if event.arm else "the run"
        at = ", ".join(f"{name} {value}" for name, value in (("seed", event.seed), ("step", event.step)) if value is not None)
        places[(event.what, arm)].append(at)
    return tuple(Happening(what, f"{arm}: {_some(at)}" if any(at) else arm) for (what, arm), at in places.items())


def _some(places: list[str]) -> str:
    shown = "; ".join(place for place in places[:TOLD] if place)
    return f"{shown}; and {len(places) - TOLD} more" if len(places) > TOLD else shown


def _facts(run: Run) -> list[tuple[str, str]]:
    data, models = run.result.data, run.result.models
    sizes = ", ".join(f"{count(size)} {split}" for split, size in data.counts.items())
    flips, train = mean(data.flipped_in_training), data.counts.get("train")
    answers = f"{len(data.classes)} classes" if not is_language(run) else f"a vocabulary of {count(data.vocabulary)} tokens"
    facts = [("Data", data.name), ("Kind", f"{data.kind}, {answers}"), ("Samples", sizes)]
    if flips is not None:
        share = f" ({percent(flips / train, 0)})" if train else ""
        wrong = "Rows with wrong labels in training" if is_language(run) else "Wrong labels in training"
        facts.append((wrong, f"{count(flips)}{share}, mean over seeds"))
    if data.unlabelled_in_training:
        facts.append(("Without a label in training", count(data.unlabelled_in_training)))
    if data.query_labels:
        facts.append(("Query set's labels", data.query_labels))
    facts += [(part.capitalize(), model.name) for part, model in models.items()]
    facts.append(("Seeds", ", ".join(str(seed) for seed in run.result.seeds)))
    seconds = run.timings.get("seconds")
    spent = seconds.get(run.result.main) if isinstance(seconds, Mapping) else None
    if isinstance(spent, list) and known(spent):
        facts.append(("Training time of the main arm", f"{duration(mean(spent))} per seed"))
    facts.append(("Limbeck", run.result.limbeck or DASH))
    return facts


def _flat(values: Mapping[str, Any], before: str = "") -> list[tuple[str, str]]:
    """Nested values as (name, text), a level joined by a space."""
    rows: list[tuple[str, str]] = []
    for name, value in values.items():
        if isinstance(value, Mapping):
            rows += _flat(value, f"{before}{name} ")
        else:
            rows.append((f"{before}{name}", ", ".join(map(str, value)) if isinstance(value, list) else str(value)))
    return rows
