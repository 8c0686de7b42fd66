"""The demo: a toy checkpoint and a few synthetic recordings that come with the package."""

from __future__ import annotations

import csv
from importlib.resources import as_file, files
from typing import NamedTuple

from .inference import EmotionPipeline, Prediction

NOTICE = (
    "This is a toy: a small model trained on synthetic speech (espeak-ng) whose emotions are made up by rules.\n"
    "It shows that everything works on this machine. It says nothing about people, and must not be used on them."
)


class DemoResult(NamedTuple):
    """One recording of the demo and its prediction.

    Attributes:
        recording: File name.
        text: What is said.
        label: The emotion that the corpus assigns.
        prediction: The model's prediction.
    """

    recording: str
    text: str
    label: str
    prediction: Prediction


def run_demo(device: object = None) -> list[DemoResult]:
    """Predict the recordings that come with the package, with the same converter and pipeline as the real checkpoints.

    Args:
        device: None for JAX's default, "cpu", "gpu", "tpu" or a jax.Device.
    """
    with as_file(files("speech_emotion_jax") / "demo_data") as folder:
        with (folder / "manifest.csv").open(encoding="utf-8", newline="") as file:
            recordings = list(csv.DictReader(file))
        pipeline = EmotionPipeline.from_pretrained(
            str(folder / "checkpoint"), mode="concat", language="es", device=device
        )
        examples = [{"audio": folder / each["filename"], "text": each["transcription"]} for each in recordings]
        predictions = pipeline.predict(examples)
    return [
        DemoResult(each["filename"], each["transcription"], each["label"], prediction)
        for each, prediction in zip(recordings, predictions, strict=True)
    ]
