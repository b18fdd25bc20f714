"""The page docs/attribution-benchmark.md from what `attribution.py` measured: every number and every "first" comes from there."""

from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).parent
RESULTS = ROOT / "results" / "attribution.json"
PAGE = ROOT.parent / "docs" / "attribution-benchmark.md"
OURS = "limbeck"
COLUMNS: dict[str, tuple[str, Callable[[float], str]]] = {
    "prepare": ("prepare", lambda value: f"{value:.1f}"),
    "mean": ("mean", lambda value: f"{value:.1f}"),
    "full": ("full", lambda value: f"{value:.0f}"),
    "own": ("self", lambda value: f"{value:.1f}"),
    "peak": ("MB", lambda value: f"{value / 2**20:.0f}"),
    "oracle_mean": ("rho mean", lambda value: f"{value:.3f}"),
    "oracle_full": ("rho full", lambda value: f"{value:.3f}"),
    "removal": ("leave-one-out", lambda value: f"{value:.3f}"),
    "lds_mean": ("LDS mean", lambda value: f"{value:.2f}"),
    "lds_full": ("LDS full", lambda value: f"{value:.2f}"),
    "auc": ("AUC", lambda value: f"{value:.3f}"),
    "auc_own": ("AUC self", lambda value: f"{value:.3f}"),
}
QUALITY = {
    "oracle_mean": "Spearman with the oracle, mean query",
    "oracle_full": "Spearman with the oracle, each query",
    "removal": "leave-one-out",
    "lds_full": "datamodelling score, each query",
    "auc": "flipped labels found by the mean query",
    "auc_own": "flipped labels found by self-influence",
}
COSTS = ("prepare", "mean", "full", "own", "peak")
NEAR = 0.02
"""Two methods whose quality differs by no more than this are called equal."""
HEAD = """\
# Attribution beside other libraries

    {command}

Made by `benchmarks/attribution.py`; no figure is typed in. Median of up to {rounds} round(s) in which all methods take turns,
each in a process of its own, one thread, processor time. {versions}; torch {torch}.

* **Times** are in plain forward and backward passes over the training set in the same process: *prepare* is what depends on the
  model and the training set alone, *mean* every sample against the mean query loss, *full* every query against every sample,
  *self* every sample on itself. "= full": the library has no mean query, so that its price is that of the matrix. *MB*: peak
  memory above the start.
* **rho**: Spearman's correlation with the dense damped Gauss-Newton oracle, which is made of explicit Jacobians of every sample,
  without any library. *leave-one-out*: with the exact change of the mean query loss for every sample, where the loss is convex.
* **LDS**: the linear datamodelling score, Spearman between predicted and real query losses after training on random halves.
* **AUC**: flipped labels ranked by the score.
* *lambda* is the oracle's damping: the L2 weight where convex, else a hundredth of the largest eigenvalue. Methods with a rule of
  their own keep it (Limbeck and kronfluence: a tenth of each layer's mean eigenvalue in K-FAC and EK-FAC).

**Read it with care.** Small models on a processor, one data set each; libraries at their documented settings, not tuned. Fixed
costs of a call weigh more here than on large models. Differences in LDS below about 0.05 mean nothing.
"""


def render(found: dict) -> str:
    """The page."""
    versions = ", ".join(f"{name} {number}" for name, number in found["versions"].items())
    command = f"python benchmarks/attribution.py --rounds {found['rounds']} --limit {found['limit']:g}"
    text = HEAD.format(command=command, versions=versions, torch=found["torch"], rounds=found["rounds"])
    return text + "".join(section(problem) for problem in found["problems"].values())


def section(problem: dict) -> str:
    """One problem: its table, and where Limbeck is first and where not."""
    facts, methods = problem["facts"], problem["methods"]
    keys = [key for key in COLUMNS if any(method.get(key) is not None for method in methods)]
    what = (
        f"{facts['parameters']:,} parameters, {facts['count']} training samples with {facts['flips']:.0%} flipped labels, "
        f"{facts['queries']} queries (accuracy {facts['accuracy']:.1%}), lambda {facts['damping']:.2g}; LDS from "
        f"{facts['subsets']} halves, {facts['seeds']} model(s) each."
    )
    lines = ["", f"## {facts['title']}", "", what, ""]
    lines += ["| method | " + " | ".join(COLUMNS[key][0] for key in keys) + " |", "|---" * (len(keys) + 1) + "|"]
    lines.append(row({"library": "the oracle", "how": "", **problem["oracle"]}, keys))
    lines += [row(method, keys) for method in methods]
    lines += ["", *(f"* {line}" for line in verdict(methods))]
    return "\n".join(lines) + "\n"


def row(method: dict, keys: list[str]) -> str:
    """A line of the table."""
    name = method["library"] if method["library"] != OURS else "**Limbeck**"
    name += f" `{method['how']}`" if method["how"] else ""
    name += f" ({method['covers']})" if method.get("covers") else ""
    failed = method.get("failed")
    if method.get("oracle_full") == method.get("lds_full") == 0.0:  # what `attribution.rank` gives where there is no order
        failed, method = "scores that are not finite, or all the same", {key: method.get(key) for key in COSTS}
    if failed:
        name += f": *{escaped(failed)}*"
    cells = [cell(method, key) for key in keys]
    return f"| {name} | " + " | ".join(cells) + " |"


def cell(method: dict, key: str) -> str:
    """A figure, or why there is none."""
    if method.get(key) is not None:
        return COLUMNS[key][1](method[key])
    return "= full" if key == "mean" and method.get("full") is not None else "-"


def escaped(text: str) -> str:
    """Text that a table can hold."""
    return text.replace("|", "/").replace("*", "").replace("<", "").replace(">", "")


def total(method: dict, key: str = "mean") -> float | None:
    """Preparation and scores together, in plain passes; the matrix stands in for a missing mean."""
    spent = method.get(key) if method.get(key) is not None else method.get("full")
    return None if spent is None or method.get("prepare") is None else method["prepare"] + spent


def verdict(methods: list[dict]) -> list[str]:
    """Who is first in time among those whose quality is as good as the best, and in quality, for each measure."""
    lines = []
    for key, title in QUALITY.items():
        there = [method for method in methods if method.get(key) is not None]
        if not there:
            continue
        best = max(there, key=lambda method: method[key])
        ours = max((method for method in there if method["library"] == OURS), key=lambda method: method[key], default=None)
        equal = [method for method in there if method[key] >= best[key] - NEAR]
        phase = {"auc_own": "own", "oracle_full": "full", "lds_full": "full"}.get(key, "mean")
        timed = [(spent, method) for method in equal if (spent := total(method, phase)) is not None]
        quickest = min(timed, key=lambda pair: pair[0], default=None)
        said = f"{title}: best {named(best)} with {best[key]:.3f}"
        if ours is not None and ours is not best:
            said += f"; Limbeck's best is {named(ours)} with {ours[key]:.3f}"
            said += " (no worse than within the margin)" if ours in equal else " - **Limbeck is not first here**"
        if quickest is not None and len(timed) > 1:
            said += f"; cheapest within {NEAR} of the best: {named(quickest[1])}, {quickest[0]:.1f} passes in all"
            said += "" if quickest[1]["library"] == OURS else " - **Limbeck is not the fastest here**"
        lines.append(said + ".")
    return lines


def named(method: dict) -> str:
    """Library and setting."""
    return f"{'Limbeck' if method['library'] == OURS else method['library']} `{method['how']}`"
