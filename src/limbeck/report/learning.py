"""The learning curves: the main arm and one rival in colour, with bands; the other arms in grey, told apart by their marks."""

import numpy as np

from limbeck.report.charts import Figure, Table, area, axis, finish, line
from limbeck.report.palette import LIGHT
from limbeck.report.reading import Run
from limbeck.report.statistics import Band, learning_band
from limbeck.report.wording import number, percent

MANY, WHOLE = 8, {"dtick": 1}
"""Over fewer epochs than this each one has its tick, and there are none between them."""

SYMBOLS = ("circle-open", "square-open", "diamond-open", "triangle-up-open", "x-thin-open", "cross-thin-open", "star-open")


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
    epochs, legend = _epochs(list(drawn.values())), 23 * len(drawn)
    spec = finish(
        traces,
        height=350 + legend,
        x=axis("epoch", showgrid=False, range=epochs, **WHOLE if epochs[1] - epochs[0] < MANY else {}),
        y=axis(unit, range=[scale * low, scale * high]),
        hovermode="x unified",
        legend={"orientation": "v", "x": 0, "y": -50 / 290, "yanchor": "top", "xanchor": "left", "font": {"size": 12.5}},
        margin={"l": 8, "r": 12, "t": 12, "b": 48 + legend},
    )
    last = {arm: found.mean[-1] for arm, found in drawn.items()}
    said = "; ".join(f"{result.title(arm)} {_value(what, value)}" for arm, value in last.items())
    bands_of = " and ".join(result.title(arm) for arm in (result.main, rival) if arm in drawn)
    seeds = f"Mean over seeds. The bands, of {bands_of}, reach from the lowest to the highest seed."
    left_out = " The axis leaves out values of the first epochs." if cut else ""
    return Figure(
        key=f"learning-{what}",
        title="Validation accuracy" if what == "accuracy" else "Validation loss",
        caption=(seeds if len(result.seeds) > 1 else "One seed.") + left_out,
        label=f"Learning curves of {unit} against the epoch, one per arm. At the last epoch: {said}.",
        spec=spec,
        table=_learning_table(run, drawn, what, unit),
    )


def _epochs(curves: list[Band]) -> list[float]:
    """The range of epochs, with a little air at the end for the last marker; a single one stands in the middle."""
    first, last = min(curve.x[0] for curve in curves), max(curve.x[-1] for curve in curves)
    return [first, last + 0.02 * (last - first)] if first < last else [first - 0.5, last + 0.5]


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
