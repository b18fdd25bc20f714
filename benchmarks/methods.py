"""Every method on one small real task with the same budget and paired seeds: the table of docs/methods/results.md.

    python benchmarks/prepare_data.py FOLDER mnist --per-class 150 --test-per-class 100 --halve --out runs/data/mnist_half.npz
    python benchmarks/methods.py --data 'Arrays("runs/data/mnist_half.npz")' --out runs/methods --page docs/methods/results.md

Finished trainings are kept under --out and read, not run again. With --add the lines that the page has stay, and only methods
that it lacks are trained (delete a line to have it made anew); plain KD is trained again, and where it does not come out as on
the page, since a machine rounds otherwise, the new lines say beside what they stand. With --cost only what a step of the methods
named costs is measured anew, for code that computes the same.

What a step costs is measured apart, by `methods_cost.py`; what takes more than it may is named under the table. Needs the extra
`dev`, for an independent implementation.
Over 300 lines, since the list of what is tried stands beside how it is tried.
"""

import argparse
import json
import re
import shlex
import statistics
import sys
import warnings
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch

from ended import ended
from independent import INDEPENDENT
from limbeck.catalogue import rows
from limbeck.engine.local import LocalEngine
from limbeck.experiment.arms import Arm
from limbeck.experiment.progress import Silent
from limbeck.experiment.recipe import Parts, Recipe, load
from limbeck.experiment.seeded import seeded
from limbeck.experiment.unit import Unit, Worker
from methods_cost import Cost, measured

PLAIN = "KD"
NOISE = 0.1
"""How far above its class a time may lie, in plain steps: some hundredths by chance, and what is not multiplied."""
STAGES = '"layer?"'


@dataclass(frozen=True)
class Method:
    """How a method is run here: its objective, and what else differs from plain distillation.

    Args:
        objective: With the coefficients of its paper.
        changes: Other keys of the recipe.
    """

    objective: str = "KD(T=4) * 0.9 + CE() * 0.1"
    changes: dict[str, str] = field(default_factory=dict)


METHODS: dict[str, Method] = {
    "CE": Method("CE()"),
    PLAIN: Method(),
    "VirtualTeacher": Method("VirtualTeacher() * 0.9 + CE() * 0.1"),
    "DKD": Method("DKD(warm_up=3) + CE()"),
    "AEKT": Method("AEKT(warm_up=3) + CE()"),
    "AEKT, serial layer": Method('CE() + OnHead(AEKT(warm_up=3), tap="logits", head="identity")'),
    "DIST": Method("DIST(T=4) * 2 + CE()"),
    "WSLD": Method("WSLD(T=4) * 2.25 + CE()"),
    "MLKD": Method("MLKD() * 0.9 + CE() * 0.1"),
    "CTKD": Method("CTKD() * 0.9 + CE() * 0.1"),
    "PLD": Method("PLD()"),
    "Standardised": Method("Standardised(KD(T=2)) * 9 + CE() * 0.1"),
    "OFA": Method("OFA(1.2) + CE()"),
    "OnHead": Method(f"OFA(1.2) + CE() + OnHead(OFA(1.2), tap={STAGES})"),
    "BinaryKL": Method("BinaryKL(T=2) + CE()"),
    "BinaryKLNorm": Method("BinaryKLNorm(T=2) + CE()"),
    "DHKD": Method('CE() + OnHead(BinaryKLNorm(T=2), head="mlp")', {"balancer": 'GradientAlignment(protect="CE")'}),
    "BDKD": Method("BDKD() + CE()"),
    "ReverseKL": Method("ReverseKL(T=4) * 0.9 + CE() * 0.1"),
    "JSD": Method("JSD(T=4) * 0.9 + CE() * 0.1"),
    "SkewKL": Method("SkewKL(T=4) * 0.9 + CE() * 0.1"),
    "SkewReverseKL": Method("SkewReverseKL(T=4) * 0.9 + CE() * 0.1"),
    "TopKTail": Method("TopKTail(KD(T=4), k=3) * 0.9 + CE() * 0.1"),
    "TAID": Method("TAID() + CE()"),
    "FIRST": Method("FIRST() + CE()"),
    "DBiLD": Method("DBiLD() + CE()"),
    "GatedJSD": Method("GatedJSD() + CE()"),
    "Ranked": Method("Ranked() + CE()"),
    "TotalVariation": Method("TotalVariation() + CE()"),
    "AlphaDivergence": Method("AlphaDivergence(T=4) * 0.9 + CE() * 0.1"),
    "Serial": Method("KD(T=4) * 0.9 + Serial(CE()) * 0.1"),
    "DHO": Method("CE() * 0.5 + DHO(KD(T=2)) * 0.5"),
    "SP": Method("SP() * 3000 + CE()"),
    "RKD": Method("RKD() + CE()"),
    "PKT": Method("PKT() * 470 + CE()"),
    "CC": Method("CC() * 0.02 + CE()"),
    "AT": Method("AT() * 1000 + CE()"),
    "NST": Method("NST() * 50 + CE()"),
    "FitNet": Method("FitNet() * 100 + CE()"),
    "SimKD": Method('SimKD(tap="layer3")'),
    "ND": Method("CE() + KD(T=4) + ND()"),
    "SRRL": Method('SRRL(student="layer3", teacher="layer3") + CE()'),
    "VID": Method("VID() + CE()"),
    "AB": Method("AB() * 0.003 + CE()"),
    "FT": Method("FT() * 200 + CE()"),
    "CRD": Method("CRD() * 0.8 + CE()"),
    "ReviewKD": Method("ReviewKD() * 5 + CE()"),
    "SemCKD": Method("SemCKD() * 400 + CE()"),
    "TRG": Method("CE() + KD() + TRG()"),
    "LELP": Method("LELP()"),
    "KD3": Method('KD3(tap="layer3")'),
    "TGeoKD": Method("TGeoKD(T=4)", {"step": "Bilevel()"}),
    "DynamicLambda": Method("KD(T=4) + CE()", {"balancer": "DynamicLambda(mu=0.9)"}),
    "Uncertainty": Method("KD(T=4) + CE()", {"balancer": "Uncertainty()"}),
    "GradientAlignment": Method(changes={"balancer": 'GradientAlignment(protect="CE")'}),
    "PCGrad": Method(changes={"balancer": 'PCGrad(level="last_layer")'}),
    "MGDA": Method(changes={"balancer": 'MGDA(level="last_layer")'}),
    "CAGrad": Method(changes={"balancer": 'CAGrad(level="last_layer")'}),
    "UPGrad": Method(changes={"balancer": 'UPGrad(level="last_layer")'}),
    "Mutual": Method("CE() + KD(T=1)", {"step": "Mutual()"}),
    "MeanTeacher": Method("CE() + KD(T=1)", {"step": "MeanTeacher()", "teacher": "ResNet8()"}),
    "HARD": Method(changes={"step": "HARD()"}),
    "WAKD": Method(changes={"average": "WAKD(start=20)"}),
    "WAKD, EoA": Method(changes={"average": "WAKD(start=20, every=20)"}),
    "WeightEMA": Method(changes={"average": "WeightEMA(decay=0.98)"}),
    "SWAD": Method(changes={"average": "SWAD(every=10)"}),
    "Generations": Method(changes={"generations": "2"}),
    "Generations, anchored": Method(changes={"generations": "2", "anchor": "0.5"}),
    "MixUp": Method(changes={"transform": "MixUp()"}),
    "CutMix": Method(changes={"transform": "CutMix()"}),
    "MixDistribution": Method(changes={"transform": "MixDistribution()"}),
    "InfluenceWeighting": Method(changes={"weighting": 'InfluenceWeighting(normalise="zscore", refresh=20)'}),
}
WEIGHTED = "acts by influence weights, which clean labels give little to do"
TOKENS = "is for the tokens of a text"
LEFT_OUT = {
    "Python": "the door to a term of one's own",
    "DepthKD": "regresses maps; there are none to regress here",
    "Chunked": "gives the value of the term inside it, in pieces",
    **dict.fromkeys(("TokenSelect", "Entropy", "Swing", "Public"), TOKENS),
    **dict.fromkeys(("ULD", "GOLD"), "compares different vocabularies"),
    **dict.fromkeys(
        ("OPSD", "SampledKL", "OnPolicy", "AdaptiveReplay", "MiniLLM", "TRRD", "GRPO", "WithText"),
        "learns from what a language model writes",
    ),
    **dict.fromkeys(("ADPA", "OnReplies"), "learns from pairs of replies"),
    **dict.fromkeys(("TeacherOnly", "Simultaneous", "Sequential", "Offline"), WEIGHTED),
}
"""Methods that have no place in this task, and why."""
PLAIN_PARTS = {"Static", "Student", "CropFlip", "Chain"}
"""What plain distillation is made of."""


def said(name: str) -> float | None:
    """What the catalogue allows a step of the method, in plain ones; None where it says no number."""
    known = set(re.findall(r"\w+", " ".join([METHODS[name].objective, *METHODS[name].changes.values()])))
    found = [
        row.steps for row in rows("terms", "weightings", "balancers", "steps", "averages") if row.name in known and row.steps
    ]
    return max(found, default=None)


def missing() -> list[str]:
    """What the catalogue has of terms, balancers, steps, averages and transforms that is neither run nor left out."""
    run = " ".join(" ".join([name, method.objective, *method.changes.values()]) for name, method in METHODS.items())
    known = {*re.findall(r"\w+", run), *LEFT_OUT, *PLAIN_PARTS}
    return [row.name for row in rows("terms", "balancers", "steps", "averages", "transforms") if row.name not in known]


def recipe_for(data: str, method: Method, seeds: int) -> Recipe:
    """The task: one pair of nets, one budget."""
    settings = {
        "data": data,
        "teacher": "ResNet20()",
        "student": "ResNet8()",
        "objective": method.objective,
        "weighting": "Uniform()",
        "optimizer": "SGD(lr=0.05, momentum=0.9, weight_decay=5e-4)",
        "schedule": "Cosine()",
        "epochs": "12",
        "batch_size": "64",
        "query": "200",
        "compare": "[uniform]",
        **method.changes,
    }
    return load("digits", settings=[f"{key}={value}" for key, value in settings.items()], seeds=seeds)


def run(data: str, names: list[str], seeds: int, out: Path) -> dict[str, list[Unit]]:
    """The trainings, one entry per seed; teachers are shared by all methods."""
    found: dict[str, list[Unit]] = {}
    for name in names:
        worker, arm = made(data, name, seeds, out)
        for number in range(seeds):
            sets = seeded(worker.recipe, worker.parts, number)
            try:
                unit = worker.student(arm, sets, worker.teacher(sets).model)
            except Exception as error:
                raise RuntimeError(f"{name}: {error}") from error
            found.setdefault(name, []).append(unit)
        print(name, [round(100 * (unit.figures["accuracy"] or 0), 1) for unit in found[name]], file=sys.stderr, flush=True)
    return found


def made(data: str, name: str, seeds: int, out: Path) -> tuple[Worker, Arm]:
    """A worker and the arm of a method."""
    recipe = recipe_for(data, METHODS[name], seeds)
    torch.set_num_threads(recipe.threads)
    parts: Parts = recipe.build()
    out.mkdir(parents=True, exist_ok=True)
    from limbeck.experiment.arms import arms_of

    arm = replace(arms_of(recipe, parts)[-1], name=name.replace(" ", "_").replace(",", ""), title=name)
    return Worker(recipe, parts, LocalEngine(), out, Silent()), arm


def cost(data: str, name: str, out: Path) -> Cost:
    """What a step of the method costs, over plain KD's."""
    plain, own = made(data, PLAIN, 1, out), made(data, name, 1, out)
    return measured(plain, own, said(name), INDEPENDENT.get(name), whole="weighting" in METHODS[name].changes)


def row(name: str, units: list[Unit], plain: list[Unit], spent: Cost, *, apart: bool = False) -> str:
    """A method's line of the table; `apart` says that plain KD has another one there."""
    gains = [
        100 * ((unit.figures["accuracy"] or 0) - (base.figures["accuracy"] or 0)) for unit, base in zip(units, plain, strict=True)
    ]
    error = statistics.stdev(gains) / len(gains) ** 0.5 if len(gains) > 1 else 0.0
    cells = {key: statistics.mean(unit.figures[key] or 0 for unit in units) for key in ("accuracy", "nll", "ece", "agreement")}
    method = METHODS[name]
    what = "<br>".join([f"`{method.objective}`", *(f"{key}: `{value}`" for key, value in method.changes.items())])
    if apart:
        base = {key: statistics.mean(unit.figures[key] or 0 for unit in plain) for key in ("accuracy", "nll")}
        what += f"<br>made on another machine, beside a KD of {100 * base['accuracy']:.1f}, NLL {base['nll']:.3f}"
    against = "-" if name == PLAIN else f"{statistics.mean(gains):+.1f} ± {error:.1f}"
    return (
        f"| {name} | {what} | {100 * cells['accuracy']:.1f} | {against} | {cells['nll']:.3f} | {cells['ece']:.3f} "
        f"| {cells['agreement']:.3f} | {spent[0]:.2f} | {spent[1]:.2f} | {spent[2]:.2f} |"
    )


def page(lines: dict[str, str], seeds: int, data: str, command: str) -> str:
    """The table in Markdown.

    Args:
        lines: By method.
        seeds: How many there were.
        data: As in a recipe.
        command: That makes it.
    """
    table = [
        "# What the methods do on one small task",
        "",
        f"    {command}",
        "",
        f"Made by `benchmarks/methods.py`; no figure is typed in. {data}: ResNet-20 to ResNet-8, 12 epochs, {seeds} paired",
        f"seeds, the same first weights and order of samples for all, torch {torch.__version__}. Accuracy in per cent, with the",
        "mean paired difference to plain KD and its standard error, NLL in nats, ECE: expected calibration error, agreement with",
        "the teacher; time and memory of a step as ratios to plain KD's (steps with weights: the mean of a whole run, the first",
        "estimate of curvature included). Class, what a step may take: by the catalogue where it goes through the nets more",
        "often than plain KD's; else its products, those of matrices and convolutions, over plain KD's, and with them, measured",
        "beside it, what is no product: to read the same inner activations and hand each a gradient, to sort and to search; for",
        f"{', '.join(INDEPENDENT)} what the same loss of torchdistill, an independent implementation, takes, if that is more;",
        "never below 1.",
        "",
        "**Read it with care.** One small task, coefficients of papers that had other tasks, no search: it shows that every",
        "method trains, what it costs, and where it is out of its depth. It does not rank methods.",
        "",
        "| method | objective and changes | accuracy | against KD | NLL | ECE | agreement | time | class | memory |",
        "|---|---|---|---|---|---|---|---|---|---|",
        *(lines[name] for name in METHODS if name in lines),
    ]
    table += ["", over(lines)]
    whys = dict.fromkeys(LEFT_OUT.values())
    left = [f"{', '.join(f'`{name}`' for name, own in LEFT_OUT.items() if own == why)} ({why})" for why in whys]
    table += ["", f"Left out: {'; '.join(left)}."]
    if missing():
        table += ["", f"Not run yet: {', '.join(f'`{name}`' for name in missing())}."]
    return "\n".join(table) + "\n"


def over(lines: dict[str, str]) -> str:
    """Which methods take more than their class allows."""
    cells = {name: [float(cell) for cell in line.split("|")[-4:-2]] for name, line in lines.items()}
    found = [f"{name} {time:.2f} ({most:.2f})" for name, (time, most) in cells.items() if time > most + NOISE]
    return f"More than a tenth of a plain step over its class: {', '.join(found) or 'none'}. The methods' pages say why."


def lines_of(path: Path) -> dict[str, str]:
    """The lines of an earlier page's table, by method."""
    lines = [line for line in path.read_text().splitlines() if line.startswith("| ")]
    return {line.split("|")[1].strip(): line for line in lines[1:]}


def main() -> None:
    """Train what is not there yet, measure costs, write the page."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default='Arrays("runs/data/mnist_half.npz")', help="a data expression")
    parser.add_argument("--only", nargs="*", default=[], help="these methods alone")
    parser.add_argument("--add", action="store_true", help="keep the lines of --page, and run what it lacks")
    parser.add_argument("--cost", nargs="+", default=[], choices=list(METHODS), metavar="METHOD")
    parser.add_argument("--seeds", type=int, default=3, help="paired runs of each method")
    parser.add_argument("--out", type=Path, default=Path("runs/methods"), help="folder of runs and figures")
    parser.add_argument("--page", type=Path, help="the Markdown file to write; printed when left out")
    parser.add_argument("--no-cost", action="store_true", help="leave out time and memory of a step")
    options = parser.parse_args()
    if (options.add or options.cost) and not options.page:
        parser.error("--add and --cost need the --page that they change")
    if options.cost:
        lines = again(options.page, {name: cost(options.data, name, options.out) for name in options.cost})
        options.page.write_text(page(lines, options.seeds, options.data, made_by(options)))
        return
    earlier = lines_of(options.page) if options.add else {}
    names = [name for name in options.only or METHODS if name not in {PLAIN, *earlier}]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        found = run(options.data, [PLAIN], options.seeds, options.out)
        same = row(PLAIN, found[PLAIN], found[PLAIN], (0, 0, 0)).split("|")[:-4]
        apart = PLAIN in earlier and earlier[PLAIN].split("|")[:-4] != same
        found.update(run(options.data, names, options.seeds, options.out))
        costs = {} if options.no_cost else costs_of(options.data, list(found), options.out)
    none = (float("nan"),) * 3
    lines = {name: row(name, units, found[PLAIN], costs.get(name, none), apart=apart) for name, units in found.items()}
    text = page({**lines, **earlier}, options.seeds, options.data, made_by(options))
    if options.page:
        options.page.write_text(text)
    else:
        print(text)


def made_by(options: argparse.Namespace) -> str:
    """The command that makes the whole page."""
    return f"python benchmarks/methods.py --data {shlex.quote(options.data)} --seeds {options.seeds}"


def again(path: Path, found: dict[str, Cost]) -> dict[str, str]:
    """The lines of an earlier page's table, with what a step of some methods costs by a new measurement."""
    lines = lines_of(path)
    for name, spent in found.items():
        lines[name] = "|".join([*lines[name].split("|")[:-4], *(f" {cell:.2f} " for cell in spent), ""])
    return lines


def costs_of(data: str, names: list[str], out: Path) -> dict[str, Cost]:
    """Time, class and memory of a step of each method; what was measured before is read."""
    kept = out / "step_costs.json"
    costs = {name: tuple(pair) for name, pair in json.loads(kept.read_text()).items()} if kept.exists() else {}
    for name in names:
        if name not in costs:
            costs[name] = cost(data, name, out)
            kept.write_text(json.dumps(costs))
    return costs


if __name__ == "__main__":
    sys.exit(ended(main))
