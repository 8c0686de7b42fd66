"""Decode and resample recordings, and compute the features that the models take."""

from .decode import decode_audio
from .fbank import (
    FEATURE_DIM,
    FRAME_SAMPLES,
    MAX_FBANK_FRAMES,
    MAX_SAMPLES,
    MAX_SECONDS,
    MEL_BINS,
    STACK_SIZE,
    Clip,
    MelStatistics,
    fbank_energies,
    feature_frames,
    features,
    pad_clips,
    read_clip,
    samples_for,
)
from .folders import find_recordings
from .log_mel import WINDOW_FRAMES, WINDOW_SAMPLES, WINDOW_SECONDS, whisper_log_mel
from .packed import PackedRecording
from .sources import AudioSource, Cut, as_cut, describe
from .waveform import MIN_SAMPLES, SAMPLE_RATE, load, stated_seconds
from .windows import RecordingReader, Window, read_windows

__all__ = [
    "FEATURE_DIM",
    "FRAME_SAMPLES",
    "MAX_FBANK_FRAMES",
    "MAX_SAMPLES",
    "MAX_SECONDS",
    "MEL_BINS",
    "MIN_SAMPLES",
    "SAMPLE_RATE",
    "STACK_SIZE",
    "WINDOW_FRAMES",
    "WINDOW_SAMPLES",
    "WINDOW_SECONDS",
    "AudioSource",
    "Clip",
    "Cut",
    "MelStatistics",
    "PackedRecording",
    "RecordingReader",
    "Window",
    "as_cut",
    "decode_audio",
    "describe",
    "fbank_energies",
    "feature_frames",
    "features",
    "find_recordings",
    "load",
    "pad_clips",
    "read_clip",
    "read_windows",
    "samples_for",
    "stated_seconds",
    "whisper_log_mel",
]
