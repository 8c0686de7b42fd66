"""Train the demo checkpoint on the synthetic corpus and put it, with a few test recordings, into the package.

    python scripts/demo_corpus.py CORPUS
    python scripts/make_demo_checkpoint.py CORPUS [--seeds 3] [--runs RUNS] [--output speech_emotion_jax/demo_data]

For each seed the recipes of configs/demo train a system of text alone and one of sound alone from scratch, then a fused
one (mode concat) on both encoders, of which that of sound stays as it is, so its vectors are computed once. It prints
the accuracy of each on held-out voices and sentences beside the majority rate. The fused one of the first seed is
written in the published layout in float16, and its accuracy is measured once more through the converter and the
pipeline. What is finished in RUNS is not trained again.

A toy: synthetic speech, labels made up by rules. It says nothing about people.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from statistics import mean, stdev

import jax
import numpy as np
import soundfile

from speech_emotion_jax import EmotionPipeline
from speech_emotion_jax.checkpoints import Request, load_checkpoint
from speech_emotion_jax.convert.publication import publish
from speech_emotion_jax.models.parameters import parameters_of
from speech_emotion_jax.registry import LABELS
from speech_emotion_jax.training.recipe import read_recipe
from speech_emotion_jax.training.run import TrainConfig, train

RECIPES = Path(__file__).parent.parent / "configs" / "demo"
NOTICE = "a toy trained on synthetic speech; of no use on people"


def train_all(corpus: Path, runs: Path, seed: int) -> dict[str, float]:
    """Train the three systems with one seed; returns the accuracy of each on the test clips."""
    found = {}
    for mode in ("text", "audio", "concat"):
        settings = [f"training.seed={seed}"]
        if mode == "concat":
            settings += [f"start.{kind}='{runs / f'{kind}-{seed}' / 'best'}'" for kind in ("audio", "text")]
        output = runs / f"{mode}-{seed}"
        start = time.perf_counter()
        train(
            TrainConfig(
                read_recipe(RECIPES / f"{mode}.toml", settings),
                str(corpus / "manifest.csv"),
                str(output),
                str(corpus),
            )
        )
        found[mode] = json.loads((output / "metrics.json").read_text())["accuracy"]
        seconds = time.perf_counter() - start
        print(f"seed {seed}  {mode:6}  accuracy {found[mode]:.3f}  {seconds:.0f} s", flush=True)
    return found


def ship(trained: Path, output: Path, corpus: Path, test: list[dict[str, str]]) -> None:
    """The package's demo folder: the checkpoint, and the shortest block of the test clips as flac.

    A block is one voice and three sentences, each spoken in two ways with two labels: no modality alone decides.
    """

    def frames(block: list[dict[str, str]]) -> int:
        return sum(soundfile.info(corpus / row["filename"]).frames for row in block)

    block = min(
        (test[start : start + len(LABELS["es"])] for start in range(0, len(test), len(LABELS["es"]))), key=frames
    )
    checkpoint = load_checkpoint(Request(str(trained)), jax.devices("cpu")[0], "float32")
    with tempfile.TemporaryDirectory(dir=output.parent) as temporary:
        staging = Path(temporary) / "demo_data"
        staging.mkdir()
        publish(
            checkpoint.config,
            {path: np.asarray(array) for path, array in parameters_of(checkpoint.model).items()},
            staging / "checkpoint",
            text_assets=checkpoint.text_folder,
            audio_assets=checkpoint.folder,
            notice=NOTICE,
            dtype=np.float16,
        )
        listed = []
        for row in block:
            samples, rate = soundfile.read(corpus / row["filename"], dtype="int16")
            soundfile.write(staging / f"{row['label']}.flac", samples, rate, subtype="PCM_16")
            listed.append([f"{row['label']}.flac", row["label"], row["transcription"]])
        with (staging / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["filename", "label", "transcription"], *listed])
        shutil.rmtree(output, ignore_errors=True)
        staging.rename(output)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder made by scripts/demo_corpus.py")
    parser.add_argument("--output", type=Path, default=Path("speech_emotion_jax/demo_data"))
    parser.add_argument("--runs", type=Path, default=Path("demo-runs"), help="where the training runs are kept")
    parser.add_argument("--seeds", type=int, default=3)
    options = parser.parse_args()
    with (options.corpus / "manifest.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    test = [row for row in rows if row["split"] == "test"]
    majority = Counter(row["label"] for row in test).most_common(1)[0][1] / len(test)
    start = time.perf_counter()
    print(f"{len(test)} clips held out (voices, sentences), majority rate {majority:.3f}", flush=True)
    scores = [train_all(options.corpus, options.runs, seed) for seed in range(options.seeds)]
    for mode in scores[0]:
        found = [each[mode] for each in scores]
        spread = f" +- {stdev(found):.3f}" if len(found) > 1 else ""
        print(f"{mode:6}  {mean(found):.3f}{spread} over {len(found)} seeds")
    ship(options.runs / "concat-0" / "best", options.output, options.corpus, test)
    pipeline = EmotionPipeline.from_pretrained(options.output / "checkpoint", mode="concat", language="es")
    predictions = pipeline.predict(
        {"audio": options.corpus / row["filename"], "text": row["transcription"]} for row in test
    )
    right = sum(p["top_label"] == row["label"] for p, row in zip(predictions, test, strict=True))
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    print(f"shipped checkpoint, through the pipeline: held-out accuracy {right / len(test):.3f}; {size / 1e6:.2f} MB")
    print(f"{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
