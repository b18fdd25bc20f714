"""Completions by a server: the same seam as a model at hand, against a small server on the loopback that the test starts."""

import copy
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from limbeck.core.errors import RunError
from limbeck.core.written import Writes
from limbeck.data.loader import Loader
from limbeck.data.seeding import generator_for
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.llm.completions import asked
from limbeck.llm.onpolicy import OnPolicy
from limbeck.llm.rollouts import Rollout, generate
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.topktail import TopKTail
from limbeck.models.gpt import CausalTransformer
from limbeck.training.callback import Callback
from limbeck.training.fit import fit
from support.served_makers import impatient, serving

VOCABULARY, EOS, PAD = 11, 3, 10
PROMPTS = torch.tensor([[1, 2, 4, 0], [5, 0, 0, 0], [7, 6, 0, 0]])
KNOWN, ROOM = torch.tensor([3, 1, 2]), torch.tensor([9, 4, 2])


def gpt() -> CausalTransformer:
    torch.manual_seed(0)
    return CausalTransformer(8, 1, 2, 0.0, length=32, vocabulary=VOCABULARY, tied=False).eval()


NET = gpt()
"""Made once: the server's threads must not seed one another's."""


OTHER_END = 6
"""A second token that ends a text by the served model's own files."""


def spoken(request: dict[str, Any], context: int = 32) -> dict[str, Any]:
    """What vLLM 0.32 writes with the tests' GPT behind it: one prompt a request, drawn by its seed.

    What a request leaves open comes from the model's generation_config.json: here the most probable token alone is written, and
    a second token ends texts. The ending token is given; where the context is full, the text ends without a word.
    """
    prompt = torch.tensor([request["prompt"]])
    draws = None if "seed" not in request else [torch.Generator().manual_seed(request["seed"])]
    wrote = generate(
        NET,
        prompt,
        torch.tensor([prompt.shape[1]]),
        length=min(request["max_tokens"], context - prompt.shape[1]),
        generators=draws,
        temperature=request["temperature"] if request.get("top_k", 1) == 0 else 0.0,
        top_p=request["top_p"],
    )
    tokens, log_probs = wrote.ids[wrote.mask].tolist(), wrote.log_probs[wrote.mask].tolist()
    endings = [*request.get("stop_token_ids", []), *([] if request.get("ignore_eos") else [EOS, OTHER_END])]
    end = next((place for place, token in enumerate(tokens, 1) if token in endings), None)
    found = {"tokens": [f"token_id:{token}" for token in tokens[:end]], "token_logprobs": log_probs[:end]}
    return {"choices": [{"index": 0, "text": "", "logprobs": found, "finish_reason": "stop" if end else "length"}]}


def write(model: Any, **changes: Any) -> Rollout:
    draws = [generator_for(5, row) for row in range(3)]
    return generate(model, PROMPTS, KNOWN, **{"length": ROOM, "generators": draws, "eos": EOS, "pad": PAD, **changes})


@pytest.mark.parametrize("eos", [EOS, None])
def test_a_server_writes_greedily_what_its_model_would(eos: int | None) -> None:
    with serving(lambda request: (200, spoken(request))) as (url, got):
        found = write(impatient(url, classes=VOCABULARY), temperature=0.0, generators=None, eos=eos)
    wanted = write(NET, temperature=0.0, generators=None, eos=eos)
    assert torch.equal(found.ids, wanted.ids)
    assert torch.equal(found.mask, wanted.mask)
    assert_close(found.log_probs, wanted.log_probs)
    asked_for = sorted((request["prompt"], request["max_tokens"], request.get("seed")) for request in got)
    assert asked_for == [([1, 2, 4], 9, None), ([5], 4, None), ([7, 6], 2, None)]


def test_a_row_is_drawn_by_its_own_seed_whatever_stands_beside_it() -> None:
    with serving(lambda request: (200, spoken(request))) as (url, _):
        together, again = write(impatient(url)), write(impatient(url, together=1))
        alone = generate(impatient(url), PROMPTS[1:2], KNOWN[1:2], length=4, generators=[generator_for(5, 1)], eos=EOS, pad=PAD)
    assert torch.equal(together.ids, again.ids)
    width = alone.ids.shape[1]
    assert torch.equal(alone.ids[0], together.ids[1, :width])


@pytest.mark.parametrize("eos", [EOS, None])
def test_what_the_model_files_say_of_writing_does_not_count(eos: int | None) -> None:
    with serving(lambda request: (200, spoken(request))) as (url, got):
        found = write(impatient(url), eos=eos, length=28)
    draws = [[torch.Generator().manual_seed(request["seed"])] for request in sorted(got, key=lambda one: -len(one["prompt"]))]
    for row, (draw, place) in enumerate(zip(draws, (0, 2, 1), strict=True)):
        wanted = generate(NET, PROMPTS[place : place + 1], KNOWN[place : place + 1], length=28, generators=draw, eos=eos)
        assert found.ids[place][found.mask[place]].tolist() == wanted.ids[wanted.mask].tolist(), row
    assert OTHER_END in found.ids[:, :-1]
    plain = {"top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0, "ignore_eos": True}
    assert all(plain.items() <= request.items() for request in got)


def test_a_context_that_is_too_short_is_told_of() -> None:
    with serving(lambda request: (200, spoken(request, context=8))) as (url, _), pytest.raises(RunError) as told:
        write(impatient(url), eos=None)
    assert str(told.value) == (
        "Served: the server stopped after 5 of 9 tokens, the prompt has 3; serve the model with a longer context "
        "(vLLM: --max-model-len)."
    )


def test_the_teacher_behind_a_server_is_who_writes() -> None:
    teacher = impatient("http://127.0.0.1:9/v1")
    assert isinstance(teacher, Writes)
    assert asked(teacher, None) is teacher
    assert not isinstance(NET, Writes)


@pytest.mark.parametrize(
    ("logprobs", "said"),
    [
        ({"tokens": ["the"], "token_logprobs": [-1.0]}, "names tokens by strings"),
        ({"tokens": ["token_id:1"] * 10, "token_logprobs": [-1.0] * 10}, "wrote 10 tokens with 10 log-probabilities where 1 to"),
        ({"tokens": ["token_id:1"], "token_logprobs": [None]}, "no usable completion"),
        ({"tokens": ["token_id:1"], "token_logprobs": [0.5]}, "are no log-probabilities .* --logprobs-mode"),
        ({"tokens": ["token_id:99"], "token_logprobs": [-1.0]}, "wrote token 99, but the data's tokenizer has 11"),
        (None, "no usable completion"),
    ],
)
def test_answers_that_cannot_be_used(logprobs: object, said: str) -> None:
    with (
        serving(lambda _request: (200, {"choices": [{"logprobs": logprobs}]})) as (url, _),
        pytest.raises(RunError, match=said),
    ):
        write(impatient(url), vocabulary=VOCABULARY)


def answered(request: dict[str, Any]) -> dict[str, Any]:
    """What the server says: completions, and with `echo` the two most probable tokens at every place of its prompts."""
    if not request.get("echo"):
        return spoken(request)
    choices = []
    for number, prompt in enumerate(request["prompt"]):
        best = NET(torch.tensor([prompt]))[0].detach().log_softmax(-1).topk(2)
        rows = zip(best.indices.tolist(), best.values.tolist(), strict=True)
        table = [None, *({f"token_id:{token}": value for token, value in zip(*row, strict=True)} for row in rows)]
        choices.append({"index": number, "logprobs": {"top_logprobs": table}})
    return {"choices": choices}


def test_a_student_is_trained_on_what_a_server_writes() -> None:
    ids = torch.randint(4, 10, (6, 9), generator=torch.Generator().manual_seed(1))
    data = InMemory(ids[:, :-1], ids[:, 1:].clone(), vocabulary=VOCABULARY, mask=torch.ones(6, 8).bool(), name="Rows()")
    loader = Loader(data, torch.arange(6), batch_size=3, seed=3, labels=data.labels)
    student, seen = copy.deepcopy(NET).train(), []
    callback = Callback()
    callback.after_step = lambda _training, record: seen.append(record)  # type: ignore[method-assign]
    with serving(lambda request: (200, answered(request))) as (url, got):
        distiller = Distiller(student, impatient(url, classes=VOCABULARY), TopKTail(KD(T=1)))
        optimizer = torch.optim.SGD(distiller.trained(), lr=0.1)
        step = OnPolicy(1.0, "teacher", temperature=0.0, context=4)
        fit(distiller, loader, optimizer, steps=1, step=step, callbacks=[callback])
    (record,) = seen
    wrote = generate(NET, ids[record.batch.index, :4], torch.full((3,), 4), length=5, temperature=0.0)
    assert torch.equal(record.batch.targets[:, 3:], wrote.ids[:, 4:])
    assert record.batch.mask.sum(1).tolist() == [5, 5, 5]
    assert record.loss == pytest.approx(0.0, abs=1e-6)  # the student is the served model
    assert {request.get("echo", False) for request in got} == {False, True}
