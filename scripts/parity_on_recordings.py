"""Compare features and probabilities with the PyTorch original on real recordings.

    python scripts/parity_on_recordings.py RECORDING... [--limit N]

The weights are RANDOM (small, published layout, unit gain): this is about numbers, not about emotions. Files that a
prediction refuses (silence, less than 35 ms) are counted and passed over. Needs the extra `test`.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import librosa
import numpy as np
from rich.console import Console
from rich.progress import track

sys.path.insert(0, str(Path(__file__).parent.parent))

from speech_emotion_jax import EmotionPipeline, SpeechEmotionError
from speech_emotion_jax.audio.waveform import load
from speech_emotion_jax.parity.original import TorchOriginal
from tests.support.checkpoints import SMALL, write_audio_checkpoint


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recordings", nargs="+", type=Path)
    parser.add_argument("--limit", type=int, help="take this many, evenly spread")
    options = parser.parse_args()
    paths = sorted(options.recordings)
    if options.limit:
        paths = [paths[index] for index in np.linspace(0, len(paths) - 1, options.limit).astype(int)]
    with tempfile.TemporaryDirectory() as folder:
        model = write_audio_checkpoint(Path(folder) / "random", "audio", "es", size=SMALL)
        original = TorchOriginal(model, "audio")
        pipeline = EmotionPipeline.from_pretrained(str(model), mode="audio", language="es", batch_size=1)
        waveform_errors, errors, seconds, refused = [], [], 0.0, 0
        for path in track(paths, "Comparing", console=Console(stderr=True)):
            try:
                ours = load(path)
                [prediction] = pipeline.predict([{"audio": path}])
            except SpeechEmotionError:
                refused += 1
                continue
            theirs, _ = librosa.load(path, sr=16_000)
            waveform_errors.append(np.abs(ours - theirs).max())
            probabilities = np.ravel(original.probabilities(waveform=theirs))
            errors.append(np.abs(np.array(list(prediction["scores"].values())) - probabilities).max())
            seconds += len(theirs) / 16_000
    worst = int(np.argmax(errors))
    print(f"{len(errors)} recordings, {seconds:.0f} s, {refused} refused as unusable")
    print(f"waveform against librosa.load: largest difference {max(waveform_errors):.1e}")
    print(f"probabilities against PyTorch: largest difference {errors[worst]:.1e}, median {np.median(errors):.1e}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
