"""Sound to what the models take: decoding, resampling, Kaldi filterbanks, Whisper's log-mel, windows, packed shards."""

from .decode import AudioSource, Cut, decoded
from .fbank import (
    FEATURES,
    FRAME_SAMPLES,
    MAX_FBANK_FRAMES,
    MAX_SAMPLES,
    MAX_SECONDS,
    MEL_BINS,
    STACK,
    Clip,
    Statistics,
    fbank_energies,
    feature_frames,
    features,
    in_rows,
    read_clip,
    samples_for,
)
from .log_mel import FRAMES, WINDOW_SAMPLES, WINDOW_SECONDS, whisper_log_mel
from .packed import Packed
from .waveform import MIN_SAMPLES, SAMPLE_RATE, describe, load, stated_seconds
from .windows import Reader, Window, cut

__all__ = [
    "FEATURES",
    "FRAMES",
    "FRAME_SAMPLES",
    "MAX_FBANK_FRAMES",
    "MAX_SAMPLES",
    "MAX_SECONDS",
    "MEL_BINS",
    "MIN_SAMPLES",
    "SAMPLE_RATE",
    "STACK",
    "WINDOW_SAMPLES",
    "WINDOW_SECONDS",
    "AudioSource",
    "Clip",
    "Cut",
    "Packed",
    "Reader",
    "Statistics",
    "Window",
    "cut",
    "decoded",
    "describe",
    "fbank_energies",
    "feature_frames",
    "features",
    "in_rows",
    "load",
    "read_clip",
    "samples_for",
    "stated_seconds",
    "whisper_log_mel",
]
