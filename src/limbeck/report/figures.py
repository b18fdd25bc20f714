"""The figures of the report. Each carries its words and its table, for those who do not see it."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from limbeck.report.charts import Figure, Table, area, axis, finish, level, line, note, plain, upright
from limbeck.report.palette import LIGHT
from limbeck.report.reading import Run, Samples
from limbeck.report.schema import Comparison
from limbeck.report.statistics import Band, FoundCurve, differences, found_curve, learning_band, mean, own_loss
from limbeck.report.wording import number, percent, points, points_range

ANSWER_SYMBOL = {"better": "circle", "not better": "diamond-open", "undecided": "circle-open"}
SYMBOLS = ("circle-open", "square-open", "diamond-open", "triangle-up-open", "x-thin-open", "cross-thin-open", "star-open")


def effects(run: Run) -> Figure | None:
    """Paired effects in accuracy against each rival: a tick per seed, mean and 95 % interval, a line at zero."""
    verdict = run.result.verdict
    shown = [c for c in (verdict.comparisons if verdict else ()) if c.metric == "accuracy" and c.effect is not None]
    if verdict is None or not shown:
        return None
    traces: list[Any] = []
    notes: list[dict[str, object]] = []
    for y, comparison in zip(range(len(shown) - 1, -1, -1), shown, strict=True):
        traces += _effect(run, comparison, y)
        name = plain(run.result.title(comparison.against), 40)
        notes.append(note(f"<b>{points(comparison.effect)}</b>  {name}", y + 0.34))
    margin = 100 * verdict.margin
    low, high = _reach(traces, margin)
    spec = finish(
        traces,
        height=70 * len(shown) + 60,
        x=axis("difference in test accuracy, percentage points", tickformat=".3~g", range=[low, high]),
        y={"visible": False, "range": [-0.55, len(shown) - 0.4], "fixedrange": True},
        shapes=[upright(0, "ink"), *(level(y + 0.58, "line") for y in range(len(shown) - 1))]
        + ([upright(margin, "muted", "dot")] if margin else []),
        annotations=notes,
        showlegend=False,
        hovermode="closest",
    )
    rows = tuple((run.result.title(c.against), points(c.effect), points_range(c), c.answer, c.test) for c in shown)
    told = "; ".join(f"against {row[0]} {row[1]} points ({row[2] or 'no interval'}), {row[3]}" for row in rows)
    dotted = f"The dotted line marks the margin of {number(margin, 1)} points. " if margin else ""
    return Figure(
        key="effects",
        title="The difference to each rival",
        caption="The dot is the mean difference over paired seeds, the bar its 95 % interval, each tick below it one seed. Right "
        f"of the solid line at zero is better. {dotted}Full dot: better; open dot: undecided; open diamond: not better.",
        label=f"Dot-and-interval plot of paired differences in test accuracy: {told}.",
        spec=spec,
        table=Table(
            "Paired differences in test accuracy, percentage points", ("Rival", "Mean", "95 % interval", "Answer", "Test"), rows
        ),
    )


def _reach(traces: list[Any], margin: float) -> tuple[float, float]:
    """The range of the axis: all that is drawn, and zero and the margin, with some air."""
    values = [0.0, margin, *(float(x) for trace in traces for x in trace.x)]
    air = 0.06 * (max(values) - min(values)) or 1.0
    return min(values) - air, max(values) + air


def _effect(run: Run, comparison: Comparison, y: float) -> list[object]:
    """One row of the plot: the seeds as ticks, the interval as a bar, the mean as a dot."""
    arms = run.result.arms
    rival = arms.get(comparison.against)
    seeds = differences(arms[run.result.main].per_seed.accuracy, rival.per_seed.accuracy) if rival else []
    tick = {"size": 9, "symbol": "line-ns-open", "line": {"width": 1.5, "color": LIGHT["grey"]}, "color": LIGHT["grey"]}
    dot = {"size": 12, "symbol": ANSWER_SYMBOL[comparison.answer], "line": {"width": 2.5, "color": LIGHT["accent"]}}
    bar = [] if comparison.low is None or comparison.high is None else [100 * comparison.low, 100 * comparison.high]
    return [
        go.Scatter(
            x=[100 * seed for seed in seeds],
            y=[y - 0.2] * len(seeds),
            mode="markers",
            marker=tick,
            hovertemplate="one seed: %{x:+.2f}<extra></extra>",
        ),
        go.Scatter(x=bar, y=[y] * len(bar), mode="lines", line={"color": LIGHT["accent"], "width": 3}, hoverinfo="skip"),
        go.Scatter(
            x=[100 * (comparison.effect or 0.0)],
            y=[y],
            mode="markers",
            marker=dot | {"color": LIGHT["accent"]},
            hovertemplate="mean: %{x:+.2f}<extra></extra>",
        ),
    ]


def learning(run: Run, what: str) -> Figure | None:
    """Validation accuracy or loss of every arm against the epoch: mean over seeds, bands for the main arm and one rival."""
    result = run.result
    arms = [arm for arm in result.arms if arm != "teacher"]
    paths = {"accuracy": ("accuracy",), "loss": ("nll",)}
    bands = {arm: learning_band(run.metrics, arm, "validation", paths[what]) for arm in arms}
    if what == "loss":
        bands = {arm: found or learning_band(run.metrics, arm, "validation", ("loss",)) for arm, found in bands.items()}
    drawn = {arm: found for arm, found in bands.items() if found is not None}
    if not drawn:
        return None
    rival = next((arm for arm in ("uniform", "no_kd") if arm in drawn and arm != result.main), None)
    scale = 100.0 if what == "accuracy" else 1.0
    traces = _learning_traces(run, drawn, rival, scale)
    unit = "validation accuracy, %" if what == "accuracy" else "validation loss, nats"
    low, high, cut = _window(list(drawn.values()))
    legend = 23 * len(drawn)
    spec = finish(
        traces,
        height=350 + legend,
        x=axis("epoch", showgrid=False, range=_epochs(list(drawn.values()))),
        y=axis(unit, range=[scale * low, scale * high]),
        hovermode="x unified",
        legend={"orientation": "v", "x": 0, "y": -50 / 290, "yanchor": "top", "xanchor": "left", "font": {"size": 12.5}},
        margin={"l": 8, "r": 12, "t": 12, "b": 48 + legend},
    )
    last = {arm: found.mean[-1] for arm, found in drawn.items()}
    said = "; ".join(f"{result.title(arm)} {_value(what, value)}" for arm, value in last.items())
    bands_of = " and ".join(result.title(arm) for arm in (result.main, rival) if arm in drawn)
    left_out = " The axis leaves out values of the first epochs." if cut else ""
    return Figure(
        key=f"learning-{what}",
        title="Validation accuracy" if what == "accuracy" else "Validation loss",
        caption=f"Mean over seeds. The bands, of {bands_of}, reach from the lowest to the highest seed.{left_out}",
        label=f"Learning curves of {unit} against the epoch, one per arm. At the last epoch: {said}.",
        spec=spec,
        table=_learning_table(run, drawn, what, unit),
    )


def _epochs(curves: list[Band]) -> list[float]:
    """The range of epochs, with a little air at the end for the last marker."""
    first, last = min(curve.x[0] for curve in curves), max(curve.x[-1] for curve in curves)
    return [first, last + 0.02 * (last - first or 1.0)]


def _window(curves: list[Band]) -> tuple[float, float, bool]:
    """The range of values after the first fifth of the epochs, with some air, and whether values lie outside of it."""
    late = [
        (low, high)
        for curve in curves
        for x, low, high in zip(curve.x, curve.low, curve.high, strict=True)
        if x >= curve.x[0] + 0.2 * (curve.x[-1] - curve.x[0])
    ]
    lowest, highest = min(low for low, _ in late), max(high for _, high in late)
    air = 0.06 * (highest - lowest) or 0.05
    outside = any(min(curve.low) < lowest - air or max(curve.high) > highest + air for curve in curves)
    return lowest - air, highest + air, outside


def _learning_traces(run: Run, drawn: dict[str, Band], rival: str | None, scale: float) -> list[object]:
    main = run.result.main
    order = [arm for arm in drawn if arm not in (main, rival)] + [arm for arm in (rival, main) if arm in drawn]
    traces: list[object] = []
    for place, arm in enumerate(order):
        found, title = drawn[arm], run.result.title(arm)
        y = [scale * value for value in found.mean]
        look: dict[str, object] = {
            "hovertemplate": "%{y:.3~g}",
            "legendrank": 900 if arm == main else 950 if arm == rival else 1000,
        }
        if arm in (main, rival):
            colour = "accent" if arm == main else "second"
            traces.append(area(found.x, [scale * v for v in found.low], [scale * v for v in found.high], f"{colour}-soft"))
            traces.append(line(found.x, y, title, colour, width=3 if arm == main else 2.25, **look))
        else:
            marker = {"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 7, "maxdisplayed": 8, "color": LIGHT["grey"]}
            traces.append(line(found.x, y, title, "grey", width=1.25, mode="lines+markers", marker=marker, **look))
    return traces


def _value(what: str, value: float) -> str:
    return percent(value) if what == "accuracy" else number(value)


def _learning_table(run: Run, drawn: dict[str, Band], what: str, unit: str) -> Table:
    epochs = sorted({x for found in drawn.values() for x in found.x})
    shown = [epochs[i] for i in sorted({int(i) for i in np.linspace(0, len(epochs) - 1, min(len(epochs), 12))})]
    values = {arm: dict(zip(found.x, found.mean, strict=True)) for arm, found in drawn.items()}
    rows = tuple(
        (f"{epoch:g}", *(_value(what, values[arm][epoch]) if epoch in values[arm] else "–" for arm in drawn)) for epoch in shown
    )
    return Table(
        f"{unit.capitalize()}: mean over seeds at some epochs", ("Epoch", *(run.result.title(arm) for arm in drawn)), rows
    )


def weights(samples: Samples) -> Figure | None:
    """Distribution of the mean weight over the run, clean against flipped where the truth is known."""
    name = "mean_weight" if np.isfinite(samples["mean_weight"]).any() else "weight"
    train = samples.where((samples.split == "train") & np.isfinite(samples[name]))
    if not len(train):
        return None
    value = train[name]
    groups = {"all samples": np.ones(len(train), dtype=bool)}
    if train.flipped.any():
        groups = {"clean": train.truth_known & ~train.flipped, "flipped": train.flipped}
    edges = np.linspace(0.0, max(2.0, float(value.max())), 41)
    bins = {key: np.histogram(value[rows], edges)[0] / max(int(rows.sum()), 1) for key, rows in groups.items()}
    titles = {"clean": "label is right", "flipped": "label is wrong", "all samples": "all samples"}
    traces = [_bars(edges, bins[key], titles[key], "second" if key == "flipped" else "accent") for key in groups]
    spec = finish(
        traces,
        height=380,
        x=axis("weight (1: as in plain training)", showgrid=False, range=[0, float(edges[-1])]),
        y=axis("share of the group", tickformat=".0%", rangemode="tozero"),
        barmode="overlay",
        bargap=0.06,
        hovermode="x unified",
        shapes=[upright(1, "ink", "dot")],
    )
    means = ", ".join(f"{titles[key]}: mean {number(float(value[rows].mean()), 2)}" for key, rows in groups.items() if rows.any())
    span = "mean over the run" if name == "mean_weight" else "weight at the end"
    return Figure(
        key="weights",
        title="Weights the samples were given",
        caption=f"Each training sample counts once per seed, with its {span}. Weights above 1 count more than in plain training, "
        f"weights below 1 less. {means[0].upper()}{means[1:]}.",
        label=f"Histogram of the weights of training samples. {means}.",
        spec=spec,
        table=_bins_table(edges, bins, titles),
    )


def _bars(edges: np.ndarray[Any, np.dtype[np.float64]], share: np.ndarray[Any, np.dtype[Any]], name: str, colour: str) -> object:
    middle = ((edges[1:] + edges[:-1]) / 2).tolist()
    pattern = {"shape": "/" if colour == "second" else "", "size": 5, "solidity": 0.35, "fgcolor": LIGHT["second"]}
    marker = {"color": LIGHT[f"{colour}-fill"], "line": {"width": 1, "color": LIGHT[colour]}, "pattern": pattern}
    return go.Bar(x=middle, y=share.tolist(), name=name, marker=marker, hovertemplate="%{y:.1%}")


def _bins_table(edges: np.ndarray[Any, np.dtype[np.float64]], bins: dict[str, Any], titles: dict[str, str]) -> Table:
    rows = []
    for start in range(0, len(edges) - 1, 4):
        shares = (percent(float(share[start : start + 4].sum())) for share in bins.values())
        rows.append((f"{edges[start]:.2f} to {edges[start + 4]:.2f}", *shares))
    return Table("Share of each group by weight", ("Weight", *(titles[key].capitalize() for key in bins)), tuple(rows))


def weights_over_time(run: Run) -> Figure | None:
    """Mean weight of flipped and of clean samples against the epoch, where the truth is known."""
    main = run.result.main
    found = {key: learning_band(run.metrics, main, "train", ("weights", key)) for key in ("clean", "flipped")}
    clean, flipped = found["clean"], found["flipped"]
    if clean is None or flipped is None or len(clean.x) < 2:
        return None
    traces: list[object] = []
    for curve, colour, name, dash in (
        (clean, "accent", "label is right", "solid"),
        (flipped, "second", "label is wrong", "dash"),
    ):
        traces.append(area(curve.x, curve.low, curve.high, f"{colour}-soft"))
        traces.append(line(curve.x, curve.mean, name, colour, width=2.5, dash=dash, hovertemplate="%{y:.2f}"))
    spec = finish(
        traces,
        height=380,
        x=axis("epoch", showgrid=False),
        y=axis("mean weight", rangemode="tozero"),
        hovermode="x unified",
        shapes=[level(1, "ink", "dot")],
    )
    ends = f"right labels {number(clean.mean[-1], 2)}, wrong labels {number(flipped.mean[-1], 2)}"
    step = max(1, len(clean.x) // 12)
    at = dict(zip(flipped.x, flipped.mean, strict=True))
    rows = tuple((f"{x:g}", number(y, 2), number(at.get(x), 2)) for x, y in list(zip(clean.x, clean.mean, strict=True))[::step])
    return Figure(
        key="weights-time",
        title="Weights while training",
        caption=f"Mean over seeds; the bands reach from the lowest to the highest seed. At the last epoch: {ends}.",
        label=f"Mean weight of samples against the epoch. At the last epoch: {ends}.",
        spec=spec,
        table=Table("Mean weight by epoch", ("Epoch", "Label is right", "Label is wrong"), rows),
    )


def found(run: Run) -> Figure | None:
    """Share of flipped labels found against the share of samples looked at, most harmful first."""
    samples = run.samples
    if samples is None:
        return None
    curve = found_curve(samples, samples["score"])
    if curve is None:
        return None
    loss = found_curve(samples, own_loss(samples))
    traces: list[object] = [
        line([0, 1], [0, 1], "random order", "grey", width=1.5, dash="dot", hovertemplate="%{y:.0%}", legendrank=1002),
        line(
            [0, curve.flipped, 1], [0, 1, 1], "best possible", "grey", width=1.5, dash="dash", hoverinfo="skip", legendrank=1003
        ),
    ]
    if loss is not None:
        traces.append(
            line(
                loss.looked,
                loss.found,
                "by the sample's own loss",
                "second",
                dash="dash",
                hovertemplate="%{y:.0%}",
                legendrank=1001,
            )
        )
    traces.append(area(curve.looked, curve.low, curve.high, "accent-soft"))
    traces.append(line(curve.looked, curve.found, "by influence score", "accent", width=3, hovertemplate="%{y:.0%}"))
    spec = finish(
        traces,
        height=420,
        x=axis("share of samples looked at", tickformat=".0%", range=[0, 1], hoverformat=".0%"),
        y=axis("share of wrong labels found", tickformat=".0%", range=[0, 1.02]),
        hovermode="x unified",
    )
    return _found_figure(run, curve, loss, spec)


def _found_figure(run: Run, curve: FoundCurve, loss: FoundCurve | None, spec: dict[str, Any]) -> Figure:
    def at(of: FoundCurve, share: float) -> float:
        return float(np.interp(share, of.looked, of.found))

    auc = mean(run.result.weights.flipped_auc) if run.result.weights else None
    told = f"The most harmful 20 % of the samples hold {percent(at(curve, 0.2), 0)} of the wrong labels"
    told += f"; {percent(curve.flipped, 0)} of all labels are wrong."
    told += f" Area under the curve of score for a wrong label: {number(auc)} (0.5 is chance)." if auc is not None else ""
    note = " Own loss: minus the logarithm of the trained student's probability of the given label." if loss is not None else ""
    head = ("Looked at", "By influence score", *(("By own loss",) if loss else ()), "Random order")
    rows = tuple(
        (percent(s, 0), percent(at(curve, s), 0), *((percent(at(loss, s), 0),) if loss else ()), percent(s, 0))
        for s in (0.05, 0.1, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0)
    )
    return Figure(
        key="found",
        title="Wrong labels found by looking at the most harmful samples first",
        caption=told + note + " The band reaches from the lowest to the highest seed.",
        label=f"Curve of wrong labels found against samples looked at. {told}",
        spec=spec,
        table=Table("Share of wrong labels found", head, rows),
    )
