"""Combine the recordings and texts of a command line into the examples of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence

from ..errors import InvalidInput

Example = tuple[str | None, str | None]  # (recording, text). None is what the model does not use


def make_examples(
    recordings: Sequence[str], texts: Sequence[str], *, uses_audio: bool, uses_text: bool
) -> list[Example]:
    """Pair recordings with texts.

    Args:
        recordings: paths of audio files.
        texts: one text for each recording, or one text for all.
        uses_audio: whether the model takes audio.
        uses_text: whether the model takes text.

    Raises:
        InvalidInput: if an input that the model needs is missing, or the numbers of recordings and texts differ.
    """
    if uses_audio and not recordings:
        raise InvalidInput("this checkpoint needs recordings; name some with --audio")
    if uses_text and not texts:
        raise InvalidInput("this checkpoint needs the spoken text; give it with --text")
    if not uses_audio:
        return [(None, text) for text in texts]
    if not uses_text:
        return [(recording, None) for recording in recordings]
    if len(texts) not in (1, len(recordings)):
        raise InvalidInput(
            f"{len(recordings)} recordings and {len(texts)} texts cannot be paired; give one text for each recording, "
            "or one text for all"
        )
    return list(zip(recordings, texts if len(texts) > 1 else [texts[0]] * len(recordings), strict=True))
