"""The contract as checks that any package can run on its own methods: `limbeck.testing.checks`. Needs no test framework."""

from limbeck.testing.battery import Check, checks

__all__ = ["Check", "checks"]
