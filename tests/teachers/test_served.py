"""Served against a small server on the loopback that the test starts: what is sent, what is read, and what goes wrong."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from store_makers import CLASSES, COUNTED, reader, tokens
from torch import Tensor, nn
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import RunError, ShapeError, UsageError
from limbeck.core.outputs import Outputs, Views
from limbeck.distiller import Distiller
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.reversekl import ReverseKL
from limbeck.losses.logits.topktail import TopKTail
from limbeck.teachers.served import Served
from support.makers import normal
from support.served_makers import impatient, serving

ROWS = torch.tensor([3, 0, 6, 1, 7])


def spoken(request: dict[str, Any], name: Callable[[int], str] = "token_id:{}".format) -> dict[str, Any]:
    """What vLLM 0.32 says with the tests' reader behind it: the token that it was given comes first, also beyond the top k."""
    choices = []
    for number, prompt in enumerate(request["prompt"]):
        (log_p,) = reader()(Batch(torch.tensor([prompt]), None, torch.zeros(1).long())).logits.log_softmax(-1)
        given = [*[token % CLASSES for token in prompt[1:]], 0]
        table: list[dict[str, float] | None] = [None]
        for row, own in zip(log_p, given, strict=True):
            best = row.topk(request["logprobs"]).indices.tolist()
            table.append({name(token): float(row[token]) for token in dict.fromkeys([own, *best])})
        choices.insert(0, {"index": number, "text": "", "logprobs": {"top_logprobs": table}})  # in any order
    return {"choices": choices}


def test_what_is_served_is_what_the_model_says() -> None:
    with serving(lambda request: (200, spoken(request))) as (url, got):
        found = impatient(url, k=3, together=2, classes=CLASSES)(tokens(ROWS))
    wanted, mask = reader()(tokens(ROWS)).logits.log_softmax(-1), COUNTED[ROWS]
    assert found.sparse is not None
    assert found.logits.shape == (5, 4, 0)
    assert (found.sparse.k, found.sparse.T, found.classes) == (3, 1.0, CLASSES)
    assert_close(found.sparse.ids[mask], wanted.topk(3).indices[mask])
    assert_close(found.sparse.log_probs[mask], wanted.topk(3).values[mask], rtol=0, atol=1e-6)
    rest = 1 - wanted.topk(3).values.exp().sum(-1)
    assert_close(found.sparse.tail.exp()[mask], rest[mask], rtol=0, atol=1e-6)
    assert [len(request["prompt"]) for request in got] == [2, 2, 1]
    asked = [prompt for request in got for prompt in request["prompt"]]
    assert asked == [row[keep].tolist() for row, keep in zip(tokens(ROWS).inputs, mask, strict=True)]
    assert {(request["path"], request["echo"], request["max_tokens"], request["key"]) for request in got} == {
        ("/v1/completions", True, 1, None)
    }


def test_training_on_it_equals_training_on_the_live_model() -> None:
    student = nn.Sequential(nn.Embedding(9, 4), nn.Linear(4, CLASSES))
    with serving(lambda request: (200, spoken(request))) as (url, _):
        distiller = Distiller(student, impatient(url), TopKTail(ReverseKL()))
        distiller.check(tokens(ROWS))
        found = distiller(tokens(ROWS)).total
    assert_close(found, Distiller(student, reader(), TopKTail(ReverseKL(), k=2))(tokens(ROWS)).total, rtol=1e-5, atol=1e-6)


def test_positions_that_nobody_asked_about_are_sound_and_samples_without_tokens_are_not_sent() -> None:
    none = replace(tokens(ROWS), mask=torch.zeros(5, 4, dtype=torch.bool))
    with serving(lambda request: (200, spoken(request))) as (url, got):
        found = impatient(url)(none).sparse
    assert not got
    assert found is not None
    assert_close(found.log_probs.exp().sum(-1) + found.tail.exp(), torch.ones(5, 4))
    logits = normal(5, 4, CLASSES, dtype=torch.float32)
    views = Views(Outputs(logits), Outputs(logits[..., :0], sparse=found), none)
    assert TopKTail(KD(T=1))(views).tolist() == [0.0] * 5


def test_it_asks_again_when_the_server_stumbles() -> None:
    answers = iter([(503, b"busy"), (429, b"slow down"), (200, None)])

    def reply(request: dict[str, Any]) -> tuple[int, object]:
        status, content = next(answers)
        return status, spoken(request) if content is None else content

    with serving(reply) as (url, got):
        impatient(url)(tokens(ROWS))
    assert len(got) == 3


def refused(why: str) -> dict[str, Any]:
    """How vLLM says no."""
    return {"error": {"message": why, "type": "BadRequestError", "param": None, "code": 400}}


@pytest.mark.parametrize(
    ("reply", "words", "times"),
    [
        ((500, b"out of memory"), r"did not answer for 'm' \(status 500, out of memory\)", 3),
        ((404, b"no such\nmodel"), r"refused the request for 'm' \(status 404, no such model\)", 1),
        (
            (400, refused("logprobs of 21, more than 20")),
            r"'m' \(status 400, logprobs of 21, more than 20\); .* hold 5 tokens",
            1,
        ),
        ((400, refused("word " * 200)), r"\(status 400, word [word ]{270,310}\.\.\.\); look", 1),
        ((404, {"detail": "Not Found"}), r"refused the request for 'm' \(status 404, Not Found\)", 1),
        ((400, {"error": "no dictionary"}), r"refused the request for 'm' \(status 400, no dictionary\)", 1),
        ((200, b'{"choices": "\xff"}'), "invalid start byte", 3),
        ((200, b"9" * 5000), r"did not answer for 'm' \(", 3),
        ((200, b"[" * 100_000), r"did not answer for 'm' \(", 3),
        ((400, b"9" * 5000), r"\(status 400, 9{300}\.\.\.\)", 1),
        ((400, [1]), r"refused the request for 'm' \(status 400, \[1\]\)", 1),
        ((302, b""), r"\(status 302", 1),
        ((200, b"<html>"), "did not answer", 3),
        ((200, b"[]"), "did not answer", 3),
        ((200, {}), r"no usable log-probabilities of the prompt \(KeyError\)", 1),
        ((200, {"choices": [{"index": 0, "logprobs": None}]}), r"no usable log-probabilities of the prompt \(TypeError\)", 1),
        ((200, {"choices": []}), "other positions than those of the prompts", 1),
    ],
)
def test_a_server_that_cannot_be_used_is_told_of_in_one_sentence(reply: tuple[int, object], words: str, times: int) -> None:
    with serving(lambda request: reply) as (url, got), pytest.raises(RunError, match=words):
        impatient(url)(tokens(ROWS))
    assert len(got) == times


def changed(request: dict[str, Any], change: Callable[[dict[str, float]], dict[str, float]]) -> dict[str, Any]:
    answer = spoken(request)
    for choice in answer["choices"]:
        choice["logprobs"]["top_logprobs"][1:] = [change(part) for part in choice["logprobs"]["top_logprobs"][1:]]
    return answer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda part: {f"word{name}": value for name, value in part.items()}, "names tokens by strings"),
        (lambda part: dict(list(part.items())[:1]), "gave 1 of 2 tokens at a position; lower k"),
        (lambda part: dict.fromkeys(part, 1.0), "no log-probabilities"),
        (lambda part: dict.fromkeys(part, float("nan")), "no log-probabilities"),
        (lambda part: {name: value - 30 for name, value in part.items()}, "no log-probabilities .* --logprobs-mode"),  # logits
        (lambda part: {f"{name}7": value for name, value in part.items()}, "no log-probabilities of this vocabulary"),
    ],
)
def test_numbers_that_cannot_be_used_are_told_of(change: Callable[[dict[str, float]], dict[str, float]], words: str) -> None:
    with serving(lambda request: (200, changed(request, change))) as (url, _), pytest.raises(RunError, match=words):
        impatient(url, classes=CLASSES)(tokens(ROWS))


def test_rounded_numbers_leave_a_tail() -> None:
    def certain(part: dict[str, float]) -> dict[str, float]:
        return {name: 0.0 if place == 0 else -40.0 for place, name in enumerate(part)}

    with serving(lambda request: (200, changed(request, certain))) as (url, _):
        found = impatient(url)(tokens(ROWS)).sparse
    assert found is not None
    tails: Tensor = found.tail[COUNTED[ROWS]]
    assert_close(tails, torch.full_like(tails, 1e-7).log())


def test_the_key_comes_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TEST_KEY", "secret")
    with serving(lambda request: (200, spoken(request))) as (url, got):
        teacher = impatient(url, key_variable="TEST_KEY")
        teacher(tokens(ROWS))
    assert {request["key"] for request in got} == {"Bearer secret"}
    assert "secret" not in repr(teacher)
    with pytest.raises(UsageError, match="the environment variable NO_SUCH_KEY is not set"):
        Served("http://127.0.0.1/v1", "m", key_variable="NO_SUCH_KEY")


def test_nobody_answers() -> None:
    with serving(lambda request: (200, {})) as (url, _):
        pass
    with pytest.raises(RunError, match="did not answer for 'm'"):
        impatient(url)(tokens(ROWS))


def test_what_is_refused() -> None:
    for url in ("file:///etc/passwd", "127.0.0.1:8000", "http://"):
        with pytest.raises(UsageError, match="url must be like"):
            Served(url, "m")
    with pytest.raises(UsageError, match="Served: k must be"):
        Served("http://127.0.0.1/v1", "m", k=0)
    with pytest.raises(ShapeError, match=r"needs token ids \[B, L\], got torch.float32 \[2, 3\]"):
        Served("http://127.0.0.1/v1", "m")(Batch(torch.zeros(2, 3), None, torch.arange(2)))
    with pytest.raises(UsageError, match=r"KD\(T=4\) reads the teacher's logits, but Served offers topk only; write TopKTail"):
        Distiller(nn.Embedding(9, 4), Served("http://127.0.0.1/v1", "m"), KD())
    with pytest.raises(UsageError, match="inner activations x are not served"):
        Served("http://127.0.0.1/v1", "m").tap(("x",))
