"""Stands here so that `tests/` is on the import path: tests share what lies in `support/`. And it makes them quick.

The collector of garbage would look at every object of every loaded module again and again: what is there when the tests begin
stays to the end, and is left alone. Properties are tried on 40 examples where a test asks for no other number. Files need
not outlive a power failure, so no test waits for the disk.
"""

import gc
import os

from hypothesis import settings

gc.disable()
os.fsync = lambda _: None
settings.register_profile("fast", max_examples=40)
settings.load_profile("fast")


def pytest_collection_finish() -> None:
    gc.collect()
    gc.freeze()
    gc.enable()
