"""A weighted step is the same by every way that it may get its inner products, and no way is taken that is not exact.

Over 300 lines, of which a third are the nets that one way or another gets wrong.
"""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close
from training_makers import Ran, parts, prepared, train, weighting

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.engine.local import LocalEngine
from limbeck.influence import captured
from limbeck.influence.captured import Capture, obstacles
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.curvature.last_layers import LastLayers
from limbeck.influence.gradients import inner_products, per_sample_gradients_slow, products_at_outputs
from limbeck.influence.prepared import prepare
from limbeck.influence.restoring import random_state, statistics_untouched
from limbeck.influence.scores import score
from limbeck.influence.tangents import Tangents
from limbeck.influence.task import Supervised
from limbeck.influence.vectors import Vector, flatten, trainable, unflatten
from limbeck.influence.ways import choose, scoring_pass
from limbeck.losses.labels.ce import CE
from limbeck.models.gpt import GPT
from limbeck.models.spec import Architecture, DataSpec
from limbeck.models.transformer import Transformer
from limbeck.training.steps.simultaneous import Simultaneous
from limbeck.training.steps.student import Student
from limbeck.training.weighted import weighted_backward
from limbeck.weighting.uniform import Uniform
from limbeck.weighting.weighting import Weighting
from support.makers import FromTheMean, generator, labels, normal
from support.nets import BY_NAME, CASES, CLASSES, TASK, Case, convolutional

NOT_CARRIED = {"weight normalisation", "spectral normalisation", "a function without forward derivative"}
NOT_CAPTURED = {"a weight used functionally"}
"""What only the trial finds out; the other nets that cannot be captured say so themselves."""


def direction(model: nn.Module, seed: int = 5) -> Vector:
    random = generator(seed)
    return {name: torch.randn(part.shape, generator=random, dtype=part.dtype) for name, part in trainable(model).items()}


def explicit(case: Case) -> tuple[Tapped, Vector, Tensor, Tensor]:
    """The net, a direction, the state of the random numbers, and every sample's gradient by a backward pass of its own."""
    model, rng = case.make(), torch.get_rng_state()
    with random_state(rng):
        rows = per_sample_gradients_slow(model, TASK.training_loss, case.batch())
    return model, direction(model), rng, rows


@pytest.mark.parametrize("case", [case for case in CASES if case.name not in NOT_CARRIED], ids=lambda case: case.name)
def test_tangents_on_the_forward_pass_equal_explicit_gradients(case: Case) -> None:
    model, q, rng, rows = explicit(case)
    batch = case.batch()
    with statistics_untouched(model), random_state(rng), Tangents(model, q) as tangents:
        answer = model(batch)
    found = products_at_outputs(TASK.training_loss, batch, answer, tangents.outputs(answer), coupled=False)
    assert_close(found, rows @ flatten(q), rtol=1e-9, atol=1e-9)
    with random_state(rng), statistics_untouched(model):
        plain = model(batch)
    assert torch.equal(answer.logits, plain.logits)
    assert answer.logits.grad_fn is not None


@pytest.mark.parametrize(
    "case", [c for c in CASES if not obstacles(c.make()) and c.name not in NOT_CAPTURED], ids=lambda c: c.name
)
def test_captured_products_and_weighted_gradient_equal_explicit_gradients(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    model, q, rng, rows = explicit(case)
    monkeypatch.setattr(captured, "POSITIONS", 2)  # some linear layers have their samples' gradients formed, others not
    batch, capture = case.batch(), Capture(model)
    weights = torch.rand(len(batch), generator=generator(1), dtype=torch.float64) * 2
    wanted = unflatten(weights @ rows / len(batch), trainable(model))

    def backward(loss: Tensor) -> Tensor:
        capture.backward(loss)
        return capture.products(q, len(batch))

    ways = [backward, lambda loss: capture.backward_along(loss, q, len(batch), keep=True)]
    for way in (*ways, ways[1]):  # what is written into the same room again is as right
        with random_state(rng), statistics_untouched(model), capture.recording(len(batch)):
            answer = model(batch)
        products = way(TASK.training_loss(lambda _, answer=answer: answer, batch).mean())
        assert_close(products, rows @ flatten(q), rtol=1e-9, atol=1e-9)
        found = capture.gradients(weights)
        for name, part in wanted.items():
            assert_close(found.get(name, torch.zeros_like(part)), part, rtol=1e-9, atol=1e-9)


def test_positions_that_all_samples_share_are_captured_for_each() -> None:
    class Positions(nn.Module):
        def __init__(self, shape: tuple[int, ...]) -> None:
            super().__init__()
            self.words, self.places, self.head = nn.Embedding(7, 4), nn.Embedding(6, 4), nn.Linear(4, 3)
            self.ids = torch.arange(6).view(shape)

        def forward(self, inputs: Tensor) -> Tensor:
            logits: Tensor = self.head(torch.tanh(self.words(inputs) + self.places(self.ids)).mean(1))
            return logits

    for shape in ((6,), (1, 6)):
        case = Case("positions", lambda shape=shape: Positions(shape))
        torch.manual_seed(0)
        model = Tapped(Positions(shape)).double()
        batch = case.batch(rows=4)
        batch = type(batch)(torch.arange(24).view(4, 6) % 7, batch.targets, batch.index, None, batch.meta)
        rows = per_sample_gradients_slow(model, TASK.training_loss, batch)
        q, capture = direction(model), Capture(model)
        with capture.recording(4):
            answer = model(batch)
        capture.backward(TASK.training_loss(lambda _, answer=answer: answer, batch).mean())
        assert_close(capture.products(q, 4), rows @ flatten(q), rtol=1e-10, atol=1e-10)
        found = capture.gradients(torch.ones(4))
        assert_close(torch.cat([found[name].reshape(-1) for name in trainable(model)]), rows.mean(0), rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("net", [Transformer(width=8, depth=1, heads=2), GPT(width=8, depth=1, heads=2)])
def test_as_many_samples_as_places_are_told_apart(net: Architecture) -> None:
    ids = torch.arange(20).view(4, 5)[:, :4] % 7
    causal = isinstance(net, GPT)
    torch.manual_seed(0)
    spec = DataSpec("language", (4,), 7, 7) if causal else DataSpec("tokens", (4,), 7, 7)
    model = Tapped(net.build(spec)).double()
    batch = Batch(ids, (ids + 1) % 7 if causal else ids[:, 0], torch.arange(4))
    found = choose(model, Supervised().training_loss, batch, direction(model), torch.get_rng_state(), coupled=False)
    assert found.way == "captured"


class Language(nn.Module):
    """Words and places `[L]`, a layer over what stands left, a head: its own, the words' embedding, or that used functionally."""

    def __init__(self, head: str = "own", padding: int | None = None, places: int = 6) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(7, 4, padding_idx=padding), nn.Embedding(places, 4)
        self.norm, self.mix, self.head = nn.LayerNorm(4), nn.Linear(4, 4), nn.Linear(4, 7, bias=False)
        self.functional = head == "functional"
        if head == "tied":
            self.head.weight = self.words.weight

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.words(inputs) + self.places(torch.arange(inputs.shape[1]))
        x = torch.tanh(self.mix(self.norm(x).cumsum(1)))
        logits: Tensor = F.linear(x, self.words.weight) if self.functional else self.head(x)
        return logits


class Mixer(nn.Module):
    """Samples meet in the model's own code."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        inner = self.first(inputs)
        logits: Tensor = self.head(torch.tanh(inner - inner.mean(0)))
        return logits


class Unmoved(nn.Module):
    """A gate that is computed without a gradient: a forward derivative moves it all the same."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head = nn.Linear(5, 4), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        with torch.no_grad():
            gate = torch.sigmoid(self.first(inputs))
        logits: Tensor = self.head(torch.tanh(self.first(inputs)) * gate)
        return logits


class Added(nn.Module):
    """Sums in place on what linear layers gave at several positions, which is a view; on long sequences only, if asked."""

    def __init__(self, least: int = 0) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Linear(5, 5), nn.Linear(5, 5), nn.Linear(5, 3)
        self.least = least

    def forward(self, inputs: Tensor) -> Tensor:
        tokens = torch.stack([inputs, 2 * inputs, inputs.square()], 1)
        inner = self.first(tokens)
        if len(inputs) >= self.least:
            inner += tokens
        inner = self.second(torch.tanh(inner))
        inner[:, 0] *= 2
        logits: Tensor = self.head(nn.functional.relu(inner, inplace=True).mean(1))
        return logits


class Spare(nn.Module):
    """A last layer that the answer does not depend on."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.head, self.spare = nn.Linear(5, 4), nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.head(torch.tanh(self.first(inputs)))
        return logits


def some(rows: int, length: int = 0, first: int = 0) -> Batch:
    """Samples of five numbers, or of so many tokens."""
    draw, index = generator(first), torch.arange(first, first + rows)
    if length:
        ids = torch.randint(7, (rows, length + 1), generator=draw)
        return Batch(ids[:, :-1], ids[:, 1:], index)
    return Batch(torch.randn(rows, 5, generator=draw, dtype=torch.float64), index % 3, index)


def assert_steps_are_exact(
    make: Callable[[], nn.Module], batches: list[Batch], way: str, wanted: str = "auto", layers: int = 0, cut: int = 1
) -> None:
    """Scores and gradients of steps on these batches are those of explicit gradients; and the way in the end."""
    made = parts(objective=CE() * 1.0, double=True)
    torch.manual_seed(0)
    made.distiller.student = Tapped(make()).double()
    made.distiller.weighting = weighting(solver=LastLayers(Identity(), layers) if layers else Identity(), way=wanted)
    made.queries = batches[0]
    training, _ = prepared(made, Student(), accumulate=cut)
    student = made.distiller.student
    for batch in batches:
        rows = per_sample_gradients_slow(student, Supervised().training_loss, batch)
        student.zero_grad(set_to_none=True)
        record, _ = weighted_backward(training, batch)
        q = made.distiller.weighting.direction(0)
        assert q is not None
        along = flatten({name: q.get(name, torch.zeros_like(part)) for name, part in trainable(student).items()})
        assert_close(record.scores, -rows @ along, rtol=1e-9, atol=1e-12)
        slopes = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in trainable(student).items()}
        assert_close(flatten(slopes), record.weights @ rows / len(batch), rtol=1e-9, atol=1e-12)
    assert training.way is not None
    assert training.way.way == way, training.way.why


def test_positions_are_shared_also_in_a_later_batch_of_as_many_samples_as_places() -> None:
    assert_steps_are_exact(Language, [some(8, 6), some(6, 6, 8), some(1, 6, 14)], "captured")


def test_a_scoring_pass_in_pieces_of_as_many_samples_as_places() -> None:
    torch.manual_seed(0)
    model, batch = Tapped(Language(places=captured.FIRST)).double(), some(captured.FIRST + 3, captured.FIRST)
    rows = per_sample_gradients_slow(model, Supervised().training_loss, batch)
    found = score(model, Supervised(), [batch], [batch], Identity())
    assert found.way == "captured"
    assert_close(found.phi, -rows @ rows.mean(0), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("way", ["captured", "carried", "separate", "reverse"])
def test_padding_has_no_gradient_where_it_is_looked_up_though_a_tied_head_moves_its_row(way: str) -> None:
    assert_steps_are_exact(lambda: Language("tied", padding=3), [some(8, 6)], way, way)


def test_a_direction_that_leaves_layers_out_does_not_hide_what_is_wrong_with_their_gradients() -> None:
    assert_steps_are_exact(lambda: Language("functional"), [some(8, 6)], "carried", layers=2)
    assert_steps_are_exact(Mixer, [some(8)], "carried", layers=1)


def test_a_first_batch_of_one_sample_decides_nothing() -> None:
    assert_steps_are_exact(Mixer, [some(1), some(8, first=1)], "carried")
    torch.manual_seed(0)
    model, batches = Tapped(Mixer()).double(), [some(1), some(8, first=1)]
    found = score(model, Supervised(), batches, [batches[1]], Identity())
    assert found.way == "carried"


@pytest.mark.parametrize(("wanted", "cut", "way"), [("auto", 1, "captured"), ("separate", 1, "reverse"), ("auto", 2, "reverse")])
def test_what_moves_forwards_but_has_no_gradient_is_noticed(wanted: str, cut: int, way: str) -> None:
    assert_steps_are_exact(Unmoved, [some(8)], way, wanted, cut=cut)


def test_what_is_changed_in_place_behind_a_layer_is_captured() -> None:
    assert_steps_are_exact(Added, [some(8)], "captured")
    assert_steps_are_exact(lambda: Added(6), [some(4), some(8, first=4)], "captured")


def test_a_finished_model_with_a_part_that_has_no_gradient_is_scored_by_its_gradient() -> None:
    torch.manual_seed(0)
    model, batch = Tapped(Unmoved()).double(), some(8)
    rows = per_sample_gradients_slow(model, Supervised().training_loss, batch)
    found = score(model, Supervised(), [batch], [batch], Identity())
    assert_close(found.phi, -rows @ rows.mean(0), rtol=1e-9, atol=1e-12)


def test_a_direction_that_moves_nothing_gives_products_of_zero() -> None:
    assert_steps_are_exact(Spare, [some(8)], "captured", layers=1)


@pytest.mark.parametrize("way", ["captured", "carried"])
def test_in_bfloat16_the_cheap_ways_are_taken_and_come_as_near_as_a_plain_step(way: str) -> None:
    def run(precision: str, way: str) -> tuple[Tensor, Tensor, str]:
        made = parts(objective=CE() * 1.0, weights=weighting(way=way))
        torch.manual_seed(0)
        made.distiller.student = Tapped(Language(places=40))
        ids = some(16, 40)
        made.queries = ids
        training, _ = prepared(made, Student())
        training.engine = LocalEngine(precision=precision)
        record, _ = weighted_backward(training, ids)
        assert training.way is not None
        assert record.scores is not None
        return record.scores, flatten({n: p.grad for n, p in trainable(made.distiller.student).items()}), training.way.way

    exact, plain, rough = run("fp32", "separate"), run("bf16", "separate"), run("bf16", way)
    assert rough[2] == way
    for wanted, usual, found in zip(exact[:2], plain[:2], rough[:2], strict=True):
        assert (found - wanted).norm() < 2 * (usual - wanted).norm() + 1e-3 * wanted.norm()


@pytest.mark.parametrize("way", ["captured", "carried", "separate"])
def test_weights_of_one_are_the_plain_step_bit_for_bit_where_a_layer_sees_many_positions(way: str) -> None:
    def run(weights: Weighting) -> Vector:
        made = parts(objective=CE() * 1.0, weights=weights)
        torch.manual_seed(0)
        made.distiller.student = Tapped(Language(places=40))
        made.queries = some(16, 40)
        training, _ = prepared(made, Student())
        weighted_backward(training, made.queries)
        return {name: part.grad for name, part in trainable(made.distiller.student).items() if part.grad is not None}

    plain, still = run(Uniform()), run(weighting(way=way, gain=0.0))
    assert plain.keys() == still.keys()
    assert all(torch.equal(part, still[name]) for name, part in plain.items())


WAYS = {
    "mlp": "captured",
    "group norm": "captured",
    "layer norm": "captured",
    "dropout": "captured",
    "tokens": "captured",
    "a module used twice": "captured",
    "batch norm, train mode": "carried",
    "attention, train mode": "carried",
    "LSTM": "carried",
    "a bare parameter": "carried",
    "a weight used functionally": "carried",
    "weight normalisation": "separate",
}


@pytest.mark.parametrize("name", WAYS)
@pytest.mark.filterwarnings("ignore:.*two backward passes")
def test_the_cheapest_exact_way_is_chosen_and_the_others_say_why_not(name: str) -> None:
    case = BY_NAME[name]
    model = case.make()
    state, rng = {key: part.clone() for key, part in model.state_dict().items()}, torch.get_rng_state()
    found = choose(model, TASK.training_loss, case.batch(), direction(model), rng, coupled=False)
    assert found.way == WAYS[name]
    assert len(found.why) == ("captured", "carried", "separate").index(found.way)
    assert all(torch.equal(part, state[key]) for key, part in model.state_dict().items())
    assert torch.equal(torch.get_rng_state(), rng)
    assert all(part.grad is None for part in model.parameters())


def test_a_net_that_mixes_samples_on_its_own_is_not_captured() -> None:
    torch.manual_seed(0)
    model, case = Tapped(Mixer()).double(), BY_NAME["mlp"]
    found = choose(model, TASK.training_loss, case.batch(), direction(model), torch.get_rng_state(), coupled=False)
    assert found.way == "carried"
    assert "mixes samples" in found.why[0]


def test_a_coupled_loss_is_not_captured_and_is_exact() -> None:
    made = parts(objective=FromTheMean() + CE(), weights=weighting(), double=True)
    training, batch = prepared(made, Student())
    q = direction(made.distiller.student)
    rng = torch.get_rng_state()
    task = made.distiller.task()
    found = choose(made.distiller.student, task.training_loss, batch, q, rng, coupled=True)
    assert (found.way, found.why) == ("carried", ("not captured: the loss couples the samples",))
    with statistics_untouched(made.distiller.student), Tangents(made.distiller.student, q) as tangents:
        answer = made.distiller.student(batch)
    products = products_at_outputs(task.training_loss, batch, answer, tangents.outputs(answer), coupled=True)
    assert_close(products, inner_products(made.distiller.student, task.training_loss, batch, q), rtol=1e-10, atol=1e-10)
    assert training.way is None


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["mlp", "dropout", "layernorm", "batchnorm", "everything"])
def test_a_run_is_the_same_by_every_way(kind: str) -> None:
    def student(way: str) -> dict[str, Tensor]:
        return train(parts(kind=kind, weights=weighting(way=way), double=True), epochs=2).student

    wanted = student("separate")
    mixing = kind in ("batchnorm", "everything")
    for way in ("carried", "auto") if mixing else ("captured", "carried", "auto"):
        for name, part in student(way).items():
            assert_close(part, wanted[name], rtol=1e-9, atol=1e-10, msg=lambda text, way=way: f"{way}: {text}")


@pytest.mark.parametrize("kind", ["layernorm", "dropout"])
def test_the_teacher_moves_alike_by_every_way_and_answers_once(kind: str) -> None:
    calls = []

    def run(way: str) -> Ran:
        made = parts(kind=kind, weights=weighting(way=way), trained=True, double=True)
        made.distiller.teacher.tapped.model.register_forward_hook(lambda *_: calls.append(way))  # type: ignore[union-attr]
        return train(made, Simultaneous(feedback=0.5))

    wanted = run("separate")
    assert len(calls) <= len(wanted.records) + 2  # a look or two before the first step
    for way in ("captured", "carried"):
        found = run(way)
        assert_close(found.teacher, wanted.teacher, rtol=1e-9, atol=1e-11)
        assert_close(found.student, wanted.student, rtol=1e-9, atol=1e-11)


def test_a_layer_that_thaws_between_two_steps_is_seen() -> None:
    found = []
    for way in ("separate", "captured"):
        made = parts(weights=weighting(way=way), double=True)
        training, batch = prepared(made, Student())
        student = made.distiller.student
        first = next(iter(student.parameters()))
        for moving in (True, False, True):
            first.requires_grad_(moving)
            before = first.detach().clone()
            Student()(training, batch)
            assert torch.equal(first, before) is not moving
        found.append({name: part.detach() for name, part in student.named_parameters()})
    assert_close(found[1], found[0], rtol=1e-9, atol=1e-10)


def test_the_way_is_kept_and_can_be_named() -> None:
    assert train(parts(weights=weighting())).training.way.way == "captured"  # type: ignore[union-attr]
    assert train(parts(kind="batchnorm", weights=weighting())).training.way.way == "carried"  # type: ignore[union-attr]
    assert train(parts(weights=weighting(way="separate"))).training.way.way == "separate"  # type: ignore[union-attr]
    assert train(parts()).training.way is None
    with pytest.raises(UsageError, match=r"way must be 'auto', 'captured', 'carried', 'separate', 'reverse', got 'fast'"):
        weighting(way="fast")


def test_a_hook_is_gone_after_an_error_in_the_middle() -> None:
    model = Tapped(BY_NAME["mlp"].make().model)
    capture = Capture(model)
    with pytest.raises(RuntimeError), capture.recording(4):
        model(BY_NAME["mlp"].batch(torch.float16))
    assert not any(module._forward_hooks for module in model.modules())


def test_a_scoring_pass_of_convolutions_is_carried_some_samples_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of scores go by what was captured all the same; a step captures."""
    model = Tapped(convolutional(nn.BatchNorm2d(4))).double().eval()
    batch = Batch(normal(7, 2, 6, 6), labels(7, classes=CLASSES), torch.arange(7))
    found = prepare(model, Supervised(), [batch], [batch], Identity())
    assert (found.way.way, found.way.carries) == ("captured", True)
    monkeypatch.setattr("limbeck.influence.ways.LARGEST", 1)
    monkeypatch.setattr("limbeck.influence.ways.FIRST", 4)
    sizes: list[int] = []
    model.register_forward_hook(lambda _model, given, _answer: sizes.append(len(given[0])))
    rows = per_sample_gradients_slow(model, Supervised().training_loss, batch)
    sizes.clear()
    passing = scoring_pass(found.way, model, Supervised().training_loss, coupled=False)
    q = unflatten(rows.mean(0), trainable(model))
    assert_close(passing(batch, q), rows @ rows.mean(0), rtol=1e-9, atol=1e-12)
    assert sizes == [4, 1, 1, 1]
    step = choose(model, Supervised().training_loss, batch, q, torch.get_rng_state(), coupled=False, step=True)
    assert (step.way, step.carries) == ("captured", False)
