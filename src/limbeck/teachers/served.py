"""A teacher behind an endpoint that gives log-probabilities of prompts, as vLLM's OpenAI-compatible server does."""

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from http.client import HTTPException
from typing import Any, final
from urllib.parse import urlsplit

import torch
from torch import Tensor

from limbeck.core.batch import Batch
from limbeck.core.checks import positive, whole
from limbeck.core.errors import RunError, ShapeError, UsageError
from limbeck.core.outputs import Outputs
from limbeck.core.topk import TopK
from limbeck.core.written import Wanted
from limbeck.teachers.asking import reason, short, straight
from limbeck.teachers.teacher import Teacher

PREFIX = "token_id:"
LARGEST_BYTES = 2**28
NEAREST_TO_ALL = 1e-7
"""What the others' mass is taken for at least: the k log-probabilities come rounded to float32 and may add up to 1 or more."""
NO_LOG_PROBS = (
    "Served: the server's numbers are no log-probabilities of this vocabulary; look at the server's model and, in vLLM, at "
    "--logprobs-mode."
)
LARGEST_VOCABULARY = 2**20
AS_IT_IS = {"top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0, "frequency_penalty": 0}
"""What a request leaves open vLLM takes from the model's generation_config.json; these are the values that change nothing."""


@final
class Served(Teacher):
    """A language model behind `URL/completions`: the k most probable tokens at every position of a prompt, at temperature 1.

    A batch's token ids are sent as they are, up to the last token that counts, with `echo`, `logprobs` and `max_tokens=1`; the
    one token that is generated brings the distribution after the last position. Tokens must come back as ids: the request asks
    for `return_tokens_as_token_ids`, which makes vLLM answer with "token_id:17"; strings are refused, since two ids can be
    spelt alike. Nothing is sent but to the host that is named.

    Args:
        url: Such as "http://127.0.0.1:8000/v1".
        model: As the server names it.
        k: Tokens per position, >= 1; vLLM's own limit is its option --max-logprobs.
        classes: The size of the vocabulary; None where it is not known.
        timeout_s: Patience with one answer, in seconds, > 0.
        retries: How often a request that failed on the way, or with status 429 or 5xx, is sent again, >= 0.
        together: Samples per request, >= 1; completions, which are sent one by one, so many at once.
        key_variable: The environment variable that holds the server's key; the key itself stands in no recipe.

    Raises:
        UsageError: An argument is out of range, or the environment variable is not set.
    """

    offers = frozenset({"topk"})

    def __init__(
        self,
        url: str,
        model: str,
        k: int = 20,
        *,
        classes: int | None = None,
        timeout_s: float = 60.0,
        retries: int = 4,
        together: int = 8,
        key_variable: str | None = None,
    ) -> None:
        super().__init__()
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UsageError(f"Served: url must be like 'http://127.0.0.1:8000/v1', got {url!r}.")
        self.url, self.model = url.rstrip("/"), model
        self.k = whole(k, "Served: k")
        self.classes = None if classes is None else whole(classes, "Served: classes", least=2)
        self.timeout_s = positive(timeout_s, "Served: timeout_s")
        self.retries = whole(retries, "Served: retries", least=0)
        self.together = whole(together, "Served: together")
        if key_variable is not None and not os.environ.get(key_variable):
            raise UsageError(f"Served: the environment variable {key_variable} is not set; put the server's key into it.")
        self.key_variable = key_variable
        self._opener = straight(parts.hostname)
        self.pause_s = 0.5

    def forward(self, batch: Batch) -> Outputs:
        """The server's most probable tokens at every position; at positions after the last counted one, any.

        Raises:
            ShapeError: The batch holds no token ids [B, L].
            RunError: The server cannot be reached, or its answer cannot be used.
        """
        inputs = batch.inputs
        if inputs.dim() != 2 or inputs.is_floating_point():
            raise ShapeError(f"Served: needs token ids [B, L], got {inputs.dtype} {list(inputs.shape)}; use another teacher.")
        ids = torch.arange(self.k).expand(*inputs.shape, self.k).clone()
        log_probs = torch.full(ids.shape, -torch.tensor(self.k + 1.0).log().item())
        tail = log_probs[..., 0].clone()
        prompts = {row: tokens for row, tokens in enumerate(_prompts(inputs, batch.mask)) if tokens}
        asked = list(prompts)
        for rows in (asked[start : start + self.together] for start in range(0, len(asked), self.together)):
            for row, found in zip(rows, self._ask([prompts[row] for row in rows]), strict=True):
                length = len(found[0])
                ids[row, :length], log_probs[row, :length], tail[row, :length] = found
        device = inputs.device
        sparse = TopK(ids.to(device), log_probs.to(device), tail.to(device), 1.0, self.classes)
        return Outputs(sparse.log_probs[..., :0], sparse=sparse)

    def complete(self, wanted: Wanted) -> tuple[list[int], list[float]]:
        """The server's completion of a prompt: its tokens, and the log-probability of each, as the server gives it.

        vLLM draws by the seed that is sent, gives the token that ends a text, and log-probabilities at temperature 1 unless it is
        told otherwise (--logprobs-mode). A server that leaves out the ending token gives completions without one. What the
        model's own files say of drawing and of other ending tokens does not count.

        Raises:
            RunError: The server cannot be reached, its context ends before the completion, or its answer cannot be used.
        """
        answer = self._send(
            len(wanted.prompt) + wanted.length,
            {
                "model": self.model,
                "prompt": list(wanted.prompt),
                "max_tokens": wanted.length,
                "temperature": wanted.temperature,
                "top_p": wanted.top_p,
                "logprobs": 1,
                "return_tokens_as_token_ids": True,
                "ignore_eos": True,
                **AS_IT_IS,
                **({} if wanted.seed is None else {"seed": wanted.seed}),
                **({} if wanted.eos is None else {"stop_token_ids": [wanted.eos]}),
            },
        )
        try:
            found, why = answer["choices"][0]["logprobs"], answer["choices"][0].get("finish_reason")
            ids, log_probs = _ids(found["tokens"]), [float(value) for value in found["token_logprobs"]]
        except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
            raise RunError(
                f"Served: the server's answer has no usable completion ({type(error).__name__}); it must give the "
                "log-probabilities of what it writes, as vLLM does."
            ) from error
        if not all(value <= 1e-3 for value in log_probs):
            raise RunError(NO_LOG_PROBS)
        fits = 0 < len(ids) <= wanted.length and len(ids) == len(log_probs)
        if not fits or (self.classes is not None and max(ids) >= self.classes):
            raise RunError(
                f"Served: the server wrote {len(ids)} tokens with {len(log_probs)} log-probabilities where 1 to "
                f"{wanted.length} of this vocabulary were asked for; look at the server's model."
            )
        if why == "length" and len(ids) < wanted.length:
            raise RunError(
                f"Served: the server stopped after {len(ids)} of {wanted.length} tokens, the prompt has {len(wanted.prompt)}; "
                "serve the model with a longer context (vLLM: --max-model-len)."
            )
        return ids, log_probs

    def _ask(self, prompts: list[list[int]]) -> list[tuple[Tensor, Tensor, Tensor]]:
        """The top k after every token of these prompts.

        Raises:
            RunError: The answer is not about these prompts.
        """
        answer = self._send(
            max(map(len, prompts)) + 1,
            {
                "model": self.model,
                "prompt": prompts,
                "max_tokens": 1,
                "echo": True,
                "logprobs": self.k,
                "temperature": 0,
                "return_tokens_as_token_ids": True,
                **AS_IT_IS,
            },
        )
        try:
            choices = sorted(answer["choices"], key=lambda choice: int(choice["index"]))
            tables = [choice["logprobs"]["top_logprobs"] for choice in choices]
            fits = [len(table) for table in tables] == [len(prompt) + 1 for prompt in prompts]
            if not fits:
                raise RunError(
                    "Served: the server gave other positions than those of the prompts; it must take echo=true with logprobs."
                )
            return [self._read(table[1:]) for table in tables]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise RunError(
                f"Served: the server's answer has no usable log-probabilities of the prompt ({type(error).__name__}); it must "
                "take echo=true with logprobs, as vLLM does."
            ) from error

    def _read(self, table: list[Mapping[str, float]]) -> tuple[Tensor, Tensor, Tensor]:
        """Ids, log-probabilities and tail of some positions.

        Raises:
            RunError: Tokens are strings, or too few, or no log-probabilities.
        """
        rows = [sorted(position.items(), key=lambda item: -item[1])[: self.k] for position in table]
        named = _ids([name for row in rows for name, _ in row])
        if any(len(row) < self.k for row in rows):
            raise RunError(f"Served: the server gave {min(map(len, rows))} of {self.k} tokens at a position; lower k.")
        ids = torch.tensor(named).view(len(rows), self.k)
        log_probs = torch.tensor([value for row in rows for _, value in row], dtype=torch.float64).view(len(rows), self.k)
        known = log_probs.logsumexp(-1)
        vocabulary = self.classes or LARGEST_VOCABULARY
        others = log_probs[:, -1].exp() * max(vocabulary - self.k, 0)  # at most: none is more probable than the last
        fits = (known <= 1e-3) & (1 - known.exp() <= others + 1e-3)
        if not bool(fits.all()) or int(ids.max()) >= vocabulary:
            raise RunError(NO_LOG_PROBS)
        tail = (-known.exp()).log1p().where(known < -NEAREST_TO_ALL, torch.tensor(NEAREST_TO_ALL).double().log())
        return ids, log_probs.float(), tail.float()

    def _send(self, room: int, content: Mapping[str, object]) -> dict[str, Any]:
        """The server's answer, asked for again while it fails on the way; `room` is what its context must hold, in tokens.

        Raises:
            RunError: The server refuses, or it still fails after the last time.
        """
        why = ""
        for turn in range(self.retries + 1):
            if turn:
                time.sleep(min(self.pause_s * 2 ** (turn - 1), 30.0))
            try:
                return self._once(content)
            except urllib.error.HTTPError as error:
                why = f"status {error.code}, {reason(error.read(2**16).decode('utf-8', 'replace'))}"
                if error.code != 429 and error.code < 500:
                    raise RunError(
                        f"Served: {self.url} refused the request for {self.model!r} ({why}); look at the arguments of "
                        f"Served, and at the server: its context must hold {room} tokens."
                    ) from error
            except (OSError, HTTPException, ValueError, RecursionError) as error:  # the last two: what came is no JSON
                why = str(getattr(error, "reason", "") or error) or type(error).__name__
        raise RunError(f"Served: {self.url} did not answer for {self.model!r} ({short(why)}); look at the server.")

    def _once(self, content: Mapping[str, object]) -> dict[str, Any]:
        headers = {"Content-Type": "application/json"}
        if self.key_variable is not None:
            headers["Authorization"] = f"Bearer {os.environ[self.key_variable]}"
        request = urllib.request.Request(f"{self.url}/completions", json.dumps(content).encode(), headers)
        with self._opener.open(request, timeout=self.timeout_s) as answer:
            body = answer.read(LARGEST_BYTES + 1)
        if len(body) > LARGEST_BYTES:
            raise RunError(f"Served: {self.url} sent more than {LARGEST_BYTES >> 20} MB at once; lower `together` or k.")
        found = json.loads(body)
        if not isinstance(found, dict):
            raise json.JSONDecodeError("no object", "", 0)
        return found

    def tap(self, names: tuple[str, ...]) -> None:
        """Refuse: inner activations are not served.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"Served: inner activations {', '.join(names)} are not served; use TopKTail, or a live teacher.")

    def __deepcopy__(self, memo: dict[int, object]) -> "Served":
        """Itself: nothing in it changes."""
        return self

    def extra_repr(self) -> str:
        """The arguments."""
        return f"{self.url!r}, {self.model!r}, k={self.k}"

    def __repr__(self) -> str:
        return f"Served({self.extra_repr()})"


def _ids(names: Sequence[str]) -> list[int]:
    """The tokens of these names.

    Raises:
        RunError: They are strings, and two tokens may be spelt alike.
    """
    if not all(name.startswith(PREFIX) and name[len(PREFIX) :].isdecimal() for name in names):
        raise RunError("Served: the server names tokens by strings; it must take return_tokens_as_token_ids like vLLM.")
    return [int(name[len(PREFIX) :]) for name in names]


def _prompts(inputs: Tensor, mask: Tensor | None) -> list[list[int]]:
    """The tokens of each sample up to the last that counts; none where no token counts."""
    length = inputs.shape[1]
    ends = [length] * len(inputs)
    if mask is not None:
        ends = (mask.long() * torch.arange(1, length + 1, device=mask.device)).amax(1).tolist()
    return [row[:end] for row, end in zip(inputs.tolist(), ends, strict=True)]
