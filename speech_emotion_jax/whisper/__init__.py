"""Transcribe recordings with Whisper, and render transcripts as subtitles."""

from .options import FALLBACK, TranscriptionOptions
from .subtitles import Cue, render_subtitles, subtitle_lines
from .transcribe import WhisperPipeline
from .transcript import Transcript
from .transcript_cache import cached_transcripts
from .transcript_files import SUBTITLE_FORMATS, transcribe_files, transcript_paths
from .vocabulary import check_language_name
from .whisper_jax import FlaxWhisperPipline
from .words import Word

__all__ = [
    "FALLBACK",
    "SUBTITLE_FORMATS",
    "Cue",
    "FlaxWhisperPipline",
    "Transcript",
    "TranscriptionOptions",
    "WhisperPipeline",
    "Word",
    "cached_transcripts",
    "check_language_name",
    "render_subtitles",
    "subtitle_lines",
    "transcribe_files",
    "transcript_paths",
]
