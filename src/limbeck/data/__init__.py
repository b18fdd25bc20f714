"""Data: indexed sources, label noise, splits and the order of batches. Every sample keeps one identity, its row in the source."""

from limbeck.data.loader import Loader, whole
from limbeck.data.source import InMemory, Shown, Source
from limbeck.data.splits import Splits, split
from limbeck.data.validity import check

__all__ = ["InMemory", "Loader", "Shown", "Source", "Splits", "check", "split", "whole"]
