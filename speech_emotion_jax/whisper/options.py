"""The options of a transcription."""

from __future__ import annotations

from dataclasses import dataclass

from ..audio import WINDOW_SECONDS
from ..errors import InvalidInput

TIMESTAMPS = ("segment", "word")
FALLBACK = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # temperatures of the original decoder


@dataclass(frozen=True)
class TranscriptionOptions:
    """How to transcribe recordings. The defaults are those of the published toolkit, with a greedy search.

    Raises:
        InvalidInput: An option is out of its range, or two options contradict each other.
    """

    # Language of the speech, as a code ("es") or a name ("Spanish"). None takes that of the model's
    # generation_config.json, or else detects it for each recording: the surest of its windows with speech decides.
    language: str | None = None

    # "transcribe", or "translate" to English.
    task: str = "transcribe"

    # Timestamps of the result: None, "segment" or "word".
    timestamps: str | None = None

    # Hypotheses of the beam search. 1 is greedy search. Temperatures above 0 always draw a single hypothesis.
    beams: int = 1

    # Temperatures to try in turn. Every window is decoded at the first. A window fails if its text repeats itself (see
    # `compression_ratio`) or is improbable (see `log_probability`), and is then decoded again at the next. FALLBACK has
    # the temperatures of the original decoder.
    temperatures: tuple[float, ...] = (0.0,)

    # A window fails if zlib compresses the bytes of its text by more than this factor.
    compression_ratio: float = 2.4

    # A window fails if the mean natural log-probability of its tokens is lower.
    log_probability: float = -1.0

    # A window has no text if its no-speech probability is higher and its mean log-probability is lower than
    # `log_probability`. None keeps the text of every window.
    no_speech: float | None = 0.6

    # Decode the windows of a recording one after another. Each begins where the timestamps of the previous one end, as
    # in the original decoder. False decodes overlapping windows together and joins their texts.
    sequential: bool = False

    # Prompt each window with the text before it. It needs `sequential`.
    condition_on_previous: bool = False

    # Length of a window in seconds, 1 to 30.
    window: float = float(WINDOW_SECONDS)

    # Seconds on the left and on the right of a window that overlap with its neighbours. `sequential` ignores them.
    stride: tuple[float, float] = (WINDOW_SECONDS / 6, WINDOW_SECONDS / 6)

    # Tokens to decode per window at most. None allows as many as the decoder has positions for.
    max_tokens: int | None = None

    # Seed of the random draws at temperatures above 0.
    seed: int = 0

    # Windows to decode together, over all devices.
    batch_size: int = 16

    def __post_init__(self) -> None:
        """Check the options."""
        if self.timestamps not in (None, *TIMESTAMPS):
            raise InvalidInput(f"the timestamps {self.timestamps!r} are unknown; use {' or '.join(TIMESTAMPS)}")
        if not 1 <= self.beams <= 32:
            raise InvalidInput(f"the number of beams is {self.beams}; it must be from 1 (greedy) to 32")
        if not self.temperatures or not all(0 <= each <= 2 for each in self.temperatures):
            raise InvalidInput(f"the temperatures are {self.temperatures}; give at least one, each from 0 to 2")
        if not 1 <= self.window <= WINDOW_SECONDS or min(self.stride) < 0 or sum(self.stride) >= self.window:
            raise InvalidInput(
                f"windows of {self.window:g} s with strides of {self.stride[0]:g} and {self.stride[1]:g} s can't be "
                f"made; give 1 to {WINDOW_SECONDS} s, and strides that are shorter together"
            )
        if self.max_tokens is not None and self.max_tokens < 1:
            raise InvalidInput(f"max_tokens is {self.max_tokens}; it must be at least 1")
        if self.batch_size < 1:
            raise InvalidInput(f"batch_size is {self.batch_size}; it must be at least 1")
        if self.condition_on_previous and not self.sequential:
            raise InvalidInput(
                "condition_on_previous (--condition-on-previous) needs sequential (--sequential), since overlapping "
                "windows have no text before them"
            )

    @property
    def decodes_timestamps(self) -> bool:
        """Whether the decoder writes timestamp tokens."""
        return self.timestamps is not None or self.sequential
