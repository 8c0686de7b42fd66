"""Measure the memory and the start-up time of a bulk run over a million rows, compared with ten thousand.

    python scripts/measure_manifest_memory.py RECORDING MODEL WORK [--rows 1000000] [--scored 20000]

Every row names the same recording and has an id of its own. Each run is a process that is ended by SIGKILL after
`--scored` rows. Its memory is the peak until then.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

COMMAND = Path(sys.executable).with_name("speech-emotion-jax")


def write_manifest(path: Path, recording: Path, rows: int) -> None:
    """Write a manifest whose rows all name one recording."""
    count = range(rows)
    table = pa.table(
        {
            "id": [f"clip-{number}" for number in count],
            "filename": [recording.name] * rows,
            "label": [("joy", "anger", "neutral")[number % 3] for number in count],
            "transcription": [f"no me lo puedo creer, dijo por {number} vez" for number in count],
        }
    )
    pq.write_table(table, path)


def count_scored(output: Path) -> int:
    """Return how many clips the saved parts of a run hold."""
    clips = 0
    for part in output.glob("part-*"):
        clips += json.loads(pq.read_schema(part).metadata[b"speech_emotion_jax"])["effort"]["clips"]
    return clips


def peak_memory(process: int) -> float:
    """Return the peak memory of a process in MB."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]) / 1e3


def run(manifest: Path, root: Path, model: str, output: Path, enough: int) -> tuple[float, float]:
    """Run `evaluate` until enough rows are scored.

    Args:
        manifest: the manifest.
        root: the folder of the recording.
        model: the checkpoint.
        output: the folder of the run, which is replaced.
        enough: how many rows are scored.

    Returns:
        The peak memory in MB, and the seconds from the start to the first saved part.
    """
    shutil.rmtree(output, ignore_errors=True)
    command = [str(COMMAND), "evaluate", f"--manifest={manifest}", f"--audio-root={root}", f"--model-id={model}"]
    command += ["--mode=concat", "--language=es", f"--output={output}", "--save-every=1", "--batch-size=32"]
    environment = os.environ | {
        "JAX_COMPILATION_CACHE_DIR": str(output.parent / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    started = time.monotonic()
    with output.with_suffix(".log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, start_new_session=True)
    first = None
    while process.poll() is None:
        memory = peak_memory(process.pid)
        done = count_scored(output)
        if first is None and done:
            first = time.monotonic() - started
        if done >= enough:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        time.sleep(0.2)
    if first is None:
        raise SystemExit(f"the run failed; see {output.with_suffix('.log')}")
    return memory, first


def main() -> None:
    """Measure both manifests and print the difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recording", type=Path)
    parser.add_argument("model")
    parser.add_argument("work", type=Path)
    parser.add_argument("--rows", type=int, default=1_000_000)
    parser.add_argument("--scored", type=int, default=20_000)
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    memories = []
    for rows in (10_000, options.rows):
        manifest = options.work / f"{rows}.parquet"
        write_manifest(manifest, options.recording, rows)
        output = options.work / f"out-{rows}"
        memory, first = run(manifest, options.recording.parent, options.model, output, min(options.scored, rows - 1))
        memories.append(memory)
        print(f"{rows:,} rows: {memory:,.0f} MB peak memory, first part saved after {first:.1f} s", flush=True)
        shutil.rmtree(output)
    print(f"{memories[1] - memories[0]:,.0f} MB more for {options.rows - 10_000:,} additional rows")


if __name__ == "__main__":
    main()
