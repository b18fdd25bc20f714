"""Inner products of per-sample gradients with a direction, without ever forming a per-sample gradient.

`<q, g_i>` for every sample of a batch is the derivative of the vector of losses along q: one forward pass that carries a
tangent (forward-mode differentiation), exact for any model, also where train-mode batch normalisation couples the samples:
there g_i is the gradient of sample i's loss within its batch, the quantity whose weighted sum the training step uses.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Literal

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad as fwAD
from torch.func import functional_call
from torch.nn.attention import SDPBackend, sdpa_kernel

from limbeck.core.batch import Batch
from limbeck.core.errors import UnsupportedModelError
from limbeck.core.outputs import Outputs
from limbeck.influence.restoring import random_state, statistics_untouched
from limbeck.influence.task import Forward
from limbeck.influence.vectors import Vector, trainable, zeros_like
from limbeck.influence.written import as_written

Loss = Callable[[Forward, Batch], Tensor]
"""One value per sample, [B], of a model at some parameters."""

Way = Literal["auto", "forward", "reverse"]


def at(model: nn.Module, parameters: Mapping[str, Tensor]) -> Forward:
    """The model as a function of the batch with these parameters in place of its own."""

    def forward(batch: Batch) -> Outputs:
        outputs: Outputs = functional_call(model, dict(parameters), (batch,))
        return outputs

    return forward


@cache
def forward_rules() -> None:
    """Have torch load its rules for forward derivatives, which warns of torch's own deprecated parts, once and out of sight."""
    with warnings.catch_warnings(), fwAD.dual_level():
        warnings.simplefilter("ignore")
        carry(torch.zeros(1), torch.zeros(1))


@contextmanager
def plain_attention() -> Iterator[None]:
    """Attention in plain matrix products: the fused kernels have neither a forward nor a second derivative."""
    forward_rules()
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)


@contextmanager
def moving(model: nn.Module) -> Iterator[None]:
    """A model as forward derivatives are to see it: attention in plain products, running statistics and padding stay as they are.

    Padding has no gradient where an embedding looks it up, even where a head that shares the table gives its row one.
    """

    def hook(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
        assert isinstance(layer, nn.Embedding)
        assert layer.padding_idx is not None
        ids = (inputs or tuple(named.values()))[0]
        return torch.where(ids.eq(layer.padding_idx).unsqueeze(-1), output.detach(), output)

    padded = [part for part in model.modules() if isinstance(part, nn.Embedding) and part.padding_idx is not None]
    handles = [part.register_forward_hook(hook, with_kwargs=True) for part in padded]
    try:
        with as_written(), statistics_untouched(model), plain_attention():
            yield
    finally:
        for handle in handles:
            handle.remove()


def missing_derivative(error: Exception) -> str:
    """Torch's own words, one line, where it says that an operation cannot be differentiated or transformed so; else empty."""
    told = ("forward AD", "forward mode AD", "derivative for", "differentiate twice", "functorch", "torch.func", "vmap")
    return str(error).partition("\n")[0] if any(words in str(error) for words in told) else ""


def inner_products(
    model: nn.Module,
    loss: Loss,
    batch: Batch,
    q: Vector,
    *,
    parameters: Vector | None = None,
    coupled: bool = True,
    way: Way = "auto",
    rng: Tensor | None = None,
) -> Tensor:
    """<q, g_i> for every sample of the batch, [B], in the model's present mode.

    Args:
        model: Called with a batch, answers with `Outputs`.
        loss: One value per sample.
        batch: The samples.
        q: A direction, by parameter name; parameters that it leaves out do not move.
        parameters: Where gradients are taken; None for the model's own parameters.
        coupled: Whether a sample's loss may depend on other samples' outputs. False is cheaper: the loss is then not
            differentiated forwards. What happens inside the model, such as batch normalisation, is exact either way.
        way: `forward` (one tangent pass), `reverse` (two backward passes, for layers without a forward derivative), or
            `auto`: forward, and reverse, with a warning, where a layer has no forward derivative.
        rng: The state of the random numbers to replay, so that dropout drops what the training step dropped.

    Raises:
        UnsupportedModelError: A layer offers neither derivative.
        RuntimeError: Whatever else the model itself raises.
    """
    where = {name: part.detach() for name, part in (trainable(model) if parameters is None else parameters).items()}
    who = f"influence: {type(model).__name__}"
    if way != "reverse":
        try:
            with moving(model), random_state(rng):
                return _forward_products(model, where, loss, batch, q, coupled)
        except (NotImplementedError, RuntimeError) as error:
            why = missing_derivative(error)
            if not why:
                raise
            if way == "forward":
                raise UnsupportedModelError(f"{who} has no forward derivative ({why}); use way='auto'.") from error
            warnings.warn(f"{who} has no forward derivative ({why}); scores take two backward passes instead.", stacklevel=2)
    try:
        with moving(model), random_state(rng):
            return _reverse_products(model, where, loss, batch, q)
    except (NotImplementedError, RuntimeError) as error:
        why = missing_derivative(error)
        if not why:
            raise
        raise UnsupportedModelError(
            f"{who} can be differentiated neither forwards nor twice backwards ({why}); replace that layer."
        ) from error


def _forward_products(model: nn.Module, where: Vector, loss: Loss, batch: Batch, q: Vector, coupled: bool) -> Tensor:
    """One forward pass with a tangent along q; the loss forwards too, or backwards once to the model's outputs."""
    with torch.no_grad(), fwAD.dual_level():
        answer = at(model, _dual(where, q))(batch)
        if coupled:
            return tangent_of(loss(lambda _: answer, batch))
        parts = (answer.logits, *answer.features.values())
        tangents = [tangent_of(part) for part in parts]
        plain = answer.map(lambda part: fwAD.unpack_dual(part).primal.clone())  # type: ignore[no-untyped-call]
    return products_at_outputs(loss, batch, plain, tangents, coupled=False)


def products_at_outputs(loss: Loss, batch: Batch, answer: Outputs, tangents: Sequence[Tensor], *, coupled: bool) -> Tensor:
    """The derivative of every sample's loss, [B], where logits and features move along their tangents.

    Args:
        loss: One value per sample.
        batch: The samples.
        answer: What the model gave.
        tangents: Of the logits, then of each feature.
        coupled: Whether a sample's loss depends on other samples' outputs; False takes one backward pass down to the outputs.
    """
    parts = [part.detach() for part in (answer.logits, *answer.features.values())]
    if coupled:
        with torch.no_grad(), fwAD.dual_level(), plain_attention():
            duals = [carry(part, own) for part, own in zip(parts, tangents, strict=True)]
            moving = Outputs(duals[0], dict(zip(answer.features, duals[1:], strict=True)))
            return tangent_of(loss(lambda _: moving, batch))
    leaves = [part.requires_grad_() for part in parts]
    plain = Outputs(leaves[0], dict(zip(answer.features, leaves[1:], strict=True)))
    with torch.enable_grad():
        slopes = torch.autograd.grad(loss(lambda _: plain, batch).sum(), leaves, allow_unused=True)
    products = [(s * t).flatten(1).sum(1) for s, t in zip(slopes, tangents, strict=True) if s is not None]
    return torch.stack(products).sum(0)


def _dual(where: Vector, q: Vector) -> Vector:
    """Parameters that carry q as their tangent."""
    return {name: carry(part, q[name].to(part.dtype)) if name in q else part for name, part in where.items()}


def carry(value: Tensor, tangent: Tensor) -> Tensor:
    """The value with a tangent; torch leaves these two functions untyped."""
    dual: Tensor = fwAD.make_dual(value, tangent)  # type: ignore[no-untyped-call]
    return dual


def tangent_of(value: Tensor) -> Tensor:
    """The tangent that a value carries; zeros where it carries none."""
    pair = fwAD.unpack_dual(value)  # type: ignore[no-untyped-call]
    return torch.zeros_like(pair.primal) if pair.tangent is None else pair.tangent.clone()


def _reverse_products(model: nn.Module, where: Vector, loss: Loss, batch: Batch, q: Vector) -> Tensor:
    """d/du <q, grad sum_i u_i l_i>: linear in u, so its derivative is the row of inner products."""
    leaves = {name: part.detach().requires_grad_() for name, part in where.items()}
    with torch.enable_grad():
        values = loss(at(model, leaves), batch)
        u = torch.ones_like(values, requires_grad=True)
        grads = torch.autograd.grad(values @ u, list(leaves.values()), create_graph=True, allow_unused=True)
        along = sum((g * q[n].to(g.dtype)).sum() for n, g in zip(leaves, grads, strict=True) if g is not None and n in q)
        (products,) = torch.autograd.grad(torch.as_tensor(along), u)
    return products.detach()


def mean_gradient(
    model: nn.Module, loss: Loss, batches: Sequence[Batch], parameters: Vector | None = None
) -> tuple[Vector, float]:
    """The gradient of the mean loss over all samples of the batches, and that mean loss (nats).

    Running statistics of batch normalisation stay as they are. Parameters that the loss does not reach have gradient 0.
    """
    leaves = {n: p.detach().requires_grad_() for n, p in (trainable(model) if parameters is None else parameters).items()}
    total, mean, count = zeros_like(leaves), 0.0, sum(len(batch) for batch in batches)
    for batch in batches:
        with torch.enable_grad(), statistics_untouched(model):
            value = loss(at(model, leaves), batch).sum() / count
            grads = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
        mean += float(value.detach())
        total = {n: t if g is None else t + g for (n, t), g in zip(total.items(), grads, strict=True)}
    return total, mean


def per_sample_gradients_slow(model: nn.Module, loss: Loss, batch: Batch) -> Tensor:
    """Every sample's gradient, [B, P], by one backward pass each through the batch's graph: the slow, obviously right twin."""
    parameters = list(trainable(model).values())
    with torch.enable_grad(), statistics_untouched(model):
        values = loss(model, batch)
        rows = []
        for value in values:
            grads = torch.autograd.grad(value, parameters, retain_graph=True, allow_unused=True)
            rows.append(
                torch.cat([(torch.zeros_like(p) if g is None else g).reshape(-1) for p, g in zip(parameters, grads, strict=True)])
            )
    return torch.stack(rows)


def logit_tangents(
    model: nn.Module, parameters: Vector, batch: Batch, direction: Vector, *, rng: Tensor | None = None
) -> tuple[Tensor, Outputs]:
    """J_i direction for every sample, how the logits move when the parameters do, in their shape; and the outputs themselves."""
    where = {name: part.detach() for name, part in parameters.items()}
    with torch.no_grad(), moving(model), random_state(rng), fwAD.dual_level():
        answer = at(model, _dual(where, direction))(batch)
        return tangent_of(answer.logits), answer.map(_still)


def _still(value: Tensor) -> Tensor:
    """The value without its tangent."""
    primal: Tensor = fwAD.unpack_dual(value).primal  # type: ignore[no-untyped-call]
    return primal
