"""Paired gains in words, for the tables of `settings.py` and `mixtures.py`; the statistics are those of the report."""

from limbeck.report.statistics import interval


def gain(values: list[float], digits: int) -> str:
    """The mean of gains seed by seed with its 95 % interval; with one seed the gain alone."""
    found = interval(values)
    assert found is not None
    if found.low is None or found.high is None:
        return f"{found.mean:+.{digits}f}"
    return f"{found.mean:+.{digits}f} ({found.low:+.{digits}f} to {found.high:+.{digits}f})"
