"""Recordings and texts from a command line, as the examples of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InvalidInput

Example = tuple[str | None, str | None]  # a recording and a text, None where the model has no use for it


def make_examples(recordings: Sequence[str], texts: Sequence[str], *, hears: bool, reads: bool) -> list[Example]:
    """A text for each recording, or one for all, as a model takes them that `hears` and `reads`.

    Raises InvalidInput where what it needs is missing, or where they are no pairs.
    """
    if hears and not recordings:
        raise InvalidInput("this checkpoint needs recordings; name some with --audio")
    if reads and not texts:
        raise InvalidInput("this checkpoint needs the words that were said; give them with --text")
    if not hears:
        return [(None, text) for text in texts]
    if not reads:
        return [(recording, None) for recording in recordings]
    if len(texts) not in (1, len(recordings)):
        raise InvalidInput(
            f"{len(recordings)} recordings and {len(texts)} texts are no pairs; give a text for each recording, or one "
            "for all"
        )
    return list(zip(recordings, texts if len(texts) > 1 else [texts[0]] * len(recordings), strict=True))
