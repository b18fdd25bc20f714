"""A teacher whose answers were stored."""

from collections.abc import Mapping
from pathlib import Path
from typing import final

import torch
from torch import Tensor

from limbeck.core.batch import PARTNER, Batch
from limbeck.core.errors import UsageError
from limbeck.core.outputs import Outputs
from limbeck.core.topk import TopK
from limbeck.teachers.manifest import Manifest
from limbeck.teachers.marks import fingerprint, marks
from limbeck.teachers.store import MARK, Columns, Shards
from limbeck.teachers.teacher import Teacher


@final
class Stored(Teacher):
    """Answers that `limbeck cache` wrote, read by each sample's identity; no teacher is in memory.

    Every sample is known again by its inputs, bit by bit: other data under the same numbers, another tokenizer, or an image that
    a transform has changed is refused, since the stored answer is about what was stored.

    Args:
        folder: The store.
        ignore_transform: Answer for the sample as it was stored, however a transform has changed it for the student. Samples that
            were mixed in pairs are refused all the same, and so are other token ids.

    Raises:
        UsageError: The folder holds no finished store.
        RunError: The manifest is damaged.
    """

    def __init__(self, folder: str, ignore_transform: bool = False) -> None:
        super().__init__()
        self.folder, self.ignore_transform = Path(folder), ignore_transform
        self.manifest = Manifest.read(self.folder)
        if not self.manifest.finished:
            raise UsageError(
                f"Stored: {folder} holds {len(self.manifest.shards)} of {self.manifest.wanted} shards; "
                "go on with `limbeck cache ... --resume`."
            )
        self.offers = frozenset({"logits"}) if self.manifest.layout.k is None else frozenset({"topk"})
        self.shards = Shards(self.folder, self.manifest)

    def forward(self, batch: Batch) -> Outputs:
        """What was stored of these samples.

        Raises:
            UsageError: A sample is not stored, or is not what it was.
            RunError: A shard is damaged.
        """
        if batch.mixture is not None or PARTNER in batch.meta:
            raise UsageError("Stored: these samples were mixed in pairs, but no answer to a mixture is stored; leave it out.")
        columns = self._rows(batch.index)
        if not self.ignore_transform or not batch.inputs.is_floating_point():  # other tokens are another text
            self._same(batch, columns)
        return self._outputs(columns, batch.index.device)

    @property
    def cost(self) -> Mapping[str, int | None]:
        """What the teacher had that was stored."""
        return {name: self.manifest.teacher.get(name) for name in ("parameters", "flops")}

    def check_weights(self, state: Mapping[str, Tensor]) -> None:
        """See that these are the weights of the teacher that was stored.

        Raises:
            UsageError: They are not.
        """
        if fingerprint(state) != self.manifest.teacher["weights"]:
            raise UsageError(f"Stored: {self.folder} holds the answers of a teacher with other weights; store this one anew.")

    def check(self, batch: Batch) -> None:
        """See that these samples, untransformed, are those that were stored.

        Raises:
            UsageError: They are not.
        """
        self._same(batch, self._rows(batch.index))

    def _rows(self, index: Tensor) -> Columns:
        rows, own = self.manifest.rows, index.cpu()
        strange = own[(own < 0) | (own >= rows)]
        if len(strange):
            raise UsageError(
                f"Stored: sample {int(strange[0])} is not stored, {self.folder} holds the samples 0 to {rows - 1} of "
                f"{self.manifest.data['name']}; store the teacher's answers to this data."
            )
        return self.shards.rows(own)

    def _same(self, batch: Batch, columns: Columns) -> None:
        other = marks(batch).cpu() != columns[MARK]
        if other.any():
            raise UsageError(
                f"Stored: {int(other.sum())} of {len(batch)} samples (such as {int(batch.index.cpu()[other][0])}) are not "
                f"what {self.folder} holds answers to: a transform changed them, or the data or its tokenizer are others than "
                f"{self.manifest.data['name']}; leave the transform out, say ignore_transform=True, or store these answers."
            )

    def _outputs(self, columns: Columns, device: torch.device) -> Outputs:
        layout = self.manifest.layout
        parts = {name: part.to(device) for name, part in columns.items() if name != MARK}
        if layout.k is None:
            return Outputs(parts["logits"].float())
        ids, log_probs, tail = parts["ids"].long(), parts["log_probs"].float(), parts["tail"].float()
        return Outputs(log_probs[..., :0], sparse=TopK(ids, log_probs, tail, layout.T, layout.classes))

    def tap(self, names: tuple[str, ...]) -> None:
        """Refuse: inner activations are not stored.

        Raises:
            UsageError: Always.
        """
        raise UsageError(f"Stored: inner activations {', '.join(names)} are not stored; use terms on logits, or a live teacher.")

    def __deepcopy__(self, memo: dict[int, object]) -> "Stored":
        """Itself: nothing in it changes, and a copy would read the files into memory."""
        return self

    def extra_repr(self) -> str:
        """The arguments."""
        return repr(str(self.folder)) + (", ignore_transform=True" if self.ignore_transform else "")

    def __repr__(self) -> str:
        return f"Stored({self.extra_repr()})"
