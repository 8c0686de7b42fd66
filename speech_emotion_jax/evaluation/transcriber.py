"""Transcribe the rows of a manifest that have no text."""

from __future__ import annotations

from collections.abc import Sequence

from ..audio import describe
from ..errors import SpeechEmotionError
from ..inference import Scorer
from ..whisper import TranscriptionOptions, WhisperPipeline
from .reading import ClipInput


class Transcriber:
    """Transcribe the rows without text. Whisper is loaded when the first such row comes."""

    def __init__(self, whisper: str | None, batch_size: int, scorer: Scorer, *, precision: str, device: object):
        """Remember the settings.

        Args:
            whisper: The Whisper checkpoint. None: rows without text get an error.
            batch_size: Clips that are transcribed at once.
            scorer: The scorer, for the language and the tokens of a text.
            precision: "float32" or "bfloat16".
            device: The device, see `select_mesh`.
        """
        self._name, self._precision, self._device = whisper, precision, device
        self._batch_size = batch_size
        self._scorer = scorer
        self._whisper: WhisperPipeline | None = None

    def __call__(self, clips: Sequence[ClipInput]) -> None:
        """Set the text and tokens of the clips, or their errors."""
        for clip_input in clips:
            if self._name is None or clip_input.source is None:
                clip_input.error = "the row has no text; give it one, or a recording and --whisper-model"
        clips = [clip_input for clip_input in clips if clip_input.error is None]
        if not clips:
            return
        if self._whisper is None:
            assert self._name is not None, "all rows have an error without it"
            self._whisper = WhisperPipeline.from_pretrained(self._name, precision=self._precision, device=self._device)
        sources = [clip_input.source for clip_input in clips if clip_input.source is not None]
        options = TranscriptionOptions(language=self._scorer.language, batch_size=self._batch_size)
        for clip_input, transcript in zip(clips, self._whisper.transcribe_each(sources, options), strict=True):
            if isinstance(transcript, SpeechEmotionError):
                clip_input.error = str(transcript)
            elif not transcript["text"]:
                clip_input.error = f"no speech was recognised in {describe(clip_input.source)}"
            else:
                clip_input.text = transcript["text"]
                clip_input.tokens = self._scorer.tokens(clip_input.text)

    def close(self) -> None:
        """Free Whisper."""
        if self._whisper is not None:
            self._whisper.close()
