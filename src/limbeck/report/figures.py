"""The figures of the report. Each carries its words and its table, for those who do not see it."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from limbeck.report.charts import Figure, Table, area, axis, finish, level, line, note, plain, upright
from limbeck.report.judged import CEILING, compared, judged_by, said
from limbeck.report.palette import LIGHT
from limbeck.report.reading import Run, Samples
from limbeck.report.schema import Comparison
from limbeck.report.statistics import FoundCurve, found_curve, learning_band, mean, own_loss
from limbeck.report.wording import number, percent

SYMBOL = {"better": "circle", "not better": "diamond-open", "undecided": "circle-open", "ceiling": "triangle-up-open"}


def effects(run: Run) -> Figure | None:
    """Paired effects against each rival: a tick per seed, mean and 95 % interval, a line at zero."""
    verdict, judged = run.result.verdict, judged_by(run)
    shown = [c for c in compared(run, verdict.comparisons if verdict else ()) if c.effect is not None]
    if verdict is None or not shown:
        return None
    traces: list[Any] = []
    notes: list[dict[str, object]] = []
    for y, comparison in zip(range(len(shown) - 1, -1, -1), shown, strict=True):
        traces += _effect(run, comparison, y)
        name = plain(run.result.title(comparison.against), 40)
        notes.append(note(f"<b>{judged.gain(comparison.effect)}</b>  {name}", y + 0.34))
    margin = judged.scale * verdict.margin
    low, high = _reach(traces, margin)
    spec = finish(
        traces,
        height=70 * len(shown) + 60,
        x=axis(f"difference in {judged.what}, {judged.unit}", tickformat=".3~g", range=[low, high]),
        y={"visible": False, "range": [-0.55, len(shown) - 0.4], "fixedrange": True},
        shapes=[upright(0, "ink"), *(level(y + 0.58, "line") for y in range(len(shown) - 1))]
        + ([upright(margin, "muted", "dot")] if margin else []),
        annotations=notes,
        showlegend=False,
        hovermode="closest",
    )
    rows = tuple((run.result.title(c.against), judged.gain(c.effect), judged.ends(c), said(c), c.test) for c in shown)
    unit = "points" if judged.metric == "accuracy" else "nats"
    told = "; ".join(f"against {row[0]} {row[1]} {unit} ({row[2] or 'no interval'}), {row[3]}" for row in rows)
    above = " Grey triangle: a ceiling that knows the wrong labels, no rival." if any(c.against == CEILING for c in shown) else ""
    dotted = f"The dotted line marks the margin of {number(margin, judged.digits)} {unit}. " if margin else ""
    return Figure(
        key="effects",
        title="The difference to each rival",
        caption="The dot is the mean difference over paired seeds, the bar its 95 % interval, each tick below it one seed. Right "
        f"of the solid line at zero is better. {dotted}Full dot: better; open dot: undecided; open diamond: not better.{above}",
        label=f"Dot-and-interval plot of paired differences in {judged.what}: {told}.",
        spec=spec,
        table=Table(
            f"Paired differences in {judged.what}, {judged.unit}", ("Rival", "Mean", "95 % interval", "Answer", "Test"), rows
        ),
    )


def _reach(traces: list[Any], margin: float) -> tuple[float, float]:
    """The range of the axis: all that is drawn, and zero and the margin, with some air."""
    values = [0.0, margin, *(float(x) for trace in traces for x in trace.x)]
    air = 0.06 * (max(values) - min(values)) or 1.0
    return min(values) - air, max(values) + air


def _effect(run: Run, comparison: Comparison, y: float) -> list[object]:
    """One row of the plot: the seeds as ticks, the interval as a bar, the mean as a dot."""
    arms, judged = run.result.arms, judged_by(run)
    rival, scale = arms.get(comparison.against), judged.scale
    seeds = judged.seeds(arms[run.result.main].per_seed, rival.per_seed) if rival else []
    tick = {"size": 9, "symbol": "line-ns-open", "line": {"width": 1.5, "color": LIGHT["grey"]}, "color": LIGHT["grey"]}
    colour = LIGHT["grey" if comparison.against == CEILING else "accent"]
    dot = {"size": 12, "symbol": SYMBOL[said(comparison)], "line": {"width": 2.5, "color": colour}, "color": colour}
    bar = [] if comparison.low is None or comparison.high is None else [scale * comparison.low, scale * comparison.high]
    return [
        go.Scatter(
            x=seeds,
            y=[y - 0.2] * len(seeds),
            mode="markers",
            marker=tick,
            hovertemplate="one seed: %{x:+.2f}<extra></extra>",
        ),
        go.Scatter(x=bar, y=[y] * len(bar), mode="lines", line={"color": colour, "width": 3}, hoverinfo="skip"),
        go.Scatter(
            x=[scale * (comparison.effect or 0.0)],
            y=[y],
            mode="markers",
            marker=dot,
            hovertemplate="mean: %{x:+.2f}<extra></extra>",
        ),
    ]


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
        x=axis("share of samples looked at", tickformat=".0%", range=[0, 1.001], dtick=0.25, hoverformat=".0%"),
        y=axis("share of wrong labels found", tickformat=".0%", range=[0, 1.02]),
        margin={"l": 8, "r": 26, "t": 12, "b": 8},
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
