"""The report: one HTML file made from a run folder. Knows nothing of training and never imports torch."""

from limbeck.report.render import render

__all__ = ["render"]
