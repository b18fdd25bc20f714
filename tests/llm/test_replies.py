import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from torch import Tensor, nn

from limbeck.core.errors import UsageError
from limbeck.data.preferences import Preferences
from limbeck.llm.replies import write_replies


class Counting(nn.Module):
    """After byte n comes n + 1, after "e" the end."""

    def forward(self, ids: Tensor) -> Tensor:
        following = torch.where(ids == ord("e"), 256, (ids + 1) % 256)
        return 50.0 * nn.functional.one_hot(following, 258).float()


def test_replies_stand_in_a_column_and_are_read_as_the_students_own(tmp_path: Path) -> None:
    path, out = tmp_path / "p.jsonl", tmp_path / "own.parquet"
    rows = [{"prompt": prompt, "chosen": "x", "rejected": "yy"} for prompt in ("say a", "say c", "say abcdA")]
    path.write_text("\n".join(map(json.dumps, rows)))
    data = Preferences(str(path), length=16)
    write_replies(Counting(), data, out, length=4, batch_size=2)
    assert pq.read_table(out)["own"].to_pylist() == ["bcde", "de", "BCDE"]
    own = Preferences(str(out), rejected=None, own="own", length=16)
    assert own.meta["reply"].tolist() == [0, 2] * 3
    assert own.show(3).text.startswith("say cde")
    with pytest.raises(UsageError, match="has a column 'own' already"):
        write_replies(Counting(), own, tmp_path / "again.parquet")
