import pytest
import torch
from torch import nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import ShapeError, UsageError
from limbeck.influence.gradients import per_sample_gradients_slow
from limbeck.influence.task import Supervised
from limbeck.influence.vectors import flatten, trainable
from limbeck.influence.ways import choose, scoring_pass
from limbeck.models.gpt import GPT
from limbeck.models.spec import DataSpec

LENGTH, VOCABULARY = 9, 13
LANGUAGE = DataSpec("language", (LENGTH,), VOCABULARY, VOCABULARY)


def make_net(*, tied: bool = True, dropout: float = 0.0) -> nn.Module:
    torch.manual_seed(0)
    return GPT(width=8, depth=2, heads=2, tied=tied, dropout=dropout).build(LANGUAGE).double()


def make_tokens(rows: int, seed: int = 0, length: int = LENGTH) -> torch.Tensor:
    return torch.randint(VOCABULARY, (rows, length), generator=torch.Generator().manual_seed(seed))


def test_a_place_sees_itself_and_what_stands_before_it() -> None:
    net, tokens = make_net(), make_tokens(2)
    logits = net(tokens)
    assert logits.shape == (2, LENGTH, VOCABULARY)
    for place in range(LENGTH):
        changed = tokens.clone()
        changed[:, place] = (tokens[:, place] + 1) % VOCABULARY
        moved = (net(changed) - logits).abs().amax((0, 2)) > 1e-9
        assert moved.tolist() == [at >= place for at in range(LENGTH)]


def test_a_shorter_sequence_answers_as_the_start_of_a_longer_one() -> None:
    net, tokens = make_net(), make_tokens(3)
    torch.testing.assert_close(net(tokens[:, :4]), net(tokens)[:, :4])


def test_the_tied_head_is_the_embedding_and_counts_once() -> None:
    tied, free = make_net(), make_net(tied=False)
    assert tied.head.weight is tied.embedding.weight
    sizes = [sum(part.numel() for part in net.parameters()) for net in (tied, free)]
    assert sizes[1] - sizes[0] == VOCABULARY * 8
    assert torch.equal(tied.embedding.weight, free.embedding.weight)


@pytest.mark.parametrize("tied", [True, False])
def test_influence_is_captured_exactly_embedding_and_tied_head_included(tied: bool) -> None:
    net = Tapped(make_net(tied=tied, dropout=0.1)).eval()
    mask = torch.arange(LENGTH) < torch.tensor([[9], [4], [1]])
    batch = Batch(make_tokens(3), make_tokens(3, seed=1), torch.arange(3), mask)
    q = {name: torch.randn_like(part) for name, part in trainable(net).items()}
    loss = Supervised().training_loss
    choice = choose(net, loss, batch, q, torch.get_rng_state(), coupled=False)
    assert choice.way == "captured"
    found = scoring_pass(choice, net, loss, coupled=False)(batch, q)
    torch.testing.assert_close(found, per_sample_gradients_slow(net, loss, batch) @ flatten(q), rtol=1e-9, atol=1e-9)


def test_what_it_cannot_take_is_refused() -> None:
    with pytest.raises(ShapeError, match="GPT: expected token ids"):
        make_net()(make_tokens(1, length=LENGTH + 1))
    with pytest.raises(UsageError, match="GPT: width must be a multiple of heads, got 8 and 3"):
        GPT(width=8, heads=3)
    with pytest.raises(UsageError, match=r"GPT takes language data, but this data is of kind 'tokens'; use Transformer\(\)"):
        GPT().build(DataSpec("tokens", (LENGTH,), 2, VOCABULARY))
    with pytest.raises(UsageError, match="in language every token is a class, got 5 classes and a vocabulary of 13"):
        DataSpec("language", (LENGTH,), 5, VOCABULARY)
