"""Tokenize texts with the checkpoint's own tokenizer, and cache its rules for the next process.

Importing transformers takes a second, and another one where PyTorch is installed. Cached rules need neither.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from ..errors import UnreadableInput
from ..runtime.atomic import atomic_file
from .checks import Tokens, check_text

_FILES = (".json", ".jinja", ".model", ".txt")  # suffixes of all files that a tokenizer may read


def load_tokenizer(folder: Path) -> Any:
    """Load the tokenizer of a checkpoint with transformers.

    Args:
        folder: The checkpoint's folder.

    Returns:
        transformers' tokenizer.

    Raises:
        UnreadableInput: The tokenizer's files are missing or broken.
    """
    # Without this transformers warns that PyTorch is missing. It is not needed here.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    from transformers import AutoTokenizer  # takes a second

    try:
        return AutoTokenizer.from_pretrained(
            str(folder),
            local_files_only=True,
            trust_remote_code=False,  # otherwise it asks on the terminal whether to run code from the folder
        )
    except Exception as error:  # broken files raise exceptions of any type
        reason = f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}"
        raise UnreadableInput(
            f"the tokenizer in {folder} can't be read ({reason}); fetch the whole folder again"
        ) from error


class TextTokenizer:
    """The checkpoint's own tokenizer, run by transformers. Its files decide on case and accents."""

    def __init__(self, folder: Path, max_tokens: int):
        """Load the tokenizer.

        Args:
            folder: The checkpoint's folder.
            max_tokens: Tokens to which texts are truncated, special tokens included.

        Raises:
            UnreadableInput: The tokenizer's files are missing or broken.
        """
        self.max_tokens = max_tokens
        self._tokenizer = load_tokenizer(folder)

    def __call__(self, text: object) -> Tokens:
        """Tokenize a text and truncate it to `max_tokens`, as the original does.

        Args:
            text: The words that were said.

        Returns:
            The tokens.

        Raises:
            InvalidInput: As `check_text`.
        """
        encoded = self._tokenizer(
            check_text(text), truncation=True, max_length=self.max_tokens, return_overflowing_tokens=True
        )
        return Tokens(list(encoded["input_ids"][0]), len(encoded["input_ids"]) > 1)


def load_fast_tokenizer(folder: Path, max_tokens: int) -> Tokenizer | None:
    """Load the fast (Rust) tokenizer of a checkpoint.

    Args:
        folder: The checkpoint's folder.
        max_tokens: Tokens to which texts are truncated, special tokens included.

    Returns:
        The fast tokenizer, or None if the checkpoint's tokenizer is written in Python.

    Raises:
        UnreadableInput: The tokenizer's files are missing or broken.
    """
    tokenizer = load_tokenizer(folder)
    if not isinstance(fast := getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        return None
    tokenizer("a", truncation=True, max_length=max_tokens, return_overflowing_tokens=True)  # sets the truncation
    return fast


def load_cached_tokenizer(folder: Path, max_tokens: int, cache: Path) -> Callable[[object], Tokens]:
    """Load the tokenizer of a checkpoint from a cache, or load it with transformers and cache it.

    Args:
        folder: The checkpoint's folder.
        max_tokens: Tokens to which texts are truncated, special tokens included.
        cache: Folder of cached tokenizers. If it cannot be written, nothing is cached.

    Returns:
        The tokenizer, a function from text to `Tokens`. It raises InvalidInput as `check_text` does.

    Raises:
        UnreadableInput: The tokenizer's files are missing or broken.
    """
    file = cache / f"{_digest(folder, max_tokens)}.json"
    with suppress(Exception):  # the file is missing or broken; tokenizers raises a bare Exception
        return FastTokenizer(Tokenizer.from_file(str(file)))
    tokenizer = load_fast_tokenizer(folder, max_tokens)
    if tokenizer is None:
        return TextTokenizer(folder, max_tokens)
    with suppress(OSError):  # a shared cache may be read-only
        cache.mkdir(parents=True, exist_ok=True)
        with atomic_file(file) as whole:
            whole.write(tokenizer.to_str().encode())
    return FastTokenizer(tokenizer)


class FastTokenizer:
    """The same as `TextTokenizer`, without transformers."""

    def __init__(self, tokenizer: Tokenizer):
        """Wrap a fast tokenizer that truncates texts."""
        self._tokenizer = tokenizer

    def __call__(self, text: object) -> Tokens:
        """Tokenize a text, as `TextTokenizer.__call__`."""
        encoded = self._tokenizer.encode(check_text(text))
        return Tokens(encoded.ids, bool(encoded.overflowing))


def _digest(folder: Path, max_tokens: int) -> str:
    """Hash everything that a tokenizer depends on: its files, `max_tokens` and the versions of the libraries."""
    digest = hashlib.sha256(f"{max_tokens} {version('transformers')} {version('tokenizers')}".encode())
    for file in sorted(folder.glob("*")):
        if file.suffix in _FILES:
            content = file.read_bytes()
            digest.update(f" {file.name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:24]
