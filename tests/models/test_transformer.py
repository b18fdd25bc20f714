import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call, jvp

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UsageError
from limbeck.models.spec import DataSpec
from limbeck.models.transformer import Attention, Transformer

LENGTH, VOCABULARY = 10, 20
TEXT = DataSpec("tokens", (LENGTH,), 4, vocabulary=VOCABULARY)


def make_net(seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    return Transformer(width=16, depth=2, heads=4).build(TEXT).double().eval()


def make_tokens(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, LENGTH), generator=torch.Generator().manual_seed(seed))


def until(lengths: list[int]) -> torch.Tensor:
    return torch.arange(LENGTH) < torch.tensor(lengths)[:, None]


@settings(deadline=None, max_examples=15)
@given(lengths=st.lists(st.integers(1, LENGTH), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_padding_changes_nothing(lengths: list[int], seed: int) -> None:
    net, tokens, mask = make_net(), make_tokens(len(lengths), seed), until(lengths)
    logits = net(tokens, mask=mask)
    assert torch.equal(logits, net(torch.where(mask, tokens, make_tokens(len(lengths), seed + 1)), mask=mask))
    assert torch.equal(logits, net(torch.where(mask, tokens, -100), mask=mask))
    for row, length in enumerate(lengths):
        torch.testing.assert_close(logits[row : row + 1], net(tokens[row : row + 1, :length]))


def test_no_mask_means_all_tokens_count() -> None:
    net, tokens = make_net(), make_tokens(3)
    assert torch.equal(net(tokens), net(tokens, mask=torch.ones_like(tokens, dtype=torch.bool)))


def test_a_sample_without_tokens_gives_numbers_and_gradients() -> None:
    net, tokens = make_net(), make_tokens(2)
    logits = net(tokens, mask=until([0, 3]))
    logits.sum().backward()
    assert logits.isfinite().all()
    assert all(part.grad is not None and part.grad.isfinite().all() for part in net.parameters())


def test_order_of_tokens_matters() -> None:
    net, tokens = make_net(), make_tokens(1)
    assert not torch.allclose(net(tokens), net(tokens.flip(1)))


def test_attention_equals_torchs_own() -> None:
    torch.manual_seed(0)
    own, theirs = Attention(16, 4).double(), nn.MultiheadAttention(16, 4, batch_first=True).double()
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([own.query.weight, own.key.weight, own.value.weight]))
        theirs.in_proj_bias.copy_(torch.cat([own.query.bias, own.key.bias, own.value.bias]))
        theirs.out_proj.load_state_dict(own.out.state_dict())
    tokens, mask = torch.randn(3, LENGTH, 16, dtype=torch.float64), until([10, 4, 1])
    torch.testing.assert_close(own(tokens, mask.unsqueeze(1)), theirs(tokens, tokens, tokens, key_padding_mask=~mask)[0])
    causal = torch.ones(LENGTH, LENGTH, dtype=torch.bool).tril()
    torch.testing.assert_close(own(tokens, causal.unsqueeze(0)), theirs(tokens, tokens, tokens, attn_mask=~causal)[0])


@pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated:FutureWarning")  # torch's own, at its first jvp
def test_forward_mode_equals_reverse_mode() -> None:
    net, tokens, mask = make_net(), make_tokens(3), until([10, 4, 1])
    weights = {name: part.detach() for name, part in net.named_parameters()}
    direction = {name: torch.randn_like(part) for name, part in weights.items()}

    def losses(parts: dict[str, torch.Tensor]) -> torch.Tensor:
        return functional_call(net, parts, (tokens,), {"mask": mask}).logsumexp(1)

    _, forward = jvp(losses, (weights,), (direction,))
    for row in range(3):
        loss = net(tokens[row : row + 1], mask=mask[row : row + 1]).logsumexp(1).sum()
        gradients = torch.autograd.grad(loss, list(net.parameters()))
        reverse = sum((grad * step).sum() for grad, step in zip(gradients, direction.values(), strict=True))
        torch.testing.assert_close(forward[row], reverse)


def test_gradient_reaches_every_parameter() -> None:
    net = make_net()
    net(make_tokens(4)).logsumexp(1).sum().backward()
    # A key's bias adds the same to all of a query's scores, which the softmax does not see: its gradient is 0.
    silent = [name for name, part in net.named_parameters() if not part.grad.abs().sum() > 1e-12]
    assert all(name.endswith("attention.key.bias") for name in silent)


def test_taps_and_mask_through_the_taps_room() -> None:
    names = ["embedding", "layer1", "layer1.attention", "layer2", "norm", "pool", "fc"]
    batch = Batch(make_tokens(3), None, torch.arange(3), mask=until([10, 4, 1]))
    outputs = Tapped(make_net(), names)(batch)
    assert set(outputs.features) == set(names)
    assert outputs.features["layer1"].shape == (3, LENGTH, 16)
    assert outputs.features["pool"].shape == (3, 16)
    assert torch.equal(outputs.logits, make_net()(batch.inputs, mask=batch.mask))


def test_same_seed_same_weights() -> None:
    assert all(torch.equal(a, b) for a, b in zip(make_net(5).parameters(), make_net(5).parameters(), strict=True))


def test_errors() -> None:
    with pytest.raises(UsageError, match="width must be a multiple of heads, got 10 and 4"):
        Transformer(width=10, heads=4)
    with pytest.raises(UsageError, match="dropout"):
        Transformer(dropout=1.0)
    with pytest.raises(UsageError, match="takes tokens data"):
        Transformer().build(DataSpec("vector", (4,), 2))
    with pytest.raises(ShapeError, match=r"L up to 10, got \[1, 11\]"):
        make_net()(torch.zeros(1, 11, dtype=torch.int64))
    with pytest.raises(ShapeError, match="one value per token"):
        make_net()(make_tokens(2), mask=until([1]))
