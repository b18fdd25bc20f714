"""The figures of a language model, gathered batch by batch: of a token that counts a few numbers are kept, never the logits."""

from dataclasses import dataclass

import torch
from torch import Tensor

from limbeck.core.errors import RunError, UsageError
from limbeck.evaluation.figures import Figures
from limbeck.functional.divergences import cross_entropy, forward_kl, log_softmax


@dataclass(frozen=True)
class TokenAnswers:
    """What a model says at T counted tokens.

    Args:
        nll: [T] negative log-likelihood of the label, nats.
        confidence: [T] the largest probability.
        right: [T] bool, whether the label has it.
        same: [T] bool, whether the teacher's choice is the same; None without a teacher of the same vocabulary.
        divergence: [T] KL(teacher || student); None without such a teacher.
    """

    nll: Tensor
    confidence: Tensor
    right: Tensor
    same: Tensor | None = None
    divergence: Tensor | None = None

    @staticmethod
    def of(logits: Tensor, labels: Tensor, mask: Tensor | None = None, teacher: Tensor | None = None) -> "TokenAnswers":
        """Of the logits for some samples.

        Shapes: logits [B, L, V], labels int64 [B, L], mask bool [B, L] or None, teacher [B, L, V'] or None. One with another
        number of tokens than the student (V' is not V) is not compared with.

        Raises:
            RunError: The model answers with NaN or infinity.
        """
        kept = torch.ones_like(labels, dtype=torch.bool) if mask is None else mask
        own, wanted = logits[kept].double(), labels[kept]
        broken = int((~torch.isfinite(own)).any(-1).sum())
        if broken:
            raise RunError(
                f"evaluate: the model's logits are NaN or infinite at {broken} of {len(own)} tokens; its training diverged, "
                "so lower the learning rate or clip the gradient."
            )
        log_p, choice = log_softmax(own), own.argmax(-1)
        plain = TokenAnswers(cross_entropy(own, wanted), log_p.amax(-1).exp(), choice == wanted)
        if teacher is None or teacher.shape[-1] != logits.shape[-1]:
            return plain
        theirs = teacher[kept].double()
        divergence = forward_kl(log_softmax(theirs), log_p)
        return TokenAnswers(plain.nll, plain.confidence, plain.right, choice == theirs.argmax(-1), divergence)

    @staticmethod
    def figures(parts: "list[TokenAnswers]") -> Figures:
        """Means over all tokens of all parts: a long sample counts more than a short one.

        Raises:
            UsageError: No token counts.
        """
        from torchmetrics.functional.classification import binary_calibration_error  # here, since it takes seconds to import

        nll, confidence = torch.cat([part.nll for part in parts]), torch.cat([part.confidence for part in parts])
        right = torch.cat([part.right for part in parts])
        if not len(nll):
            raise UsageError("evaluate: no token counts; give at least one.")
        same = [part.same for part in parts if part.same is not None]
        divergence = [part.divergence for part in parts if part.divergence is not None]
        loss = float(nll.mean())
        return Figures(
            accuracy=float(right.double().mean()),
            nll=loss,
            # Of the largest probability and whether it is right: the error of the two-class task is that of the many-class one.
            ece=float(binary_calibration_error(confidence.float(), right.long(), n_bins=15, norm="l1")),
            agreement=float(torch.cat(same).double().mean()) if same else None,
            fidelity_kl=max(0.0, float(torch.cat(divergence).mean())) if divergence else None,  # rounding can leave -1e-17
            perplexity=float(nll.mean().exp()),
        )
