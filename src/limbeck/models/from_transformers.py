"""Pretrained transformers by name, folder or file, with all parameters or LoRA adapters to train. Nothing loaded can run code."""

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from inspect import signature
from pathlib import Path
from types import ModuleType
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from limbeck.core.checks import fraction, positive, whole
from limbeck.core.errors import DataError, UsageError
from limbeck.core.extras import optional
from limbeck.core.online import hub
from limbeck.models.spec import Architecture, DataSpec, Kind


@final
@dataclass(frozen=True)
class LoRA:
    """Low-rank adapters: each layer's W becomes W + (alpha / rank) B A, and only A and B are trained (and a classifier's head).

    Args:
        rank: Rows of A, at least 1.
        alpha: Scale, > 0; None takes 2 rank.
        dropout: Probability in [0, 1) of dropping an input of A.
        targets: Names of the layers that get adapters, as they end; None: all linear layers but the head.

    Raises:
        UsageError: A value is out of its range.

    Reference: Hu et al., 2022, arXiv:2106.09685, sec. 4.1; made by the peft library.
    """

    rank: int = 8
    alpha: float | None = None
    dropout: float = 0.0
    targets: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        whole(self.rank, "LoRA: rank")
        if self.alpha is not None:
            positive(self.alpha, "LoRA: alpha")
        if fraction(self.dropout, "LoRA: dropout") == 1:
            raise UsageError("LoRA: dropout must be below 1, since 1 drops everything.")

    def put_into(self, model: nn.Module, *, classifier: bool) -> None:
        """Give the model its adapters and freeze all else, the head of a classifier excepted.

        Raises:
            UsageError: No layer of the model has such a name.
        """
        peft = optional("peft", "text", "LoRA")
        settings = peft.LoraConfig(
            r=self.rank,
            lora_alpha=2 * self.rank if self.alpha is None else self.alpha,
            lora_dropout=self.dropout,
            target_modules="all-linear" if self.targets is None else list(self.targets),
            task_type="SEQ_CLS" if classifier else "CAUSAL_LM",
            fan_in_fan_out=any(type(part).__name__ == "Conv1D" for part in model.modules()),  # GPT-2 keeps its weights transposed
        )
        try:
            peft.inject_adapter_in_model(settings, model)
        except ValueError as error:
            why = str(error).partition("\n")[0].rstrip(".")
            raise UsageError(f"{self!r} does not fit this model ({why}); name other targets.") from error
        if classifier:
            inner = f"{getattr(model, 'base_model_prefix', '')}."
            for name, part in model.named_parameters():
                if not name.startswith(inner):
                    part.requires_grad_(True)


@final
class KeptCache:
    """The cache of a model of transformers, which makes it with the first tokens."""

    def __init__(self) -> None:
        self.inner: Any = None

    def keep(self, rows: Tensor) -> None:
        """Forget all rows but these."""
        self.inner.batch_select_indices(rows)


@final
class Causal(nn.Module):
    """A causal model of transformers that answers with logits alone.

    Args:
        model: The model.
        classes: How many of its logits are kept, from the first.
    """

    def __init__(self, model: nn.Module, classes: int) -> None:
        super().__init__()
        self.model, self.classes = model, classes

    def forward(self, inputs: Tensor) -> Tensor:
        """Token ids [B, L] -> logits of the next token [B, L, V]. No mask: padding on the right is seen by no counted place."""
        logits: Tensor = self.model(input_ids=inputs, use_cache=False).logits
        return logits[..., : self.classes]

    def fresh_cache(self) -> KeptCache | None:
        """A cache that has seen nothing; None for models that keep another kind of state, take no positions, or are float64.

        The library's softmax is in float32, where the mask of a float64 model is -inf: padding on the left would become NaN.
        """
        takes, double = signature(self.model.forward).parameters, self.model.dtype == torch.float64
        fits = "position_ids" in takes and _cache_name(takes) and not self.model._is_stateful and not double
        return KeptCache() if fits else None

    def go_on(self, ids: Tensor, seen: Tensor, cache: KeptCache) -> Tensor:
        """Further tokens [B, N], `seen` bool [B, S + N], false at padding on the left -> logits behind the last one [B, V]."""
        places = (seen.long().cumsum(1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        name = _cache_name(signature(self.model.forward).parameters)
        kept = {name: cache.inner, "logits_to_keep": 1}
        found = self.model(input_ids=ids, attention_mask=seen.long(), position_ids=places, use_cache=True, **kept)
        cache.inner = found[name]
        logits: Tensor = found.logits[:, -1]
        return logits[..., : self.classes]


@final
class SequenceClassifier(nn.Module):
    """A sequence classifier of transformers that answers with logits alone.

    Args:
        model: The model.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Tensor:
        """Token ids [B, L], bool mask [B, L] (true where a token counts) or None -> logits [B, classes]."""
        seen = None if mask is None else mask.long()
        logits: Tensor = self.model(input_ids=inputs, attention_mask=seen).logits
        return logits


@final
@dataclass(frozen=True, repr=False)
class HFModel(Architecture):
    """A model of the transformers library: a sequence classifier for tokens, a causal model for language.

    Attention is computed in plain matrix products ("eager"): the fused kernels have no forward derivative. Weights come from
    safetensors or .gguf files only, and no code of a model's author is run. In a run `teacher_epochs: 0` takes a pretrained
    teacher as it is.

    Args:
        name_or_path: A name on the hub, a folder, or a .gguf file.
        lora: Train low-rank adapters only; None trains all parameters.
        pretrained: Whether to load the weights; else the same net freshly initialised, for this data's vocabulary.
        crop: Cut off the logits beyond the tokenizer's ids: rows of padding that some models have.

    Shapes: token ids [B, L], and mask [B, L] for classifiers -> logits [B, classes] or [B, L, V].

    Raises:
        MissingExtraError: transformers (or peft, gguf) is not installed.
        DataError: There is no such model, or none that can be loaded safely.
        UsageError: The model's vocabulary or length does not fit the data.
    """

    takes: ClassVar[tuple[Kind, ...]] = ("tokens", "language")

    name_or_path: str
    lora: LoRA | None = None
    pretrained: bool = True
    crop: bool = False

    def make(self, spec: DataSpec) -> nn.Module:
        """The module for this data."""
        library = optional("transformers", "text", "HFModel")
        with _quiet(library):
            model = self._load(library, spec) if self.pretrained else self._fresh(library, spec)
        self._check(model.config, spec)
        if self.lora is not None:
            self.lora.put_into(model, classifier=spec.kind == "tokens")
        model.train()
        if spec.kind == "tokens":
            return SequenceClassifier(model)
        return Causal(model, spec.classes if self.crop else _size(model.config))

    def _load(self, library: ModuleType, spec: DataSpec) -> Any:  # noqa: ANN401 - transformers has no common type for its models
        """The model with its weights.

        Raises:
            DataError: It cannot be loaded.
        """
        where, how = _place(self.name_or_path)
        maker = library.AutoModelForCausalLM
        if spec.kind == "tokens":
            maker, how = library.AutoModelForSequenceClassification, {**how, "num_labels": spec.classes}
        settings = {"attn_implementation": "eager", "dtype": torch.float32, "use_safetensors": True, "trust_remote_code": False}
        with hub(not Path(where).exists()) as unreached:
            try:
                return maker.from_pretrained(where, **settings, **how)
            except (OSError, ValueError, KeyError, RuntimeError) as error:
                raise DataError(f"{self!r}: the model cannot be loaded ({unreached or _why(error)}).") from error

    def _fresh(self, library: ModuleType, spec: DataSpec) -> Any:  # noqa: ANN401 - as above
        """The same net with weights drawn anew.

        Raises:
            DataError: Its settings cannot be read.
        """
        where, how = _place(self.name_or_path)
        with hub(not Path(where).exists()) as unreached:
            try:
                config = library.AutoConfig.from_pretrained(where, trust_remote_code=False, **how)
            except (OSError, ValueError, KeyError) as error:
                raise DataError(f"{self!r}: the model's settings cannot be read ({unreached or _why(error)}).") from error
        config.vocab_size, config.num_labels = spec.vocabulary, spec.classes
        if config.pad_token_id is not None and spec.vocabulary is not None and config.pad_token_id >= spec.vocabulary:
            config.pad_token_id = None  # of the vocabulary that the model had; no embedding can be made with it
        maker = library.AutoModelForCausalLM if spec.kind == "language" else library.AutoModelForSequenceClassification
        return maker.from_config(config, attn_implementation="eager", dtype=torch.float32, trust_remote_code=False)

    def _check(self, config: Any, spec: DataSpec) -> None:  # noqa: ANN401 - as above
        """See that the model can read this data.

        Raises:
            UsageError: It knows too few tokens, or too short texts, or cannot tell padding.
        """
        size, longest = _size(config), getattr(config, "max_position_embeddings", None)
        if spec.vocabulary is not None and size < spec.vocabulary:
            raise UsageError(
                f"{self!r} knows {size} tokens, but the data's tokenizer has {spec.vocabulary}; "
                f"read the data with the model's own: Tokenizer({self.name_or_path!r})."
            )
        if longest is not None and longest < spec.input_shape[0]:
            raise UsageError(
                f"{self!r} reads {longest} tokens at most, but rows have {spec.input_shape[0]}; take a shorter length."
            )
        if spec.kind == "tokens" and config.pad_token_id is None:
            raise UsageError(
                f"{self!r} has no token for padding, so it cannot classify texts of different lengths; take an encoder."
            )

    def __repr__(self) -> str:
        return f"HFModel({self.name_or_path!r}{super().__repr__().partition(repr(self.name_or_path))[2]}"


def _cache_name(takes: Collection[str]) -> str:
    """What this version of transformers calls a model's cache; nothing where the model takes none."""
    return next((name for name in ("cache", "past_key_values") if name in takes), "")


def _size(config: Any) -> int:  # noqa: ANN401 - as above
    return int(config.vocab_size)


def _place(name_or_path: str) -> tuple[str, dict[str, object]]:
    """Where transformers is to look, and how."""
    path = Path(name_or_path).expanduser()
    if path.suffix == ".gguf":
        optional("gguf", "text", "HFModel with a .gguf file")
        return str(path.parent), {"gguf_file": path.name}
    return str(path) if path.exists() else name_or_path, {}


def _why(error: Exception) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")


@contextmanager
def _quiet(library: ModuleType) -> Iterator[None]:
    """No progress bars and advice of the library in the middle of a run's own display; its settings come back afterwards."""
    logging = library.utils.logging
    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()
