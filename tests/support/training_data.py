"""A corpus that can be learned, and recipes of tiny models, for the tests of training."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import soundfile

from speech_emotion_jax.training.recipe import Recipe, read_recipe

LABELS = ("anger", "joy", "sadness")
WORDS = {"anger": "odio grito basta", "joy": "gracias fiesta bien", "sadness": "solo llanto nunca"}


def write_corpus(folder: Path, *, train: int = 24, test: int = 6, speakers: int = 6) -> Path:
    """Clips of 0.3 to 0.6 s, a tone in noise that tells the label, and words that tell it, too."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    manifest = folder / "manifest.csv"
    with manifest.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "label", "transcription", "split", "speaker"])
        for number in range(train + test):
            label = LABELS[number % len(LABELS)]
            seconds = rng.uniform(0.3, 0.6)
            time = np.arange(int(seconds * 16_000)) / 16_000
            tone = 0.3 * np.sin(2 * np.pi * (300 + 900 * LABELS.index(label)) * time)
            soundfile.write(folder / f"{number}.wav", tone + rng.normal(0, 0.02, len(time)), 16_000)
            words = " ".join(rng.permutation(WORDS[label].split()))
            split = "train" if number < train else "test"
            writer.writerow([f"{number}.wav", label, words, split, f"{split}{number // len(LABELS) % speakers}"])
    return manifest


RECIPE = """
[start]
init = "scratch"
[model]
mode = "{mode}"
language = "es"
num_hidden_layers = 2
hidden_size = 16
num_attention_heads = 2
intermediate_size = 32
[data]
group_by = "speaker"
[optimizer]
learning_rate = 3e-3
warmup = 0.0
[training]
epochs = 2
batch_size = 8
save_every = 2
"""


def write_recipe(folder: Path, mode: str) -> Path:
    path = folder / f"{mode}.toml"
    path.write_text(RECIPE.format(mode=mode))
    return path


def recipe(folder: Path, mode: str, *overrides: str) -> Recipe:
    return read_recipe(str(write_recipe(folder, mode)), overrides)


QUIET = (  # nothing is drawn at random but the order of the clips
    "model.audio.layerdrop=0.0",
    "model.audio.apply_spec_augment=false",
    "model.audio.conformer_conv_dropout=0.0",
    "model.audio.final_dropout=0.0",
)
