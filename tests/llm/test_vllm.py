"""Served against a real vLLM server that the reader of these lines has started; skipped where none is named.

    vllm serve FOLDER --dtype float32 --max-logprobs 20 --max-model-len 512
    LIMBECK_VLLM_URL=http://127.0.0.1:8000/v1 LIMBECK_VLLM_MODEL=FOLDER python -m pytest -m slow tests/llm/test_vllm.py

FOLDER holds a causal model and its tokenizer, and is its name on the server too. The same model is asked here, live, in float32:
another precision of the server needs other tolerances.
"""

import os
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import RunError
from limbeck.core.topk import TopK
from limbeck.core.written import Wanted
from limbeck.data.loader import Loader, whole
from limbeck.data.pretrained_tokenizer import Tokenizer
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.llm.onpolicy import OnPolicy
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.topktail import TopKTail
from limbeck.models.from_transformers import HFModel
from limbeck.models.gpt import CausalTransformer
from limbeck.models.spec import DataSpec
from limbeck.teachers.served import Served
from limbeck.teachers.single import Single
from limbeck.training.callback import Callback
from limbeck.training.fit import fit

URL, MODEL = os.environ.get("LIMBECK_VLLM_URL", ""), os.environ.get("LIMBECK_VLLM_MODEL", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (URL and MODEL), reason="LIMBECK_VLLM_URL and LIMBECK_VLLM_MODEL name no server"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
]
NEAR = 5e-4
"""Nats between two implementations of one model in float32."""
TEXTS = [
    "The capital of France is Paris, and the river that runs through it is the Seine. It has many bridges.",
    "Once upon a time there was a miller who had three sons, a mill, a donkey and a cat.",
    "Water boils at a hundred degrees and freezes at zero; both depend on the pressure of the air.",
    "Yes",
]


@pytest.fixture(scope="module")
def tokens() -> Tokenizer:
    return Tokenizer(MODEL)


@pytest.fixture(scope="module")
def net(tokens: Tokenizer) -> nn.Module:
    return HFModel(MODEL).build(DataSpec("language", (64,), tokens.size, tokens.size)).eval()


@pytest.fixture(scope="module")
def data(tokens: Tokenizer) -> InMemory:
    """One text a row, with padding on the right."""
    rows = [tokens.encode(text)[:24] for text in TEXTS]
    ids = torch.full((len(rows), 25), tokens.pad)
    mask = torch.zeros(len(rows), 25, dtype=torch.bool)
    for row, found in enumerate(rows):
        ids[row, : len(found)], mask[row, : len(found)] = torch.tensor(found), True
    mask = mask[:, :24]  # the place behind a text counts as well: its label is padding
    made = InMemory(ids[:, :-1], ids[:, 1:].clone(), vocabulary=tokens.size, mask=mask, name="Texts()")
    made.tokenizer = tokens
    return made


def served(**changes: Any) -> Served:
    return Served(URL, MODEL, **{"k": 20, **changes})


def counted(data: InMemory) -> Batch:
    return whole(data, torch.arange(len(TEXTS)), data.labels)


@torch.no_grad()
def log_probs(net: nn.Module, ids: Tensor) -> Tensor:
    found: Tensor = net(ids).double().log_softmax(-1)
    return found


def same(found: TopK | None, wanted: Tensor, mask: Tensor) -> None:
    """The top k of both, place by place; neighbours that lie nearer to one another than `NEAR` may change places."""
    assert found is not None
    best = wanted.topk(found.k).values
    assert_close(found.log_probs[mask].double(), best[mask], rtol=0, atol=NEAR)
    assert_close(wanted.gather(-1, found.ids)[mask], best[mask], rtol=0, atol=NEAR)
    assert all(len(set(row)) == found.k for row in found.ids[mask].tolist())
    assert_close(found.tail[mask].double().exp(), 1 - best[mask].exp().sum(-1), rtol=0, atol=NEAR)


@pytest.mark.parametrize(("k", "together"), [(1, 1), (5, 3), (20, 8)])
def test_the_top_k_are_those_of_the_model_at_every_place(net: nn.Module, data: InMemory, k: int, together: int) -> None:
    batch = counted(data)
    same(served(k=k, together=together)(batch).sparse, log_probs(net, batch.inputs), batch.mask)


def test_what_it_refuses_comes_back_in_its_words(data: InMemory) -> None:
    for teacher, words in ((served(k=10**6), "status 400, .*logprobs"), (Served(URL, "nobody"), "status 404, .*nobody")):
        with pytest.raises(RunError, match=words):
            teacher(counted(data))
    long = torch.full((1, 10**6), 1)
    with pytest.raises(RunError, match=r"status 400, .* its context must hold 1000001 tokens\.$"):
        served()(Batch(long, long, torch.zeros(1).long()))


def wanted(prompt: list[int], **changes: Any) -> Wanted:
    usual = {"length": 24, "temperature": 1.0, "top_p": 1.0, "seed": 7, "eos": None}
    return Wanted(tuple(prompt), **{**usual, **changes})


@pytest.mark.parametrize(("temperature", "top_p"), [(0.0, 1.0), (1.0, 1.0), (0.7, 1.0), (1.5, 1.0), (1.0, 0.5), (0.7, 0.8)])
def test_completions_have_the_log_probabilities_of_the_model(
    net: nn.Module, tokens: Tokenizer, temperature: float, top_p: float
) -> None:
    for prompt in (tokens.encode(TEXTS[1])[:4], tokens.encode("Yes")[:1]):
        asked = wanted(prompt, temperature=temperature, top_p=top_p, seed=7 if temperature else None)
        ids, given = served().complete(asked)
        assert len(ids) == asked.length
        log_p = log_probs(net, torch.tensor([[*prompt, *ids]]))[0, len(prompt) - 1 : -1]
        own = log_p.gather(-1, torch.tensor(ids).unsqueeze(-1))
        assert_close(torch.tensor(given).double(), own.squeeze(-1), rtol=0, atol=NEAR)
        if temperature == 0:
            assert_close(own.squeeze(-1), log_p.amax(-1), rtol=0, atol=NEAR)
        else:
            p = (log_p / temperature).softmax(-1)
            assert float((p * (log_p > own)).sum(-1).max()) < top_p + NEAR
        assert served().complete(asked) == (ids, given)


def test_seeds_differ_and_the_token_that_ends_a_text_is_given(tokens: Tokenizer) -> None:
    prompt = tokens.encode(TEXTS[1])[:4]
    written = [served().complete(wanted(prompt, seed=seed))[0] for seed in range(3)]
    assert len({tuple(ids) for ids in written}) == 3
    end = written[0][8]
    assert served().complete(wanted(prompt, seed=0, eos=end))[0] == written[0][: written[0].index(end) + 1]


def test_draws_follow_the_model_whatever_its_files_say(net: nn.Module, tokens: Tokenizer) -> None:
    prompt = tokens.encode(TEXTS[0])[:2]
    p = log_probs(net, torch.tensor([prompt]))[0, -1].exp()
    teacher = served()
    drawn = torch.tensor([teacher.complete(wanted(prompt, length=1, seed=seed))[0][0] for seed in range(200)])
    best = p.topk(5).indices
    share = (drawn.unsqueeze(-1) == best).double().mean(0)
    assert bool(((share - p[best]).abs() < 4 * (p[best] * (1 - p[best]) / 200).sqrt() + 1e-3).all())
    beyond = 1 - p.topk(20).values.sum()
    outside = (~torch.isin(drawn, p.topk(20).indices)).double().mean()
    assert float((outside - beyond).abs()) < 4 * float((beyond * (1 - beyond) / 200).sqrt()) + 1e-3


@pytest.fixture
def student(tokens: Tokenizer) -> nn.Module:
    torch.manual_seed(0)
    made = CausalTransformer(8, 1, 2, 0.0, length=64, vocabulary=tokens.size, tied=False)
    with torch.no_grad():
        made.head.weight *= 30  # sharp: among tokens that are all alike the last digit decides which one is drawn
    return made


class Losses(Callback):
    """Notes the loss of every step, and what it was of."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.batches: list[Batch] = []

    def after_step(self, training: Any, record: Any) -> None:
        self.losses.append(float(record.loss))
        self.batches.append(record.batch)


@pytest.mark.parametrize(
    "step",
    [None, OnPolicy(1.0, length=6, context=4), OnPolicy(1.0, "teacher", length=6, temperature=0.0, context=4)],
    ids=["data", "student writes", "teacher writes"],
)
def test_runs_have_the_losses_of_those_with_the_model_at_hand(
    net: nn.Module, data: InMemory, student: nn.Module, step: OnPolicy | None
) -> None:
    start = {name: value.clone() for name, value in student.state_dict().items()}
    seen = []
    for teacher in (served(), Single(net)):
        student.load_state_dict(start)
        loader = Loader(data, torch.arange(3), batch_size=3, seed=3, labels=data.labels)
        distiller = Distiller(student, teacher, TopKTail(KD(T=1), k=20))
        losses = Losses()
        fit(distiller, loader, torch.optim.SGD(distiller.trained(), lr=0.01), steps=4, step=step, callbacks=[losses])
        seen.append(losses)
    assert len(seen[0].losses) == 4
    assert seen[0].losses == pytest.approx(seen[1].losses, rel=1e-4, abs=NEAR)
    for one, other in zip(seen[0].batches, seen[1].batches, strict=True):
        assert torch.equal(one.targets, other.targets)
