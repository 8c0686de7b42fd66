"""faster-whisper's side of the benchmark of transcription.

It runs in another environment, in which faster-whisper is installed. It transcribes clips one by one, with a model in
CTranslate2's format.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .machine import count_cores
from .serving import Question, serve


class Transcription:
    """Transcribe from samples to text, greedily and without timestamps."""

    def __init__(self, settings: Question):
        """Load the recordings and the model that `settings` names."""
        from faster_whisper import WhisperModel, decode_audio  # pyright: ignore[reportMissingImports]

        self._clips = [decode_audio(path) for path in settings["recordings"]]
        self._language = settings["language"]
        self._model = WhisperModel(
            settings["folder"], device="cpu", compute_type=settings["kind"], cpu_threads=count_cores()
        )

    def prepare(self, workload: Question) -> Callable[[], list[str]]:
        """Return a function that runs the workload once. Everything that is not timed is done here."""
        clips = [self._clips[number] for number in workload["clips"]]
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
