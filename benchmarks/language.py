"""Tokens per second of a language model's distillation step over a loop written by hand, and the memory that `Chunked` saves.

    python benchmarks/language.py [--pairs gpt llama] [--batch 8] [--length 128] [--k 50] [--repeats 9] [--threads 1] [--memory]

The loop is plain torch: forward passes, divergence and cross-entropy on the counted tokens, backward, optimiser, and nothing
else. Both loops train nets of the same first weights on the same batch; that their first losses agree is checked before time is
taken. With the live teacher the objective is KD(T=1) and CE in equal parts, with the stored one TopKTail(KD(T=1)) on the
teacher's k most probable tokens; the hand-written loop has these in memory, ours reads them from a store and knows each row
again by its tokens. Ratios are medians of paired ratios with their quartiles, of processor time. `--memory` takes steps of a
small GPT with a vocabulary of 50,000 in processes of their own and compares what they add to the resident memory.
"""

import argparse
import copy
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ended import ended
from limbeck.core.batch import Batch
from limbeck.core.objective import Objective
from limbeck.core.term import Term
from limbeck.distiller import Distiller
from limbeck.engine.local import LocalEngine
from limbeck.llm.rollouts import generate
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.chunked import Chunked
from limbeck.losses.logits.jsd import JSD
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.topktail import TopKTail
from limbeck.models.from_transformers import HFModel
from limbeck.models.gpt import GPT
from limbeck.models.spec import DataSpec
from limbeck.teachers.manifest import Layout, Manifest
from limbeck.teachers.single import Single
from limbeck.teachers.store import build
from limbeck.teachers.stored import Stored
from limbeck.teachers.teacher import Teacher
from limbeck.training.steps.student import Student
from limbeck.training.training import Training

VOCABULARY, LARGE = 2000, 50_000
TERMS: dict[str, Term] = {"plain": JSD(), "chunked": Chunked(JSD(), size=64)}


@dataclass
class Case:
    """A student and what teaches it; both loops begin with copies of it."""

    student: nn.Module
    teacher: nn.Module
    batch: Batch


def batch_of(rows: int, length: int, vocabulary: int) -> Batch:
    """Random rows of tokens, the last ones of each padded: time does not depend on what they say."""
    ids = torch.randint(vocabulary, (rows, length + 1), generator=torch.Generator().manual_seed(0))
    counts = torch.linspace(length / 2, length, rows).long()
    return Batch(ids[:, :-1], ids[:, 1:].contiguous(), torch.arange(rows), torch.arange(length) < counts.unsqueeze(1))


def case_of(pair: str, rows: int, length: int, vocabulary: int = VOCABULARY) -> Case:
    """The pair of this name, freshly initialised."""
    spec = DataSpec("language", (length,), vocabulary, vocabulary)
    torch.manual_seed(0)
    if pair == "gpt":
        nets = [GPT(width=256, depth=4, heads=4).build(spec), GPT(width=128, depth=2, heads=4).build(spec)]
    else:
        nets = [_llama(spec, width, depth) for width, depth in ((256, 4), (128, 2))]
    return Case(nets[1], nets[0].eval().requires_grad_(False), batch_of(rows, length, vocabulary))


def _llama(spec: DataSpec, width: int, depth: int) -> nn.Module:
    from transformers import LlamaConfig

    sizes = {"hidden_size": width, "intermediate_size": 4 * width, "num_hidden_layers": depth, "num_attention_heads": 4}
    with tempfile.TemporaryDirectory() as folder:
        LlamaConfig(vocab_size=spec.classes, max_position_embeddings=spec.input_shape[0], **sizes).save_pretrained(folder)
        return HFModel(folder, pretrained=False).build(spec)


def by_hand(case: Case, known: tuple[Tensor, Tensor, Tensor] | None) -> Callable[[], float]:
    """A step as one would write it; `known` are the stored teacher's ids, log-probabilities and log of the others' mass."""
    student, batch = copy.deepcopy(case.student).train(), case.batch
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    assert batch.mask is not None
    assert batch.targets is not None
    share = batch.mask / batch.mask.sum(1, keepdim=True)

    def divergence(log_q: Tensor) -> Tensor:
        if known is None:
            with torch.no_grad():
                log_p = case.teacher(batch.inputs).log_softmax(-1)
            return F.kl_div(log_q, log_p, reduction="none", log_target=True).sum(-1)
        ids, log_p, tail = known
        own = log_q.gather(-1, ids)
        rest = log_q.scatter(-1, ids, -torch.inf).logsumexp(-1)  # 1 - sum has no digits left where the k hold nearly all
        return (log_p.exp() * (log_p - own)).sum(-1) + tail.exp() * (tail - rest)

    def step() -> float:
        logits = student(batch.inputs)
        hard = F.cross_entropy(logits.flatten(0, 1), batch.targets.flatten(), reduction="none").view(share.shape)
        loss = ((0.5 * divergence(logits.log_softmax(-1)) + 0.5 * hard) * share).sum(1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def ours(case: Case, teacher: Teacher, objective: Term | Objective) -> Callable[[], float]:
    """The step of this package."""
    distiller = Distiller(copy.deepcopy(case.student), teacher, objective)
    optimizer = torch.optim.AdamW(distiller.trained(), lr=1e-3)
    training = Training(distiller, distiller.student, optimizer, LocalEngine(), lambda *_: 1.0, steps=10**6)
    distiller.student.train()
    step = Student()
    return lambda: step(training, case.batch).loss


def stored(case: Case, k: int, folder: Path) -> Stored:
    """A store of the teacher's k most probable tokens for the rows of the batch."""
    rows, length = case.batch.inputs.shape
    layout = Layout(VOCABULARY, length, k)
    manifest = Manifest(layout, rows, rows, {"name": "teacher", "weights": "w"}, {"name": "data", "marks": "m"})
    build(folder, manifest, case.batch.take, Single(case.teacher), batch_size=rows)
    return Stored(str(folder))


def loops(pair: str, source: str, options: argparse.Namespace, folder: Path) -> tuple[Callable[[], float], Callable[[], float]]:
    """The hand-written loop and ours, of the same pair, batch and teacher.

    Raises:
        SystemExit: Their first losses differ.
    """
    case = case_of(pair, options.batch, options.length)
    if source == "live":
        plain, own = by_hand(case, None), ours(case, Single(case.teacher), KD(T=1) * 0.5 + CE() * 0.5)
    else:
        teacher = stored(case, options.k, folder)
        sparse = teacher(case.batch).sparse
        assert sparse is not None
        plain = by_hand(case, (sparse.ids, sparse.log_probs, sparse.tail))
        own = ours(case, teacher, TopKTail(KD(T=1)) * 0.5 + CE() * 0.5)
    for _ in range(3):
        losses = plain(), own()
        if abs(losses[0] - losses[1]) > 1e-4 * abs(losses[0]):
            raise SystemExit(f"{pair}, {source}: the loops are not the same: losses {losses[0]:.6f} and {losses[1]:.6f}.")
    return plain, own


def seconds(act: Callable[[], object]) -> float:
    """Process time of one call: what other work on the machine hardly touches."""
    began = time.process_time()
    act()
    return time.process_time() - began


def measure(pair: str, source: str, options: argparse.Namespace) -> str:
    """One row of the table."""
    with tempfile.TemporaryDirectory() as folder:
        plain, own = loops(pair, source, options, Path(folder))
        ratios, before_and_after = [], []
        for _ in range(options.repeats):
            before, middle, after = seconds(plain), seconds(own), seconds(plain)
            ratios.append(2 * middle / (before + after))
            before_and_after.append((before + after) / 2)
    base, (low, ratio, high) = statistics.median(before_and_after), statistics.quantiles(ratios, n=4)
    speed = options.batch * options.length / base
    return f"| {pair}, {source} | {speed:,.0f} | {speed / ratio:,.0f} | {ratio:.3f} ({low:.3f}-{high:.3f}) |"


def measure_writing(pair: str, options: argparse.Namespace) -> str:
    """Greedy completions of the pair's teacher, from an eighth of the length on: with its cache, and of whole prefixes."""
    case, known = case_of(pair, options.batch, options.length), options.length // 8
    prompts, counts = case.batch.inputs[:, :known], torch.full((options.batch,), known)

    def write(model: Callable[[Tensor], Tensor]) -> float:
        return seconds(lambda: generate(model, prompts, counts, length=options.length - known, temperature=0.0))

    fast, slow = (statistics.median(write(model) for _ in range(3)) for model in (case.teacher, lambda ids: case.teacher(ids)))
    tokens = options.batch * (options.length - known)
    return f"| {pair} | {tokens / slow:,.0f} | {tokens / fast:,.0f} | {slow / fast:.1f} |"


def peak(kind: str, options: argparse.Namespace) -> int:
    """What the steps of a process of its own add to its resident memory at most, in bytes."""
    command = [sys.executable, __file__, "--peak-of", kind, "--batch", str(options.batch), "--length", str(options.length)]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def show_peak(kind: str, options: argparse.Namespace) -> None:
    """Print this process's growth over its state before the first step."""
    case = case_of("gpt", options.batch, options.length, LARGE)
    step = ours(case, Single(case.teacher), TERMS[kind])
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for _ in range(2):
        step()
    print(max(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before, 1) * 1024)


def show_memory(options: argparse.Namespace) -> None:
    """Print the second table."""
    small = argparse.Namespace(batch=4, length=128)
    logits = small.batch * small.length * LARGE * 4
    found = {kind: peak(kind, small) for kind in TERMS}
    print(f"\nvocabulary {LARGE:,}, batch {small.batch}, {small.length} tokens: the logits have {logits / 2**20:.0f} MB.\n")
    print("| objective | peak, MB | over plain |\n|---|---|---|")
    for kind, term in TERMS.items():
        print(f"| `{term!r}` | {found[kind] / 2**20:.0f} | {found[kind] / found['plain']:.2f} |")


def main() -> None:
    """Measure and print Markdown tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", nargs="+", default=["gpt", "llama"], choices=["gpt", "llama"], help="pairs of nets to measure")
    parser.add_argument("--batch", type=int, default=8, help="rows of a step")
    parser.add_argument("--length", type=int, default=128, help="tokens of a row")
    parser.add_argument("--k", type=int, default=50, help="classes that a stored teacher keeps")
    parser.add_argument("--repeats", type=int, default=9, help="times that each is measured")
    parser.add_argument("--threads", type=int, default=1, help="of the processor")
    parser.add_argument("--memory", action="store_true", help="peak memory of each term too")
    parser.add_argument("--peak-of", choices=list(TERMS), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.peak_of:
        show_peak(options.peak_of, options)
        return
    print(f"torch {torch.__version__}, {options.threads} thread(s), {options.batch} rows of {options.length} tokens, vocabulary")
    print(f"{VOCABULARY:,}; tokens of a row per second of processor time.\n")
    print("| pair, teacher | by hand, tokens/s | limbeck, tokens/s | time, limbeck / by hand (quartiles) |\n|---|---|---|---|")
    for pair in options.pairs:
        for source in ("live", "stored"):
            print(measure(pair, source, options), flush=True)
    print("\n| written by | whole prefixes, tokens/s | with a cache, tokens/s | times as fast |\n|---|---|---|---|")
    for pair in options.pairs:
        print(measure_writing(pair, options), flush=True)
    if options.memory:
        show_memory(options)


if __name__ == "__main__":
    sys.exit(ended(main))
