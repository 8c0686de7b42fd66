"""Recordings for the tests of decoding: tones, encoded by libsndfile or PyAV, and librosa's reading of a file."""

import io
import os
import tempfile
import warnings
from fractions import Fraction
from typing import Any

import av
import numpy as np
import soundfile


def librosa_load(path: os.PathLike[str]) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its dependencies import modules that Python deprecates
        import librosa

        return librosa.load(path, sr=16_000)[0]


def tones(seconds: float, rate: int, channels: int = 1) -> np.ndarray:
    """(samples, channels): a different chord in noise on every channel."""
    time = np.arange(round(seconds * rate)) / rate
    noise = np.random.default_rng(channels).uniform(-0.05, 0.05, (len(time), channels))
    chords = [0.3 * np.sin(2 * np.pi * (200 + 130 * k) * time) for k in range(channels)]
    return (np.stack(chords, 1) + noise).astype(np.float32)


def encode(samples: np.ndarray, rate: int, container: str = "WAV", subtype: str | None = None, **options) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, rate, format=container, subtype=subtype, **options)
    return file.getvalue()


def encode_with_av(
    samples: np.ndarray, rate: int, container: str, codec: str, title: str = "", **options: str
) -> bytes:
    layout = {1: "mono", 2: "stereo", 6: "5.1"}[samples.shape[1]]
    with tempfile.TemporaryDirectory() as folder:
        path = os.path.join(folder, "file")
        with av.open(path, "w", format=container, options=options) as output:
            output.metadata["title"] = title
            stream: Any = output.add_stream(codec, rate=rate, layout=layout)
            frame = av.AudioFrame.from_ndarray(np.ascontiguousarray(samples.T), format="fltp", layout=layout)
            frame.sample_rate, frame.time_base, frame.pts = rate, Fraction(1, rate), 0
            converter = av.AudioResampler(stream.codec_context.format, layout, rate, frame_size=1024)
            for part in [*converter.resample(frame), *converter.resample(None), None]:
                output.mux(stream.encode(part))
        with open(path, "rb") as file:
            return file.read()
