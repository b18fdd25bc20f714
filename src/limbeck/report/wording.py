"""Numbers as people read them: percentages, points, intervals, counts. A dash stands for what is not known."""

import math

from limbeck.report.schema import Comparison
from limbeck.report.statistics import Interval

DASH = "–"
MINUS = "−"
THIN = "\u202f"


def _known(value: float | None) -> bool:
    return value is not None and math.isfinite(value)


def number(value: float | None, digits: int = 3) -> str:
    """The value with a fixed count of digits after the point; what rounds to 0 has no sign."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"{value:z.{digits}f}".replace("-", MINUS)


def significant(value: float | None, *, sign: bool = False) -> str:
    """The value with three significant digits, with its sign where asked for."""
    if value is None or not math.isfinite(value):
        return DASH
    text = f"{value:{'+' if sign else ''}#.3g}".removesuffix(".")
    if "e" in text:
        mantissa, power = text.split("e")
        text = f"{mantissa}·10^{int(power)}"
    return text.replace("-", MINUS)


def percent(value: float | None, digits: int = 1) -> str:
    """A fraction in [0, 1] in per cent."""
    return f"{number(100 * value, digits)}{THIN}%" if value is not None and _known(value) else DASH


def probability_of(value: float) -> str:
    """A probability in per cent; one that would read as 0 or 100 is said to be below or above."""
    if 0 < value < 0.001:
        return f"<{THIN}0.1{THIN}%"
    return f">{THIN}99.9{THIN}%" if 0.999 < value < 1 else percent(value)


def points(value: float | None) -> str:
    """A difference of two fractions in percentage points, with its sign."""
    if value is None or not _known(value):
        return DASH
    return f"{100 * value:+.1f}".replace("-", MINUS)


def percent_range(found: Interval | None) -> str:
    """A mean's 95 % interval in per cent, empty with one seed."""
    if found is None or found.low is None or found.high is None:
        return ""
    return f"{number(100 * found.low, 1)} to {number(100 * found.high, 1)}"


def points_range(comparison: Comparison) -> str:
    """A comparison's 95 % interval in points, empty where it has none."""
    if not _known(comparison.low) or not _known(comparison.high):
        return ""
    return f"{points(comparison.low)} to {points(comparison.high)}"


def p_value(value: float | None) -> str:
    """A p-value, `< 0.001` when it is smaller."""
    if value is None or not math.isfinite(value):
        return DASH
    return f"<{THIN}0.001" if value < 0.001 else f"{value:.3f}"


def count(value: float | None) -> str:
    """A whole number with thin spaces between the thousands."""
    return f"{value:,.0f}".replace(",", THIN) if value is not None and math.isfinite(value) else DASH


def amount(value: float | None) -> str:
    """A big number with k, M, G or T."""
    if value is None or not math.isfinite(value):
        return DASH
    for size, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:.3g}{THIN}{unit}"
    return f"{value:.3g}"


def milliseconds(value: float | None) -> str:
    """A time in milliseconds, three significant digits."""
    return f"{value:.3g}{THIN}ms" if value is not None and math.isfinite(value) else DASH


def duration(seconds: float | None) -> str:
    """Seconds as s, min or h."""
    if seconds is None or not math.isfinite(seconds):
        return DASH
    if seconds < 100:
        return f"{seconds:.1f}{THIN}s"
    return f"{seconds / 60:.1f}{THIN}min" if seconds < 6000 else f"{seconds / 3600:.1f}{THIN}h"


def times(ratio: float) -> str:
    """How many times smaller, as people say it."""
    return f"{ratio:.1f}" if ratio < 10 else f"{ratio:.0f}"
