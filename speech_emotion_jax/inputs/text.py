"""Text to token ids, by the tokenizer that the checkpoint brings."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InvalidInput, UnreadableInput


class Tokens(NamedTuple):
    """`ids` with the special tokens; `truncated` where the text had more than the model takes."""

    ids: list[int]
    truncated: bool


def check_text(text: object) -> str:
    """The text, unchanged. Raises InvalidInput for what is no string, blank, or no valid Unicode."""
    if not isinstance(text, str):
        raise InvalidInput(f"the text is of type {type(text).__name__}; pass a string, the words that were said")
    if not text.strip():
        raise InvalidInput("the text is empty or blank; pass the words that were said, or use mode audio")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # bytes of another encoding on the command line become lone surrogates
        raise InvalidInput(
            f"the text is no UTF-8 at character {error.start}: {text[:80]!a}; pass it as UTF-8"
        ) from error
    return text


def load_tokenizer(folder: Path) -> Any:
    """The tokenizer of a checkpoint, by transformers. Raises UnreadableInput where its files are missing or broken."""
    # transformers would say that PyTorch was not found, which is as it should be.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer  # takes a second

    try:
        return AutoTokenizer.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,  # else a folder that brings code makes it ask on the terminal
        )
    except Exception as error:  # broken files raise anything
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UnreadableInput(
            f"the tokenizer in {folder} can't be read ({reason}); fetch the whole folder again"
        ) from error


class TextTokenizer:
    """The checkpoint's own tokenizer; its files alone decide on case and accents."""

    def __init__(self, folder: Path, max_tokens: int):
        self.max_tokens = max_tokens
        self._tokenizer = load_tokenizer(folder)

    def __call__(self, text: object) -> Tokens:
        """Ids of a text, cut to `max_tokens` as the original does. Raises what `check_text` raises."""
        encoded = self._tokenizer(
            check_text(text), truncation=True, max_length=self.max_tokens, return_overflowing_tokens=True
        )
        return Tokens(list(encoded["input_ids"][0]), len(encoded["input_ids"]) > 1)
