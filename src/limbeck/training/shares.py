"""Which term moves the student: a look at the terms' gradients now and then, which leaves no trace."""

import torch

from limbeck.core.outputs import Views
from limbeck.influence.restoring import random_state, statistics_untouched
from limbeck.training.training import Record, Training

SAMPLES = 64
"""A look takes at most so many samples of a batch: it is to cost next to nothing."""


def gradient_shares(training: Training, record: Record) -> dict[str, float]:
    """|g_k| / sum_j |g_j| by term, g_k = grad of c_k mean_i w_i l_k,i in all of the student's parameters, after the step.

    With per="token" in the distiller w_i counts by the sample's tokens, as in the step.

    Terms on features and terms on logits are compared where they meet, in the parameters. Costs a forward pass and one
    backward pass per term.

    Returns:
        The shares, which sum to 1; none where no term has a gradient.
    """
    distiller, engine = training.distiller, training.engine
    student, objective = distiller.student, distiller.objective
    batch, weights = record.batch.take(slice(0, SAMPLES)).to(engine.device), record.weights[:SAMPLES]
    amounts = distiller.amounts(batch)
    weights = weights if amounts is None else weights * amounts.to(weights)
    with statistics_untouched(distiller), random_state(torch.get_rng_state()), engine.autocast():
        values = objective(Views(student(batch), distiller.teach(batch), batch))
    losses = (objective.coefs * objective.factors).to(values) * (values * weights.to(values)).mean(1)
    where, norms = [part for part in student.parameters() if part.requires_grad], []
    for loss in losses:
        slopes = torch.autograd.grad(loss, where, retain_graph=True, allow_unused=True) if loss.requires_grad else ()
        norms.append(sum(float(slope.double().square().sum()) for slope in slopes if slope is not None) ** 0.5)
    total = sum(norms)
    return {name: norm / total for name, norm in zip(objective.names, norms, strict=True)} if total > 0 else {}
