"""Checkpoints that torch's DataParallel or compile has wrapped, and the length of messages about tensors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file, save_file

from speech_emotion_jax.convert import compatible_modes
from speech_emotion_jax.convert.emotion import open_emotion
from speech_emotion_jax.convert.engine import convert, write_safetensors
from speech_emotion_jax.convert.published import Origin
from speech_emotion_jax.convert.rules import WRAPPERS, TensorInfo, tensors_error, wrapper_prefix

DEMO = Path(__file__).parent.parent / "speech_emotion_jax" / "demo_data" / "checkpoint"


def wrapped(home: Path, prefix: str) -> Path:
    folder = shutil.copytree(DEMO, home / "wrapped")
    for path in (folder / "model.safetensors", folder / "text_encoder" / "model.safetensors"):
        save_file({prefix + name: each for name, each in load_file(path).items()}, path, {"format": "pt"})
    return folder


@pytest.mark.parametrize("prefix", [*WRAPPERS, "module._orig_mod."])
def test_a_wrapped_checkpoint_is_the_same_model(prefix: str, tmp_path: Path):
    folder = wrapped(tmp_path, prefix)
    opened, plain = (
        open_emotion(Origin.local(each), "concat", "es", text_encoder=Origin.local(each / "text_encoder"))
        for each in (folder, DEMO)
    )
    assert opened.config == plain.config
    assert "concat" in compatible_modes(opened.parts["model"].source.tensors)
    ours = dict(opened.parameters())
    for path, array in plain.parameters():
        np.testing.assert_array_equal(ours[path], array)


@pytest.mark.slow
def test_it_goes_back_under_its_names(tmp_path: Path):
    folder = wrapped(tmp_path, "module.")
    opened = open_emotion(Origin.local(folder), "concat", "es", text_encoder=Origin.local(folder / "text_encoder"))
    convert(opened, tmp_path / "converted")
    write_safetensors(tmp_path / "converted", tmp_path / "back")
    before, after = (load_file(each / "model.safetensors") for each in (folder, tmp_path / "back"))
    assert before.keys() == after.keys()
    for name, array in before.items():
        np.testing.assert_array_equal(after[name], array)


def test_a_prefix_of_some_is_no_wrapper():
    assert wrapper_prefix(["module.a", "b"]) == ""
    assert wrapper_prefix([]) == ""
    assert compatible_modes({"module.roberta.a": TensorInfo("F32", (1,)), "b": TensorInfo("F32", (1,))}) != ("text",)


@given(count=st.integers(1, 10_000))
def test_messages_about_tensors_have_a_bounded_length(count: int):
    message = str(tensors_error("folder", [f"model.layers.{number} is missing" for number in range(count)]))
    assert len(message) < 500
    assert message.endswith("missing" if count <= 10 else f"; and {count - 10:,} more")
