"""Decode batches of windows: detect languages, search for texts, retry failed windows, and time the tokens."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from ..audio import SAMPLE_RATE, WINDOW_SAMPLES, AudioSource, Window, read_windows
from ..errors import SpeechEmotionError
from ..models import CrossKV
from .language import WindowLanguage, choose_language
from .options import TranscriptionOptions
from .programs import WhisperPrograms
from .stitch import DecodedWindow, Segment
from .vocabulary import Vocabulary
from .word_placement import loud_frames, trim_quiet
from .words import FRAME_SECONDS, Span, token_times


class WindowResult(NamedTuple):
    """The decoded text of one window.

    Attributes:
        tokens: Token ids without prompt and end token. They are empty if the window is silent or holds no speech.
        log_probability: Mean natural log-probability of a token.
        no_speech: Probability of <|nospeech|>.
        temperature: Temperature at which the tokens were decoded.
        times: Start and end of each token in seconds since the window's start, only with timestamps="word".
    """

    tokens: tuple[int, ...]
    log_probability: float
    no_speech: float
    temperature: float
    times: tuple[Span, ...]


@dataclass
class RecordingState:
    """A recording that is being transcribed."""

    source: AudioSource
    language: str | None  # None until it is detected
    has_more_windows: bool = False  # than one
    windows: list[DecodedWindow] = field(default_factory=list)  # to be stitched, only for overlapping windows
    segments: list[Segment] = field(default_factory=list)
    previous: list[int] = field(default_factory=list)  # tokens, timestamps included, that prompt the next window
    no_speech: float = 1.0  # lowest no-speech probability of the windows so far
    samples: int = 0  # samples read so far, at 16 kHz


class PendingWindow(NamedTuple):
    """A window to decode, and the tokens of the text before it."""

    recording: RecordingState
    window: Window
    previous: Sequence[int] = ()


class WindowDecoder:
    """Decodes batches of windows with one Whisper."""

    def __init__(self, programs: WhisperPrograms, vocabulary: Vocabulary):
        """Decode with the programs and the vocabulary of a checkpoint."""
        self._programs = programs
        self._vocabulary = vocabulary

    def decode(self, batch: Sequence[PendingWindow], options: TranscriptionOptions) -> list[WindowResult]:
        """Decode a batch of windows, and update the language and no-speech probability of their recordings.

        Args:
            batch: The windows, of any recordings.
            options: How to transcribe.

        Returns:
            The result of each window.
        """
        if not batch:
            return []
        vocabulary = self._vocabulary
        cross_kv = self._programs.encode(self._programs.features([pending.window.waveform for pending in batch]))
        languages = self._languages(batch, cross_kv)
        controls = [vocabulary.prompt(code, options.task, timestamps=options.decodes_timestamps) for code in languages]
        prompts = [
            (*((vocabulary.previous, *pending.previous) if pending.previous else ()), *control)
            for pending, control in zip(batch, controls, strict=True)
        ]
        results = self._search(cross_kv, prompts, len(controls[0]), options)
        for row, pending in enumerate(batch):
            pending.recording.no_speech = min(pending.recording.no_speech, results[row].no_speech)
            if pending.window.silent or _has_no_speech(results[row], options):
                results[row] = results[row]._replace(tokens=())
        if options.timestamps == "word":
            self._add_times(batch, cross_kv, languages, results, options)
        return results

    def _languages(self, batch: Sequence[PendingWindow], cross_kv: CrossKV) -> list[str]:
        """Return the language of each window, and set that of recordings which have none yet.

        A recording of several windows is read once more, and the surest of its windows with speech decides. A silent
        window needs a language for its prompt, too, but its recording does not take it over.
        """
        for pending in batch:
            recording = pending.recording
            if recording.language is None and recording.has_more_windows:
                recording.language = choose_language(self._window_languages(recording.source))
                recording.has_more_windows = False
        given = [pending.recording.language for pending in batch]
        if None not in given:
            return [code for code in given if code is not None]
        detected = [each.code for each in self._detect(cross_kv)]
        for pending, code in zip(batch, detected, strict=False):
            if pending.recording.language is None and not pending.window.silent:
                pending.recording.language = code
        return [pending.recording.language or code for pending, code in zip(batch, detected, strict=False)]

    def _window_languages(self, source: AudioSource) -> Iterator[WindowLanguage]:
        """Yield the languages of a recording's windows with sound, as far as it can be read."""
        try:
            for window in read_windows(source, WINDOW_SAMPLES, 0, 0):
                if not window.silent:
                    yield self._detect(self._programs.encode(self._programs.features([window.waveform])))[0]
        except SpeechEmotionError:
            return  # whoever decodes the windows meets the error again

    def _detect(self, cross_kv: CrossKV) -> list[WindowLanguage]:
        """Return the most likely language of each window."""
        codes = list(self._vocabulary.languages)
        ids = list(self._vocabulary.languages.values())
        found = self._programs.detect(cross_kv, self._vocabulary.start, ids, self._vocabulary.no_speech)
        return [
            WindowLanguage(codes[row.argmax()], float(row.max()), float(no_speech))
            for row, no_speech in zip(found.languages, found.no_speech, strict=True)
        ]

    def _search(
        self, cross_kv: CrossKV, prompts: Sequence[Sequence[int]], start: int, options: TranscriptionOptions
    ) -> list[WindowResult]:
        """Decode each window at the first temperature, and those that fail again at the next.

        Args:
            cross_kv: Keys and values of the windows.
            prompts: Prompt of each window.
            start: Number of prompt tokens from <|startoftranscript|> on.
            options: How to transcribe.

        Returns:
            The result of each window, without times.
        """
        rules = self._vocabulary.rules(timestamps=options.decodes_timestamps)
        results: dict[int, WindowResult] = {}
        rows = list(range(len(prompts)))
        for temperature in options.temperatures:
            found = self._programs.search(
                cross_kv if len(rows) == len(prompts) else self._programs.select_rows(cross_kv, rows),
                [prompts[row] for row in rows],
                start=start,
                rules=rules,
                limit=options.max_tokens,
                beams=options.beams,
                temperature=temperature,
                seed=options.seed,
            )
            for row, tokens, length, log_probability, no_speech in zip(rows, *found, strict=True):
                results[row] = WindowResult(
                    tuple(tokens[:length].tolist()), float(log_probability), float(no_speech), temperature, ()
                )
            rows = [row for row in rows if self._has_failed(results[row], options)]
            if not rows:
                break
        return [results[row] for row in range(len(prompts))]

    def _has_failed(self, result: WindowResult, options: TranscriptionOptions) -> bool:
        """Return whether to decode a window again, because its text is improbable or repeats itself."""
        if _has_no_speech(result, options):
            return False
        text = self._vocabulary.text(result.tokens).encode()
        repeats_itself = len(text) > options.compression_ratio * len(zlib.compress(text))
        return repeats_itself or result.log_probability < options.log_probability

    def _add_times(
        self,
        batch: Sequence[PendingWindow],
        cross_kv: CrossKV,
        languages: Sequence[str],
        results: list[WindowResult],
        options: TranscriptionOptions,
    ) -> None:
        """Add the times of each token to the results.

        The decoder runs once more on each text, without timestamps, and its attention shows where each token was said.
        """
        vocabulary = self._vocabulary
        texts = [[token for token in result.tokens if token < vocabulary.end] for result in results]
        rows = [row for row, text in enumerate(texts) if text]
        if not rows:
            return
        prompts = [vocabulary.prompt(languages[row], options.task, timestamps=False) for row in rows]
        limit = self._programs.config.max_target_positions - len(prompts[0])
        attention = self._programs.align(
            self._programs.select_rows(cross_kv, rows),
            [(*prompt, *texts[row][:limit]) for prompt, row in zip(prompts, rows, strict=True)],
            vocabulary.alignment_heads,
        )
        for row, prompt, weights in zip(rows, prompts, attention, strict=True):
            waveform = batch[row].window.waveform
            frames = max(1, round(len(waveform) / SAMPLE_RATE / FRAME_SECONDS))
            steps = slice(len(prompt) - 1, len(prompt) + len(texts[row][:limit]))
            found = [(start, end) for start, end in token_times(weights[:, steps, :frames]).tolist()]
            written = [vocabulary.text([token]) for token in texts[row][:limit]]
            spans = iter(trim_quiet(found, written, loud_frames(waveform)))
            end = (frames * FRAME_SECONDS,) * 2
            times = tuple(next(spans, end) if token < vocabulary.end else end for token in results[row].tokens)
            results[row] = results[row]._replace(times=times)


def _has_no_speech(result: WindowResult, options: TranscriptionOptions) -> bool:
    """Return whether a window most likely holds no speech."""
    if options.no_speech is None:
        return False
    return result.no_speech > options.no_speech and result.log_probability < options.log_probability
