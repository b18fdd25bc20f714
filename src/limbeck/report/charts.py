"""What all figures share: their frame, axes and lines, made by plotly in light colours.

Text that comes from data goes through `plain`: plotly reads `<b>`, `<a href>` and entities in its labels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, final

import plotly.graph_objects as go

from limbeck.report.palette import LIGHT


@final
@dataclass(frozen=True)
class Table:
    """A table: a caption, the columns' heads and rows of text; the first cell of a row is its head."""

    caption: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@final
@dataclass(frozen=True)
class Figure:
    """A figure: its words, what a screen reader says in its place, plotly's specification, and the figures as a table."""

    key: str
    title: str
    caption: str
    label: str
    spec: dict[str, Any]
    table: Table

    @property
    def height(self) -> int:
        """Height in CSS pixels."""
        return int(self.spec["layout"]["height"])


def plain(text: str, most: int = 60) -> str:
    """Text as plotly shows it letter for letter, cut after `most` letters."""
    return escape(text if len(text) <= most else text[: most - 1] + "…", quote=False)


def axis(title: str, **more: object) -> dict[str, object]:
    """An axis: its title, quiet grid, no dragging."""
    base: dict[str, object] = {
        "title": {"text": title, "font": {"size": 13, "color": LIGHT["muted"]}, "standoff": 10},
        "tickfont": {"size": 12, "color": LIGHT["muted"]},
        "gridcolor": LIGHT["line"],
        "linecolor": LIGHT["line"],
        "zeroline": False,
        "fixedrange": True,
        "automargin": True,
    }
    return base | more


def finish(
    traces: Sequence[object], *, height: int, x: dict[str, object], y: dict[str, object], **more: object
) -> dict[str, Any]:
    """Traces and layout as plotly.js takes them."""
    layout: dict[str, object] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 8},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "font": {"family": "system-ui, -apple-system, 'Segoe UI', Roboto, 'Liberation Sans', sans-serif", "color": LIGHT["ink"]},
        "hoverlabel": {"bgcolor": LIGHT["paper"], "bordercolor": LIGHT["line"], "font": {"color": LIGHT["ink"], "size": 13}},
        "legend": {"orientation": "h", "x": 0, "xanchor": "left", "y": 1.02, "yanchor": "bottom", "font": {"size": 13}},
        "dragmode": False,
        "xaxis": x,
        "yaxis": y,
    }
    figure = go.Figure(data=list(traces), layout={"template": None} | layout | more)
    spec: dict[str, Any] = figure.to_plotly_json()
    return {"data": spec["data"], "layout": spec["layout"]}


def line(x: Sequence[float], y: Sequence[float], name: str, colour: str, **more: object) -> object:
    """A line in one of the palette's colours."""
    stroke = {"color": LIGHT[colour], "width": more.pop("width", 2), "dash": more.pop("dash", "solid")}
    alone = len(x) == 1  # one epoch: a line through one point is nothing to see
    look: dict[str, object] = {"mode": "markers" if alone else "lines", "line": stroke, "marker": {"size": 8 if alone else 6}}
    return go.Scatter(x=list(x), y=list(y), name=plain(name), **(look | more))


def area(x: Sequence[float], low: Sequence[float], high: Sequence[float], colour: str) -> object:
    """A band between two curves."""
    edge = [*high, *reversed(low)]
    along = [*x, *reversed(x)]
    return go.Scatter(
        x=along,
        y=edge,
        fill="toself",
        fillcolor=LIGHT[colour],
        line={"width": 0},
        hoverinfo="skip",
        showlegend=False,
        mode="lines",
    )


def note(text: str, y: float) -> dict[str, object]:
    """A line of text at the left edge, at height y."""
    place = {"xref": "paper", "x": 0, "xanchor": "left", "y": y, "yanchor": "middle", "showarrow": False, "align": "left"}
    return place | {"bgcolor": LIGHT["paper"], "borderpad": 2, "text": text, "font": {"size": 13, "color": LIGHT["ink"]}}


def upright(x: float, colour: str, dash: str = "solid") -> dict[str, object]:
    """An upright line at x."""
    stroke = {"color": LIGHT[colour], "width": 1, "dash": dash}
    return {"type": "line", "x0": x, "x1": x, "yref": "paper", "y0": 0, "y1": 1, "line": stroke, "layer": "between"}


def level(y: float, colour: str, dash: str = "solid") -> dict[str, object]:
    """A level line at y."""
    stroke = {"color": LIGHT[colour], "width": 1, "dash": dash}
    return {"type": "line", "y0": y, "y1": y, "xref": "paper", "x0": 0, "x1": 1, "line": stroke, "layer": "between"}
