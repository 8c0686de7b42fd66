"""What a text and its token ids are."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import InvalidInput


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
