"""Time and memory of transcription, side by side: ours, transformers' torch Whisper and, where given, faster-whisper.

    python scripts/benchmark_transcription.py WHISPER_FOLDER RECORDING... [--batch 64] [--language es]
        [--faster-whisper PYTHON CT2_FOLDER]

Each side is a process of its own that has loaded its model and done every kind of work once (ours has compiled; that
time is printed apart). Then the sides take turns: each recording of 3 to 6 s alone, RUNS times, and a batch of all
recordings, repeated up to the batch size. All decode greedily in float32, from samples at 16 kHz to text. Printed are
medians, ratios to torch, what torch's matmul gives between the turns, and each process's peak memory. faster-whisper
is another environment's (its PYTHON) with a folder in its own format; it takes clips one by one.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

RUNS = 5
BATCH_RUNS = 1
THREADS = os.cpu_count() or 1


def main() -> None:
    """Parent: start the sides, let them take turns, print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder")
    parser.add_argument("recordings", nargs="+")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--language", default="es")
    parser.add_argument("--faster-whisper", nargs=2, metavar=("PYTHON", "CT2_FOLDER"))
    options = parser.parse_args()

    import numpy as np

    from speech_emotion_jax.inputs.audio import SAMPLE_RATE, load

    clips = [load(path) for path in options.recordings]
    alone = [number for number, clip in enumerate(clips) if 3 <= len(clip) / SAMPLE_RATE <= 6]
    batch = [number % len(clips) for number in range(options.batch)]
    sides = {
        "torch": (sys.executable, "torch", options.folder),
        "ours": (sys.executable, "ours", options.folder),
    }
    if options.faster_whisper:
        python, folder = options.faster_whisper
        sides |= {f"faster-whisper {kind}": (python, f"faster-whisper-{kind}", folder) for kind in ("float32", "int8")}
    with tempfile.TemporaryDirectory() as temporary:
        stored = Path(temporary) / "clips.npz"
        np.savez(stored, *clips)
        workers = {name: Side(*how, str(stored), options.language, options.batch) for name, how in sides.items()}
        singles: dict[str, list[float]] = {name: [] for name in workers}
        rates = []
        texts = {}
        for _ in range(RUNS):
            for clip in alone:
                for name, worker in workers.items():
                    singles[name].append(worker.run([clip])["seconds"])
                rates.append(workers["torch"].run([])["rate"])
        batches: dict[str, list[float]] = {name: [] for name in workers}
        for _ in range(BATCH_RUNS):
            for name, worker in workers.items():
                done = worker.run(batch)
                batches[name].append(done["seconds"])
                texts[name] = done["texts"]
        print(
            f"{len(alone)} clips of 3 to 6 s alone, {RUNS} turns each; {options.batch} clips at once, {BATCH_RUNS} turn"
        )
        spread = f"median {median(rates):.0f}, {min(rates):.0f} to {max(rates):.0f} GFLOP/s"
        print(f"torch's matmul between the turns: {spread}")
        print(f"{'':24}{'one clip':>10}{'ratio':>8}{'batch':>10}{'ratio':>8}{'first use':>11}{'peak':>9}{'texts':>12}")
        for name, worker in workers.items():
            one, many = median(singles[name]), median(batches[name])
            pairs = zip(singles["torch"], singles[name], strict=True)
            ratio = median(torch / own for torch, own in pairs)
            same = sum(a == b for a, b in zip(texts[name], texts["torch"], strict=True))
            print(
                f"{name:24}{one:>8.3f} s{ratio:>8.2f}{many:>8.1f} s{median(batches['torch']) / many:>8.2f}"
                f"{worker.first_use:>9.1f} s{worker.close():>6.2f} GB{same:>6} of {len(batch)}"
            )


class Side:
    """One process that transcribes what it is told to, a JSON line for a JSON line."""

    def __init__(self, python: str, kind: str, folder: str, clips: str, language: str, batch: int):
        self._process = subprocess.Popen(
            [python, __file__, "--side", kind, folder, clips, language, str(batch)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(THREADS), "OMP_WAIT_POLICY": "PASSIVE"},
        )
        self.first_use = self._answer()["seconds"]

    def run(self, clips: list[int]) -> dict:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(clips) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def close(self) -> float:
        """End the process; its peak memory in GB."""
        peak = self.run([])["peak"]
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
        return peak

    def _answer(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{' '.join(map(str, self._process.args))} ended; run it alone to see why")
        return json.loads(line)


def side(kind: str, folder: str, clips: str, language: str, batch: int) -> None:
    """Worker: answers each list of clip numbers with seconds and texts, an empty list with matmul rate and memory."""
    import numpy as np

    stored = np.load(clips)
    arrays = [stored[name] for name in stored.files]
    transcribe = {"torch": torch_side, "ours": our_side}.get(kind, faster_whisper_side)(kind, folder, language, batch)
    begun = time.perf_counter()
    for count in (1, batch if kind == "ours" else 2):  # a batch of another size is another program for ours alone
        transcribe([arrays[number % len(arrays)] for number in range(count)])
    print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    for line in sys.stdin:
        wanted = json.loads(line)
        if not wanted:
            peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
            print(json.dumps({"rate": matmul_rate() if kind == "torch" else None, "peak": peak}), flush=True)
            continue
        begun = time.perf_counter()
        texts = transcribe([arrays[number] for number in wanted])
        print(json.dumps({"seconds": time.perf_counter() - begun, "texts": texts}), flush=True)


def matmul_rate() -> float:
    import torch

    a, b = torch.ones(1024, 1024), torch.ones(1024, 1024)
    begun = time.perf_counter()
    for _ in range(10):
        a @ b
    return 10 * 2 * 1024**3 / (time.perf_counter() - begun) / 1e9


def torch_side(_: str, folder: str, language: str, batch: int) -> Callable[[list], list[str]]:
    import torch
    from transformers import WhisperForConditionalGeneration, WhisperProcessor

    torch.set_num_threads(THREADS)
    model = WhisperForConditionalGeneration.from_pretrained(folder).eval()
    processor = WhisperProcessor.from_pretrained(folder)

    def transcribe(clips: list) -> list[str]:
        with torch.inference_mode():
            features = processor(clips, sampling_rate=16_000, return_tensors="pt").input_features
            ids = model.generate(features, language=language, task="transcribe", num_beams=1, do_sample=False)
        return [text.strip() for text in processor.batch_decode(ids, skip_special_tokens=True)]

    return transcribe


def our_side(_: str, folder: str, language: str, batch: int) -> Callable[[list], list[str]]:
    from speech_emotion_jax import TranscriptionOptions, WhisperPipeline

    pipeline = WhisperPipeline.from_pretrained(folder)
    options = TranscriptionOptions(language=language, batch_size=batch, no_speech=None)

    def transcribe(clips: list) -> list[str]:
        sources = [{"array": clip, "sampling_rate": 16_000} for clip in clips]
        return [transcript["text"] for transcript in pipeline.transcribe(sources, options)]

    return transcribe


def faster_whisper_side(kind: str, folder: str, language: str, batch: int) -> Callable[[list], list[str]]:
    from faster_whisper import WhisperModel

    model = WhisperModel(folder, device="cpu", compute_type=kind.rpartition("-")[2], cpu_threads=THREADS)

    def text(clip) -> str:
        segments, _ = model.transcribe(
            clip, language=language, beam_size=1, temperature=0.0, without_timestamps=True, no_speech_threshold=None
        )
        return "".join(segment.text for segment in segments).strip()

    return lambda clips: [text(clip) for clip in clips]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--side"]:
        side(*sys.argv[2:6], int(sys.argv[6]))
    else:
        main()
