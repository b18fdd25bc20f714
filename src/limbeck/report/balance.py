"""What balancer and mixture did in the main arm, by epoch: lambda or factors, the gradients' angle and lengths, the shares."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import final

from limbeck.report.charts import Figure, Table, area, axis, finish, level, line
from limbeck.report.palette import LIGHT
from limbeck.report.reading import Run
from limbeck.report.statistics import Band, learning_band
from limbeck.report.wording import DASH, number

SYMBOLS = ("circle-open", "square-open", "diamond-open", "triangle-up-open")


@final
@dataclass(frozen=True)
class Kind:
    """One figure: which values of a row of metrics it draws.

    Args:
        key: Of the figure.
        title: Above it.
        unit: Of the upright axis.
        told: What the values are, one sentence.
        names: Value -> the name of its line.
        prefix: All values whose names begin so, in the place of `names`; the rest of the name is that of a term or domain.
        at: Where a level line helps the eye.
    """

    key: str
    title: str
    unit: str
    told: str
    names: Mapping[str, str] = field(default_factory=dict)
    prefix: str = ""
    at: float | None = None

    def lines(self, known: list[str]) -> Mapping[str, str]:
        """Value -> name of the line, of those that the rows have."""
        if self.prefix:
            return {name: name.removeprefix(self.prefix) for name in known if name.startswith(self.prefix)}
        return {name: title for name, title in self.names.items() if name in known}


KINDS = (
    Kind("lambda", "Lambda", "lambda", "The weight of the distillation loss.", {"lambda": "lambda"}),
    Kind("factors", "Factors", "factor", "What the terms' coefficients are multiplied by.", prefix="factor_", at=1),
    Kind("variances", "Log-variances", "log-variance", "The larger, the less the term counts.", prefix="log_variance_", at=0),
    Kind(
        "angle",
        "Angle of the two gradients",
        "cosine of the angle",
        "Below 0 the task loss and the distillation loss pull against each other.",
        {"gradient_cosine": "cos ψ"},
        at=0,
    ),
    Kind(
        "norms",
        "Lengths of the two gradients",
        "length",
        "Where the balancer takes its gradients, without coefficients of its own.",
        {"task_gradient": "task loss", "distillation_gradient": "distillation loss"},
    ),
    Kind("mixture", "Mixture of domains", "share", "How often each domain is drawn.", prefix="share_"),
    Kind("lag", "Lag by domain", "ratio", "The student's perplexity on the query set over the teacher's.", prefix="lag_", at=1),
)


def balance(run: Run) -> tuple[Figure, ...]:
    """The figures for which there are values in at least two epochs; none where nothing was balanced."""
    main = run.result.main
    rows = [row for row in run.metrics if row.get("arm") == main and row.get("phase") == "train"]
    known = list(dict.fromkeys(name for row in rows for name in row))
    found = []
    for kind in KINDS:
        bands = {title: learning_band(run.metrics, main, "train", (name,)) for name, title in kind.lines(known).items()}
        drawn = {title: band for title, band in bands.items() if band is not None and len(band.x) > 1}
        if drawn:
            found.append(_figure(kind, drawn))
    return tuple(found)


def _figure(kind: Kind, drawn: Mapping[str, Band]) -> Figure:
    traces: list[object] = []
    for place, (title, band) in enumerate(drawn.items()):
        colour = ("accent", "second")[place] if place < 2 else "grey"
        look: dict[str, object] = {"hovertemplate": "%{y:.3~g}", "showlegend": len(drawn) > 1}
        if place < 2:
            traces.append(area(band.x, band.low, band.high, f"{colour}-soft"))
            look |= {"width": 2.5, "dash": ("solid", "dash")[place]}
        else:
            marker = {"symbol": SYMBOLS[place % len(SYMBOLS)], "size": 7, "maxdisplayed": 8, "color": LIGHT["grey"]}
            look |= {"width": 1.25, "mode": "lines+markers", "marker": marker}
        traces.append(line(band.x, band.mean, title, colour, **look))
    spec = finish(
        traces,
        height=320,
        x=axis("epoch", showgrid=False),
        y=axis(kind.unit),
        hovermode="x unified",
        shapes=[] if kind.at is None else [level(kind.at, "ink", "dot")],
    )
    ends = ", ".join(f"{title} {number(band.mean[-1])}" for title, band in drawn.items())
    return Figure(
        key=f"balance-{kind.key}",
        title=kind.title,
        caption=f"{kind.told} At the last step of each epoch, mean over seeds; bands reach from the lowest to the highest seed.",
        label=f"{kind.title} against the epoch. At the last epoch: {ends}.",
        spec=spec,
        table=_table(kind, drawn),
    )


def _table(kind: Kind, drawn: Mapping[str, Band]) -> Table:
    epochs = sorted({x for band in drawn.values() for x in band.x})
    values = [dict(zip(band.x, band.mean, strict=True)) for band in drawn.values()]
    shown = epochs[:: max(1, len(epochs) // 12)]
    rows = tuple((f"{x:g}", *(number(own[x]) if x in own else DASH for own in values)) for x in shown)
    return Table(f"{kind.title}: mean over seeds at some epochs", ("Epoch", *drawn), rows)
