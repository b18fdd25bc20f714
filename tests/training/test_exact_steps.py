"""A whole weighted step on the nets that people use: scores and gradient are those of explicit per-sample gradients."""

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from limbeck.core.batch import Batch
from limbeck.data.loader import Loader
from limbeck.data.source import InMemory
from limbeck.distiller import Distiller
from limbeck.engine.local import LocalEngine
from limbeck.influence.curvature.identity import Identity
from limbeck.influence.gradients import per_sample_gradients_slow
from limbeck.influence.vectors import flatten, trainable
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.models.mobilenet import MobileNetV2
from limbeck.models.resnet import ResNet8x4
from limbeck.models.spec import DataSpec
from limbeck.models.transformer import Transformer
from limbeck.teachers.single import Single
from limbeck.training.setting import setting_of
from limbeck.training.training import Training
from limbeck.training.weighted import weighted_backward
from limbeck.weighting.influence import InfluenceWeighting

pytestmark = pytest.mark.slow
IMAGES, TOKENS = DataSpec("image", (3, 8, 8), 10), DataSpec("tokens", (12,), 10, 50)


class GPT(nn.Module):
    """A small causal language model: learnt positions, pre-norm blocks, causal attention, a head tied to the embedding."""

    def __init__(self, width: int = 32, depth: int = 2, heads: int = 4, vocabulary: int = 50, length: int = 12) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.blocks = nn.ModuleList(
            nn.ModuleDict(
                {
                    "norm1": nn.LayerNorm(width),
                    "qkv": nn.Linear(width, 3 * width),
                    "out": nn.Linear(width, width),
                    "norm2": nn.LayerNorm(width),
                    "wide": nn.Linear(width, 4 * width),
                    "narrow": nn.Linear(4 * width, width),
                }
            )
            for _ in range(depth)
        )
        self.norm, self.heads = nn.LayerNorm(width), heads
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.words.weight

    def forward(self, inputs: Tensor) -> Tensor:
        x = self.words(inputs) + self.places(torch.arange(inputs.shape[1]))
        for block in self.blocks:
            parts = block["qkv"](block["norm1"](x)).chunk(3, -1)  # type: ignore[index]
            q, k, v = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
            mixed = nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
            x = x + block["out"](mixed.transpose(1, 2).flatten(2))  # type: ignore[index]
            x = x + block["narrow"](nn.functional.gelu(block["wide"](block["norm2"](x))))  # type: ignore[index]
        logits: Tensor = self.head(self.norm(x))
        return logits


NETS: dict[str, tuple[Callable[[], nn.Module], DataSpec, str]] = {
    "ResNet-8x4": (lambda: ResNet8x4().build(IMAGES), IMAGES, "carried"),
    "MobileNetV2": (lambda: MobileNetV2().build(IMAGES), IMAGES, "carried"),
    "transformer": (lambda: Transformer(width=32, depth=2, heads=4).build(TOKENS), TOKENS, "captured"),
    "small GPT, tied head": (GPT, TOKENS, "captured"),
}


def samples(name: str, spec: DataSpec, rows: int, dtype: torch.dtype) -> InMemory:
    random = torch.Generator().manual_seed(0)
    if spec.kind == "tokens":
        inputs = torch.randint(50, (rows, 12), generator=random)
    else:
        inputs = torch.randn(rows, *spec.input_shape, generator=random, dtype=torch.float64).to(dtype)
    labels = torch.randint(10, (rows,), generator=random)
    vocabulary = {"vocabulary": 50} if spec.kind == "tokens" else {}
    return InMemory(inputs, labels, classes=tuple(map(str, range(10))), name=name, **vocabulary)


def own_error(distiller: Distiller, batch: Batch, explicit: Tensor) -> float:
    """How far explicit gradients in single precision are from those in double: nets of depth keep fewer than five digits."""
    twin = copy.deepcopy(distiller).double()
    inputs = batch.inputs.double() if batch.inputs.is_floating_point() else batch.inputs
    exact = per_sample_gradients_slow(twin.student, twin.task().training_loss, replace(batch, inputs=inputs))
    return float((explicit.double() - exact).norm() / exact.norm())


@pytest.mark.parametrize("rows", [64, 128])
@pytest.mark.parametrize("dtype, error", [(torch.float64, 1e-9), (torch.float32, 1e-5)], ids=["float64", "float32"])
@pytest.mark.parametrize("name", NETS)
def test_scores_and_weighted_gradient_equal_explicit_gradients(name: str, dtype: torch.dtype, error: float, rows: int) -> None:
    make, spec, way = NETS[name]
    torch.manual_seed(0)
    student, teacher = make().to(dtype), make().to(dtype)
    source = samples(name, spec, rows + 16, dtype)
    targets = source.labels
    if "GPT" in name:
        targets = torch.randint(50, (rows + 16, 12), generator=torch.Generator().manual_seed(1))
    weighting = InfluenceWeighting(Identity())
    distiller = Distiller(student, Single(teacher), KD(T=2) * 0.5 + CE() * 0.5, weighting=weighting)
    optimizer = torch.optim.SGD(distiller.trained(), lr=0.1)
    queries = Batch(source.read(torch.arange(rows, rows + 16))[0], targets[rows:], torch.arange(16))
    training = Training(distiller, distiller.student, optimizer, LocalEngine(), lambda *_: 1.0, 1, queries=queries)
    loader = Loader(source, torch.arange(rows), batch_size=rows, seed=0, labels=source.labels)
    weighting.bind(setting_of(training, loader, 0, None, teacher_moves=False))
    distiller.train()
    batch = Batch(source.read(torch.arange(rows))[0], targets[:rows], torch.arange(rows))
    explicit = per_sample_gradients_slow(distiller.student, distiller.task().training_loss, batch)
    rough = 0.0 if dtype == torch.float64 else own_error(distiller, batch, explicit)
    record, _ = weighted_backward(training, batch)
    q = weighting.direction(0)
    assert training.way is not None
    assert training.way.way == way, training.way.why
    assert q is not None
    wanted = -(explicit @ flatten(q))
    assert record.scores is not None
    assert float((record.scores - wanted).norm() / wanted.norm()) < max(error, 3 * rough)
    slopes = [torch.zeros_like(part) if part.grad is None else part.grad for part in trainable(student).values()]
    assert not any(slope.requires_grad for slope in slopes)
    gradient = torch.cat([slope.reshape(-1) for slope in slopes])
    sought = record.weights.to(dtype) @ explicit / rows
    assert float((gradient - sought).norm() / sought.norm()) < max(error, 3 * rough)
