"""From finished units to what a run says: result.json, samples.parquet, gallery.json, card.md. Reads units, trains nothing.

Over 300 lines, since result, samples, gallery and card are read from the same units and must agree.
"""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from limbeck import __version__
from limbeck.align.taps import Tapped
from limbeck.data.everyone import Everyone
from limbeck.data.source import Source
from limbeck.evaluation.cost import latency_ms
from limbeck.evaluation.flips import flip_auc
from limbeck.evaluation.verdict import ACCURACY, NLL, Metric, judge
from limbeck.experiment import folder as files
from limbeck.experiment.arms import Arm
from limbeck.experiment.measuring import label_columns, opinion
from limbeck.experiment.ready import Ready, answering, cost_of, gives_logits, is_given
from limbeck.experiment.recipe import Parts, Recipe
from limbeck.experiment.seeded import Seeded, doubts_about_queries
from limbeck.experiment.unit import Unit, scored
from limbeck.influence.scores import score
from limbeck.teachers.marks import digest_of
from limbeck.teachers.stored import Stored
from limbeck.teachers.teacher import Teacher

SHOWN = 24
COMPARED = ("effect", "low", "high", "p", "test", "answer", "reason")
Columns = dict[str, list[Any]]


@dataclass(frozen=True)
class Done:
    """All finished units of one seed."""

    data: Seeded
    teacher: Unit
    assistants: Sequence[Unit]
    students: Mapping[str, Unit]

    def guide(self, arm: str) -> nn.Module:
        """The teacher that the arm's student had at the end: its own where it has one, else the last one that all arms share."""
        own = self.students[arm].own_teacher
        return [self.teacher, *self.assistants][-1].model if own is None else own


def kept_seed(done: list[Done], main: str) -> int:
    """The place of the seed whose student is kept: the best on validation, the first of equals. Test has no say."""
    metric = metric_of(done[0])
    found = [metric.sign * float(one.students[main].figures[f"validation_{metric.name}"] or 0.0) for one in done]
    return found.index(max(found))


def metric_of(one: Done) -> Metric:
    """What a run is judged by: accuracy, and for language the loss of a token."""
    return NLL if one.data.spec.kind == "language" else ACCURACY


def result(recipe: Recipe, parts: Parts, arms: list[Arm], done: list[Done], table: Columns) -> dict[str, Any]:
    """All figures, the verdict and its statistics; the same bytes for the same recipe on the same machine."""
    main, first = arms[-1], done[0]
    events = [event for one in done for unit in one.students.values() for event in unit.events]
    return {
        "schema": files.SCHEMA,
        "limbeck": __version__,
        "name": recipe.name,
        "status": "done",
        "seeds": [one.data.seed for one in done],
        "kept_seed": done[kept_seed(done, main.name)].data.seed,
        "data": _data(parts.data, done),
        "models": {
            "teacher": _cost(repr(parts.teacher), first.teacher, first.data),
            "student": _cost(repr(parts.student), first.students[main.name], first.data),
        },
        "arms": {
            "teacher": {"title": "Teacher", "per_seed": _per_seed([one.teacher for one in done])},
            **{arm.name: {"title": arm.title, **_found([one.students[arm.name] for one in done])} for arm in arms},
        },
        **_assistants(parts, done),
        "main": main.name,
        "verdict": _verdict(arms, done),
        "weights": {"schedule": main.schedule(recipe.epochs), **_weights(done, main, table)},
        "events": events,
        "warnings": _warnings(recipe, parts, done, main, events),
    }


def _data(source: Source, done: list[Done]) -> dict[str, Any]:
    """What was trained on."""
    flipped = [_flipped(one) for one in done]
    return {
        "name": source.name,
        "kind": source.kind,
        "classes": list(source.classes),
        "vocabulary": source.vocabulary,
        "input_shape": list(source.input_shape),
        "counts": done[0].data.splits.counts,
        "flipped_in_training": None if None in flipped else flipped,
        "unlabelled_in_training": int((~source.labelled).sum()),
        "query_labels": "labels as given" if source.truth is None else "true labels",
    }


def _verdict(arms: list[Arm], done: list[Done]) -> dict[str, Any]:
    """The answer, and the statistics of every comparison of the last arm with the others."""
    metric, main = metric_of(done[0]), arms[-1]
    judged = {arm.name: [float(one.students[arm.name].figures[metric.name] or 0.0) for one in done] for arm in arms}
    found = judge(judged[main.name], {arm.name: judged[arm.name] for arm in arms[:-1]}, title=main.title, metric=metric)
    comparisons = [
        {"against": name, "metric": metric.name, **{figure: getattr(one, figure) for figure in COMPARED}}
        for name, one in found.comparisons.items()
    ]
    return {
        "answer": found.answer,
        "sentence": found.sentence,
        "against": {name: one.answer for name, one in found.comparisons.items()},
        "comparisons": comparisons,
        "margin": found.margin,
    }


def samples(parts: Parts, main: Arm, done: list[Done]) -> Columns:
    """One row for every (seed, training sample) of the main arm."""
    pieces = [_samples_of(parts, main, one) for one in done]
    return {name: [cell for piece in pieces for cell in piece[name]] for name in pieces[0]}


def _samples_of(parts: Parts, main: Arm, one: Done) -> Columns:
    source, data, unit = parts.data, one.data, one.students[main.name]
    rows = torch.cat([data.splits.train, data.splits.query]).sort().values if main.query_in_training else data.splits.train
    teacher, ours = one.guide(main.name), opinion(unit.deployed, source, rows, data.labels)
    theirs = opinion(answering(teacher), source, rows, data.labels) if gives_logits(teacher) else None
    given, truth = label_columns(source, rows, data.labels)
    query = torch.isin(rows, data.splits.query).tolist()
    return {
        "seed": [data.seed] * len(rows),
        "index": rows.tolist(),
        "split": ["query" if found else "train" for found in query],
        "label": given,
        "true_label": truth,
        **({} if theirs is None else {"teacher_label": theirs.label.tolist()}),
        "student_label": ours.label.tolist(),
        **({} if theirs is None else {"teacher_prob": theirs.prob.tolist()}),
        "student_prob": ours.prob.tolist(),
        "score": _scores(parts, main, one, rows).tolist(),
        "weight": unit.samples["last"][rows].tolist(),
        "mean_weight": unit.samples["mean"][rows].tolist(),
    }


def _scores(parts: Parts, main: Arm, one: Done, rows: Tensor) -> Tensor:
    """Phi of the main arm's training samples on its finished student."""
    train, queries = Everyone(parts.data, rows, one.data.labels, most=512), one.data.queries
    unit = one.students[main.name]
    assert unit.objective is not None
    student, task = scored(unit.objective, unit.model, one.guide(main.name))
    return score(student, task, train, queries.split(-(-len(queries) // train.size)), seed=one.data.seed).phi


def gallery(source: Source, table: Columns) -> dict[str, Any]:
    """How the samples look that the report shows: the most harmful and the most helpful, ranked as the report ranks them."""
    seeds, scores = torch.tensor(table["seed"]), torch.tensor(table["score"])
    for seed in torch.unique(seeds):  # scores have another scale in every seed
        own = scores[seeds == seed]
        scores[seeds == seed] = own / own.square().mean().sqrt().clamp(min=1e-30)
    found: dict[int, list[float]] = {}
    for index, value in zip(table["index"], scores.tolist(), strict=True):
        found.setdefault(index, []).append(value)
    order = sorted(found, key=lambda index: -sum(found[index]) / len(found[index]))
    # Twice the number that is shown: a sample at the edge may fall out where a seed has no row of it.
    wanted = dict.fromkeys([*order[: 2 * SHOWN], *order[-2 * SHOWN :]])
    return {"schema": files.SCHEMA, "samples": [_shown(source, index) for index in wanted]}


def _shown(source: Source, index: int) -> dict[str, Any]:
    shown = source.show(index)
    if shown.kind == "image":
        return {"index": index, "kind": "image", "png_base64": base64.b64encode(shown.png).decode()}
    return {"index": index, "kind": shown.kind, shown.kind: shown.text if shown.kind == "text" else dict(shown.row)}


def timings(done: list[Done], arms: list[Arm]) -> dict[str, Any]:
    """Wall-clock figures, kept apart from result.json so that that file can be the same twice."""
    first, main = done[0], arms[-1].name
    one = first.data.test
    models = {"teacher": first.teacher.model, "student": first.students[main].deployed.model}
    models = {name: model for name, model in models.items() if not isinstance(model, Teacher)}  # others wait on a disk or a net
    waits = {
        size: {name: latency_ms(Tapped(model), one, size=size, repeats=15) for name, model in models.items()} for size in (1, 64)
    }
    units = {"teacher": [one.teacher for one in done], **{arm.name: [o.students[arm.name] for o in done] for arm in arms}}
    units.update({f"assistant-{place + 1}": [one.assistants[place] for one in done] for place in range(len(done[0].assistants))})
    seconds = {name: [unit.seconds for unit in found] for name, found in units.items()}
    return {"schema": files.SCHEMA, "seconds": seconds, "latency_ms": waits[1], "latency_ms_of_64": waits[64]}


def card(recipe: Recipe, found: Mapping[str, Any]) -> str:
    """The model card of the kept student, in Markdown."""
    main = found["arms"][found["main"]]
    place = found["seeds"].index(found["kept_seed"])
    figures = {name: values[place] for name, values in main["per_seed"].items() if values[place] is not None}
    counts = {name: model["parameters"] for name, model in found["models"].items()}
    sizes = {name: f"{count:,}" if count else "a number that it does not say" for name, count in counts.items()}
    lines = [
        f"# {recipe.student}, distilled from {recipe.teacher}",
        "",
        found["verdict"]["sentence"],
        "",
        f"- Data: {found['data']['name']}, {found['data']['counts']['train']} training samples"
        + (", classes " + ", ".join(found["data"]["classes"][:20]) if found["data"]["classes"] else ""),
        f"- Method: {main['title']}, objective `{recipe.objective}`, seed {found['kept_seed']} of {found['seeds']}",
        *_made_so(recipe, main.get("tuned"), place),
        f"- Parameters: {sizes['student']}; the teacher has {sizes['teacher']}",
        *[f"- {name.replace('_', ' ')} on the test split: {value:.4f}" for name, value in figures.items() if "valid" not in name],
        "",
        "The weights are `student.safetensors`: build the student as the recipe names it and load them with `load_state_dict`.",
    ]
    return "\n".join(lines) + "\n"


def _made_so(recipe: Recipe, tuned: list[str] | None, place: int) -> list[str]:
    """Lines of the card on how the kept net came about, where it is more than the last weights of one student."""
    chain = f"- Generations: student {recipe.generations} of {recipe.generations}, each taught by the one before"
    mixed = f" (share {1 - recipe.anchor:g}) and the first one's teacher ({recipe.anchor:g})" if recipe.anchor else ""
    return [
        *([f"- Assistants between teacher and student: {', '.join(recipe.assistants)}"] if recipe.assistants else []),
        *([chain + mixed] if recipe.generations > 1 else []),
        *([f"- Weights: the average `{recipe.average}`"] if recipe.average else []),
        *([f"- Chosen on validation samples: `{tuned[place]}`"] if tuned else []),
    ]


def _cost(name: str, unit: Unit, data: Seeded) -> dict[str, Any]:
    model = unit.model if isinstance(unit.model, Teacher) else unit.deployed
    return {"name": name, **cost_of(model, data.test.take(slice(0, 8)))}


def _assistants(parts: Parts, done: list[Done]) -> dict[str, Any]:
    """Cost and figures of the nets between teacher and student, from the teacher on; nothing where there are none."""
    found = [
        {
            "title": f"Assistant {place + 1}",
            **_cost(repr(net), done[0].assistants[place], done[0].data),
            "per_seed": _per_seed([one.assistants[place] for one in done]),
        }
        for place, net in enumerate(parts.assistants)
    ]
    return {"assistants": found} if found else {}


def _found(units: list[Unit]) -> dict[str, Any]:
    """An arm's figures, and what its terms chose on validation samples."""
    tuned = [unit.tuned for unit in units]
    return {"per_seed": _per_seed(units), **({} if None in tuned else {"tuned": tuned})}


def _per_seed(units: list[Unit]) -> dict[str, list[float | None]]:
    """Each figure over the seeds."""
    table: dict[str, list[float | None]] = {name: [unit.figures.get(name) for unit in units] for name in units[0].figures}
    if any(unit.teacher_after is not None for unit in units):
        table["teacher_accuracy_after"] = [unit.teacher_after for unit in units]
    return table


def _flipped(one: Done) -> int | None:
    return None if one.data.clean is None else int((~one.data.clean[one.data.splits.train]).sum())


def _weights(done: list[Done], main: Arm, table: Columns) -> dict[str, Any]:
    """What the main arm's weights and scores amount to, by seed."""
    last = [[row["weights"] for row in one.students[main.name].rows if row["phase"] == "train"][-1] for one in done]
    ends = [[row for row in one.students[main.name].rows if row["phase"] == "train"][-1] for one in done]
    figures: dict[str, Any] = {
        "effective_sample_size": [row["ess"] for row in last],
        "saturated": [row.get("saturated") for row in ends],
        "flipped_auc": None,
        "mean_weight_flipped": None,
        "mean_weight_clean": None,
    }
    if any(one.data.clean is None for one in done):
        return figures
    seeds, index = torch.tensor(table["seed"]), torch.tensor(table["index"])
    scores, weights = torch.tensor(table["score"]), torch.tensor(table["mean_weight"])
    rows = [(seeds == one.data.seed, ~_known(one)) for one in done]
    if not all(bool(flipped.any()) for _, flipped in rows):
        return figures
    figures["flipped_auc"] = [flip_auc(scores[own], flipped[index[own]]) for own, flipped in rows]
    figures["mean_weight_flipped"] = [float(weights[own][flipped[index[own]]].mean()) for own, flipped in rows]
    figures["mean_weight_clean"] = [float(weights[own][~flipped[index[own]]].mean()) for own, flipped in rows]
    return figures


def _known(one: Done) -> Tensor:
    assert one.data.clean is not None
    return one.data.clean


def _warnings(recipe: Recipe, parts: Parts, done: list[Done], main: Arm, events: list[dict[str, Any]]) -> list[str]:
    """What a reader should know before believing the figures."""
    said = []
    figures = [one.teacher.figures.get("accuracy") for one in done]
    teacher = None if None in figures else sum(float(figure or 0) for figure in figures) / len(done)
    student = sum(float(one.students[main.name].figures["accuracy"] or 0) for one in done) / len(done)
    if teacher is not None and teacher < student:
        said.append(
            f"The teacher ({teacher:.1%}) is worse than its student ({student:.1%}) on the test split: look at the teacher first."
        )
    if _seen_elsewhere(parts, done[0].data) and parts.data.test_rows is None:
        said.append(
            "The teacher was not trained in this run and the test split was cut here: if it was trained on these rows, "
            "all distilled students look too good."
        )
    said += parts.data.doubts
    if main.weighting().needs_queries:
        said += doubts_about_queries(parts.data, done[0].data)
    if recipe.seeds == 1:
        said.append("One seed cannot tell an effect from chance; take at least 3.")
    if any(event["arm"] == main.name for event in events):
        said.append("Something happened while the main arm was trained: see the events.")
    return said


def _seen_elsewhere(parts: Parts, data: Seeded) -> bool:
    """Whether nobody knows that the teacher was trained without the test rows."""
    if isinstance(parts.teacher, Ready) and isinstance(parts.teacher.teacher, Stored):
        return parts.teacher.teacher.manifest.held_out != digest_of(data.splits.test)
    return parts.teacher_weights is not None or is_given(parts.teacher)
