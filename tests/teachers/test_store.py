"""A store holds what the teacher said, is the same however often its making was interrupted, and shows every flipped bit.

Over 300 lines: making, damaging, killing and reading of one kind of folder.
"""

import json
import multiprocessing
import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from store_makers import (
    COUNTED,
    LENGTH,
    ROWS,
    bytes_of,
    classifier,
    manifest,
    reader,
    sparse_of,
    token_store,
    tokens,
    vector_store,
    vectors,
)
from torch import Tensor
from torch.testing import assert_close

from limbeck.core.batch import Batch
from limbeck.core.errors import RunError, UsageError
from limbeck.core.outputs import Outputs
from limbeck.functional.topk import top_k
from limbeck.teachers.manifest import Layout, Manifest
from limbeck.teachers.marks import digest_of, fingerprint, marks
from limbeck.teachers.store import build, laid_out, packed, rows_per_shard
from limbeck.teachers.stored import Stored

ANY = torch.tensor([20, 3, 3, 0, 22, 7])


def test_stored_logits_are_those_of_the_live_teacher(tmp_path: Path) -> None:
    """To the last bit where it was asked the same question, four samples at a time; a kernel may round otherwise elsewhere."""
    vector_store(tmp_path, size=8)
    stored, live = Stored(str(tmp_path)), classifier()
    for rows in torch.arange(20).split(4):
        assert torch.equal(stored(vectors(rows)).logits, live(vectors(rows)).logits)
    assert_close(stored(vectors(ANY)).logits, live(vectors(ANY)).logits, rtol=0, atol=1e-6)
    assert torch.equal(stored(vectors(torch.arange(ROWS))).take(ANY).logits, stored(vectors(ANY)).logits)
    assert stored.offers == {"logits"}
    assert not list(stored.parameters())


def test_stored_top_k_is_that_of_the_live_teacher(tmp_path: Path) -> None:
    for k, T in ((1, 1.0), (3, 2.0), (5, 1.0)):
        folder = tmp_path / str(k)
        token_store(folder, k=k, T=T)
        found = Stored(str(folder))(tokens(ANY))
        wanted = top_k(reader()(tokens(ANY)).logits, k, T)
        assert found.sparse is not None
        assert (found.sparse.T, found.sparse.classes, found.logits.shape) == (T, 5, (6, LENGTH, 0))
        assert torch.equal(found.sparse.ids, wanted.ids)
        assert_close(found.sparse.log_probs, wanted.log_probs, rtol=0, atol=1e-6)
        assert_close(found.sparse.tail, wanted.tail, rtol=0, atol=1e-6)
        assert Stored(str(folder)).offers == {"topk"}


def test_a_teacher_that_knows_few_classes_is_stored_too(tmp_path: Path) -> None:
    live = reader()
    build(tmp_path, manifest(2, length=LENGTH), tokens, lambda batch: sparse_of(live(batch), 3), batch_size=4)
    found, wanted = Stored(str(tmp_path))(tokens(ANY)).sparse, top_k(live(tokens(ANY)).logits, 2)
    assert found is not None
    assert torch.equal(found.ids, wanted.ids)
    assert_close(found.tail, wanted.tail, rtol=0, atol=1e-6)


def test_half_precision_is_close_and_too_large_logits_are_refused(tmp_path: Path) -> None:
    vector_store(tmp_path, precision="float16")
    found = Stored(str(tmp_path))(vectors(ANY)).logits
    assert found.dtype == torch.float32
    assert_close(found, classifier()(vectors(ANY)).logits, rtol=2**-11, atol=1e-7)
    with pytest.raises(RunError, match="too large for float16"):
        packed(Outputs(torch.tensor([[7e4, 0.0]])), Layout(2, precision="float16"))
    for k in (None, 1):
        with pytest.raises(RunError, match="NaN"):
            packed(Outputs(torch.full((1, 2), torch.nan)), Layout(2, k=k))


def test_the_size_is_known_before() -> None:
    # 50,000 words: all logits as float32 are 200,000 bytes a token; 64 of them as ids and float16 with a tail are
    # 64 * (4 + 2) + 2 = 386 bytes, and a sample of 512 tokens 512 * 386 + 8 for its mark.
    assert Layout(50_000, 512).row_bytes == 512 * 200_000 + 8
    assert Layout(50_000, 512, 64, precision="float16").row_bytes == 197_640
    assert Layout(10, None, precision="float32").row_bytes == 48
    assert rows_per_shard(Layout(50_000, 512)) == 1
    assert rows_per_shard(Layout(50_000, 512, 64, precision="float16")) == 339  # 2^26 / 197,640
    million = replace(manifest(), layout=Layout(50_000, 512, 64, precision="float16"), rows=10**6)
    assert million.size_bytes == 197_640_000_000


def test_the_size_is_right(tmp_path: Path) -> None:
    made = token_store(tmp_path, k=3, size=30)
    (shard,) = made.shards
    assert 0 < (tmp_path / shard.file).stat().st_size - made.size_bytes < 600  # the file's head


def child(folder: Path, resume: bool) -> None:
    torch.set_num_threads(1)

    def slow(batch: Batch) -> Outputs:
        time.sleep(0.004)
        return reader()(batch)  # type: ignore[no-any-return]

    build(folder, manifest(3, length=LENGTH, size=2), tokens, slow, batch_size=2, resume=resume)
    os._exit(0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.skipif(torch.cuda.is_available(), reason="forks")
def test_killed_and_gone_on_with_it_is_the_same_bytes(tmp_path: Path) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    token_store(calm, k=3, size=2)
    killed.mkdir()
    deaths, seen = 0, 0
    for _ in range(40):
        process = multiprocessing.get_context("fork").Process(target=child, args=(killed, (killed / "manifest.json").exists()))
        process.start()
        limit = time.monotonic() + 20
        while process.is_alive() and len(list(killed.glob("shard-*"))) < seen + 2 and time.monotonic() < limit:
            time.sleep(0.001)
        if process.pid is not None and process.is_alive():
            os.kill(process.pid, signal.SIGKILL)
        process.join()
        deaths += process.exitcode == -signal.SIGKILL
        seen = len(list(killed.glob("shard-*")))
        if process.exitcode == 0:
            break
    assert deaths >= 3
    for left in killed.glob(".*.partial"):
        left.unlink()
    assert bytes_of(killed) == bytes_of(calm)


class Power(BaseException):
    """The power fails."""


def test_the_power_fails_at_every_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calm, folder, original = tmp_path / "calm", tmp_path / "cut", Path.replace
    vector_store(calm, size=9)
    folder.mkdir()
    for fails in range(40):

        def fail(self: Path, target: Path, late: bool = fails % 2 == 1) -> Path:
            if late:
                original(self, target)
            raise Power

        calls = iter(range(1, 100))
        monkeypatch.setattr(
            Path,
            "replace",
            lambda self, target, fail=fail, calls=calls: original(self, target) if next(calls) < 2 else fail(self, target),
        )
        try:
            build(folder, manifest(size=9), vectors, classifier(), batch_size=4, resume=True)
            break
        except Power:
            monkeypatch.undo()
    monkeypatch.undo()
    assert fails > 2
    build(folder, manifest(size=9), vectors, classifier(), batch_size=4, resume=True)
    for left in folder.glob(".*.partial"):
        left.unlink()
    assert bytes_of(folder) == bytes_of(calm)


def test_finished_work_is_not_done_again(tmp_path: Path) -> None:
    made = vector_store(tmp_path)

    def never(batch: Batch) -> Outputs:
        raise AssertionError

    assert build(tmp_path, manifest(), vectors, never, batch_size=4, resume=True) == made
    short = replace(made, shards=made.shards[:3])
    short.write(tmp_path)
    asked: list[int] = []

    def counted(batch: Batch) -> Outputs:
        asked.extend(batch.index.tolist())
        return classifier()(batch)  # type: ignore[no-any-return]

    assert build(tmp_path, manifest(), vectors, counted, batch_size=4, resume=True) == made
    assert set(asked) == set(range(15, ROWS))
    assert len(asked) % 4 == 0


def test_resuming_another_store_is_refused(tmp_path: Path) -> None:
    made = vector_store(tmp_path)
    others = {
        "the teacher": replace(made, teacher={"name": "teacher", "weights": "x"}),
        "the data": replace(made, data={"name": "data", "marks": "x"}),
        "what is kept": replace(made, layout=replace(made.layout, precision="float16")),
        "the test rows": replace(made, held_out="x"),
        "rows": replace(made, rows=22),
    }
    for words, other in others.items():
        with pytest.raises(UsageError, match=f"begun otherwise, {words} differs"):
            build(tmp_path, replace(other, shards=()), vectors, classifier(), batch_size=4, resume=True)


@pytest.mark.parametrize("place", [0, 8, 60, -1])
def test_a_flipped_bit_is_found_and_named(tmp_path: Path, place: int) -> None:
    vector_store(tmp_path)
    path = tmp_path / "shard-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    stored = Stored(str(tmp_path))
    stored(vectors(torch.tensor([0, 9, 15])))
    with pytest.raises(RunError, match=r"shard-00002.safetensors is damaged: its bytes are not those that were written"):
        stored(vectors(torch.tensor([0, 10])))
    with pytest.raises(RunError, match=r"shard-00002.safetensors is damaged"):
        build(tmp_path, manifest(), vectors, classifier(), batch_size=4, resume=True)
    path.unlink()
    with pytest.raises(RunError, match=r"shard-00002.safetensors is missing"):
        Stored(str(tmp_path))(vectors(torch.tensor([10])))


def test_manifests_that_cannot_be_trusted_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"holds no stored teacher, it has no manifest.json"):
        Stored(str(tmp_path))
    made = vector_store(tmp_path)
    replace(made, shards=made.shards[:2]).write(tmp_path)
    with pytest.raises(UsageError, match="holds 2 of 5 shards; go on with `limbeck cache"):
        Stored(str(tmp_path))
    plain = json.loads(json.dumps({**made.__dict__, "layout": made.layout.__dict__, "shards": [s.__dict__ for s in made.shards]}))
    changes: list[dict[str, object]] = [
        {"rows": -1},
        {"rows": "23"},
        {"shards": [{"file": "../secret", "sha256": "x"}]},
        {"layout": {**plain["layout"], "precision": "float64"}},
        {"layout": {**plain["layout"], "T": 0}},
        {"layout": {**plain["layout"], "classes": None}},
        {"unknown": 1},
    ]
    for change in changes:
        (tmp_path / "manifest.json").write_text(json.dumps({**plain, **change}))
        with pytest.raises(RunError, match="is damaged"):
            Stored(str(tmp_path))
    (tmp_path / "manifest.json").write_text("{")
    with pytest.raises(RunError, match="is damaged"):
        Stored(str(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps({**plain, "schema": 2}))
    with pytest.raises(RunError, match="is of version 2, this program reads 1"):
        Stored(str(tmp_path))
    (tmp_path / "manifest.json").write_text(json.dumps(plain))
    assert Manifest.read(tmp_path) == made


def test_other_samples_are_refused(tmp_path: Path) -> None:
    token_store(tmp_path / "t", k=2)
    vector_store(tmp_path / "v")
    stored, plain = Stored(str(tmp_path / "v")), vectors(ANY)
    for index in (ROWS, -1):
        with pytest.raises(UsageError, match=f"sample {index} is not stored, .* holds the samples 0 to 22 of data"):
            stored(replace(plain, index=torch.tensor([0, 1, index, 3, 4, 5])))
    nearly = plain.inputs.clone()
    nearly[2, 1] = torch.nextafter(nearly[2, 1], torch.tensor(9.0))
    with pytest.raises(UsageError, match=r"1 of 6 samples \(such as 3\) are not what"):
        stored(replace(plain, inputs=nearly))
    with pytest.raises(UsageError, match="6 of 6 samples"):
        stored(replace(plain, inputs=plain.inputs.flip(1)))
    with pytest.raises(UsageError, match="3 of 6 samples"):
        Stored(str(tmp_path / "t"))(replace(tokens(ANY), mask=torch.ones(6, LENGTH, dtype=torch.bool)))
    mixed = {name: torch.zeros(6) for name in ("mixed_first", "mixed_second", "mixed_share")}
    with pytest.raises(UsageError, match="mixed in pairs"):
        Stored(str(tmp_path / "v"), ignore_transform=True)(replace(plain, meta=mixed))
    with pytest.raises(UsageError, match="inner activations layer1 are not stored"):
        stored.tap(("layer1",))


def test_a_transform_is_ignored_only_when_told(tmp_path: Path) -> None:
    vector_store(tmp_path)
    moved, plain = replace(vectors(ANY), inputs=vectors(ANY).inputs + 1), vectors(ANY)
    told = Stored(str(tmp_path), ignore_transform=True)
    assert torch.equal(told(moved).logits, Stored(str(tmp_path))(plain).logits)
    told.check(plain)
    with pytest.raises(UsageError, match="6 of 6 samples"):
        told.check(moved)
    token_store(tmp_path / "t")
    other = replace(tokens(ANY), inputs=tokens(ANY).inputs.flip(1))
    with pytest.raises(UsageError, match=r"samples .* are not what"):
        Stored(str(tmp_path / "t"), ignore_transform=True)(other)
    assert repr(told) == f"Stored({str(tmp_path)!r}, ignore_transform=True)"


def marks_slow(batch: Batch) -> list[int]:
    """Python's own whole numbers, element by element."""
    found, top = [], 2**64
    for row in range(len(batch)):
        words = batch.inputs[row].flatten().numpy().view("<i4" if batch.inputs.is_floating_point() else "<i8").tolist()
        words += [] if batch.mask is None else batch.mask[row].int().tolist()
        total = 0
        for place, word in enumerate(words, 1):
            z = place * 0x9E3779B97F4A7C15 % top
            z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9 % top
            z = (z ^ z >> 27) * 0x94D049BB133111EB % top
            total += word * ((z ^ z >> 31) | 1)
        found.append((total + top // 2) % top - top // 2)
    return found


@pytest.mark.parametrize("make", [vectors, tokens])
def test_marks_are_the_sum_that_they_are_said_to_be(make: object) -> None:
    batch = make(torch.arange(ROWS))  # type: ignore[operator]
    found = marks(batch)
    assert found.tolist() == marks_slow(batch)
    if batch.mask is None:
        assert len(found.unique()) == ROWS  # type: ignore[no-untyped-call]
    assert digest_of(found) != digest_of(found.flip(0))


def test_fingerprints_know_weights_names_and_shapes() -> None:
    state = {"a": torch.arange(6.0), "b": torch.ones(2, dtype=torch.bfloat16), "c": torch.empty(0)}
    own = fingerprint(state)
    assert own == fingerprint(dict(reversed(state.items())))
    bit = state["a"].clone()
    bit[3] = torch.nextafter(bit[3], torch.tensor(9.0))
    others: list[dict[str, Tensor]] = [
        {**state, "a": bit},
        {**state, "a": state["a"].view(2, 3)},
        {**state, "a": state["a"].double()},
        {"x" if name == "a" else name: part for name, part in state.items()},
    ]
    assert len({own, *map(fingerprint, others)}) == 5


def test_layouts_follow_the_teacher() -> None:
    dense, tokens_too = Outputs(torch.zeros(2, 5)), Outputs(torch.zeros(2, 3, 5))
    assert laid_out(dense, None, 1.0, Layout(None)) == Layout(5)
    assert laid_out(tokens_too, 2, 4.0, Layout(None, precision="float16")) == Layout(5, 3, 2, 4.0, "float16")
    with pytest.raises(UsageError, match="--top-k 6 is more than the 5 classes"):
        laid_out(dense, 6, 1.0, Layout(None))
    with pytest.raises(UsageError, match="say how many are kept by --top-k"):
        laid_out(sparse_of(dense, 2), None, 1.0, Layout(None))
    with pytest.raises(UsageError, match=r"--top-k 3 is more than the 2 classes"):
        laid_out(sparse_of(dense, 2), 3, 1.0, Layout(None))
    with pytest.raises(UsageError, match="answers at T = 1"):
        packed(sparse_of(dense, 2), Layout(5, None, 2, T=2.0))


def test_positions_that_do_not_count_are_answered_too(tmp_path: Path) -> None:
    token_store(tmp_path, k=2)
    found = Stored(str(tmp_path))(tokens(torch.arange(ROWS))).sparse
    assert found is not None
    assert torch.isfinite(found.log_probs[~COUNTED]).all()
