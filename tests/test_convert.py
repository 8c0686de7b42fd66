"""Published folders to converted ones and back: bit for bit, and all or nothing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from jax.sharding import SingleDeviceSharding
from safetensors.torch import load_file, save_file

from speech_emotion_jax.checkpoints import Request, load_checkpoint
from speech_emotion_jax.config import EmotionConfig
from speech_emotion_jax.convert.engine import convert, write_safetensors
from speech_emotion_jax.convert.published import MODEL, TOKENIZER_FILES
from speech_emotion_jax.convert.record import is_converted, read_record
from speech_emotion_jax.errors import UnreadableInput
from speech_emotion_jax.models.parameters import parameters_of
from speech_emotion_jax.parity.original import TorchOriginal
from speech_emotion_jax.registry import FUSION_MODES, LABELS, LANGUAGES, MODES
from speech_emotion_jax.runtime.orbax_arrays import load_parameters, save_parameters

from .support.checkpoints import write_audio_checkpoint, write_bert
from .support.folders import (
    WEIGHTS,
    Folders,
    Tensors,
    assert_same,
    copied,
    opened,
    pickled,
    predict,
    refusal,
    rewrite,
    rewrite_json,
    round_trip,
)
from .support.marks import rest_slow

# The same few programs run for many checkpoints.


# There and back


@pytest.mark.parametrize("language", rest_slow(LANGUAGES))
@pytest.mark.parametrize("mode", MODES)
def test_round_trip(published: Folders, tmp_path: Path, mode: str, language: str) -> None:
    model = published(mode, language)
    text = published("text_encoder", language) if mode in FUSION_MODES else None
    converted, exported = round_trip(model, mode, text, tmp_path, language)

    for source, place in ((model, exported), (text, exported / "text_encoder")):
        if source is not None:
            kept = {WEIGHTS, "config.json", "preprocessor_config.json", *TOKENIZER_FILES}
            expected = {path.name for path in source.iterdir()} & kept
            assert {path.name for path in place.iterdir() if path.is_file()} == expected
            for name in expected:
                assert_same(source / name, place / name)
    assert (exported / "text_encoder").exists() == (text is not None)
    TorchOriginal(exported, mode, None if text is None else exported / "text_encoder")  # strict

    scores = predict(model, mode=mode, language=language, text_encoder=text)
    assert tuple(scores) == LABELS[language]
    assert predict(converted) == scores
    assert predict(exported, mode=mode, language=language) == scores  # knows its text encoder


@pytest.mark.slow
def test_bfloat16_is_rounded_alike_from_both_forms(published: Folders, tmp_path: Path) -> None:
    model = published("audio", "es")
    convert(opened(model, "audio"), tmp_path / "converted")
    published_form, converted_form = (
        load_checkpoint(request, jax.devices()[0], "bfloat16").model
        for request in (Request(str(model), "audio", "es"), Request(str(tmp_path / "converted")))
    )
    ours = parameters_of(converted_form)
    assert "bfloat16" in {str(array.dtype) for array in ours.values()}
    for path, array in parameters_of(published_form).items():
        assert array.dtype == ours[path].dtype
        assert np.asarray(array).tobytes() == np.asarray(ours[path]).tobytes()


def make_mixed(tensors: Tensors) -> None:
    """The layers of a stack in three dtypes, with values that only a conversion by way of a wider one keeps."""
    for index, (name, tensor) in enumerate(tensors.items()):
        tensors[name] = tensor.to((torch.float32, torch.float16, torch.bfloat16)[index % 3])
    tensors["classifier.dense.weight"][0, :3] = torch.tensor([-0.0, 2.0**-24, 1.0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    stored = "float32" if dtype == "mixed" else dtype
    model = write_audio_checkpoint(tmp_path / "model", "concat", "es", dtype=stored)
    text = write_bert(tmp_path / "text", "es", dtype=stored, extra_heads=True)
    if dtype == "mixed":
        rewrite(model, make_mixed)
    converted, exported = round_trip(model, "concat", text, tmp_path)
    assert_same(model / WEIGHTS, exported / WEIGHTS)
    assert_same(text / WEIGHTS, exported / "text_encoder" / WEIGHTS)
    if dtype != "mixed":  # not widened in the Orbax folder either
        arrays = (json.loads(path.read_text()) for path in (converted / "weights").rglob("zarr.json"))
        assert {array["data_type"] for array in arrays} == {dtype}


@pytest.mark.parametrize("shards", [2, 3])
def test_shards(published: Folders, tmp_path: Path, shards: int) -> None:
    sharded = write_audio_checkpoint(tmp_path / "sharded", "audio", "es", seed=5, shards=shards)
    converted, exported = round_trip(sharded, "audio", None, tmp_path)
    assert_same(published("audio", "es") / WEIGHTS, exported / WEIGHTS)
    assert len(read_record(converted).parts[MODEL].sha256) == shards


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
@pytest.mark.parametrize("name", ["model.bin", "pytorch_model.bin"])
def test_torch_pickles(published: Folders, tmp_path: Path, name: str, archive: bool) -> None:
    model = copied(published("concat", "es"), tmp_path / "model")
    rewrite(model, make_mixed)
    expected = load_file(model / WEIGHTS)
    pickled(model, name, archive=archive)
    text = write_bert(tmp_path / "text", "es", extra_heads=True)
    shutil.copy(text / WEIGHTS, tmp_path / "text.safetensors")
    pickled(text, "pytorch_model.bin", archive=archive)
    _, exported = round_trip(model, "concat", text, tmp_path)
    save_file(expected, tmp_path / WEIGHTS, {"format": "pt"})
    assert_same(tmp_path / WEIGHTS, exported / WEIGHTS)
    assert_same(tmp_path / "text.safetensors", exported / "text_encoder" / WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "form",
    [
        {"prefix": "bert."},
        {"old_names": True},
        {"extra_heads": True},
        {"prefix": "bert.", "old_names": True, "extra_heads": True},
    ],
    ids=lambda form: " ".join(form),
)
def test_forms_of_bert(published: Folders, tmp_path: Path, form: dict[str, Any]) -> None:
    """The same encoder under other names: the same parameters, and every tensor back as it came."""
    text = write_bert(tmp_path / "text", "es", seed=4, **form)
    _, exported = round_trip(published("mean", "es"), "mean", text, tmp_path)
    assert_same(text / WEIGHTS, exported / "text_encoder" / WEIGHTS)
    plain = dict(opened(published("mean", "es"), "mean", "es", published("text_encoder", "es")).parameters())
    if not form.get("extra_heads"):  # which change what the seed gives
        for path, array in opened(published("mean", "es"), "mean", "es", text).parameters():
            np.testing.assert_array_equal(array, plain[path])
    if form.get("extra_heads"):
        back = load_file(exported / "text_encoder" / WEIGHTS)
        assert back[f"{form.get('prefix', '')}embeddings.position_ids"].dtype == torch.int64
        assert "cls.predictions.bias" in back


def test_unused_tensors_of_any_dtype(published: Folders, tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        for dtype in ("float64", "float16", "int32", "uint8", "bool"):
            tensors[f"cls.{dtype}"] = torch.ones(2, 3).to(getattr(torch, dtype))
        tensors |= {"cls.scalar": torch.tensor(7), "cls.empty": torch.ones(0, 4)}

    text = copied(published("text_encoder", "es"), tmp_path / "text")
    rewrite(text, add)
    _, exported = round_trip(published("mean", "es"), "mean", text, tmp_path)
    assert_same(text / WEIGHTS, exported / "text_encoder" / WEIGHTS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "overrides",
    [
        {"use_weighted_layer_sum": True},
        {"add_adapter": True, "num_adapter_layers": 2},
        {"add_adapter": True, "output_hidden_size": 48, "use_intermediate_ffn_before_adapter": True},
        {"mask_time_prob": 0.0, "mask_feature_prob": 0.0},  # no masked_spec_embed then
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_variants_of_the_audio_encoder(tmp_path: Path, overrides: dict[str, Any]) -> None:
    model = write_audio_checkpoint(tmp_path / "model", "audio", "en", config_overrides=overrides)
    _, exported = round_trip(model, "audio", None, tmp_path, "en")
    assert_same(model / WEIGHTS, exported / WEIGHTS)
    TorchOriginal(exported, "audio")


def test_the_vector_for_masked_frames_is_a_parameter(published: Folders, tmp_path: Path) -> None:
    """Training goes on with it; a file without it is as good."""
    path, name = "audio_encoder.masked_spec_embed", "wav2vec2_bert.masked_spec_embed"
    model = copied(published("audio", "es"), tmp_path / "model")
    source = opened(model, "audio")
    assert isinstance(source.config, EmotionConfig)
    assert source.config.audio is not None
    assert source.config.audio.mask_embedding
    np.testing.assert_array_equal(dict(source.parameters())[path], load_file(model / WEIGHTS)[name])
    rewrite(model, lambda tensors: tensors.pop(name))
    _, exported = round_trip(model, "audio", None, tmp_path)
    assert_same(model / WEIGHTS, exported / WEIGHTS)
    config = read_record(tmp_path / "converted").config
    assert isinstance(config, EmotionConfig)
    assert config.audio is not None
    assert not config.audio.mask_embedding


def test_a_folder_of_before_that_vector_is_refused(published: Folders, tmp_path: Path) -> None:
    convert(opened(published("audio", "es"), "audio"), tmp_path / "converted")
    rewrite_json(tmp_path / "converted" / "record.json", schema=1)
    message = refusal(lambda: load_checkpoint(Request(str(tmp_path / "converted")), jax.devices()[0], "float32"))
    assert "schema 1" in message
    assert "convert the source again" in message


def test_an_array_that_was_never_written_does_not_load(tmp_path: Path) -> None:
    save_parameters(tmp_path, {"a.b": np.ones(2, np.float32), "a.c": np.ones(2, np.float32)})
    wanted = {
        name: jax.ShapeDtypeStruct((2,), np.float32, sharding=SingleDeviceSharding(jax.devices()[0]))
        for name in ("a.b", "a.d")
    }
    assert load_parameters(tmp_path, {"a.b": wanted["a.b"]}).keys() == {"a.b"}  # some of all may be asked for
    assert "has no a.d" in refusal(lambda: load_parameters(tmp_path, wanted), UnreadableInput)


def test_relative_paths(published: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Orbax takes no path that starts with "..": neither to write, nor to read."""
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    convert(opened(published("audio", "es"), "audio"), Path("../converted"))
    load_checkpoint(Request("../converted"), jax.devices()[0], "float32")
    write_safetensors(Path("../converted"), Path("../exported"))
    assert_same(published("audio", "es") / WEIGHTS, tmp_path / "exported" / WEIGHTS)
    assert (tmp_path / "exported" / WEIGHTS).stat().st_mode & 0o044  # for others to read, where the umask lets them


# All or nothing


@pytest.mark.parametrize("there", ["a file", "an empty folder", "a folder", "a broken link"])
def test_a_destination_that_exists_is_left_alone(published: Folders, tmp_path: Path, there: str) -> None:
    converted, exported, destination = tmp_path / "converted", tmp_path / "exported", tmp_path / "there"
    source = opened(published("audio", "es"), "audio")
    convert(source, converted)
    match there:
        case "a file":
            destination.write_text("mine")
        case "a broken link":
            destination.symlink_to("nowhere")
        case _:
            destination.mkdir()
    if there == "a folder":
        (destination / "mine").write_text("mine")
    before = destination.lstat()
    for act in (lambda: convert(source, destination), lambda: write_safetensors(converted, destination)):
        assert f"{destination} exists already" in refusal(act)
    assert destination.lstat() == before
    assert sorted(tmp_path.iterdir()) == [converted, destination]
    assert not exported.exists()


def test_a_destination_that_can_not_be_made(published: Folders, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    source = opened(published("audio", "es"), "audio")
    message = refusal(lambda: convert(source, tmp_path / "file" / "converted"), UnreadableInput)
    assert str(tmp_path / "file" / "converted") in message


@pytest.mark.parametrize("damage", ["an array is cut off", "an array is gone", "no weights", "no tokenizer"])
def test_a_converted_folder_that_is_not_whole_does_not_load(published: Folders, tmp_path: Path, damage: str) -> None:
    """A copy that broke off, say."""
    folder = tmp_path / "converted"
    convert(opened(published("text", "es"), "text"), folder)
    chunk = folder / "weights/state/classifier.dense.kernel/c/0/0"
    match damage:
        case "an array is cut off":
            os.truncate(chunk, chunk.stat().st_size - 1)
        case "an array is gone":
            chunk.unlink()
        case "no weights":
            shutil.rmtree(folder / "weights")
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
    named = {"no weights": " more)", "no tokenizer": "(tokenizer.json)"}.get(damage, "classifier.dense.kernel/c/0/0)")
    for act in (
        lambda: load_checkpoint(Request(str(folder)), jax.devices()[0], "float32"),
        lambda: write_safetensors(folder, tmp_path / "exported"),
    ):
        message = refusal(act, UnreadableInput)
        assert f"{folder} is not whole" in message
        assert named in message
    assert list(tmp_path.iterdir()) == [folder]


# Converts in one child process after the other, each killed at the first event of sys.addaudithook that fits a
# pattern.
KILLED = """
import os, re, signal, sys
from pathlib import Path
from speech_emotion_jax.convert.engine import convert
from speech_emotion_jax.convert.emotion import open_emotion
from speech_emotion_jax.convert.published import Origin

model, *points = sys.argv[1:]
for index, point in enumerate(points):
    if os.fork() == 0:
        def watch(event, details):
            if re.match(point, f"{event} {details[0] if details else None}"):
                os.kill(os.getpid(), signal.SIGKILL)

        published = open_emotion(Origin.local(Path(model)), "audio", "es")
        sys.addaudithook(watch)
        convert(published, Path(str(index), "converted"))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
POINTS = {
    "the folder is made": r"(os.mkdir|open) .*unfinished-\w+/",  # the first event within it
    "the first array is written": r"os.mkdir .*/weights.orbax-checkpoint-tmp/state$",
    "the weights are nearly whole": r"open .*/commit_success.txt",
    "the weights are whole": r"shutil.copyfile .*/config.json",
    "before the record": r"open .*/record.json",
    "before the end": r"os.rename .*unfinished-\w+$",
    "afterwards": r"no such event",
}


@pytest.mark.process
def test_a_killed_conversion_leaves_nothing_that_loads(published: Folders, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(published("audio", "es")), *POINTS.values()]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [int(line) for line in result.stdout.split()] == [-signal.SIGKILL] * (len(POINTS) - 1) + [0], result.stderr
    left = {point: tmp_path / str(index) for index, point in enumerate(POINTS)}
    whole = left.pop("afterwards") / "converted"
    write_safetensors(whole, tmp_path / "exported")
    convert(opened(published("audio", "es"), "audio"), tmp_path / "0" / "converted")  # what is left is not in the way
    shutil.rmtree(tmp_path / "0" / "converted")
    for point, home in left.items():
        [unfinished] = home.iterdir()
        assert "unfinished" in unfinished.name
        assert is_converted(unfinished) == (point == "before the end")
        if is_converted(unfinished):  # all is there but the name
            write_safetensors(unfinished, tmp_path / "exported again")
            assert_same(tmp_path / "exported" / WEIGHTS, tmp_path / "exported again" / WEIGHTS)
        else:
            refusal(lambda folder=unfinished: read_record(folder), UnreadableInput)


def limited(script: str, *arguments: str, size: int = 20_000) -> subprocess.CompletedProcess[str]:
    """Run a script where no file can grow beyond `size` bytes: it stands for a full disk, see test_hub."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    command = [sys.executable, "-c", limit + script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)


@pytest.mark.process
def test_no_room(published: Folders, tmp_path: Path) -> None:
    model, converted, destination = published("audio", "es"), tmp_path / "converted", tmp_path / "destination"
    convert(opened(model, "audio"), converted)
    script = (
        "import sys; from speech_emotion_jax.cli.main import main; "
        "sys.exit({main(a.split()) for a in sys.argv[1:]} != {2})"
    )
    result = limited(
        script,
        f"convert {model} {destination} --mode audio --language es",
        f"convert {converted} {destination} --to safetensors",
    )
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    refusals = [line for line in result.stderr.splitlines() if line.startswith("speech-emotion-jax: ")]
    assert len(refusals) == 2
    for line in refusals:
        assert f"{destination} can't be written" in line
        assert "File too large" in line
    assert list(tmp_path.iterdir()) == [converted]


@pytest.mark.process
def test_no_room_for_what_orbax_writes(tmp_path: Path) -> None:
    """Where the room vanishes after it was asked for, the writers that are still at work leave nothing either."""
    script = """
import sys
from pathlib import Path
import numpy as np
from speech_emotion_jax.errors import UnreadableInput
from speech_emotion_jax.runtime.orbax_arrays import save_parameters
from speech_emotion_jax.runtime.atomic import atomic_folder
try:
    with atomic_folder(Path(sys.argv[1])) as folder:
        save_parameters(folder, {f"layers.{index}": np.ones((300, 300), np.float32) for index in range(30)})
except UnreadableInput as error:
    print(error)
"""
    result = limited(script, str(tmp_path / "destination"))
    assert "can't be written (File too large)" in result.stdout
    assert list(tmp_path.iterdir()) == []
