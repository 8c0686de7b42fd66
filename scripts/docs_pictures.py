"""Make the documentation's pictures from the demo: a report, training curves, and a sweep of `plan`.

    python scripts/docs_pictures.py docs/pictures --browser chromium --plan-python .venv-plan/bin/python

The screenshot needs Chromium. The sweep needs the extra `chips` in an environment of its own; without --plan-python the
picture of the sweep stays as it is. The drawings in that folder (SVG) are made by hand.
"""

import argparse
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parent.parent
MANIFEST = "speech_emotion_jax/demo_data/manifest.csv"  # below ROOT, so that no picture shows a folder of this machine
MODEL = ["--model-id", "speech_emotion_jax/demo_data/checkpoint", "--mode", "concat", "--language", "es"]
SWEEP = "plan --topology h100:1 --batch-size 8 16 32 64 --mode concat --seconds 15 --output"
TOY = (
    "--init scratch --set start.checkpoint=none --set model.num_hidden_layers=2 --set model.hidden_size=32 "
    "--set model.num_attention_heads=2 --set model.intermediate_size=64 --set start.audio=none --set start.text=none "
    "--set optimizer.freeze=[] --set data.valid_share=0.5 --set training.batch_size=3 --set training.epochs=30 "
    "--set optimizer.learning_rate=3e-3 --set training.patience=0 --set training.precision=float32"
)


def run(python: str, *arguments: str) -> None:
    subprocess.run([python, "-m", "speech_emotion_jax", *arguments], check=True, cwd=ROOT)


def photograph(browser: str, page: Path, picture: Path, profile: Path) -> None:
    """Write the first screen of a page as PNG."""
    options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--window-size=1000,1500"]
    where = [f"--user-data-dir={profile}", f"--screenshot={picture}"]
    subprocess.run([browser, *options, *where, page.as_uri()], check=True, timeout=120, stderr=subprocess.DEVNULL)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="folder of the pictures")
    parser.add_argument("--browser", default="chromium", help="Chromium's command (default: chromium)")
    parser.add_argument("--plan-python", help="the Python of an environment with the extra chips")
    options = parser.parse_args()
    folder = options.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        run(sys.executable, "evaluate", "--manifest", MANIFEST, *MODEL, "--output", str(work / "run"))
        photograph(options.browser, work / "run" / "report.html", folder / "report.png", work / "profile")
        run(sys.executable, "train", "es-concat", "--manifest", MANIFEST, "--output", str(work / "toy"), *TOY.split())
        shutil.copy(work / "toy" / "curves.png", folder / "curves.png")
        if options.plan_python:
            run(options.plan_python, *SWEEP.split(), str(work / "plan"))
            shutil.copy(work / "plan" / "plan.png", folder / "plan.png")


if __name__ == "__main__":
    main()
