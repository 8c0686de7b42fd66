"""Compare transcription with transformers' Whisper on real recordings, greedily and with 5 beams.

    python scripts/transcription_parity.py WHISPER_FOLDER RECORDING... [--language es] [--limit N] [--long FILE]

A RECORDING is an audio file in `--language`, or a JSON file that lists recordings: [{"path": ..., "language": "es"}].
PyTorch transcribes what librosa loads, one recording at a time. Ours loads the files itself and decodes in batches.
`--long` names a recording in `--language` of more than 30 s. For it, overlapping windows are compared with
transformers' pipeline, and the sequential modes with `generate`. `generate` computes the log-mel of the whole recording
and ours that of each window, so the sequential modes are also compared with the former on both sides. Everything runs
in float32 on the CPU, and the no-speech threshold is off. Needs the extra `test`. scripts/whisper_base.py makes a
WHISPER_FOLDER.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from difflib import SequenceMatcher
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import librosa
import numpy as np
import torch
from flax import nnx
from jaxtyping import Float
from rich.console import Console
from rich.progress import track
from transformers import (
    AutomaticSpeechRecognitionPipeline,
    WhisperFeatureExtractor,
    WhisperForConditionalGeneration,
    WhisperTokenizer,
)
from transformers.utils import logging

sys.path.insert(0, str(Path(__file__).parent.parent))

from speech_emotion_jax.audio.log_mel import HOP_SAMPLES, WINDOW_SAMPLES
from speech_emotion_jax.audio.waveform import SAMPLE_RATE, load
from speech_emotion_jax.models.whisper import Whisper
from speech_emotion_jax.whisper import TranscriptionOptions, WhisperPipeline

BATCH = 8
BEAMS = 5


class Recording(NamedTuple):
    """An audio file and the language that is spoken in it."""

    path: str
    language: str


class Result(NamedTuple):
    """The results for one recording. Tokens exclude the prompt and the end token."""

    encoded: np.ndarray  # (1500, width)
    first_logits: np.ndarray  # (vocabulary,)
    greedy: list[int]
    beams: list[int]
    margins: list[float]  # best minus second-best logit of each greedy step, PyTorch only


def main() -> int:
    """Compare the recordings that the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("whisper", type=Path)
    parser.add_argument("recordings", nargs="*", type=Path)
    parser.add_argument("--language", default="es")
    parser.add_argument("--limit", type=int, help="take this many, evenly spread")
    parser.add_argument("--long", type=Path, help="a recording of more than 30 s")
    options = parser.parse_args()
    recordings = [each for path in options.recordings for each in list_recordings(path, options.language)]
    if options.limit:
        recordings = [recordings[at] for at in np.linspace(0, len(recordings) - 1, options.limit).astype(int)]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_grad_enabled(False)
    original, ours = Original(options.whisper), Ours(options.whisper)
    if recordings:
        theirs = [original.result(each) for each in track(recordings, "PyTorch", console=Console(stderr=True))]
        starts = track(range(0, len(recordings), BATCH), "JAX", console=Console(stderr=True))
        mine = [each for start in starts for each in ours.results(recordings[start : start + BATCH])]
        compare(original, recordings, theirs, mine)
    if options.long:
        compare_long(original, ours.pipeline, options.long, options.language)
    return 0


def list_recordings(path: Path, language: str) -> list[Recording]:
    """Return the recordings that one argument names."""
    if path.suffix != ".json":
        return [Recording(str(path), language)]
    return [Recording(row["path"], row["language"]) for row in json.loads(path.read_text("utf-8"))]


class Original:
    """transformers' Whisper."""

    def __init__(self, folder: Path):
        """Load a published folder."""
        self.model = WhisperForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
        self.extractor = WhisperFeatureExtractor.from_pretrained(folder)
        self.tokenizer = WhisperTokenizer.from_pretrained(folder)
        self.pipeline = AutomaticSpeechRecognitionPipeline(
            model=self.model, feature_extractor=self.extractor, tokenizer=self.tokenizer
        )

    def result(self, recording: Recording) -> Result:
        """Transcribe one recording greedily and with beams."""
        waveform, _ = librosa.load(recording.path, sr=SAMPLE_RATE)
        features = self.extractor(waveform, sampling_rate=SAMPLE_RATE, return_tensors="pt").input_features
        encoded = self.model.get_encoder()(features)
        settings: dict[str, Any] = {
            "language": recording.language,
            "task": "transcribe",
            "return_timestamps": False,
            "do_sample": False,
            "return_dict_in_generate": True,
            "output_scores": True,
            "output_logits": True,
        }
        greedy: Any = self.model.generate(features, num_beams=1, **settings)
        beams: Any = self.model.generate(features, num_beams=BEAMS, **settings)
        best = torch.stack(greedy.scores)[:, 0].topk(2).values
        prompt = greedy.sequences.shape[1] - len(greedy.scores)
        return Result(
            encoded.last_hidden_state[0].numpy(),
            greedy.logits[0][0].numpy(),
            self.before_end(greedy.sequences[0, prompt:]),
            self.before_end(beams.sequences[0, prompt:]),
            (best[:, 0] - best[:, 1]).tolist(),
        )

    def before_end(self, sequence: torch.Tensor) -> list[int]:
        """Return the tokens before the end token."""
        tokens, end = sequence.tolist(), self.model.generation_config.eos_token_id
        return tokens[: tokens.index(end)] if end in tokens else tokens

    def text(self, tokens: Sequence[int]) -> str:
        """Return the text of tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True).strip()

    def in_windows(self, waveform: np.ndarray, language: str, beams: int) -> str:
        """Transcribe a long recording in overlapping windows."""
        generate = {"language": language, "task": "transcribe", "num_beams": beams}
        return self.pipeline(waveform.copy(), chunk_length_s=30, generate_kwargs=generate)["text"]

    def sequential(self, whole: Any, language: str, *, prompted: bool) -> str:
        """Transcribe a long recording sequentially, see `sequential_tokens`."""
        return self.text(sequential_tokens(self.model, whole, language, prompted=prompted))


def whole_log_mel(extractor: WhisperFeatureExtractor, waveform: np.ndarray) -> Any:
    """Return the log-mel of a recording of any length, `input_features` (1, bins, frames), with its mask."""
    return extractor(
        waveform,
        sampling_rate=SAMPLE_RATE,
        truncation=False,
        padding="longest",
        return_attention_mask=True,
        return_tensors="pt",
    )


def sequential_tokens(
    model: WhisperForConditionalGeneration, whole: Any, language: str, *, prompted: bool
) -> torch.Tensor:
    """Run `generate` sequentially over the windows of a recording.

    Args:
        model: transformers' Whisper.
        whole: the log-mel of the recording, as `whole_log_mel` returns it.
        language: the language of the recording.
        prompted: whether the text of the windows before is the prompt of the next window.
    """
    [tokens] = model.generate(
        **whole,
        language=language,
        task="transcribe",
        num_beams=1,
        do_sample=False,
        temperature=0.0,
        return_timestamps=True,
        condition_on_prev_tokens=prompted,
    )
    return tokens


class Ours:
    """Our Whisper."""

    def __init__(self, folder: Path):
        """Load a published folder."""
        self.pipeline = WhisperPipeline.from_pretrained(folder)
        self.first_step = jax.jit(partial(first_step, self.pipeline.programs.graph))

    def results(self, recordings: Sequence[Recording]) -> Iterator[Result]:
        """Yield the results of one batch."""
        programs, vocabulary = self.pipeline.programs, self.pipeline.vocabulary
        prompts = [vocabulary.prompt(each.language, "transcribe", timestamps=False) for each in recordings]
        features = programs.features([load(each.path) for each in recordings])
        filled = np.array([*prompts, *prompts[:1] * (len(features) - len(prompts))], np.int32)
        encoded, logits = self.first_step(programs.parameters, features, filled)
        heard = programs.encode(features)
        rules, start = vocabulary.rules(timestamps=False), len(prompts[0])
        greedy, beams = (
            [tokens[:length].tolist() for tokens, length in zip(found.tokens, found.lengths, strict=True)]
            for found in (
                programs.search(heard, prompts, start=start, rules=rules, limit=None, beams=beams)
                for beams in (1, BEAMS)
            )
        )
        for row in range(len(recordings)):
            yield Result(np.asarray(encoded[row]), np.asarray(logits[row]), greedy[row], beams[row], [])


def first_step(graph: Any, parameters: Any, features: jax.Array, prompts: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Return the encoder's output and the logits of the first token."""
    model: Whisper = nnx.merge(graph, parameters)
    encoded = jax.lax.map(lambda each: model.encoder(each[None])[0], features)
    rows, length = prompts.shape
    cache, padding = model.decoder.empty_cache(rows, length), jnp.zeros(rows, jnp.int32)
    decoded = model.decoder(prompts, 0, padding, cache, model.cross_kv(encoded))
    return encoded, model.decoder.logits(decoded.states[:, -1])


def compare(
    original: Original, recordings: Sequence[Recording], theirs: Sequence[Result], ours: Sequence[Result]
) -> None:
    """Print how well both sides agree on short recordings."""
    pairs = list(zip(recordings, theirs, ours, strict=True))
    encoder = [np.abs(b.encoded - a.encoded).max() / np.abs(a.encoded).max() for _, a, b in pairs]
    logits = [np.abs(b.first_logits - a.first_logits).max() for _, a, b in pairs]
    print(f"{len(pairs)} recordings")
    print(f"encoder, relative to its largest value   worst {max(encoder):.1e}, median {np.median(encoder):.1e}")
    print(f"logits of the first token                worst {max(logits):.1e}, median {np.median(logits):.1e}")
    for name in ("greedy", "beams"):
        found = [(each, getattr(a, name), getattr(b, name), a.margins) for each, a, b in pairs]
        tokens = sum(a == b for _, a, b, _ in found)
        texts = sum(original.text(a) == original.text(b) for _, a, b, _ in found)
        label = name if name == "greedy" else f"{BEAMS} beams"
        print(f"{label:8s} identical tokens {tokens} of {len(found)}, identical texts {texts} of {len(found)}")
        for recording, a, b, margins in found:
            if a != b:
                step = next((at for at, pair in enumerate(zip(a, b, strict=False)) if len(set(pair)) > 1), None)
                step = min(len(a), len(b)) if step is None else step
                margin = f", PyTorch's margin {margins[step]:.1e}" if name == "greedy" else ""
                print(f"  {recording.path}: step {step} of {len(a) + 1}{margin}")
                print(f"    PyTorch {original.text(a)}\n    JAX     {original.text(b)}")
    smallest = sorted(min(a.margins) for _, a, _ in pairs)[:3]
    print(f"smallest greedy margins of PyTorch       {', '.join(f'{margin:.1e}' for margin in smallest)}")


def compare_long(original: Original, ours: WhisperPipeline, path: Path, language: str) -> None:
    """Print how well both sides agree on a long recording."""
    waveform, _ = librosa.load(path, sr=SAMPLE_RATE)
    print(f"{path}: {len(waveform) / SAMPLE_RATE:.0f} s")
    for beams in (1, BEAMS):
        [transcript] = ours.transcribe([path], TranscriptionOptions(language=language, beams=beams, no_speech=None))
        print_difference(
            f"windows, {beams} beams" if beams > 1 else "windows, greedy",
            original.in_windows(waveform, language, beams),
            transcript["text"],
        )
    whole = whole_log_mel(original.extractor, waveform)
    for prompted in (False, True):
        options = TranscriptionOptions(
            language=language, sequential=True, condition_on_previous=prompted, no_speech=None
        )
        name = "sequential, prompted by the text before" if prompted else "sequential"
        theirs = original.sequential(whole, language, prompted=prompted)
        [transcript] = ours.transcribe([path], options)
        print_difference(name, theirs, transcript["text"])
        with use_whole_log_mel(ours, waveform, whole.input_features[0].numpy()):
            [transcript] = ours.transcribe([path], options)
        print_difference(f"{name}, with the log-mel of the whole recording", theirs, transcript["text"])


@contextmanager
def use_whole_log_mel(
    ours: WhisperPipeline, waveform: Float[np.ndarray, " samples"], log_mel: Float[np.ndarray, "bins frames"]
) -> Iterator[None]:
    """Make ours take its windows from the log-mel of the whole recording, padded with zeros, as `generate` does."""
    by_window = ours.programs.features

    def cut(windows: Sequence[np.ndarray]) -> jax.Array:
        own = by_window(windows)
        features = np.array(own)
        for row, window in zip(features, windows, strict=False):  # the rows after the windows only fill the batch
            starts = range(0, len(waveform), HOP_SAMPLES)  # timestamps are multiples of two frames
            if len(window) < WINDOW_SAMPLES:  # the last
                starts = [len(waveform) - len(window)]
            start = next(start for start in starts if np.array_equal(waveform[start : start + len(window)], window))
            part = log_mel[:, start // HOP_SAMPLES :][:, : len(row)].T
            row[: len(part)], row[len(part) :] = part, 0.0
        return jax.device_put(features, own.sharding)

    ours.programs.features = cut
    try:
        yield
    finally:
        ours.programs.features = by_window


def print_difference(name: str, theirs: str, ours: str) -> None:
    """Print which words of two transcripts differ."""
    a, b = theirs.split(), ours.split()
    matcher = SequenceMatcher(None, a, b, autojunk=False)
    print(f"{name}: {len(a)} words in PyTorch, {len(b)} in JAX, {matcher.ratio():.2%} agree")
    for kind, a_start, a_stop, b_start, b_stop in matcher.get_opcodes():
        if kind != "equal":
            print(f"  word {a_start}: PyTorch {' '.join(a[a_start:a_stop])!r} | JAX {' '.join(b[b_start:b_stop])!r}")


if __name__ == "__main__":
    sys.exit(main())
