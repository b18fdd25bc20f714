"""`limbeck doctor`: what this machine has, and whether the package works on it."""

import platform
import re
import shutil
import time
from collections.abc import Iterator

import typer

from limbeck import __version__
from limbeck.core.errors import RunError

GIB = 2**30
CORE = ("torch", "numpy", "scipy", "scikit-learn", "accelerate", "pyarrow")


def doctor() -> None:
    """Show what this machine has, and test it.

    Versions, device, memory, disk, extras; then a tiny student is trained.

    \b
      limbeck doctor
    """  # noqa: D301
    for name, value in [("limbeck", __version__), *machine(), *extras(), ("self-test", self_test())]:
        typer.echo(f"{name:<12} {value}")


def machine() -> Iterator[tuple[str, str]]:
    """Versions, device, cores, memory and disk."""
    from importlib import metadata as packages

    import psutil
    import torch

    yield "python", f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    for name in CORE:
        yield name, packages.version(name)
    yield "device", f"cuda: {torch.cuda.get_device_name(0)}" if torch.cuda.is_available() else "cpu; no CUDA device is visible"
    yield "cores", f"{psutil.cpu_count()}, torch uses {torch.get_num_threads()}"
    memory = psutil.virtual_memory()
    yield "memory", f"{memory.available / GIB:.1f} of {memory.total / GIB:.1f} GiB free"
    disk = shutil.disk_usage(".")
    yield "disk", f"{disk.free / GIB:.1f} of {disk.total / GIB:.1f} GiB free here"


def extras() -> Iterator[tuple[str, str]]:
    """Each extra of the package: there, or how to get it."""
    from importlib import metadata as packages

    wanted: dict[str, list[str]] = {}
    for line in packages.requires("limbeck") or []:
        found = re.match(r"([\w.-]+).*extra == ['\"]([\w-]+)['\"]", line)
        if found:
            wanted.setdefault(found[2], []).append(found[1])
    for extra, names in wanted.items():
        missing = [name for name in names if not _installed(name)]
        yield extra, f"missing {', '.join(missing)}: pip install 'limbeck[{extra}]'" if missing else f"there ({', '.join(names)})"


def self_test() -> str:
    """Train a tiny student by distillation and look whether its loss falls.

    Raises:
        RunError: It does not.
    """
    import torch

    from limbeck.core.batch import Batch
    from limbeck.core.outputs import Outputs, Views
    from limbeck.losses.labels.ce import CE
    from limbeck.losses.logits.kd import KD

    generator = torch.Generator().manual_seed(0)
    inputs, teacher = torch.randn(64, 16, generator=generator), torch.randn(16, 4, generator=generator)
    logits = inputs @ teacher
    batch = Batch(inputs, logits.argmax(1), torch.arange(64))
    student = torch.zeros(16, 4, requires_grad=True)
    optimizer, objective, losses = torch.optim.SGD([student], lr=0.1), KD(T=4) * 0.7 + CE() * 0.3, []
    for number in range(60):
        if number == 10:  # the first steps load and warm up
            began = time.perf_counter()
        loss = objective.per_sample(Views(Outputs(inputs @ student), Outputs(logits), batch)).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    if not losses[-1] < 0.5 * losses[0]:
        raise RunError(
            f"doctor: the self-test's loss went from {losses[0]:.3f} to {losses[-1]:.3f}; this installation of torch is broken."
        )
    return f"passed: loss {losses[0]:.3f} to {losses[-1]:.3f}, {(time.perf_counter() - began) / 50 * 1000:.2f} ms a step"


def _installed(name: str) -> bool:
    from importlib import metadata as packages

    try:
        packages.version(name)
    except packages.PackageNotFoundError:
        return False
    return True
