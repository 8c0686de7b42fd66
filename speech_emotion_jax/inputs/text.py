"""Text to token ids, by the tokenizer that the checkpoint brings."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from ..errors import InvalidInput, UnreadableInput


class Tokens(NamedTuple):
    """`ids` with the special tokens; `truncated` where the text had more than the model takes."""

    ids: list[int]
    truncated: bool


class TextTokenizer:
    """The checkpoint's own tokenizer; its files alone decide on case and accents."""

    def __init__(self, folder: Path, max_tokens: int):
        from transformers import AutoTokenizer  # takes a second

        self.max_tokens = max_tokens
        try:
            self._tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UnreadableInput(
                f"the tokenizer in {folder} can't be read ({str(error).splitlines()[0]}); fetch the whole folder again"
            ) from error

    def __call__(self, text: str) -> Tokens:
        """Ids of a text, cut to `max_tokens` as the original does. Raises InvalidInput for text without content."""
        if not isinstance(text, str):
            raise InvalidInput(f"text must be a string, not {type(text).__name__}; pass the words that were said")
        if not text.strip():
            raise InvalidInput("the text is empty; pass the words that were said, or use mode audio")
        encoded = self._tokenizer(text, truncation=True, max_length=self.max_tokens, return_overflowing_tokens=True)
        return Tokens(list(encoded["input_ids"][0]), len(encoded["input_ids"]) > 1)
