"""Predict the emotion of a recording and a text with the exported programs in this folder.

JAX runs the programs; no model code is needed.

    python run.py --audio clip.wav --text "No me lo puedo creer"

Needs jax, flatbuffers, numpy, safetensors, tokenizers, soundfile and soxr. In Python, any number of clips at once:

    emotions = Emotions("FOLDER")
    emotions.probabilities([recording("a.wav"), recording("b.wav")], ["...", "..."])  # (2, labels)

export.json describes the inputs and outputs. A program takes a batch of any size.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import jax
import numpy as np
import soundfile
import soxr
from jax import export
from safetensors.numpy import load_file
from tokenizers import Tokenizer


class Emotions:
    """The exported model on JAX's default device.

    A program is compiled once for each batch size, when it is first called.

    Attributes:
        settings: the content of export.json.
        parameters: {path: array}.
        tokenizer: the tokenizer; None if the mode takes no text.
        programs: {name: function of the parameters and a batch}.
    """

    def __init__(self, folder: str | Path):
        """Load the parameters and the programs of an exported folder."""
        folder = Path(folder)
        self.settings = json.loads((folder / "export.json").read_text(encoding="utf-8"))
        self.parameters = jax.device_put(load_file(folder / "parameters.safetensors"))
        self.tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json")) if self.settings["text"] else None
        self.programs = {path.stem: load_program(path) for path in (folder / "programs").glob("*.jax")}

    def audio_vectors(self, recordings: Sequence[np.ndarray]) -> jax.Array:
        """Encode recordings.

        Args:
            recordings: arrays (samples,), mono, 16 kHz, full scale 1.

        Returns:
            Vectors (batch, width).

        Raises:
            ValueError: if a recording is too short, too long, silent, or has samples that are not numbers.
        """
        audio, lengths = self.settings["audio"], [len(each) for each in recordings]
        if min(lengths) < audio["least_samples"]:
            raise ValueError(f"a recording has {min(lengths)} samples, and {audio['least_samples']} are needed")
        if not all(np.ptp(each) > 0 for each in recordings):
            raise ValueError("a recording is digital silence, or has samples that are not numbers")
        program, samples = fitting(audio["programs"], max(lengths))
        if samples < max(lengths):
            longest, most = max(lengths) / audio["sample_rate"], samples / audio["sample_rate"]
            raise ValueError(f"a recording of {longest:.2f} s is longer than {most:.2f} s, the most exported; cut it")
        waveforms = np.zeros((len(recordings), samples), np.float32)
        for row, each in enumerate(recordings):
            waveforms[row, : len(each)] = each
        return self.programs[program](self.parameters, waveforms, np.array(lengths, np.int32))

    def text_vectors(self, texts: Sequence[str]) -> jax.Array:
        """Encode texts. The tokenizer cuts a text that is longer than the largest program takes.

        Args:
            texts: the texts.

        Returns:
            Vectors (batch, width).

        Raises:
            ValueError: if a text is blank, or the mode takes no text.
        """
        if self.tokenizer is None:
            raise ValueError(f"mode {self.settings['mode']} reads no text")
        if not all(text.strip() for text in texts):
            raise ValueError("a text is blank")
        ids = [self.tokenizer.encode(text).ids for text in texts]
        program, tokens = fitting(self.settings["text"]["programs"], max(map(len, ids)))
        padded = np.full((len(ids), tokens), self.settings["text"]["pad_token"], np.int32)
        for row, each in enumerate(ids):
            padded[row, : len(each)] = each
        mask = np.arange(tokens)[None] < np.array([len(each) for each in ids])[:, None]
        return self.programs[program](self.parameters, padded, mask)

    def probabilities(self, recordings: Sequence[np.ndarray] = (), texts: Sequence[str] = ()) -> np.ndarray:
        """Predict the probabilities of the labels.

        Args:
            recordings: arrays (samples,), mono, 16 kHz, full scale 1; ignored if the mode takes no audio.
            texts: their texts; ignored if the mode takes no text.

        Returns:
            Probabilities (batch, labels), float32.

        Raises:
            ValueError: if a recording or a text can't be used.
        """
        audio = self.audio_vectors(recordings) if self.settings["audio"] else None
        text = self.text_vectors(texts) if self.settings["text"] else None
        return np.asarray(self.programs["head"](self.parameters, audio, text))


def load_program(path: Path) -> Callable[..., jax.Array]:
    """Load an exported program. It is compiled when it is first called."""
    return jax.jit(export.deserialize(bytearray(path.read_bytes())).call)


def fitting(programs: Mapping[str, int], length: int) -> tuple[str, int]:
    """Return the name and length of the smallest program for `length` samples or tokens; else of the largest."""
    return next((each for each in programs.items() if each[1] >= length), list(programs.items())[-1])


def recording(path: str, sample_rate: int = 16_000) -> np.ndarray:
    """Read an audio file, mix it to mono and resample it.

    Args:
        path: a file that libsndfile reads: wav, flac, ogg, mp3.
        sample_rate: in hertz.

    Returns:
        Samples (samples,), float32, full scale 1.
    """
    samples, rate = soundfile.read(path, dtype="float32", always_2d=True)
    return soxr.resample(samples.mean(axis=1), rate, sample_rate, "HQ")


def main() -> None:
    """Predict the emotion of the recording and the text on the command line, and print it."""
    parser = argparse.ArgumentParser(description="Emotion of a recording and a text, by exported programs.")
    parser.add_argument("--audio", metavar="FILE", help="recording: wav, flac, ogg, mp3")
    parser.add_argument("--text", help="the words said")
    options = parser.parse_args()
    emotions = Emotions(Path(__file__).parent)
    needed = [name for name in ("audio", "text") if emotions.settings[name]]
    if missing := [f"--{name}" for name in needed if not getattr(options, name)]:
        parser.error(f"mode {emotions.settings['mode']} needs {' and '.join(missing)}")
    if "audio" in needed and not Path(options.audio).is_file():
        parser.error(f"there is no file {options.audio}; check the path")
    try:
        recordings = [recording(options.audio)] if "audio" in needed else ()
        [scores] = emotions.probabilities(recordings, [options.text])
    except (ValueError, soundfile.LibsndfileError) as error:
        parser.error(str(error))
    for label, score in sorted(zip(emotions.settings["labels"], scores, strict=True), key=lambda each: -each[1]):
        print(f"{label:12} {score:.4f}")


if __name__ == "__main__":
    main()
