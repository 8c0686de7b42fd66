"""faster-whisper's side of the benchmark of transcription, run by the Python of an environment that has it.

It takes clips one by one, and a model in CTranslate2's format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .machine import cores
from .serving import Request, serve


class Transcription:
    """Greedily, without timestamps, from samples to text."""

    def __init__(self, settings: Request):
        from faster_whisper import WhisperModel, decode_audio  # pyright: ignore[reportMissingImports]

        self._clips = [decode_audio(path) for path in settings["recordings"]]
        self._language = settings["language"]
        self._model = WhisperModel(settings["folder"], device="cpu", compute_type=settings["kind"], cpu_threads=cores())

    def prepare(self, request: Request) -> Callable[[], list[str]]:
        clips = [self._clips[number] for number in request["clips"]]
        return lambda: [self._text(clip) for clip in clips]

    def _text(self, clip: Any) -> str:
        segments, _ = self._model.transcribe(
            clip,
            language=self._language,
            beam_size=1,
            temperature=0.0,
            without_timestamps=True,
            no_speech_threshold=None,
        )
        return "".join(segment.text for segment in segments).strip()


if __name__ == "__main__":
    serve({"transcription": Transcription})
