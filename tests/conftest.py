"""Stands here so that `tests/` is on the import path: tests share what lies in `support/`.

The collector of garbage looks at every object of every loaded module again and again, a tenth of the time of a test run. What is
there when the tests begin stays to the end, so it is told to leave that alone. Properties are tried on 40 examples where a test
asks for no other number.
"""

import gc

from hypothesis import settings

gc.disable()
settings.register_profile("fast", max_examples=40)
settings.load_profile("fast")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()
