"""Kill bulk runs at random moments, start them again, and compare what they end with to an uninterrupted run.

    python scripts/kill_runs.py MANIFEST AUDIO_ROOT MODEL WORK --mode concat --runs 20
    python scripts/kill_runs.py MANIFEST AUDIO_ROOT MODEL WORK --mode concat --runs 20 --hosts 2 --devices 2

The installed command runs in a process group of its own, which SIGKILL from outside ends: with several hosts, all
of them or one, after which the job is started again as a whole. WORK is a folder for outputs and compiled programs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.support.kill_runs import PREDICTIONS, Runs, digest, interrupted, seconds_of_work


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("manifest")
    parser.add_argument("audio_root")
    parser.add_argument("model")
    parser.add_argument("work", type=Path)
    parser.add_argument("--mode", default="concat")
    parser.add_argument("--language", default="es")
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    options.work.mkdir(parents=True, exist_ok=True)
    arguments = (
        "evaluate",
        "--save-every=0.2",
        f"--manifest={options.manifest}",
        f"--audio-root={options.audio_root}",
        f"--model-id={options.model}",
        f"--mode={options.mode}",
        f"--language={options.language}",
    )
    runs = Runs(arguments, options.work, options.hosts, options.devices)
    seconds_of_work(runs, options.work / "warming")  # fills the cache of compiled programs
    reference = options.work / "reference"
    span = seconds_of_work(runs, reference)
    rows = pq.read_metadata(reference / PREDICTIONS).num_rows
    print(f"uninterrupted: {rows} rows, first part after {span.first:.1f} s, done after {span.end:.1f} s")
    equal = 0
    for number in range(options.runs):
        output = options.work / f"run-{number}"
        one = options.hosts > 1 and number % 2 == 1
        seen = interrupted(runs, output, chance, span, one=one)
        same = digest(output) == digest(reference)
        equal += same
        victims = "one host" if one else "all"
        print(f"run {number}: killed {len(seen)} x ({victims}) at {'; '.join(seen)}; identical: {same}", flush=True)
        if same:
            shutil.rmtree(output)
    print(f"{equal} of {options.runs} runs byte-identical to the uninterrupted one, {rows} rows each")
    if equal < options.runs:
        sys.exit(1)


if __name__ == "__main__":
    main()
