"""What a trained language model writes behind held-out prompts, beside the reference and beside its teacher."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import UsageError
from limbeck.data.tokens import Tokens
from limbeck.evaluation.texts import answer_agreement, exact_match, rouge_l
from limbeck.evaluation.tokens import TokenAnswers
from limbeck.experiment.measuring import pieces
from limbeck.influence.restoring import modes_restored
from limbeck.llm.completions import asked
from limbeck.llm.rollouts import Rollout, generate
from limbeck.teachers.single import Single
from limbeck.teachers.stored import Stored


@dataclass(frozen=True)
class Exam:
    """Held-out rows whose beginnings are to be completed, greedily, up to the end of the text or of the row.

    A row is completed behind its prompt, the tokens up to the first label that counts; a packed row, which has none, behind its
    first half.

    Args:
        rows: The rows, with their labels.
        tokens: What makes words of ids.
        vocabulary: How many tokens may be written.
    """

    rows: Batch
    tokens: Tokens
    vocabulary: int

    @staticmethod
    def of(test: Batch, count: int, tokens: Tokens, vocabulary: int) -> "Exam":
        """`count` rows of the test split, evenly apart, or all where it has fewer; rows with nothing to complete are left out.

        Raises:
            UsageError: No row has anything to complete.
        """
        fit = _behind(test).any(1).nonzero().squeeze(1).cpu()
        if not len(fit):
            raise UsageError(
                "completions: no test row has counted tokens behind its prompt; take longer rows, or completions: 0."
            )
        places = torch.linspace(0, len(fit) - 1, min(count, len(fit)), dtype=torch.float64).long()
        return Exam(test.take(fit[places].to(test.index.device)), tokens, vocabulary)

    def figures(self, model: Tapped, teacher: nn.Module | None) -> dict[str, float | None]:
        """How the model does, and how near it is to its teacher.

        `rouge_l` and `exact_match` are against the reference. With a teacher that answers for new texts, `same_completion` and
        `copied_errors` compare what both write, `own_agreement` and `own_kl` what both say at every token of the student's text.

        Args:
            model: The net in use.
            teacher: Called with a batch, answers with all logits; None where there is none, or where its logits are not known.
        """
        wrote = self._write(model, model.model)
        texts, references = self._texts(wrote), self._references()
        found: dict[str, float | None] = {"rouge_l": rouge_l(texts, references), "exact_match": exact_match(texts, references)}
        if teacher is None or isinstance(teacher, Stored):
            return found
        theirs = self._texts(self._write(teacher, teacher.tapped.model if isinstance(teacher, Single) else None))
        agreement = answer_agreement(texts, theirs, references)
        own = self._own_text(wrote, model, teacher)
        return {**found, "same_completion": agreement.overall, "copied_errors": agreement.copied, **own}

    def _write(self, net: nn.Module, inner: object) -> Rollout:
        known, width = _known(self.rows), self.rows.inputs.shape[1]
        with modes_restored(net, training=False):
            return generate(
                asked(net, inner),
                self.rows.inputs,
                known,
                length=width + 1 - known,
                temperature=0.0,
                eos=self.tokens.eos,
                pad=self.tokens.pad,
                vocabulary=self.vocabulary,
            )

    def _texts(self, wrote: Rollout) -> list[str]:
        return [self._spoken(ids[mask]) for ids, mask in zip(wrote.ids, wrote.mask, strict=True)]

    def _references(self) -> list[str]:
        """The counted labels behind what was given."""
        assert self.rows.targets is not None
        return [self._spoken(row[kept]) for row, kept in zip(self.rows.targets, _behind(self.rows), strict=True)]

    def _spoken(self, ids: Tensor) -> str:
        """The text of these ids, up to the first token that ends one."""
        found = ids.tolist()
        return self.tokens.decode(found[: found.index(self.tokens.eos)] if self.tokens.eos in found else found)

    def _own_text(self, wrote: Rollout, model: Tapped, teacher: nn.Module) -> dict[str, float | None]:
        """Agreement with the teacher, and KL(teacher || student), at the tokens that the student wrote."""
        written = Batch(wrote.ids[:, :-1], wrote.ids[:, 1:], self.rows.index, wrote.mask[:, 1:])
        found = []
        for piece in pieces(model, written):
            with modes_restored(model, training=False), modes_restored(teacher, training=False), torch.no_grad():
                logits, theirs = (one(piece).logits[..., : self.vocabulary].cpu() for one in (model, teacher))
            own = piece.to("cpu")
            assert own.targets is not None
            found.append(TokenAnswers.of(logits, own.targets, own.mask, theirs))
        figures = TokenAnswers.figures(found)
        return {"own_agreement": figures.agreement, "own_kl": figures.fidelity_kl}


def _known(rows: Batch) -> Tensor:
    """How many tokens of each row are given, [B]."""
    first = torch.zeros_like(rows.index) if rows.mask is None else rows.mask.int().argmax(1)
    return torch.where(first > 0, first + 1, max(1, rows.inputs.shape[1] // 2))


def _behind(rows: Batch) -> Tensor:
    """The places of the labels that are to be written, bool [B, L]."""
    behind = torch.arange(rows.inputs.shape[1], device=rows.index.device) >= (_known(rows) - 1).unsqueeze(1)
    return behind if rows.mask is None else behind & rows.mask
