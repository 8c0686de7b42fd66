"""Check a text before it is tokenized."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import InvalidInput


class Tokens(NamedTuple):
    """The tokens of a text.

    Attributes:
        ids: Token ids, special tokens included.
        truncated: Whether the text had more tokens than the model takes.
    """

    ids: list[int]
    truncated: bool


def check_text(text: object) -> str:
    """Return a text unchanged if it can be tokenized.

    Args:
        text: The words that were said.

    Returns:
        The text.

    Raises:
        InvalidInput: The text is not a string, is blank, or is not valid Unicode.
    """
    if not isinstance(text, str):
        raise InvalidInput(f"the text is of type {type(text).__name__}; pass a string, the words that were said")
    if not text.strip():
        raise InvalidInput("the text is empty or blank; pass the words that were said, or use mode audio")
    try:
        text.encode()
    except UnicodeEncodeError as error:  # command line arguments in another encoding hold lone surrogates
        raise InvalidInput(
            f"the text is not UTF-8 at character {error.start}: {text[:80]!a}; pass it as UTF-8"
        ) from error
    return text
