"""The contract as checks that any package can run on its own methods: `checks`, and `compile_checks`, which take longer.

Needs no test framework.
"""

from limbeck.testing.battery import Check, checks, compile_checks

__all__ = ["Check", "checks", "compile_checks"]
