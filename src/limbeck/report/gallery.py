"""The most harmful and the most helpful samples, as cards that people can look at."""

import base64
import binascii
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import final

import numpy as np

from limbeck.core.errors import RunError
from limbeck.report.judged import is_language, share_of_tokens
from limbeck.report.reading import Run, Samples
from limbeck.report.schema import Shown
from limbeck.report.statistics import rank, scaled_score
from limbeck.report.wording import DASH, count, number, probability_of, significant

MOST = 24
PNG = b"\x89PNG\r\n\x1a\n"
SMALL = 128
"""Pictures of up to this many pixels a side are shown with hard pixel edges."""


@final
@dataclass(frozen=True)
class Card:
    """One sample as the page shows it. All fields are text as read; the template escapes them.

    Attributes:
        wrong: Whether the given label is known to be wrong; None where the truth is not known.
        teacher, student: What each takes it for, and the probability it gives to the given label.
        place: Its place among the training samples of the seed, 1 = most harmful.
    """

    index: int
    seed: int
    shown: Shown
    picture: str
    pixelated: bool
    given: str
    true: str | None
    wrong: bool | None
    teacher: tuple[str, str]
    student: tuple[str, str]
    score: str
    place: str
    weight: str
    mean_weight: str


@final
@dataclass(frozen=True)
class Gallery:
    """Cards of the most harmful (score above 0, highest first) and most helpful samples (score below 0, lowest first)."""

    harmful: tuple[Card, ...]
    helpful: tuple[Card, ...]


def gallery(run: Run) -> Gallery:
    """The samples of `gallery.json` with their rows of `samples.parquet`: each as the first seed that trained on it saw it."""
    if run.samples is None:
        return Gallery((), ())
    scaled = scaled_score(run.samples)
    rows = [(scaled[row], shown, row) for shown in run.gallery.samples for row in _first_row(run.samples, shown.index)]
    harmful = sorted((entry for entry in rows if entry[0] > 0), key=lambda entry: -entry[0])[:MOST]
    helpful = sorted((entry for entry in rows if entry[0] < 0), key=lambda entry: entry[0])[:MOST]
    return Gallery(
        tuple(_card(run, run.samples, shown, row) for _, shown, row in harmful),
        tuple(_card(run, run.samples, shown, row) for _, shown, row in helpful),
    )


def _first_row(samples: Samples, index: int) -> Iterator[int]:
    rows = np.flatnonzero((samples["index"] == index) & (samples.split == "train") & np.isfinite(samples["score"]))
    if len(rows):
        yield int(rows[np.argmin(samples["seed"][rows])])


def _card(run: Run, samples: Samples, shown: Shown, row: int) -> Card:
    names = run.result.data.classes
    spoken = (lambda label: _name(names, label)) if not is_language(run) else _share
    true = spoken(samples["true_label"][row])
    place, among = rank(samples, row)
    picture, pixelated = _picture(run, shown)
    return Card(
        index=shown.index,
        seed=int(samples["seed"][row]),
        shown=shown,
        picture=picture,
        pixelated=pixelated,
        given=spoken(samples["label"][row]),
        true=None if true == DASH else true,
        wrong=bool(samples.flipped[row]) if samples.truth_known[row] else None,
        teacher=(spoken(samples["teacher_label"][row]), probability_of(float(samples["teacher_prob"][row]))),
        student=(spoken(samples["student_label"][row]), probability_of(float(samples["student_prob"][row]))),
        score=significant(float(samples["score"][row]), sign=True),
        place=f"{count(place)} of {count(among)}",
        weight=number(float(samples["weight"][row]), 2),
        mean_weight=number(float(samples["mean_weight"][row]), 2),
    )


def _share(value: float) -> str:
    return share_of_tokens(value) if np.isfinite(value) else DASH


def _name(names: tuple[str, ...], label: float) -> str:
    if not np.isfinite(label):
        return DASH
    return names[int(label)] if 0 <= int(label) < len(names) else f"class {int(label)}"


def _picture(run: Run, shown: Shown) -> tuple[str, bool]:
    """The picture's base64 and whether it is small.

    Raises:
        RunError: It is no PNG.
    """
    if shown.kind != "image":
        return "", False
    try:
        png = base64.b64decode(shown.png_base64 or "", validate=True)
    except binascii.Error as error:
        raise RunError(_damaged(run, shown)) from error
    if not png.startswith(PNG) or len(png) < 24:
        raise RunError(_damaged(run, shown))
    width, height = struct.unpack(">II", png[16:24])
    return base64.b64encode(png).decode("ascii"), max(width, height) <= SMALL


def _damaged(run: Run, shown: Shown) -> str:
    return f"report: {run.folder / 'gallery.json'} holds no PNG for sample {shown.index}; run it again."
