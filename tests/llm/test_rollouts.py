"""What a model writes: its log-probabilities, the greedy twin, how tokens are drawn, and that rows do not know one another."""

import math

import pytest
import torch
from torch import Tensor

from limbeck.core.errors import ShapeError, UsageError
from limbeck.data.seeding import generator_for
from limbeck.llm.rollouts import Rollout, generate, pick
from limbeck.models.gpt import CausalTransformer

VOCABULARY, EOS, PAD = 11, 3, 10
PROMPTS = torch.tensor([[1, 2, 4, 0], [5, 0, 0, 0], [7, 6, 0, 0], [2, 2, 2, 2], [9, 8, 1, 0]])
KNOWN = torch.tensor([3, 1, 2, 4, 3])


def gpt(dtype: torch.dtype = torch.float64) -> CausalTransformer:
    torch.manual_seed(0)
    net = CausalTransformer(8, 2, 2, 0.0, length=64, vocabulary=VOCABULARY, tied=False).to(dtype).eval()
    net.head.weight.data.mul_(3)  # probabilities far from uniform
    return net


def write(model: torch.nn.Module, rows: list[int] | None = None, **changes: object) -> Rollout:
    rows = list(range(len(PROMPTS))) if rows is None else rows
    told = {"length": 9, "generators": [generator_for(5, row) for row in rows], "eos": EOS, "pad": PAD, **changes}
    return generate(model, PROMPTS[rows], KNOWN[rows], **told)  # type: ignore[arg-type]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.float64, 1e-12)])
def test_log_probabilities_are_those_of_a_fresh_forward_pass(dtype: torch.dtype, tolerance: float) -> None:
    """Whatever drew them: of the model itself, at temperature 1 and of all tokens."""
    net = gpt(dtype)
    found = write(net, temperature=0.7, top_p=0.9)
    with torch.no_grad():
        log_p = net(found.ids[:, :-1]).log_softmax(-1)
    fresh = log_p.gather(-1, found.ids[:, 1:].unsqueeze(-1)).squeeze(-1)
    expected = torch.where(found.mask[:, 1:], fresh, 0.0)
    torch.testing.assert_close(found.log_probs[:, 1:], expected, atol=tolerance, rtol=tolerance)
    assert found.log_probs.dtype == dtype
    assert float(found.log_probs[found.mask].max()) < 0


@pytest.mark.parametrize(("length", "ended"), [(9, True), (1, False)])
def test_rows_are_prompt_completion_and_padding(length: int, *, ended: bool) -> None:
    """With room for nine tokens some row comes to its end, with room for one some does not."""
    found = write(gpt(), length=length)
    ends = set()
    for row, known in enumerate(KNOWN.tolist()):
        count = int(found.mask[row].sum())
        tokens = found.ids[row].tolist()
        assert tokens[:known] == PROMPTS[row, :known].tolist()
        assert found.mask[row].tolist() == [known <= place < known + count for place in range(len(tokens))]
        wrote = tokens[known : known + count]
        assert EOS not in wrote[:-1]
        assert wrote[-1] == EOS or count == length
        assert set(tokens[known + count :]) <= {PAD}
        ends.add(wrote[-1] == EOS)
    assert ended in ends


def test_greedy_is_the_argmax_of_one_prefix_after_the_other() -> None:
    net = gpt()
    found = write(net, temperature=0.0, generators=None)
    for row, known in enumerate(KNOWN.tolist()):
        ids = PROMPTS[row, :known].tolist()
        while len(ids) < known + 9 and (len(ids) == known or ids[-1] != EOS):
            ids.append(int(net(torch.tensor([ids]))[0, -1].argmax()))
        assert found.ids[row, : len(ids)].tolist() == ids
        assert int(found.mask[row].sum()) == len(ids) - known


def test_a_row_does_not_depend_on_its_neighbours_nor_on_what_stands_behind_its_prompt() -> None:
    net = gpt()
    together = write(net)
    for row in range(len(PROMPTS)):
        alone = write(net, [row])
        width = alone.ids.shape[1]
        assert torch.equal(alone.ids[0], together.ids[row, :width])
        assert set(together.ids[row, width:].tolist()) <= {PAD}
    behind = torch.where(torch.arange(4) < KNOWN.unsqueeze(1), PROMPTS, 8)
    again = generate(net, behind, KNOWN, length=9, generators=[generator_for(5, row) for row in range(5)], eos=EOS, pad=PAD)
    assert torch.equal(again.ids, together.ids)


@pytest.mark.parametrize("eos", [EOS, None], ids=["ends", "no-end"])
def test_a_cache_changes_nothing_and_reads_every_token_once(eos: int | None) -> None:
    """Beside the slow way, whole prefixes: the same tokens, the same log-probabilities; and fewer tokens are read."""
    net = gpt()
    read: list[int] = []
    net.embedding.register_forward_hook(lambda _module, inputs, _output: read.append(inputs[0].numel()))
    fast = write(net, eos=eos, length=torch.tensor([9, 2, 1, 7, 9]))
    seen, fast_calls = list(read), len(read)
    slow = write(lambda ids: net(ids), eos=eos, length=torch.tensor([9, 2, 1, 7, 9]))  # type: ignore[arg-type]
    assert torch.equal(fast.ids, slow.ids)
    assert torch.equal(fast.mask, slow.mask)
    torch.testing.assert_close(fast.log_probs, slow.log_probs, atol=1e-12, rtol=1e-12)
    wrote = int(fast.mask.sum())
    assert sum(seen) == PROMPTS.numel() + wrote - len(PROMPTS)  # the first call gives each row its first token
    assert len(read) == 2 * fast_calls


def test_only_the_first_tokens_of_the_vocabulary_are_written() -> None:
    net = gpt()
    found = write(net, vocabulary=3, eos=None)
    assert int(found.ids[found.mask].max()) < 3
    with torch.no_grad():
        log_p = net(found.ids[:, :-1])[..., :3].log_softmax(-1)
    fresh = log_p.gather(-1, found.ids[:, 1:].clamp(max=2).unsqueeze(-1)).squeeze(-1)
    torch.testing.assert_close(found.log_probs[:, 1:], torch.where(found.mask[:, 1:], fresh, 0.0))


def test_a_longer_limit_writes_the_same_beginning_and_each_row_may_have_its_own() -> None:
    net = gpt()
    long, mixed = write(net, eos=None, length=40), write(net, eos=None, length=torch.tensor([9, 2, 1, 4, 3]))
    assert mixed.mask.sum(1).tolist() == [9, 2, 1, 4, 3]
    assert all(
        torch.equal(mixed.ids[row][mixed.mask[row]], long.ids[row][long.mask[row]][:count])
        for row, count in enumerate([9, 2, 1, 4, 3])
    )


def test_the_same_seeds_write_the_same_and_others_do_not() -> None:
    net = gpt()
    assert torch.equal(write(net).ids, write(net).ids)
    assert not torch.equal(write(net).ids, write(net, generators=[generator_for(6, row) for row in range(5)]).ids)


def picked(uniform: list[float], **changes: float) -> list[int]:
    """From probabilities 0.2, 0.5, 0.3, which lie from 0 to 1 in the order of tokens 1, 2, 0."""
    log_p = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64).log().expand(len(uniform), 3)
    return pick(log_p, torch.tensor(uniform, dtype=torch.float64), **changes).tolist()


def test_golden_draws() -> None:
    # Token 1 has [0, 0.5), token 2 [0.5, 0.8), token 0 [0.8, 1).
    assert picked([0.0, 0.49, 0.51, 0.79, 0.81, 1 - 1e-16]) == [1, 1, 2, 2, 0, 0]
    # Temperature 0.5 squares: 0.04, 0.25, 0.09 of 0.38, so that token 1 has [0, 0.6579), token 2 up to 0.8947.
    assert picked([0.65, 0.66, 0.89, 0.90], temperature=0.5) == [1, 2, 2, 0]
    # top_p 0.6: 0.5 does not reach it, 0.5 + 0.3 does; of these two token 1 has 0.5 / 0.8 = 0.625.
    assert picked([0.62, 0.63, 1 - 1e-16], top_p=0.6) == [1, 2, 2]
    # The most probable token reaches 0.4 alone.
    assert picked([0.0, 0.99], top_p=0.4) == [1, 1]
    assert picked([0.99], temperature=0.0) == [1]


def test_what_has_no_probability_is_not_drawn() -> None:
    log_p = torch.tensor([[-math.inf, 0.0, -math.inf]], dtype=torch.float64)
    assert pick(log_p, torch.tensor([1 - 1e-16], dtype=torch.float64)).tolist() == [1]


def test_the_draws_follow_the_probabilities() -> None:
    """A model without context: 4,000 first tokens are within four standard deviations of 4,000 p."""
    p = torch.tensor([0.1, 0.6, 0.3], dtype=torch.float64)

    def model(ids: Tensor) -> Tensor:
        return p.log().expand(*ids.shape, 3)

    count = 4000
    first = torch.zeros(count, 1, dtype=torch.int64)
    found = generate(
        model, first, torch.ones(count, dtype=torch.int64), length=1, generators=[generator_for(0, row) for row in range(count)]
    )
    counts = found.ids[:, 1].bincount(minlength=3).double()
    assert bool(((counts - count * p).abs() < 4 * (count * p * (1 - p)).sqrt()).all())


def test_what_is_refused() -> None:
    net = gpt()
    with pytest.raises(UsageError, match="needs a generator for each of 5 rows, got none"):
        write(net, generators=None)
    with pytest.raises(UsageError, match="top_p must lie in"):
        write(net, top_p=1.5)
    with pytest.raises(UsageError, match="temperature must be 0 or above"):
        write(net, temperature=-1.0)
    with pytest.raises(UsageError, match="length must be a whole number of at least 1"):
        write(net, length=0)
    for model in (net, lambda ids: net(ids)):
        with pytest.raises(ShapeError, match="L up to 64"):
            write(model, eos=None, length=64)  # type: ignore[arg-type]
    with pytest.raises(ShapeError, match="how many tokens it has, 1 to 4"):
        generate(net, PROMPTS, KNOWN - 1, length=2, temperature=0.0)
