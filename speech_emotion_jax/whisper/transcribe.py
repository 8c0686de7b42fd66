"""Recordings to text: Whisper over windows of 30 s, all windows of all recordings batched together.

recording ─ inputs/windows ─► windows ─ decoding/programs ─► tokens ─ decoding/stitch ─► segments, words
or, with `sequential`: window after window, each beginning where the timestamps of the one before end
"""

from __future__ import annotations

import gc
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from os import PathLike
from typing import NamedTuple, NotRequired, TypedDict

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..audio import SAMPLE_RATE, WINDOW_SECONDS, AudioSource, RecordingReader, Window, read_windows
from ..checkpoints import WhisperCheckpoint, load_whisper
from ..convert import read_json
from ..errors import InvalidInput, SpeechEmotionError
from ..models import CrossKV
from ..runtime.ahead import ahead
from ..runtime.devices import select_mesh
from ..text import load_tokenizer
from .programs import WhisperPrograms
from .seek import split_at_timestamps
from .stitch import DecodedWindow, Segment, stitch
from .vocabulary import UNSPACED_LANGUAGES, Vocabulary
from .words import FRAME_SECONDS, Span, token_times, words

TIMESTAMPS = ("segment", "word")
FALLBACK = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)  # temperatures of the original decoder
LONGEST_PREVIOUS = 223  # tokens of earlier text that a prompt holds, as in the original
FORGETFUL = 0.5  # text drawn at a higher temperature is no prompt for what follows


class Word(TypedDict):
    text: str
    start: float
    end: float


class TranscribedSegment(TypedDict):
    start: float
    end: float
    text: str
    words: NotRequired[list[Word]]  # with timestamps="word"


class Transcript(TypedDict):
    """Text of one recording. Times are in seconds. `segments` are there where timestamps were asked for.

    `no_speech_probability` is the lowest of its windows: near 1 where nothing is said anywhere. `language` is None
    where none was given and nothing can be heard. Texts of segments and words are as decoded, with leading spaces.
    """

    text: str
    language: str | None
    duration: float
    no_speech_probability: float
    segments: NotRequired[list[TranscribedSegment]]


@dataclass(frozen=True)
class TranscriptionOptions:
    """How to transcribe. The defaults are the published toolkit's, greedy.

    language: code, name, or None: recognised from each recording's first window with sound
    task: "transcribe", or "translate" into English
    timestamps: None, "segment" or "word"
    beams: hypotheses that are followed; 1 is greedy
    temperatures: the first is used for every window, each further one for windows that then still fail, that is, repeat
        themselves (`compression_ratio`) or are improbable (`log_probability`); FALLBACK is the original's
    compression_ratio: a text that zlib shrinks by more has failed
    log_probability: a text with a lower mean log-probability a token has failed
    no_speech: a window more probably without speech than this, and of a lower `log_probability`, has no text; None:
        every window has
    sequential: windows one after the other, each from where the timestamps of the last one end, in place of overlapping
        ones that are joined
    condition_on_previous: sequential windows are prompted with the text before them
    window, stride: seconds, and the parts on the left and right of a window that its neighbours hear too
    max_tokens: most tokens written a window; None: all there is room for
    seed: of what is drawn
    batch_size: windows decoded at once, on all devices together
    """

    language: str | None = None
    task: str = "transcribe"
    timestamps: str | None = None
    beams: int = 1
    temperatures: tuple[float, ...] = (0.0,)
    compression_ratio: float = 2.4
    log_probability: float = -1.0
    no_speech: float | None = 0.6
    sequential: bool = False
    condition_on_previous: bool = False
    window: float = float(WINDOW_SECONDS)
    stride: tuple[float, float] = (WINDOW_SECONDS / 6, WINDOW_SECONDS / 6)
    max_tokens: int | None = None
    seed: int = 0
    batch_size: int = 16

    def __post_init__(self) -> None:
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
            raise InvalidInput("condition_on_previous needs sequential: only then is there a text before a window")

    @property
    def stamped(self) -> bool:
        """Whether the decoder writes timestamps."""
        return self.timestamps is not None or self.sequential


class _Outcome(NamedTuple):
    """What was decoded from one window."""

    tokens: tuple[int, ...]
    log_probability: float
    no_speech: float
    temperature: float
    times: tuple[Span, ...]


@dataclass
class _Recording:
    """What is known so far of one recording."""

    source: AudioSource
    language: str | None
    windows: list[DecodedWindow] = field(default_factory=list)  # to be stitched
    segments: list[Segment] = field(default_factory=list)  # sequential mode
    previous: list[int] = field(default_factory=list)  # tokens with their timestamps that prompt the next window
    no_speech: float = 1.0
    samples: int = 0


class _Piece(NamedTuple):
    """A window in a batch, and the tokens before it."""

    recording: _Recording
    window: Window
    previous: Sequence[int] = ()


class WhisperPipeline:
    """A loaded Whisper that transcribes.

    >>> pipeline = WhisperPipeline.from_pretrained("openai/whisper-large-v3-turbo")
    >>> pipeline.transcribe(["a.wav", "b.mp3"], TranscriptionOptions(language="es"))
    """

    def __init__(self, checkpoint: WhisperCheckpoint, mesh: Mesh):
        folder = checkpoint.folder
        generation = folder / "generation_config.json"
        self.config = checkpoint.config
        self.vocabulary = Vocabulary.read(
            checkpoint.name,
            load_tokenizer(folder),
            checkpoint.config,
            read_json(folder / "config.json"),
            read_json(generation) if generation.is_file() else None,
        )
        self.programs = WhisperPrograms(checkpoint.model, mesh)

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | PathLike[str],
        *,
        precision: str = "float32",
        device: object = None,
        revision: str | None = None,
    ) -> WhisperPipeline:
        """Load Whisper: a hub id, a published folder or a converted folder.

        `precision` is "float32", which matches PyTorch, or "bfloat16", for speed. `device` is None for all devices of
        this process, over which batches are divided, or one by name as in `EmotionPipeline`. Raises InvalidInput or
        UnreadableInput.
        """
        mesh = select_mesh(device)
        replicated = NamedSharding(mesh, PartitionSpec())
        checkpoint = load_whisper(str(model_id), replicated, precision, revision=revision)
        return cls(checkpoint, mesh)

    def transcribe(
        self, sources: Iterable[AudioSource], options: TranscriptionOptions | None = None
    ) -> list[Transcript]:
        """Transcribe recordings: paths, bytes, or {"array": ..., "sampling_rate": ...}, of any length.

        Raises InvalidInput or UnreadableInput for the first recording that can't be used.
        """
        transcripts = []
        for result in self.transcribe_each(sources, options):
            if isinstance(result, SpeechEmotionError):
                raise result
            transcripts.append(result)
        return transcripts

    def transcribe_each(
        self,
        sources: Iterable[AudioSource],
        options: TranscriptionOptions | None = None,
        advance: Callable[[float], None] = lambda seconds: None,
    ) -> Iterator[Transcript | SpeechEmotionError]:
        """The same one by one, in order; a recording that can't be used gives its error, and the others go on.

        `advance` is told how many seconds of sound were transcribed, batch after batch.
        """
        if isinstance(sources, str | bytes | PathLike | Mapping):
            raise InvalidInput("recordings come as a list; write [recording] for one")
        options = options or TranscriptionOptions()
        self.vocabulary.check_task(options.task)
        language = None if options.language is None else self.vocabulary.language_code(options.language)
        if language is None and not self.vocabulary.languages:
            language = "en"
        recordings = (_Recording(source, language) for source in sources)
        run = self._sequentially if options.sequential else self._in_windows
        return run(recordings, options, advance)

    def close(self) -> None:
        """Free the parameters and the compiled programs; the pipeline can't transcribe any more."""
        self.programs.close()
        gc.collect()

    def _in_windows(
        self, recordings: Iterable[_Recording], options: TranscriptionOptions, advance: Callable[[float], None]
    ) -> Iterator[Transcript | SpeechEmotionError]:
        """Overlapping windows of all recordings in batches, joined by what they have in common."""
        length, left, right = (round(seconds * SAMPLE_RATE) for seconds in (options.window, *options.stride))

        def pieces() -> Iterator[_Piece | SpeechEmotionError | _Recording]:
            """The windows of each recording, then the recording itself or, where reading it fails, the error."""
            for recording in recordings:
                try:
                    for window in read_windows(recording.source, length, left, right):
                        recording.samples = window.start + len(window.waveform)
                        yield _Piece(recording, window)
                except SpeechEmotionError as error:
                    yield error
                else:
                    yield recording

        waiting: list[_Piece | SpeechEmotionError | _Recording] = []
        count = 0
        for item in ahead(pieces(), 2 * options.batch_size):
            waiting.append(item)
            count += isinstance(item, _Piece)
            if count == options.batch_size:
                yield from self._decode_waiting(waiting, options, advance)
                waiting, count = [], 0
        yield from self._decode_waiting(waiting, options, advance)

    def _decode_waiting(
        self,
        waiting: Sequence[_Piece | SpeechEmotionError | _Recording],
        options: TranscriptionOptions,
        advance: Callable[[float], None],
    ) -> Iterator[Transcript | SpeechEmotionError]:
        outcomes = iter(self._decode([item for item in waiting if isinstance(item, _Piece)], options))
        for item in waiting:
            if isinstance(item, SpeechEmotionError):
                yield item
            elif isinstance(item, _Recording):
                item.segments = stitch(item.windows, first_timestamp=self.vocabulary.first_timestamp)
                yield self._transcript(item, options)
            else:
                outcome, window = next(outcomes), item.window
                start, duration, left, right = (
                    samples / SAMPLE_RATE for samples in (window.start, len(window.waveform), window.left, window.right)
                )
                advance(duration - left - right)
                item.recording.windows.append(
                    DecodedWindow(start, duration, left, right, outcome.tokens, outcome.times)
                )

    def _sequentially(
        self, recordings: Iterable[_Recording], options: TranscriptionOptions, advance: Callable[[float], None]
    ) -> Iterator[Transcript | SpeechEmotionError]:
        """Each recording window by window; a batch holds windows of different recordings."""
        length = round(options.window * SAMPLE_RATE)
        numbered = enumerate(recordings)
        active: dict[int, tuple[_Recording, RecordingReader]] = {}
        done: dict[int, Transcript | SpeechEmotionError] = {}
        given = 0
        while True:
            room = options.batch_size - len(active)
            active |= {number: (each, RecordingReader(each.source)) for number, each in islice(numbered, room)}
            if not active:
                return
            pieces: dict[int, _Piece] = {}
            for number, (recording, reader) in active.items():
                try:
                    waveform = reader.read(recording.samples, length)
                except SpeechEmotionError as error:
                    done[number] = error
                    continue
                if len(waveform):
                    previous = recording.previous if options.condition_on_previous else ()
                    pieces[number] = _Piece(recording, Window(waveform, recording.samples, 0, 0), previous)
                else:
                    done[number] = self._transcript(recording, options)
            for piece, outcome in zip(pieces.values(), self._decode(list(pieces.values()), options), strict=True):
                self._take(piece, outcome)
                advance((piece.recording.samples - piece.window.start) / SAMPLE_RATE)
            active = {number: active[number] for number in pieces}
            while given in done:
                yield done.pop(given)
                given += 1

    def _take(self, piece: _Piece, outcome: _Outcome) -> None:
        """The segments of a sequential window, and where the next one begins."""
        recording, window = piece.recording, piece.window
        start, duration = window.start / SAMPLE_RATE, len(window.waveform) / SAMPLE_RATE
        used = duration
        if outcome.tokens:
            segments, used, written = split_at_timestamps(
                outcome.tokens,
                times=outcome.times,
                start=start,
                duration=duration,
                first_timestamp=self.vocabulary.first_timestamp,
            )
            recording.segments += segments
            previous = [*recording.previous, *written][-LONGEST_PREVIOUS:]
            recording.previous = previous if outcome.temperature <= FORGETFUL else []
        recording.samples = window.start + min(len(window.waveform), max(1, round(used * SAMPLE_RATE)))

    def _decode(self, pieces: Sequence[_Piece], options: TranscriptionOptions) -> list[_Outcome]:
        """Decode one batch of windows."""
        if not pieces:
            return []
        vocabulary = self.vocabulary
        cross_kv = self.programs.encode(self.programs.features([piece.window.waveform for piece in pieces]))
        languages = self._languages(pieces, cross_kv)
        steering = [vocabulary.prompt(code, options.task, timestamps=options.stamped) for code in languages]
        prompts = [
            (*((vocabulary.previous, *piece.previous) if piece.previous else ()), *steps)
            for piece, steps in zip(pieces, steering, strict=True)
        ]
        outcomes = self._search(cross_kv, prompts, len(steering[0]), options)
        for row, piece in enumerate(pieces):
            piece.recording.no_speech = min(piece.recording.no_speech, outcomes[row].no_speech)
            if piece.window.silent or self._no_speech(outcomes[row], options):
                outcomes[row] = outcomes[row]._replace(tokens=())
        if options.timestamps == "word":
            self._align(pieces, cross_kv, languages, outcomes, options)
        return outcomes

    def _languages(self, pieces: Sequence[_Piece], cross_kv: CrossKV) -> list[str]:
        """The language of each window: its recording's, or else that of the first window in which something is heard.

        A silent window has one too, for its prompt, but the recording does not take it over.
        """
        known = [piece.recording.language for piece in pieces]
        if None not in known:
            return [code for code in known if code is not None]
        codes = list(self.vocabulary.languages)
        probable = self.programs.detect(cross_kv, self.vocabulary.start, list(self.vocabulary.languages.values()))
        guessed = [codes[best] for best in probable.argmax(axis=1)]
        for piece, code in zip(pieces, guessed, strict=False):
            if piece.recording.language is None and not piece.window.silent:
                piece.recording.language = code
        return [piece.recording.language or code for piece, code in zip(pieces, guessed, strict=False)]

    def _search(
        self, cross_kv: CrossKV, prompts: Sequence[Sequence[int]], start: int, options: TranscriptionOptions
    ) -> list[_Outcome]:
        """The transcript of each window at the first temperature, and again at the next where it failed."""
        rules = self.vocabulary.rules(timestamps=options.stamped)
        found: dict[int, _Outcome] = {}
        rows = list(range(len(prompts)))
        for temperature in options.temperatures:
            part = cross_kv if len(rows) == len(prompts) else self.programs.select_rows(cross_kv, rows)
            transcripts = self.programs.search(
                part,
                [prompts[row] for row in rows],
                start=start,
                rules=rules,
                limit=options.max_tokens,
                beams=options.beams,
                temperature=temperature,
                seed=options.seed,
            )
            for row, tokens, length, log_probability, no_speech in zip(rows, *transcripts, strict=True):
                written = tuple(tokens[:length].tolist())
                found[row] = _Outcome(written, float(log_probability), float(no_speech), temperature, ())
            rows = [row for row in rows if self._failed(found[row], options)]
            if not rows:
                break
        return [found[row] for row in range(len(prompts))]

    def _no_speech(self, outcome: _Outcome, options: TranscriptionOptions) -> bool:
        if options.no_speech is None:
            return False
        return outcome.no_speech > options.no_speech and outcome.log_probability < options.log_probability

    def _failed(self, outcome: _Outcome, options: TranscriptionOptions) -> bool:
        """Whether a window is worth another try: its text is improbable or repeats itself, and not for silence."""
        if self._no_speech(outcome, options):
            return False
        text = self.vocabulary.text(outcome.tokens).encode()
        repetitive = len(text) > options.compression_ratio * len(zlib.compress(text))
        return repetitive or outcome.log_probability < options.log_probability

    def _align(
        self,
        pieces: Sequence[_Piece],
        cross_kv: CrossKV,
        languages: Sequence[str],
        outcomes: list[_Outcome],
        options: TranscriptionOptions,
    ) -> None:
        """Give each token its times, by writing the text once more and watching where the decoder listens."""
        vocabulary = self.vocabulary
        said = [[token for token in outcome.tokens if token < vocabulary.end] for outcome in outcomes]
        rows = [row for row, tokens in enumerate(said) if tokens]
        if not rows:
            return
        prompts = [vocabulary.prompt(languages[row], options.task, timestamps=False) for row in rows]
        room = self.config.max_target_positions - len(prompts[0])
        attention = self.programs.align(
            self.programs.select_rows(cross_kv, rows),
            [(*prompt, *said[row][:room]) for prompt, row in zip(prompts, rows, strict=True)],
            vocabulary.alignment_heads,
        )
        for row, prompt, watched in zip(rows, prompts, attention, strict=True):
            frames = max(1, round(len(pieces[row].window.waveform) / SAMPLE_RATE / FRAME_SECONDS))
            steps = slice(len(prompt) - 1, len(prompt) + len(said[row][:room]))
            spans = iter(map(tuple, token_times(watched[:, steps, :frames]).tolist()))
            ending = (frames * FRAME_SECONDS,) * 2
            times = tuple(next(spans, ending) if token < vocabulary.end else ending for token in outcomes[row].tokens)
            outcomes[row] = outcomes[row]._replace(times=times)

    def _transcript(self, recording: _Recording, options: TranscriptionOptions) -> Transcript:
        duration = recording.samples / SAMPLE_RATE
        texts = [self.vocabulary.text(segment.tokens) for segment in recording.segments]
        transcript = Transcript(
            text="".join(texts).strip(),
            language=recording.language,
            duration=round(duration, 3),
            no_speech_probability=recording.no_speech,
        )
        if options.timestamps is not None:
            transcript["segments"] = [
                self._segment(segment, text, recording.language, min(segment.end, duration), options)
                for segment, text in zip(recording.segments, texts, strict=True)
            ]
        return transcript

    def _segment(
        self, segment: Segment, text: str, language: str | None, end: float, options: TranscriptionOptions
    ) -> TranscribedSegment:
        made = TranscribedSegment(start=min(segment.start, end), end=end, text=text)
        if options.timestamps == "word":
            spaced = language not in UNSPACED_LANGUAGES or options.task == "translate"
            timed = words(segment.tokens, segment.times, self.vocabulary.text, spaced=spaced)
            made["words"] = [Word(text=each.text, start=each.start, end=each.end) for each in timed]
            if timed:  # the words' times are the better ones, and stand within their segment
                made["start"], made["end"] = timed[0].start, max(timed[-1].end, timed[0].start)
        return made
