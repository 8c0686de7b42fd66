"""Old name of `speech_emotion_jax.audio`, kept for programs that were written for version 0.1."""

import warnings

from ..audio import MIN_SAMPLES, SAMPLE_RATE, AudioSource, Cut, describe, load, stated_seconds

__all__ = ["MIN_SAMPLES", "SAMPLE_RATE", "AudioSource", "Cut", "describe", "load", "stated_seconds"]

warnings.warn(
    "speech_emotion_jax.inputs.audio is now speech_emotion_jax.audio; import from there. "
    "The old name will be removed in version 0.3.",
    DeprecationWarning,
    stacklevel=2,
)
