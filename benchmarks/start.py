"""How long `import limbeck` and `limbeck --help` take, in a process of their own, as a ratio to a Python that does nothing.

python benchmarks/start.py
"""

import statistics
import subprocess
import sys
import time

WORKS = {
    "nothing": "pass",
    "import limbeck": "import limbeck",
    "limbeck --help": "from limbeck.cli import main; main(['--help'])",
}


def seconds(code: str) -> float:
    """Wall-clock seconds of a new Python that runs this."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", code], capture_output=True, check=True)
    return time.perf_counter() - began


def main() -> None:
    """Take turns, nine times each, and print medians."""
    rounds = [{name: seconds(code) for name, code in WORKS.items()} for _ in range(9)]
    for name in WORKS:
        own = statistics.median(one[name] for one in rounds)
        ratio = statistics.median(one[name] / one["nothing"] for one in rounds)
        print(f"{name:16} {own:.3f} s, {ratio:.1f} x nothing")


if __name__ == "__main__":
    main()
