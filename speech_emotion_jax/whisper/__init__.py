"""Transcription: Whisper over windows, its search, its word times, and whisper-jax's interface."""

from .subtitles import Cue, render_subtitles, subtitle_lines
from .transcribe import FALLBACK, Transcript, TranscriptionOptions, WhisperPipeline
from .transcript_cache import cached_transcripts
from .whisper_jax import FlaxWhisperPipline
from .words import Word

__all__ = [
    "FALLBACK",
    "Cue",
    "FlaxWhisperPipline",
    "Transcript",
    "TranscriptionOptions",
    "WhisperPipeline",
    "Word",
    "cached_transcripts",
    "render_subtitles",
    "subtitle_lines",
]
