"""Calls a function in several processes that find each other as under `torchrun`, and ends all of them whatever happens."""

import multiprocessing
import os
import socket
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch._dynamo  # noqa: F401 - optimizers load it at their first step: once here, not once in every process
from accelerate.state import AcceleratorState  # what limbeck.engine.accelerate loads; the same

LIMIT_S = 120


def together(what: Callable[..., Any], *arguments: Any, folder: Path, count: int = 2) -> list[Any]:
    """What the function gives in each process, by rank; an exception's text in place of a result, marked by its type's name.

    Forked where that is safe (no accelerator): importing torch anew costs ten seconds a process.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    context = multiprocessing.get_context("spawn" if torch.cuda.is_available() else "fork")
    shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    jobs = []
    for rank in range(count):
        own = {**shared, "RANK": str(rank), "LOCAL_RANK": str(rank)}
        jobs.append(context.Process(target=_one, args=(what, arguments, own, folder / f"rank{rank}.pt"), daemon=True))
    try:
        for job in jobs:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # newer Pythons warn of forking
                job.start()
        for job in jobs:
            job.join(LIMIT_S)
    finally:
        for job in jobs:
            job.kill()
            job.join()
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(count)]


def _one(what: Callable[..., Any], arguments: tuple[Any, ...], environment: dict[str, str], out: Path) -> None:
    os.environ.update(environment)
    AcceleratorState._reset_state(reset_partial_state=True)  # a parent that is one process by itself has set it
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    try:
        found = what(*arguments)
    except Exception:
        found = traceback.format_exc()
    torch.save(found, out)
    os._exit(0)  # nothing of the parent's is cleaned up here
