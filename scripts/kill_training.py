"""Kill training at random moments, start it again, and compare what it ends with to an uninterrupted run.

    python -m scripts.kill_training RECIPE MANIFEST AUDIO_ROOT WORK --runs 10 [--hosts 2 --devices 2] [--set X=Y]

The installed command runs in a process group of its own, which SIGKILL from outside ends: with several hosts, all of
them or one, after which the job is started again as a whole. Compared are the parameters of the best state and, step by
step, the curve; of that only the seconds a step took may differ. WORK is a folder for outputs and compiled programs.
"""

from __future__ import annotations

import argparse
import random
import shutil
import sys
from pathlib import Path

import pyarrow.parquet as pq

from tests.support.kill_runs import Runs
from tests.support.kill_training import interrupted, outcome, seconds_of_training


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("manifest")
    parser.add_argument("audio_root")
    parser.add_argument("work", type=Path)
    parser.add_argument("--set", action="append", default=[])
    parser.add_argument("--runs", type=int, default=10)
    parser.add_argument("--hosts", type=int, default=1)
    parser.add_argument("--devices", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    chance = random.Random(options.seed)
    options.work.mkdir(parents=True, exist_ok=True)
    arguments = (
        "train",
        options.recipe,
        f"--manifest={options.manifest}",
        f"--audio-root={options.audio_root}",
        *(f"--set={each}" for each in options.set),
    )
    runs = Runs(arguments, options.work, options.hosts, options.devices)
    seconds_of_training(runs, options.work / "warming")  # fills the cache of compiled programs
    reference = options.work / "reference"
    span = seconds_of_training(runs, reference)
    steps = pq.read_metadata(reference / "history.parquet").num_rows
    print(f"uninterrupted: {steps} steps, first state after {span[0]:.1f} s, done after {span[1]:.1f} s", flush=True)
    equal = 0
    for number in range(options.runs):
        output = options.work / f"run-{number}"
        one = options.hosts > 1 and number % 2 == 1
        seen = interrupted(runs, output, chance, span, one=one)
        same = outcome(output) == outcome(reference)
        equal += same
        victims = "one host" if one else "all"
        print(f"run {number}: killed {len(seen)} x ({victims}) at {'; '.join(seen)}; identical: {same}", flush=True)
        if same:
            shutil.rmtree(output)
    print(
        f"{equal} of {options.runs} runs ended with the parameters and the curve of the uninterrupted one, bit for bit"
    )
    if equal < options.runs:
        sys.exit(1)


if __name__ == "__main__":
    main()
