"""The curve of a run: what is added is what is read, whole or not there, and a resumed run has that of a whole one."""

import io
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib.image
import numpy as np
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.errors import UnreadableInput
from speech_emotion_jax.runtime.compat import tensorboard_protocol
from speech_emotion_jax.runtime.plots import curves
from speech_emotion_jax.runtime.storage import Folder
from speech_emotion_jax.training.history import CURVES, HISTORY, SCHEMA, TENSORBOARD, History

from .support.examples import examples

PROTOCOL = tensorboard_protocol()
EVERY = 4  # steps between validations


def learn(history: History, first: int, last: int, seconds: float = 0.5) -> None:
    """Add steps, with figures that belong to each, and validate every fourth."""
    for step in range(first, last + 1):
        history.add(
            step=step,
            epoch=step / 10,
            loss=2.0 / step,
            accuracy=1 - 1 / step,
            gradient_norm=float(step),
            learning_rate=1e-5 * step,
            clips=32,
            audio_seconds=100.0 + step,
            seconds=seconds,
        )
        if step % EVERY == 0:
            history.validated(step, {"loss": 3.0 / step, "accuracy": 0.5, "uar": 0.4, "macro_f1": step / (step + 1)})


def events(folder: Path) -> list[Any]:
    """All events of the whole folder, in the order in which TensorBoard reads them; checksums are checked."""
    found = []
    for path in sorted(folder.iterdir()):
        assert "tfevents" in path.name
        content = path.read_bytes()
        while content:
            (size,) = struct.unpack_from("<Q", content)
            body = content[12 : 12 + size]
            assert struct.unpack_from("<I", content, 8) == (PROTOCOL.checksum(content[:8]),)
            assert struct.unpack_from("<I", content, 12 + size) == (PROTOCOL.checksum(body),)
            found.append(PROTOCOL.Event.FromString(body))
            content = content[16 + size :]
    return found


def seen(folder: Path) -> dict[str, dict[int, float]]:
    """{tag: {step: value}} as TensorBoard shows them: a start purges what was there of its step and later ones."""
    shown: dict[str, dict[int, float]] = {}
    for event in events(folder):
        if event.session_log.status == PROTOCOL.SessionLog.START:
            for points in shown.values():
                for step in [step for step in points if step >= event.step]:
                    del points[step]
        for value in event.summary.value:
            points = shown.setdefault(value.tag, {})
            assert event.step not in points, f"{value.tag} has step {event.step} twice"
            points[event.step] = value.simple_value
    return shown


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Folder]:
    if request.param == "disk":
        made = Folder.open(tmp_path)
        yield made
    else:
        made = Folder.open(f"memory://bucket-{uuid.uuid4()}/run")
        made.make()
        yield made
        made.files.rm(made.root.rpartition("/")[0], recursive=True)


def read(folder: Folder) -> list[dict[str, Any]]:
    return pq.read_table(io.BytesIO(folder.read(HISTORY))).to_pylist()


def test_what_is_added_is_written(folder: Folder):
    history = History.resume(folder, 0)
    learn(history, 1, 9)
    history.write()
    rows = read(folder)
    assert [row["step"] for row in rows] == list(range(1, 10))
    assert list(rows[0]) == SCHEMA.names
    assert rows[4] == {
        "step": 5, "epoch": 0.5, "loss": 0.4, "accuracy": 0.8, "gradient_norm": 5.0, "learning_rate": 5e-5,
        "clips": 32, "audio_seconds": 105.0, "seconds": 0.5,
        "valid_loss": None, "valid_accuracy": None, "valid_uar": None, "valid_macro_f1": None,
    }  # fmt: skip
    assert [row["step"] for row in rows if row["valid_macro_f1"] is not None] == [4, 8]
    assert rows[7]["valid_loss"] == 3 / 8
    assert rows[7]["valid_macro_f1"] == 8 / 9
    assert matplotlib.image.imread(io.BytesIO(folder.read(CURVES))).shape[2] == 4


def test_nothing_is_written_without_a_step(folder: Folder):
    History.resume(folder, 0).write()
    assert folder.names() == ([TENSORBOARD] if folder.on_disk else [])


def test_only_the_last_step_is_validated(tmp_path: Path):
    history = History(Folder.open(tmp_path))
    found = {"loss": 1.0, "accuracy": 0.5, "uar": 0.5, "macro_f1": 0.5}
    with pytest.raises(ValueError, match="step 1 is validated"):
        history.validated(1, found)
    learn(history, 1, 3)
    with pytest.raises(ValueError, match="step 2 is validated"):
        history.validated(2, found)


@settings(max_examples=examples(15))
@given(data=st.data())
def test_a_killed_run_has_the_curve_of_a_whole_one(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory):
    """States are saved every 3 steps, the history is written then; the run is killed anywhere, several times."""
    last, saved_every = 14, 3
    whole = History(Folder.open(tmp_path_factory.mktemp("whole")))
    learn(whole, 1, last)
    folder = Folder.open(tmp_path_factory.mktemp("killed"))
    saved = 0
    for kill in data.draw(st.lists(st.integers(0, last), max_size=3)):
        history = History.resume(folder, saved)
        begun = saved
        for step in range(begun + 1, kill + 1):
            learn(history, step, step, seconds=9.0)
            if step % saved_every == 0:
                history.write()
                if data.draw(st.booleans()):  # else it is killed before the state is whole
                    saved = step
    history = History.resume(folder, saved)
    learn(history, saved + 1, last)
    history.write()
    assert history.table().drop_columns("seconds").equals(whole.table().drop_columns("seconds"))
    assert read(folder) == history.table().to_pylist()
    shown = seen(Path(folder.root, TENSORBOARD))
    # Where a run was killed, TensorBoard lacks at most what was added since it was last shown.
    assert shown["train/loss"].keys() <= set(range(1, last + 1))
    assert set(range(saved + 1, last + 1)) <= shown["train/loss"].keys()


def test_tensorboard_sees_what_the_history_has(tmp_path: Path):
    folder = Folder.open(tmp_path)
    first = History.resume(folder, 0)
    learn(first, 1, 10)
    first.write()
    again = History.resume(folder, 6)
    learn(again, 7, 12)
    again.write()
    shown = seen(tmp_path / TENSORBOARD)
    assert set(shown) == {
        "epoch", "train/loss", "train/accuracy", "train/gradient_norm", "train/learning_rate", "train/clips",
        "train/audio_seconds", "train/seconds", "valid/loss", "valid/accuracy", "valid/uar", "valid/macro_f1",
    }  # fmt: skip
    table = again.table()
    assert shown["train/loss"] == pytest.approx(dict(zip(range(1, 13), table["loss"].to_pylist(), strict=True)))
    assert shown["valid/macro_f1"] == pytest.approx({4: 4 / 5, 8: 8 / 9, 12: 12 / 13})
    assert len(list((tmp_path / TENSORBOARD).iterdir())) == 2


def test_tensorboard_sees_steps_before_anything_is_saved(tmp_path: Path):
    learn(History.resume(Folder.open(tmp_path), 0), 1, 2)
    assert 1 in seen(tmp_path / TENSORBOARD)["train/loss"]


def test_a_bucket_has_no_events():
    folder = Folder.open(f"memory://bucket-{uuid.uuid4()}/run")
    folder.make()
    history = History.resume(folder, 0)
    learn(history, 1, 4)
    history.write()
    assert folder.names() == [CURVES, HISTORY]


def test_a_broken_history_is_named(tmp_path: Path):
    (tmp_path / HISTORY).write_bytes(b"PAR1 no more")
    with pytest.raises(UnreadableInput, match=r"history\.parquet can't be read .* remove it"):
        History.resume(Folder.open(tmp_path), 3)


def test_a_step_takes_next_to_no_time(tmp_path: Path):
    history = History.resume(Folder.open(tmp_path), 0)
    learn(history, 1, 1)
    begun = time.process_time()  # which a busy machine does not change
    learn(history, 2, 2000)
    assert (time.process_time() - begun) / 2000 < 1e-3


@pytest.mark.parametrize(("count", "validations"), [(1, 0), (1, 1), (10, 2), (1001, 60), (30_000, 7)])
def test_curves_of_any_length_are_small_pictures(count: int, validations: int):
    steps = np.arange(1, count + 1)
    validated = np.linspace(0, count, validations + 1).astype(int)[1:]
    quality = np.linspace(0.2, 0.7, validations)
    drawn = curves(steps, 1 / steps, validated, 2 / validated, {"macro-F1": quality, "UAR": quality})
    height, width, _ = matplotlib.image.imread(io.BytesIO(drawn)).shape
    assert width == 1056
    assert (height > 900) == (validations > 0)
    assert len(drawn) < 300_000


def test_curves_stand_a_validation_that_is_no_number():
    found = np.array([np.nan, 0.5])
    assert curves(np.arange(1, 5), np.ones(4), np.array([2, 4]), found, {"macro-F1": found, "UAR": found})
    nothing = np.array([np.nan])
    assert curves(np.arange(1, 5), np.ones(4), np.array([2]), nothing, {"macro-F1": nothing, "UAR": nothing})


def test_curves_differ_where_runs_do():
    one = np.array([0.5])
    at = np.array([4])
    first = curves(np.arange(1, 5), np.ones(4), at, one, {"macro-F1": one, "UAR": one})
    again = curves(np.arange(1, 5), np.ones(4), at, one, {"macro-F1": one, "UAR": one})
    other = curves(np.arange(1, 5), np.ones(4), at, one, {"macro-F1": one, "UAR": 0.9 * one})
    assert first == again
    assert first != other
