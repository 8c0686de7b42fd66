"""Bulk runs that are killed from outside, once each; scripts/kill_runs.py does it twenty times."""

import csv
import random
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import soundfile

import speech_emotion_jax

from .support.kill_runs import Runs, Span, digest, interrupted, kill, seconds_of_work

pytestmark = pytest.mark.process

DEMO = Path(speech_emotion_jax.__file__).parent / "demo_data" / "checkpoint"
CLIPS = 48


@pytest.fixture(scope="module")
def arguments(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    folder = tmp_path_factory.mktemp("corpus")
    noise = np.random.default_rng(1)
    with (folder / "manifest.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["filename", "label", "transcription"])
        for number in range(CLIPS):
            soundfile.write(folder / f"{number}.wav", noise.normal(0, 0.1, noise.integers(8000, 48000)), 16_000)
            writer.writerow([f"{number}.wav", "joy", "no me lo puedo creer"])
    (folder / "7.wav").write_bytes(b"no sound")
    clips = f"--manifest={folder / 'manifest.csv'}"
    return "evaluate", "--save-every=0.2", clips, f"--model-id={DEMO}", "--mode=concat", "--language=es"


@pytest.fixture(scope="module")
def reference(arguments: tuple[str, ...], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Span]:
    """An uninterrupted run, and when it had its first part and when it was done."""
    folder = tmp_path_factory.mktemp("reference")
    return folder / "out", seconds_of_work(Runs(arguments, folder), folder / "out")


@pytest.mark.parametrize(("hosts", "one"), [(1, False), (2, True)])
def test_killed_and_started_again_it_ends_as_if_nothing_had_been(
    arguments: tuple[str, ...],
    reference: tuple[Path, Span],
    tmp_path: Path,
    hosts: int,
    one: bool,
):
    expected, span = reference
    runs = Runs(arguments, tmp_path, hosts, devices=hosts)
    seen = interrupted(runs, tmp_path / "killed", random.Random(hosts), span, one=one)
    assert seen
    assert digest(tmp_path / "killed") == digest(expected)
    table = pq.read_table(tmp_path / "killed" / "predictions.parquet")
    assert table.column("filename").to_pylist() == [f"{number}.wav" for number in range(CLIPS)]
    assert [row for row, error in enumerate(table.column("error").to_pylist()) if error] == [7]
    assert not list((tmp_path / "killed").glob("part-*"))


def test_two_hosts_divide_the_work(arguments: tuple[str, ...], tmp_path: Path):
    arguments = (*arguments, "--batch-size=2", "--verbose")
    runs = Runs(arguments, tmp_path, hosts=2)
    processes = runs.start(tmp_path / "out")
    try:
        assert [process.wait(300) for process in processes] == [3, 0]
    finally:
        kill(processes)
    logs = [(tmp_path / f"out-{host}.log").read_text() for host in range(2)]
    assert "Scoring 32 clips" in logs[0]
    assert "Scoring 16 clips" in logs[1]  # batches 8 to 15 of 24
    assert "host 1 has scored its batches" in logs[1]


def test_hosts_without_a_common_disk(arguments: tuple[str, ...], tmp_path: Path):
    """Each keeps its share; brought together they are the whole."""
    arguments = (*arguments, "--batch-size=2")
    outputs = [tmp_path / "host-0", tmp_path / "host-1"]
    processes = Runs(arguments, tmp_path, hosts=2).start(*outputs)
    try:
        assert [process.wait(300) for process in processes] == [0, 0]
    finally:
        kill(processes)
    assert "copy run.json and the" in (tmp_path / "host-1-1.log").read_text()
    parts = [sorted(output.glob("part-*")) for output in outputs]
    assert all(parts)
    assert not any((output / "predictions.parquet").exists() for output in outputs)
    for part in parts[1]:
        part.rename(outputs[0] / part.name)
    alone = Runs(arguments, tmp_path)
    alone.finish(outputs[0])
    alone.finish(tmp_path / "reference")
    assert digest(outputs[0]) == digest(tmp_path / "reference")
