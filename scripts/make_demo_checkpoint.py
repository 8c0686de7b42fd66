"""Train the demo checkpoint on the synthetic corpus, and put it into the package with a few test recordings.

    python scripts/demo_corpus.py CORPUS
    python scripts/make_demo_checkpoint.py CORPUS [--seeds 3] [--runs RUNS] [--output speech_emotion_jax/demo_data]

For each seed, the recipes of configs/demo train a text model and an audio model from scratch, then a fused model (mode
concat) on both encoders. The audio encoder is frozen there, so its vectors are computed only once. The script prints
the accuracy of each model on held-out voices and sentences, and the majority rate. It writes the fused model of the
first seed in the published layout in float16, and measures its accuracy again through the converter and the pipeline.
Runs that are complete in RUNS are not trained again.

The checkpoint is a toy: the speech is synthetic and the labels follow from rules. It says nothing about people.
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
    """Train the three models with one seed. Return the accuracy of each on the test clips, by mode."""
    accuracies = {}
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
        accuracies[mode] = json.loads((output / "metrics.json").read_text())["accuracy"]
        seconds = time.perf_counter() - start
        print(f"seed {seed}  {mode:6}  accuracy {accuracies[mode]:.3f}  {seconds:.0f} s", flush=True)
    return accuracies


def write_demo(trained: Path, output: Path, corpus: Path, test: list[dict[str, str]]) -> None:
    """Write the package's demo folder: the checkpoint, and the shortest block of the test clips as flac.

    In a block one voice speaks three sentences, each in two ways that have different labels. So neither the text nor
    the voice alone determines the label.

    Args:
        trained: the checkpoint of a training run.
        output: the demo folder, which is replaced.
        corpus: the folder of the corpus.
        test: the rows of the test clips.
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
        rows = []
        for row in block:
            samples, rate = soundfile.read(corpus / row["filename"], dtype="int16")
            soundfile.write(staging / f"{row['label']}.flac", samples, rate, subtype="PCM_16")
            rows.append([f"{row['label']}.flac", row["label"], row["transcription"]])
        with (staging / "manifest.csv").open("w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([["filename", "label", "transcription"], *rows])
        shutil.rmtree(output, ignore_errors=True)
        staging.rename(output)


def main() -> int:
    """Train, print the accuracies and write the demo folder."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("corpus", type=Path, help="folder made by scripts/demo_corpus.py")
    parser.add_argument("--output", type=Path, default=Path("speech_emotion_jax/demo_data"))
    parser.add_argument("--runs", type=Path, default=Path("demo-runs"), help="folder of the training runs")
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
        accuracies = [each[mode] for each in scores]
        spread = f" +- {stdev(accuracies):.3f}" if len(accuracies) > 1 else ""
        print(f"{mode:6}  {mean(accuracies):.3f}{spread} over {len(accuracies)} seeds")
    write_demo(options.runs / "concat-0" / "best", options.output, options.corpus, test)
    pipeline = EmotionPipeline.from_pretrained(options.output / "checkpoint", mode="concat", language="es")
    predictions = pipeline.predict(
        {"audio": options.corpus / row["filename"], "text": row["transcription"]} for row in test
    )
    right = sum(p["top_label"] == row["label"] for p, row in zip(predictions, test, strict=True))
    size = sum(path.stat().st_size for path in options.output.rglob("*") if path.is_file())
    print(f"packaged checkpoint, through the pipeline: held-out accuracy {right / len(test):.3f}; {size / 1e6:.2f} MB")
    print(f"{time.perf_counter() - start:.0f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
