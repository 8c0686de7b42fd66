"""Text to token ids, by the tokenizer that the checkpoint brings, which is kept ready for the next process.

transformers alone takes a second to import, and another one where PyTorch is installed, which it then imports.
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
from .checks import Tokens, check_text

_FILES = (".json", ".jinja", ".model", ".txt")  # what a tokenizer is made of


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


def load_fast_tokenizer(folder: Path, max_tokens: int) -> Tokenizer | None:
    """The rules of the tokenizer in `folder`, which cut texts to `max_tokens`; None where it is written in Python.

    Raises UnreadableInput where its files are missing or broken.
    """
    tokenizer = load_tokenizer(folder)
    if not isinstance(rules := getattr(tokenizer, "backend_tokenizer", None), Tokenizer):
        return None
    tokenizer("a", truncation=True, max_length=max_tokens, return_overflowing_tokens=True)  # from now on the rules cut
    return rules


def load_cached_tokenizer(folder: Path, max_tokens: int, kept: Path) -> Callable[[object], Tokens]:
    """The tokenizer in `folder`, which cuts texts to `max_tokens`; `kept` is where it is found the next time.

    Raises UnreadableInput where its files are missing or broken. What is returned raises what `check_text` raises.
    """
    file = kept / f"{_digest(folder, max_tokens)}.json"
    with suppress(Exception):  # it is not there or broken: tokenizers raises nothing more precise
        return FastTokenizer(Tokenizer.from_file(str(file)))
    rules = load_fast_tokenizer(folder, max_tokens)
    if rules is None:
        return TextTokenizer(folder, max_tokens)
    with suppress(OSError):  # a shared cache may be read-only
        kept.mkdir(parents=True, exist_ok=True)
        partial = file.with_suffix(f".{os.getpid()}")
        partial.write_text(rules.to_str(), encoding="utf-8")
        partial.replace(file)
    return FastTokenizer(rules)


class FastTokenizer:
    """As `TextTokenizer`, by the rules alone, which truncate."""

    def __init__(self, rules: Tokenizer):
        self._rules = rules

    def __call__(self, text: object) -> Tokens:
        encoded = self._rules.encode(check_text(text))
        return Tokens(encoded.ids, bool(encoded.overflowing))


def _digest(folder: Path, max_tokens: int) -> str:
    """What a tokenizer depends on."""
    digest = hashlib.sha256(f"{max_tokens} {version('transformers')} {version('tokenizers')}".encode())
    for file in sorted(folder.glob("*")):
        if file.suffix in _FILES:
            content = file.read_bytes()
            digest.update(f" {file.name} {len(content)} ".encode() + content)
    return digest.hexdigest()[:24]
