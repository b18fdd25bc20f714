"""Tokenizers of pretrained models, by the transformers library. Nothing that is loaded can run code."""

from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, final

from limbeck.core.errors import DataError, UsageError
from limbeck.core.extras import optional
from limbeck.core.online import hub
from limbeck.data.tokens import Tokens, Turn


@final
class Tokenizer(Tokens):
    """The tokenizer of a pretrained model.

    Args:
        name_or_path: A name on the hub, a folder that holds a tokenizer, a `tokenizer.json`, or a `.gguf` file.

    Raises:
        MissingExtraError: transformers is not installed.
        DataError: There is no tokenizer, or none that ends a text.
    """

    def __init__(self, name_or_path: str) -> None:
        self.name_or_path = name_or_path
        self._inner = _load(name_or_path, f"{self!r}")
        self.size = len(self._inner)
        eos = self._inner.eos_token_id if self._inner.eos_token_id is not None else self._inner.sep_token_id
        if eos is None:
            raise DataError(f"{self!r}: this tokenizer has no token that ends a text; take another one.")
        self.eos: int = eos
        self.pad: int = eos if self._inner.pad_token_id is None else self._inner.pad_token_id

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without any that open or end it."""
        ids: list[int] = self._inner(text, add_special_tokens=False, verbose=False)["input_ids"]
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids, without special ones."""
        text: str = self._inner.decode(list(ids), skip_special_tokens=True)
        return text

    def joined(self, parts: Sequence[str], length: int) -> list[int]:
        """The ids of one or two texts with the special ones around and between that the model was trained with.

        Raises:
            UsageError: There are more than two texts.
        """
        if len(parts) > 2:
            raise UsageError(f"{self!r}: at most two columns can be read together, got {len(parts)}.")
        ids: list[int] = self._inner(*parts, truncation=True, max_length=length, verbose=False)["input_ids"]
        return ids or [self.eos]

    def chat(self, turns: Sequence[Turn], *, answer: bool = False) -> list[int]:
        """The ids of a conversation, by the tokenizer's own template."""
        if not self._inner.chat_template:
            return super().chat(turns, answer=answer)
        text = self._inner.apply_chat_template(list(turns), tokenize=False, add_generation_prompt=answer)
        return self.encode(text)

    def __repr__(self) -> str:
        return f"Tokenizer({self.name_or_path!r})"


def _load(name_or_path: str, who: str) -> Any:  # noqa: ANN401 - transformers has no common type for its tokenizers
    """The tokenizer of transformers.

    Raises:
        DataError: There is none.
    """
    library, path = optional("transformers", "text", "Tokenizer"), Path(name_or_path).expanduser()
    with hub(not path.exists()) as unreached:
        return _read(library, path, name_or_path, who, unreached)


def _read(library: ModuleType, path: Path, name_or_path: str, who: str, unreached: str) -> Any:  # noqa: ANN401 - as above
    try:
        if path.suffix == ".gguf":
            optional("gguf", "text", "Tokenizer with a .gguf file")
            return library.AutoTokenizer.from_pretrained(str(path.parent), gguf_file=path.name)
        if path.suffix == ".json":
            return library.PreTrainedTokenizerFast(tokenizer_file=str(path))
        return library.AutoTokenizer.from_pretrained(str(path) if path.exists() else name_or_path, trust_remote_code=False)
    except (OSError, ValueError, TypeError, KeyError) as error:
        why = unreached or str(error).strip().partition("\n")[0].rstrip(".")
        raise DataError(f"{who}: no tokenizer can be loaded ({why}); give a folder, a tokenizer.json or a .gguf file.") from error
    except Exception as error:  # the tokenizers library raises bare ones
        raise DataError(f"{who}: no tokenizer can be loaded ({str(error).partition(chr(10))[0]}); is the file whole?") from error
