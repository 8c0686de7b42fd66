"""Transcribe recordings of any length, the windows of all recordings batched together.

    recording ─ read_windows ─► overlapping windows ─ WindowDecoder ─► tokens ─ stitch ─► segments, words

With `sequential`, each window begins where the timestamps of the previous one end, and nothing is stitched.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, islice
from os import PathLike

from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..audio import SAMPLE_RATE, AudioSource, RecordingReader, Window, read_windows
from ..checkpoints import WhisperCheckpoint, load_whisper
from ..convert import read_json
from ..errors import InvalidInput, SpeechEmotionError
from ..runtime.ahead import ahead
from ..runtime.devices import select_mesh
from ..text import load_tokenizer
from .decoding import PendingWindow, RecordingState, WindowDecoder, WindowResult
from .options import TranscriptionOptions
from .programs import WhisperPrograms
from .seek import split_at_timestamps
from .stitch import DecodedWindow, Segment, stitch
from .transcript import TranscribedSegment, TranscribedWord, Transcript
from .vocabulary import UNSPACED_LANGUAGES, Vocabulary
from .word_placement import place_words
from .words import group_into_words

MAX_PREVIOUS = 223  # tokens of earlier text in a prompt at most, as in the original
MAX_PROMPT_TEMPERATURE = 0.5  # text decoded at a higher temperature does not prompt the next window

Results = Iterator[Transcript | SpeechEmotionError]


class WhisperPipeline:
    """A loaded Whisper that transcribes recordings.

    >>> pipeline = WhisperPipeline.from_pretrained("openai/whisper-large-v3-turbo")
    >>> pipeline.transcribe(["a.wav", "b.mp3"], TranscriptionOptions(language="es"))

    Attributes:
        config: The model's configuration.
        vocabulary: The checkpoint's tokens.
        programs: The compiled programs and the parameters.
    """

    def __init__(self, checkpoint: WhisperCheckpoint, mesh: Mesh):
        """Build the pipeline.

        Args:
            checkpoint: A checkpoint whose parameters are replicated over the mesh.
            mesh: The devices over which batches are divided.

        Raises:
            InvalidInput: The tokenizer is not Whisper's, or generation_config.json is broken.
            UnreadableInput: The tokenizer's files are missing or broken.
        """
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
        self._decoder = WindowDecoder(self.programs, self.vocabulary)

    @classmethod
    def from_pretrained(
        cls,
        model_id: str | PathLike[str],
        *,
        precision: str = "float32",
        device: object = None,
        revision: str | None = None,
    ) -> WhisperPipeline:
        """Load a Whisper checkpoint.

        Args:
            model_id: A hub id, a published folder or a converted folder.
            precision: "float32", which matches PyTorch, or "bfloat16", which is faster.
            device: Name of one device, as in `EmotionPipeline`. None takes all devices of this process and divides
                batches over them.
            revision: Revision of a hub id: a branch, tag or commit.

        Returns:
            The pipeline.

        Raises:
            InvalidInput: The checkpoint, the precision or the device is unknown or unusable.
            UnreadableInput: The checkpoint cannot be fetched or read.
        """
        mesh = select_mesh(device)
        replicated = NamedSharding(mesh, PartitionSpec())
        checkpoint = load_whisper(str(model_id), replicated, precision, revision=revision)
        return cls(checkpoint, mesh)

    def transcribe(
        self, sources: Iterable[AudioSource], options: TranscriptionOptions | None = None
    ) -> list[Transcript]:
        """Transcribe recordings of any length.

        Args:
            sources: Recordings in any form that `audio.as_cut` takes: paths, bytes, {"array": ..., "sampling_rate":
                ...} and others.
            options: How to transcribe. None takes the defaults.

        Returns:
            The transcript of each recording, in order.

        Raises:
            InvalidInput: A recording, the language or the task cannot be used.
            UnreadableInput: A recording cannot be read.
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
    ) -> Results:
        """Transcribe recordings one by one, and continue after errors.

        Args:
            sources: Recordings in any form that `audio.as_cut` takes: paths, bytes, {"array": ..., "sampling_rate":
                ...} and others.
            options: How to transcribe. None takes the defaults.
            advance: Function to call during the work with the seconds of audio that were transcribed since its last
                call.

        Returns:
            An iterator over the transcripts, in order. A recording that cannot be used yields its error instead.

        Raises:
            InvalidInput: `sources` is a single recording, or the language or the task cannot be used.
        """
        if isinstance(sources, str | bytes | bytearray | PathLike | Mapping) or hasattr(sources, "read"):
            raise InvalidInput("recordings come as a list; write [recording] for one")
        options = options or TranscriptionOptions()
        self.vocabulary.check_task(options.task)
        language = None if options.language is None else self.vocabulary.language_code(options.language)
        if language is None:
            language = self.vocabulary.default_language
        recordings = (RecordingState(source, language) for source in sources)
        transcribe = self._transcribe_sequentially if options.sequential else self._transcribe_overlapping
        return transcribe(recordings, options, advance)

    def close(self) -> None:
        """Free the parameters and the compiled programs. The pipeline can't be used afterwards."""
        self.programs.close()
        gc.collect()

    def _transcribe_overlapping(
        self, recordings: Iterable[RecordingState], options: TranscriptionOptions, advance: Callable[[float], None]
    ) -> Results:
        """Decode the overlapping windows of all recordings in batches, and stitch those of each recording."""
        length, left, right = (round(seconds * SAMPLE_RATE) for seconds in (options.window, *options.stride))

        def items() -> Iterator[PendingWindow | SpeechEmotionError | RecordingState]:
            """Yield the windows of each recording, then the recording itself, or the error that reading it raised."""
            for recording in recordings:
                try:
                    windows = read_windows(recording.source, length, left, right)
                    first = list(islice(windows, 2))
                    recording.has_more_windows = len(first) > 1
                    for window in chain(first, windows):
                        recording.samples = window.start + len(window.waveform)
                        yield PendingWindow(recording, window)
                except SpeechEmotionError as error:
                    yield error
                else:
                    yield recording

        waiting: list[PendingWindow | SpeechEmotionError | RecordingState] = []
        count = 0
        for item in ahead(items(), 2 * options.batch_size):
            waiting.append(item)
            count += isinstance(item, PendingWindow)
            if count == options.batch_size:
                yield from self._decode_overlapping(waiting, options, advance)
                waiting, count = [], 0
        yield from self._decode_overlapping(waiting, options, advance)

    def _decode_overlapping(
        self,
        items: Sequence[PendingWindow | SpeechEmotionError | RecordingState],
        options: TranscriptionOptions,
        advance: Callable[[float], None],
    ) -> Results:
        """Decode the windows among `items` as one batch, and yield the recordings that are complete and the errors."""
        results = iter(self._decoder.decode([item for item in items if isinstance(item, PendingWindow)], options))
        for item in items:
            if isinstance(item, SpeechEmotionError):
                yield item
            elif isinstance(item, RecordingState):
                item.segments = stitch(item.windows, first_timestamp=self.vocabulary.first_timestamp)
                yield self._transcript(item, options)
            else:
                result, window = next(results), item.window
                start, duration, left, right = (
                    samples / SAMPLE_RATE for samples in (window.start, len(window.waveform), window.left, window.right)
                )
                advance(duration - left - right)
                item.recording.windows.append(DecodedWindow(start, duration, left, right, result.tokens, result.times))

    def _transcribe_sequentially(
        self, recordings: Iterable[RecordingState], options: TranscriptionOptions, advance: Callable[[float], None]
    ) -> Results:
        """Decode each recording window by window. A batch holds windows of different recordings."""
        length = round(options.window * SAMPLE_RATE)
        numbered = enumerate(recordings)
        active: dict[int, tuple[RecordingState, RecordingReader]] = {}
        done: dict[int, Transcript | SpeechEmotionError] = {}
        yielded = 0
        while True:
            free = options.batch_size - len(active)
            active |= {number: (each, RecordingReader(each.source)) for number, each in islice(numbered, free)}
            if not active:
                return
            batch: dict[int, PendingWindow] = {}
            for number, (recording, reader) in active.items():
                try:
                    waveform = reader.read(recording.samples, length)
                    recording.has_more_windows = recording.samples == 0 and not reader.ends_by(length)
                except SpeechEmotionError as error:
                    done[number] = error
                    continue
                if len(waveform):
                    previous = recording.previous if options.condition_on_previous else ()
                    batch[number] = PendingWindow(recording, Window(waveform, recording.samples, 0, 0), previous)
                else:
                    done[number] = self._transcript(recording, options)
            results = self._decoder.decode(list(batch.values()), options)
            for pending, result in zip(batch.values(), results, strict=True):
                self._add_sequential_window(pending, result)
                advance((pending.recording.samples - pending.window.start) / SAMPLE_RATE)
            active = {number: active[number] for number in batch}
            while yielded in done:
                yield done.pop(yielded)
                yielded += 1

    def _add_sequential_window(self, pending: PendingWindow, result: WindowResult) -> None:
        """Add the segments of a sequential window to its recording, and move on to where the next window begins."""
        recording, window = pending.recording, pending.window
        start, duration = window.start / SAMPLE_RATE, len(window.waveform) / SAMPLE_RATE
        used = duration
        if result.tokens:
            segments, used, written = split_at_timestamps(
                result.tokens,
                times=result.times,
                start=start,
                duration=duration,
                first_timestamp=self.vocabulary.first_timestamp,
            )
            recording.segments += segments
            previous = [*recording.previous, *written][-MAX_PREVIOUS:]
            recording.previous = previous if result.temperature <= MAX_PROMPT_TEMPERATURE else []
        recording.samples = window.start + min(len(window.waveform), max(1, round(used * SAMPLE_RATE)))

    def _transcript(self, recording: RecordingState, options: TranscriptionOptions) -> Transcript:
        """Return the transcript of a recording whose windows are all decoded."""
        duration = recording.samples / SAMPLE_RATE
        segments = recording.segments
        if options.timestamps == "word":
            segments = [each for each in segments if each.times[-1][1] > each.times[0][0]]  # said at no time: invented
        texts = [self.vocabulary.text(segment.tokens) for segment in segments]
        transcript = Transcript(
            text="".join(texts).strip(),
            language=recording.language,
            duration=round(duration, 3),
            no_speech_probability=recording.no_speech,
        )
        if options.timestamps is not None:
            transcribed = [
                TranscribedSegment(start=min(each.start, duration), end=min(each.end, duration), text=text)
                for each, text in zip(segments, texts, strict=True)
            ]
            if options.timestamps == "word":
                self._add_words(transcribed, segments, spaced=_is_spaced(recording.language, options.task))
            transcript["segments"] = transcribed
        return transcript

    def _add_words(
        self, transcribed: Sequence[TranscribedSegment], segments: Sequence[Segment], *, spaced: bool
    ) -> None:
        """Add the words of segments. Their times are more exact than timestamps, so segments take them over."""
        words = [group_into_words(each.tokens, each.times, self.vocabulary.text, spaced=spaced) for each in segments]
        placed = place_words(words, [(each.start, each.end) for each in segments])
        for segment, timed in zip(transcribed, placed, strict=True):
            segment["words"] = [TranscribedWord(text=each.text, start=each.start, end=each.end) for each in timed]
            segment["start"], segment["end"] = timed[0].start, timed[-1].end


def _is_spaced(language: str | None, task: str) -> bool:
    """Return whether the language of a transcript puts spaces between words."""
    return language not in UNSPACED_LANGUAGES or task == "translate"
