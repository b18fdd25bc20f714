"""Stands here so that `tests/` is on the import path: tests share what lies in `support/`."""
