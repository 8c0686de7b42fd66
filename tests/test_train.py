"""Training as its user sees it: what lies in the output, what is refused, and that an interruption changes nothing."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from speech_emotion_jax import EmotionPipeline
from speech_emotion_jax.cli.main import main
from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.training import saving
from speech_emotion_jax.training.run import TrainConfig, train

from .support.kill_runs import Runs, kill
from .support.kill_training import interrupted, outcome, seconds_of_training
from .support.training_data import LABELS, QUIET, recipe, write_corpus, write_recipe


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_corpus(tmp_path_factory.mktemp("corpus"))


def losses(output: Path) -> list[float]:
    return pq.read_table(output / "history.parquet").column("loss").to_pylist()


@pytest.fixture(scope="module")
def concat(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of mode concat, long enough to learn something."""
    folder = tmp_path_factory.mktemp("concat")
    train(TrainConfig(recipe(folder, "concat", "training.epochs=12"), str(corpus), str(folder / "out")))
    return folder / "out"


@pytest.mark.slow
def test_what_a_run_leaves(concat: Path, corpus: Path):
    metrics = json.loads((concat / "metrics.json").read_text())
    assert metrics["clips"] == 6
    assert metrics["accuracy"] > 0.6  # a third by guessing
    assert metrics["labels"] == list(LABELS)
    assert (concat / "evaluation" / "report.html").exists()
    assert (concat / "curves.png").read_bytes().startswith(b"\x89PNG")
    history = pq.read_table(concat / "history.parquet")
    assert history.column("step").to_pylist() == list(range(1, len(history) + 1))
    assert np.mean(losses(concat)[-5:]) < 0.7 * np.mean(losses(concat)[:5])
    clips = pq.read_table(concat / "manifest.parquet").to_pylist()
    speakers = {role: {row["speaker"] for row in clips if row["role"] == role} for role in ("train", "valid")}
    assert speakers["valid"]
    assert not speakers["train"] & speakers["valid"]
    example = {"audio": str(corpus.parent / "25.wav"), "text": "gracias fiesta bien"}
    predictions = [
        EmotionPipeline.from_pretrained(str(concat / "best")).predict([example]),
        EmotionPipeline.from_pretrained(
            str(concat / "best-published"),
            mode="concat",
            language="es",
            text_encoder=str(concat / "best-published" / "text_encoder"),
            labels=LABELS,
        ).predict([example]),
    ]
    assert predictions[0] == predictions[1]


@pytest.mark.slow
def test_a_finished_run_is_left_as_it_is(concat: Path, corpus: Path):
    before = {path: path.stat().st_mtime_ns for path in concat.rglob("*") if path.is_file()}
    again = recipe(concat.parent, "concat", "training.epochs=12")
    assert train(TrainConfig(again, str(corpus), str(concat))).finished
    after = {path: path.stat().st_mtime_ns for path in concat.rglob("*") if path.is_file()}
    changed = {path.name for path in before.keys() | after.keys() if before.get(path) != after.get(path)}
    assert changed == set()


@pytest.mark.slow
def test_another_recipe_is_refused_with_the_difference(concat: Path, corpus: Path):
    other = recipe(concat.parent, "concat", "training.epochs=12", "optimizer.learning_rate=1e-3")
    with pytest.raises(InvalidInput, match=r"recipe.optimizer.learning_rate: 0.003 then, 0.001 now"):
        train(TrainConfig(other, str(corpus), str(concat)))


@pytest.mark.slow
def test_it_goes_on_from_a_checkpoint(concat: Path, corpus: Path, tmp_path: Path):
    """A kept head goes on where it was; a fresh one on the same encoders begins anew."""
    # Another seed, which draws another head than the one that was trained.
    settings = ("start.init=pretrained", f"start.checkpoint={concat / 'best'}", "training.epochs=1", "training.seed=1")
    first = {}
    for head in ("kept", "fresh"):
        job = TrainConfig(
            recipe(tmp_path, "concat", *settings, *QUIET, f"start.head={head}"), str(corpus), str(tmp_path / head)
        )
        train(job)
        first[head] = losses(tmp_path / head)[0]
    assert first["kept"] < 0.8 * first["fresh"]


@pytest.mark.slow
def test_a_frozen_encoder_is_computed_once(corpus: Path, tmp_path: Path):
    """All but the head is frozen: nothing but vectors is needed, and nothing but the head has changed."""
    freeze = 'optimizer.freeze=["audio_encoder", "projector", "text_encoder"]'
    before = recipe(tmp_path, "concat", "training.epochs=1", *QUIET)
    train(TrainConfig(before, str(corpus), str(tmp_path / "before")))
    settings = (
        "start.init=pretrained",
        f"start.checkpoint={tmp_path / 'before' / 'best'}",
        "training.epochs=1",
        "start.head=kept",
        *QUIET,
        freeze,
    )
    train(TrainConfig(recipe(tmp_path, "concat", *settings), str(corpus), str(tmp_path / "head")))
    train(
        TrainConfig(
            recipe(tmp_path, "concat", *settings, "augment.noise=1e-9"), str(corpus), str(tmp_path / "each-time")
        )
    )
    np.testing.assert_allclose(losses(tmp_path / "head"), losses(tmp_path / "each-time"), atol=1e-5)
    from safetensors.numpy import load_file

    old, new = (load_file(tmp_path / name / "best-published" / "model.safetensors") for name in ("before", "head"))
    changed = {name.split(".")[0] for name in old if not np.array_equal(old[name], new[name])}
    assert changed == {"classifier"}


@pytest.mark.slow
def test_parts_of_a_batch_make_the_same_step(corpus: Path, tmp_path: Path):
    for parts in (1, 4):
        settings = recipe(tmp_path, "audio", f"training.accumulation={parts}", "loss.class_weights=balanced", *QUIET)
        train(TrainConfig(settings, str(corpus), str(tmp_path / str(parts))))
    one, four = losses(tmp_path / "1"), losses(tmp_path / "4")
    assert abs(one[0] - four[0]) < 1e-5
    np.testing.assert_allclose(one, four, atol=1e-4)


@pytest.mark.slow
def test_sigterm_saves_and_the_run_goes_on(corpus: Path, tmp_path: Path):
    """In mode audio with all that is random on: the interrupted run ends with the same bits."""
    noisy = (
        "training.epochs=6",
        "augment.speed=0.1",
        "augment.noise=0.5",
        "training.ema=0.9",
        "training.save_every=100",
    )
    path = write_recipe(tmp_path, "audio")
    command = ["train", str(path), "--manifest", str(corpus), *(word for each in noisy for word in ("--set", each))]
    assert main([*command, "--output", str(tmp_path / "whole")]) == 0

    ended = threading.Event()

    def terminate() -> None:
        while not (tmp_path / "broken" / "tokenizer").exists() and not list((tmp_path / "broken").glob("states/*")):
            if ended.wait(0.01):
                return
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)  # where it comes before the loop has begun
    thread = threading.Thread(target=terminate)
    thread.start()
    try:
        code = main([*command, "--output", str(tmp_path / "broken")])
    finally:
        ended.set()
        thread.join()
        signal.signal(signal.SIGTERM, before)
    assert code == 143
    assert not (tmp_path / "broken" / "metrics.json").exists()
    assert main([*command, "--output", str(tmp_path / "broken")]) == 0
    assert outcome(tmp_path / "broken") == outcome(tmp_path / "whole")


@pytest.mark.process
def test_killed_from_outside_it_ends_with_the_same_bits(corpus: Path, tmp_path: Path):
    arguments = ("train", str(write_recipe(tmp_path, "text")), f"--manifest={corpus}", "--set=training.epochs=8")
    runs = Runs(arguments, tmp_path)
    span = seconds_of_training(runs, tmp_path / "whole")
    assert interrupted(runs, tmp_path / "killed", random.Random(1), span, one=False)
    assert outcome(tmp_path / "killed") == outcome(tmp_path / "whole")


@pytest.mark.process
def test_two_hosts_learn_what_one_learns(corpus: Path, tmp_path: Path):
    """Two processes of two devices, parameters divided over all four; ended by SIGTERM to one, and started again."""
    length = ("training.epochs=20", "training.save_every=10", "training.validate_every=30")
    settings = [f"--set={each}" for each in (*QUIET, *length)]
    arguments = ("train", str(write_recipe(tmp_path, "audio")), f"--manifest={corpus}", *settings)
    seconds_of_training(Runs(arguments, tmp_path), tmp_path / "one")
    runs = Runs((*arguments, "--set=training.fsdp=4"), tmp_path, hosts=2, devices=2)
    processes = runs.start(tmp_path / "two")
    try:
        while not list((tmp_path / "two").glob("states/10")) and processes[0].poll() is None:
            time.sleep(0.05)
        processes[1].send_signal(signal.SIGTERM)
        codes = [process.wait(200) for process in processes]
    finally:
        kill(processes)
    assert codes == [143, 143]
    runs.finish(tmp_path / "two")
    one, two = losses(tmp_path / "one"), losses(tmp_path / "two")
    assert abs(one[0] - two[0]) < 1e-5
    np.testing.assert_allclose(one[:10], two[:10], atol=1e-4)


DEVICES = """
import sys
from pathlib import Path
import jax, numpy as np
from jax.sharding import Mesh
from speech_emotion_jax.training import run as verb
from speech_emotion_jax.runtime import sharding
from tests.support.training_data import QUIET, recipe

folder, corpus = Path(sys.argv[1]), sys.argv[2]
for devices, fsdp in ((1, 1), (2, 2), (4, 1), (8, 4)):
    mesh = Mesh(np.array(jax.devices()[:devices]).reshape(-1, fsdp), sharding.BATCH)
    verb.training_mesh = lambda fsdp: mesh
    job = verb.TrainConfig(recipe(folder, "concat", *QUIET, "training.epochs=4"), corpus, str(folder / str(devices)))
    verb.train(job)
"""


@pytest.mark.process
def test_the_number_of_devices_changes_no_loss(corpus: Path, tmp_path: Path):
    environment = os.environ | {
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(Path(__file__).parent.parent),
    }
    subprocess.run([sys.executable, "-c", DEVICES, str(tmp_path), str(corpus)], check=True, env=environment)
    curves = {devices: losses(tmp_path / str(devices)) for devices in (1, 2, 4, 8)}
    for devices in (2, 4, 8):
        assert abs(curves[devices][0] - curves[1][0]) < 1e-5
        assert abs(curves[devices][9] - curves[1][9]) < 1e-4


@pytest.mark.slow
def test_a_loss_that_diverges_names_its_clips(corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    command = [
        "train",
        str(write_recipe(tmp_path, "audio")),
        "--manifest",
        str(corpus),
        "--output",
        str(tmp_path / "out"),
    ]
    assert main([*command, "--set", "optimizer.learning_rate=1e6", "--set", "optimizer.clip_norm=none"]) == 2
    message = capsys.readouterr().err
    assert "training diverges at step" in message
    assert ".wav" in message
    assert "lower optimizer.learning_rate" in message
    kept = [int(path.name) for path in (tmp_path / "out" / "states").glob("*")]
    assert all(f"after step {step} is kept" in message for step in kept[-1:])


@pytest.mark.slow
def test_a_full_disk_leaves_the_last_good_state(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    asked = []

    def no_room_the_second_time(folder: Path, size: int) -> None:
        asked.append(size)
        if len(asked) == 2:
            raise OSError(28, "No space left on device", str(folder))

    path = write_recipe(tmp_path, "text")
    command = ["train", str(path), "--manifest", str(corpus)]
    assert main([*command, "--output", str(tmp_path / "whole")]) == 0
    with monkeypatch.context() as patched:
        patched.setattr(saving, "check_disk_space", no_room_the_second_time)
        assert main([*command, "--output", str(tmp_path / "full")]) == 2
    assert "No space left" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "full" / "states").glob("*")] == ["2"]
    assert main([*command, "--output", str(tmp_path / "full")]) == 0
    assert outcome(tmp_path / "full") == outcome(tmp_path / "whole")


@pytest.mark.slow
def test_a_clip_that_cannot_be_read_is_left_out(tmp_path: Path, caplog: pytest.LogCaptureFixture):
    corpus = write_corpus(tmp_path / "corpus")
    (corpus.parent / "3.wav").write_bytes(b"no sound")
    train(TrainConfig(recipe(tmp_path, "audio", "training.epochs=1"), str(corpus), str(tmp_path / "out")))
    assert [record for record in caplog.records if "left out" in record.message and "3.wav" in record.message]
    assert all(np.isfinite(losses(tmp_path / "out")))


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (("training.fsdp=3",), "does not divide"),
        (("data.group_by=nobody",), "no column 'nobody'"),
        (("data.train=training",), "no labelled rows of the split 'training'"),
        (('optimizer.freeze=["audio_decoder"]',), "nearest is"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(
    corpus: Path, tmp_path: Path, overrides: tuple[str, ...], sentence: str
):
    with pytest.raises(InvalidInput, match=sentence):
        train(TrainConfig(recipe(tmp_path, "audio", *overrides), str(corpus), str(tmp_path / "out")))


def test_a_bucket_is_no_place_to_train(corpus: Path, tmp_path: Path):
    job = TrainConfig(recipe(tmp_path, "text"), str(corpus), "memory://out")
    with pytest.raises(InvalidInput, match="is on a bucket"):
        train(job)
    assert replace(job, output="x").root == str(corpus.parent)
