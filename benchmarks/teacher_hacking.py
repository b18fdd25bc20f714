"""Does a student that nears its teacher leave the truth? An oracle that is known, a teacher and a student that learnt from it.

    python benchmarks/teacher_hacking.py [--sources offline ...] [--prompts 64] [--steps 1024] [--seeds 3] [--batch 32]

The oracle is a small GPT with random weights: a language of its own, whose every probability is known. Teacher and student learn
from its texts; then the student is distilled with KD(T=1) on a source of texts:

* offline: one text of the teacher per prompt, written once, over and over;
* online teacher: `OnPolicy(1.0, "teacher")`, fresh texts of the teacher at every step;
* online student: `OnPolicy(1.0)`, its own.

At steps 1, 2, 4, ... the proxy D(teacher, student) and the golden metric D(oracle, student) are taken on held-out texts of
teacher and oracle, drawn once. `HackingMonitor` says where they turn. Figures are means over seeds, in nats a token.
"""

import argparse
import statistics
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from ended import ended
from limbeck.core.term import Term
from limbeck.data.loader import Loader
from limbeck.data.seeding import generator_for
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.evaluation.hacking import HackingMonitor, reference_divergence
from limbeck.llm.onpolicy import OnPolicy
from limbeck.llm.rollouts import generate
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.models.gpt import CausalTransformer
from limbeck.teachers.single import Single
from limbeck.training.callback import Callback
from limbeck.training.fit import fit
from limbeck.training.steps.student import Student
from limbeck.training.training import Record, Training, Update

VOCABULARY, LENGTH, PROMPT, HELD = 24, 16, 4, 256
SOURCES: dict[str, tuple[float, str]] = {
    "offline": (0.0, "teacher"),
    "online teacher": (1.0, "teacher"),
    "online student": (1.0, "student"),
}


def net(width: int, depth: int, seed: int) -> CausalTransformer:
    """A freshly initialised model."""
    torch.manual_seed(seed)
    return CausalTransformer(width, depth, 2, 0.0, length=LENGTH, vocabulary=VOCABULARY, tied=False)


def oracle_of(seed: int) -> CausalTransformer:
    """A language: large weights, so that the next token depends on what stands before it."""
    found = net(32, 2, seed)
    with torch.no_grad():
        found.embedding.weight.mul_(50)
        found.position.weight.mul_(20)
        found.head.weight.mul_(4)
    return found.eval().requires_grad_(False)


def texts(model: nn.Module, count: int, seed: int) -> Tensor:
    """[count, LENGTH + 1] tokens: random prompts of the seed, and what the model writes behind them."""
    prompts = torch.randint(VOCABULARY, (count, PROMPT), generator=torch.Generator().manual_seed(seed))
    draws = [generator_for(seed, row) for row in range(count)]
    known = torch.full((count,), PROMPT)
    return generate(model.eval(), prompts, known, length=LENGTH + 1 - PROMPT, generators=draws).ids


def source_of(ids: Tensor) -> InMemory:
    """These texts as data: what stands behind the prompt counts."""
    mask = (torch.arange(LENGTH) >= PROMPT - 1).expand(len(ids), LENGTH)
    return InMemory(ids[:, :-1], ids[:, 1:].clone(), vocabulary=VOCABULARY, mask=mask, name="texts")


@dataclass
class Curves(Callback):
    """Proxy and golden metric at steps that are powers of two.

    Args:
        references: Held-out texts of the teacher and of the oracle, and what each says of its own.
    """

    references: Sequence[tuple[Tensor, Tensor]]
    steps: list[float] = field(default_factory=list)
    found: list[list[float]] = field(default_factory=lambda: [[], []])

    def after_step(self, training: Training, record: Record) -> None:
        """Measure where it is time."""
        done = training.number + 1
        if done & (done - 1):
            return
        self.steps.append(float(done))
        student, mask = training.distiller.student.model.eval(), (torch.arange(LENGTH) >= PROMPT - 1).expand(HELD, LENGTH)
        with torch.no_grad():
            for curve, (ids, said) in zip(self.found, self.references, strict=True):
                curve.append(reference_divergence(said, student(ids[:, :-1]), mask))
        student.train()


def train(
    student: nn.Module, teacher: nn.Module | None, ids: Tensor, step: Update, steps: int, *callbacks: Callback, **said: int
) -> None:
    """Train on texts: on their labels without a teacher, else by KD(T=1)."""
    data = source_of(ids)
    loader = Loader(data, torch.arange(len(ids)), batch_size=said["batch"], seed=said["seed"], labels=data.labels)
    objective: Term = CE() if teacher is None else KD(T=1)
    distiller = Distiller(student, None if teacher is None else Single(teacher), objective)
    fit(distiller, loader, torch.optim.Adam(distiller.trained(), lr=3e-3), steps=steps, step=step, callbacks=list(callbacks))


def curves_of(source: str, seed: int, options: argparse.Namespace) -> Curves:
    """One run of the set-up."""
    said = {"batch": options.batch, "seed": seed}
    oracle, teacher, student = oracle_of(seed), net(32, 2, seed + 1000), net(24, 1, seed + 2000)
    gold = texts(oracle, options.pairs, seed + 1)
    train(teacher, None, gold, Student(), options.steps, **said)
    train(student, None, gold, Student(), 64, **said)
    references = [
        (held, model(held[:, :-1])) for model, held in ((m.eval(), texts(m, HELD, seed + 9)) for m in (teacher, oracle))
    ]
    curves = Curves([(ids, logits.detach()) for ids, logits in references])
    share, writer = SOURCES[source]
    step = OnPolicy(share, writer, length=LENGTH, context=PROMPT) if share else Student()
    train(student, teacher, texts(teacher, options.prompts, seed + 2), step, options.steps, curves, **said)
    return curves


def row_of(source: str, options: argparse.Namespace) -> str:
    """One row of the table."""
    monitor, runs = HackingMonitor(), [curves_of(source, 10 * seed, options) for seed in range(options.seeds)]
    proxy, golden = ([statistics.mean(run.found[which][place] for run in runs) for place in (0, -1)] for which in (0, 1))
    least = statistics.mean(min(run.found[1]) for run in runs)
    risen = sum(monitor.risen(run.found[1]) is not None for run in runs)
    departed = sum(monitor.departed(run.steps, run.found[0]) is not None for run in runs)
    return (
        f"| {source} | {proxy[0]:.3f} | {proxy[1]:.3f} | {golden[0]:.3f} | {least:.3f} | {golden[1]:.3f} "
        f"| {risen} of {len(runs)} | {departed} of {len(runs)} |"
    )


def main() -> None:
    """Run and print a Markdown table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--sources", nargs="+", default=list(SOURCES), choices=list(SOURCES), help="where the texts of the distillation come from"
    )
    parser.add_argument("--prompts", type=int, default=64, help="of the distillation")
    parser.add_argument("--pairs", type=int, default=512, help="texts of the oracle that teacher and student learn from")
    parser.add_argument("--steps", type=int, default=1024, help="of the student")
    parser.add_argument("--seeds", type=int, default=3, help="runs of each source")
    parser.add_argument("--batch", type=int, default=32, help="texts of a step")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print("| texts | proxy, first | last | golden, first | least | last | golden risen | proxy off its law |")
    print("|---|---|---|---|---|---|---|---|")
    for source in options.sources:
        print(row_of(source, options), flush=True)


if __name__ == "__main__":
    sys.exit(ended(main))
