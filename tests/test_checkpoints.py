"""Checkpoints by what the user calls them: published folders, converted ones, and hub ids by way of the cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from speech_emotion_jax import close, predict_emotion
from speech_emotion_jax.checkpoints import Request, load_checkpoint, open_published, resolve_emotion
from speech_emotion_jax.convert.engine import convert, write_safetensors
from speech_emotion_jax.convert.published import MODEL, TEXT_ENCODER
from speech_emotion_jax.convert.record import Record, is_converted, read_record
from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.models.parameters import parameters_of
from speech_emotion_jax.registry import PUBLISHED, Registry
from speech_emotion_jax.runtime.cache_folder import cache_folder

from .support.loopback_hub import LoopbackHub, hub_environment, loopback_hub

AUDIO = PUBLISHED.model_id("es", "audio")
CONCAT = PUBLISHED.model_id("es", "concat")
MEAN = PUBLISHED.model_id("es", "mean")
BETO = PUBLISHED.text_encoder_id("es")
CLIP = {"array": np.random.default_rng(0).normal(size=4800).astype(np.float32), "sampling_rate": 16_000}

Folders = Callable[[str, str], Path]


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(published: Folders, tmp_path: Path, cache: Path) -> Iterator[LoopbackHub]:
    """A hub of published checkpoints; this process keeps what it converts in a cache of its own."""
    folders = {
        AUDIO: published("audio", "es"),
        CONCAT: published("concat", "es"),
        MEAN: published("mean", "es"),
        BETO: published("text_encoder", "es"),
    }
    with loopback_hub(folders, home=tmp_path / "home") as server:
        yield server


def refusal(request: Request, error: type[Exception] = InvalidInput) -> str:
    """The message with which a request is refused; one sentence."""
    with pytest.raises(error) as caught:
        resolve_emotion(request)
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def found(request: Request) -> Path:
    folder = resolve_emotion(request).source
    assert isinstance(folder, Path)
    assert is_converted(folder)
    return folder


def converted(model: Path, mode: str, destination: Path, text_encoder: Path | None = None) -> Path:
    convert(open_published(Request(str(model), mode, "es", text_encoder and str(text_encoder))), destination)
    return destination


def changed(folder: Path, destination: Path) -> Path:
    """A copy with another bias, so another commit and another checkpoint."""
    shutil.copytree(folder, destination)
    tensors = load_file(destination / "model.safetensors")
    name = min(name for name in tensors if name.endswith(".bias"))
    save_file(tensors | {name: tensors[name] + 1}, destination / "model.safetensors", {"format": "pt"})
    return destination


# Folders


@pytest.mark.parametrize("model_id", ["no/such/folder", "./nowhere", "/nowhere"])
def test_a_path_that_does_not_exist(model_id: str) -> None:
    assert f"{model_id} does not exist" in refusal(Request(model_id, "audio", "es"), UnreadableInput)


def test_a_file_in_place_of_a_folder(published: Folders) -> None:
    file = published("audio", "es") / "model.safetensors"
    assert f"{file} is a file" in refusal(Request(str(file), "audio", "es"), UnreadableInput)


@pytest.mark.parametrize(("mode", "language"), [(None, "es"), ("audio", None), (None, None)])
@pytest.mark.parametrize("by", ["folder", "hub id"])
def test_what_is_not_converted_needs_mode_and_language(
    published: Folders, hub: LoopbackHub, by: str, mode: str | None, language: str | None
) -> None:
    model_id = str(published("audio", "es")) if by == "folder" else AUDIO
    assert "mode and language are unknown; pass both" in refusal(Request(model_id, mode, language))
    assert hub.requests == []


@pytest.mark.parametrize("by", ["folder", "hub id"])
def test_mode_and_language_are_checked_before_a_download(published: Folders, hub: LoopbackHub, by: str) -> None:
    model_id = str(published("audio", "es")) if by == "folder" else AUDIO
    assert "'video'" in refusal(Request(model_id, "video", "es"))
    assert "'fr'" in refusal(Request(model_id, "audio", "fr"))
    assert hub.requests == []


def test_a_text_encoder_that_is_nowhere(published: Folders) -> None:
    request = Request(str(published("mean", "es")), "mean", "es", "./nowhere")
    assert "./nowhere" in refusal(request, UnreadableInput)


def test_the_text_encoder_in_the_folder_or_another(published: Folders, tmp_path: Path) -> None:
    """An exported folder has its own; one that is named comes first."""
    beto = published("text_encoder", "es")
    write_safetensors(converted(published("mean", "es"), "mean", tmp_path / "converted", beto), tmp_path / "exported")
    own = open_published(Request(str(tmp_path / "exported"), "mean", "es")).parts[TEXT_ENCODER].origin
    assert (own.folder, own.id) == (tmp_path / "exported" / "text_encoder", f"{tmp_path / 'exported'}/text_encoder")
    other = changed(beto, tmp_path / "other")
    named = open_published(Request(str(tmp_path / "exported"), "mean", "es", str(other))).parts[TEXT_ENCODER].origin
    assert named.folder == other


# Converted folders


def test_a_record_that_says_otherwise(published: Folders, tmp_path: Path) -> None:
    """Audio and mean have the same tensors: only the record tells them apart."""
    folder = str(converted(published("audio", "es"), "audio", tmp_path / "converted"))
    assert "of mode 'audio'; use --mode audio" in refusal(Request(folder, "mean"))
    assert "of language 'es'; use --language es" in refusal(Request(folder, "audio", "en"))
    assert "has the labels anger" in refusal(Request(folder, labels=("a", "b", "c", "d", "e", "f")))
    assert "the mode 'video' is unknown" in refusal(Request(folder, "video"))
    for request in (Request(folder), Request(folder, "AUDIO", "ES"), Request(folder, text_encoder="not/used")):
        assert resolve_emotion(request).source == Path(folder)


def test_a_converted_folder_keeps_its_text_encoder(published: Folders, tmp_path: Path) -> None:
    beto = published("text_encoder", "es")
    folder = str(converted(published("mean", "es"), "mean", tmp_path / "converted", beto))
    assert resolve_emotion(Request(folder, text_encoder=str(beto))).source == Path(folder)
    assert f"holds the text encoder {beto}" in refusal(Request(folder, text_encoder="someone/else"))


@pytest.mark.parametrize(
    "content",
    [b"", b"{}", b"[]", b"\xff", b"[" * 100_000, b'{"schema": 99}', b'{"schema": 1, "config": {}}'],
    ids=lambda content: content[:20].decode(errors="replace"),
)
def test_a_record_that_can_not_be_read(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "record.json").write_bytes(content)
    message = refusal(Request(str(tmp_path)))
    assert str(tmp_path / "record.json") in message
    assert "convert the source again" in message


def test_the_record_is_read_as_it_was_written(published: Folders, tmp_path: Path) -> None:
    folder = converted(published("concat", "es"), "concat", tmp_path / "converted", published("text_encoder", "es"))
    record = read_record(folder)
    assert Record.from_json(record.to_json()) == record
    for name, source in ((MODEL, published("concat", "es")), (TEXT_ENCODER, published("text_encoder", "es"))):
        part = record.parts[name]
        assert (part.id, part.revision) == (str(source), None)
        digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()
        assert part.sha256 == {"model.safetensors": digest}
        shapes = {name: list(tensor.shape) for name, tensor in load_file(source / "model.safetensors").items()}
        assert {name: list(shape) for name, (_, shape) in part.tensors.items()} == shapes


def test_a_converted_folder_moves_with_all_it_needs(published: Folders, tmp_path: Path) -> None:
    model, beto = (shutil.copytree(published(m, "es"), tmp_path / m) for m in ("concat", "text_encoder"))
    request = Request(str(model), "concat", "es", str(beto))
    before = load_checkpoint(request, jax.devices()[0], "float32")
    shutil.move(converted(model, "concat", tmp_path / "converted", beto), tmp_path / "moved")
    shutil.rmtree(model)
    shutil.rmtree(beto)
    after = load_checkpoint(Request(str(tmp_path / "moved")), jax.devices()[0], "float32")
    assert (after.config, after.language) == (before.config, "es")
    assert json.loads((after.folder / "preprocessor_config.json").read_text())["padding_value"] == 1.0
    assert after.text_folder == tmp_path / "moved" / "text_encoder"
    arrays = parameters_of(after.model)
    for path, array in parameters_of(before.model).items():
        np.testing.assert_array_equal(array, arrays[path])


# Hub ids


@pytest.mark.parametrize(("model_id", "mode"), [(AUDIO, "mean"), (MEAN, "audio"), (CONCAT, "text")])
def test_a_published_id_declares_its_mode(hub: LoopbackHub, model_id: str, mode: str) -> None:
    message = refusal(Request(model_id, mode, "es"))
    assert f"{model_id} is a checkpoint of mode" in message
    assert hub.files_sent() == []


@pytest.mark.parametrize(("model_id", "mode"), [(AUDIO, "audio"), (CONCAT, "concat")])
def test_downloaded_and_converted_once(hub: LoopbackHub, cache: Path, model_id: str, mode: str) -> None:
    request = Request(model_id, mode, "es")
    folder = found(request)
    assert cache in folder.parents
    sent, written = hub.files_sent(), (folder / "record.json").stat()
    assert sent.count("model.safetensors") == (1 if mode == "audio" else 2)
    hub.requests.clear()
    assert found(Request(model_id, mode.upper(), "ES")) == folder
    assert hub.files_sent() == []
    assert len(hub.requests) == (1 if mode == "audio" else 2)  # which commit is it now?
    assert (folder / "record.json").stat() == written
    assert len(list(cache.rglob("record.json"))) == 1


def test_the_record_tells_where_a_checkpoint_came_from(hub: LoopbackHub, published: Folders) -> None:
    record = read_record(found(Request(CONCAT, "concat", "es")))
    sources = {MODEL: (CONCAT, published("concat", "es")), TEXT_ENCODER: (BETO, published("text_encoder", "es"))}
    assert record.parts.keys() == sources.keys()
    for name, (model_id, folder) in sources.items():
        part = record.parts[name]
        assert (part.id, part.revision) == (model_id, hub.refs[model_id]["main"])
        digest = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
        assert part.sha256 == {"model.safetensors": digest}


def test_revisions_have_conversions_of_their_own(hub: LoopbackHub, published: Folders, tmp_path: Path) -> None:
    old = hub.refs[AUDIO]["main"]
    first = found(Request(AUDIO, "audio", "es"))
    new = hub.commit(AUDIO, changed(published("audio", "es"), tmp_path / "new"))
    hub.commit(AUDIO, published("audio", "es"), "v1")
    second = found(Request(AUDIO, "audio", "es"))
    assert [read_record(folder).parts[MODEL].revision for folder in (first, second)] == [old, new]
    sent = hub.files_sent()
    pinned = [Request(AUDIO, "audio", "es", revision=revision) for revision in (old, "v1", new, "main")]
    assert [found(request) for request in pinned] == [first, first, second, second]
    assert hub.files_sent() == sent
    shutil.rmtree(tmp_path / "home")
    hub.stop()
    assert [found(request) for request in pinned] == [first, first, second, second]
    assert "at revision v2 is not completely" in refusal(Request(AUDIO, "audio", "es", revision="v2"), UnreadableInput)


def test_a_new_commit_of_the_text_encoder(hub: LoopbackHub, published: Folders, tmp_path: Path) -> None:
    request = Request(CONCAT, "concat", "es")
    first = found(request)
    new = hub.commit(BETO, changed(published("text_encoder", "es"), tmp_path / "new"))
    second = found(request)
    assert first != second
    assert read_record(second).parts[TEXT_ENCODER].revision == new
    assert read_record(second).parts[MODEL] == read_record(first).parts[MODEL]


def test_another_text_encoder_from_the_hub(hub: LoopbackHub, published: Folders, tmp_path: Path) -> None:
    hub.commit("someone/beto", changed(published("text_encoder", "es"), tmp_path / "new"))
    default = found(Request(CONCAT, "concat", "es"))
    other = found(Request(CONCAT, "concat", "es", "someone/beto"))
    assert read_record(other).parts[TEXT_ENCODER].id == "someone/beto"
    assert found(Request(CONCAT, "concat", "es", BETO)) == default
    hub.stop()
    assert found(Request(CONCAT, "concat", "es")) == default
    assert found(Request(CONCAT, "concat", "es", "someone/beto")) == other


def test_settings_have_conversions_of_their_own(hub: LoopbackHub) -> None:
    plain = found(Request(AUDIO, "audio", "es"))
    named = found(Request(AUDIO, "audio", "es", labels=("a", "b", "c", "d", "e", "f")))
    assert read_record(plain).config.labels[0] == "anger"
    assert read_record(named).config.labels[0] == "a"


def test_a_local_text_encoder_is_read_in_place(hub: LoopbackHub, cache: Path, published: Folders) -> None:
    checkpoint = resolve_emotion(Request(CONCAT, "concat", "es", str(published("text_encoder", "es"))))
    assert not isinstance(checkpoint.source, Path)
    assert not cache.exists()


@pytest.mark.parametrize("way", ["refused connections", "HF_HUB_OFFLINE"])
@pytest.mark.parametrize("left", ["both caches", "only the converted"])
def test_without_the_hub(hub: LoopbackHub, tmp_path: Path, way: str, left: str) -> None:
    requests = [Request(AUDIO, "audio", "es"), Request(CONCAT, "concat", "es")]
    folders = [found(request) for request in requests]
    pinned = Request(CONCAT, "concat", "es", revision=hub.refs[CONCAT]["main"])
    if left == "only the converted":
        shutil.rmtree(tmp_path / "home")
    if way == "refused connections":
        hub.stop()
    with hub_environment(HF_HUB_OFFLINE="1" if way == "HF_HUB_OFFLINE" else None):
        assert [found(request) for request in requests] == folders
        assert found(pinned) == folders[1]
        load_checkpoint(requests[1], jax.devices()[0], "float32")


def test_without_the_hub_a_download_is_still_converted(hub: LoopbackHub, cache: Path) -> None:
    first = found(Request(CONCAT, "concat", "es"))
    shutil.rmtree(cache)
    hub.stop()
    assert found(Request(CONCAT, "concat", "es")) == first


def test_without_the_hub_and_never_seen(hub: LoopbackHub, tmp_path: Path, cache: Path) -> None:
    hub.stop()
    message = refusal(Request(AUDIO, "audio", "es"), UnreadableInput)
    assert f"{AUDIO} is not completely in the cache {tmp_path / 'home' / 'hub'}" in message
    assert str(cache) in message
    assert not cache.exists()


def test_a_text_encoder_in_the_repository(hub: LoopbackHub, published: Folders, tmp_path: Path) -> None:
    """An exported folder on the hub is used as it is locally: with its own text encoder."""
    text = changed(published("text_encoder", "es"), tmp_path / "text")
    write_safetensors(
        converted(published("concat", "es"), "concat", tmp_path / "converted", text), tmp_path / "exported"
    )
    sha = hub.commit("someone/concat", tmp_path / "exported")
    del hub.refs[BETO]  # the default one is not even asked for
    request = Request("someone/concat", "concat", "es")
    folder = found(request)
    part = read_record(folder).parts[TEXT_ENCODER]
    assert (part.id, part.revision) == ("someone/concat/text_encoder", sha)
    assert part.sha256["model.safetensors"] == hashlib.sha256((text / "model.safetensors").read_bytes()).hexdigest()
    sent = hub.files_sent()
    assert found(request) == folder
    assert hub.files_sent() == sent
    hub.stop()
    assert found(request) == folder
    shutil.rmtree(folder.parent)
    assert found(request) == folder


def test_a_cache_that_can_only_be_read(hub: LoopbackHub, cache: Path) -> None:
    folder = found(Request(AUDIO, "audio", "es"))
    [last] = folder.parent.glob("*.txt")
    last.unlink()
    last.mkdir()  # stands for a refusal, which root does not get
    assert found(Request(AUDIO, "audio", "es")) == folder


def test_the_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("SPEECH_EMOTION_JAX_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cache_folder() == tmp_path / ".cache" / "speech_emotion_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "speech_emotion_jax"
    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", "~/mine")
    assert cache_folder() == tmp_path / "mine"


@pytest.mark.process
def test_two_processes_at_once(hub: LoopbackHub, cache: Path) -> None:
    script = f"""
from speech_emotion_jax.checkpoints import Request, resolve_emotion
input()
print(resolve_emotion(Request({CONCAT!r}, "concat", "es")).source)
"""
    command = [sys.executable, "-c", script]
    pipe = subprocess.PIPE
    processes = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], outputs
    assert outputs[0][0] == outputs[1][0] == f"{found(Request(CONCAT, 'concat', 'es'))}\n"
    assert not list(cache.rglob("*unfinished*"))


# model.json


def test_the_registry_names_the_text_encoder(hub: LoopbackHub, published: Folders, tmp_path: Path) -> None:
    hub.commit("someone/beto", changed(published("text_encoder", "es"), tmp_path / "new"))
    registry = Registry(PUBLISHED.models, {**PUBLISHED.text_encoders, "es": "someone/beto"}, PUBLISHED.whispers)
    record = read_record(found(Request(CONCAT, "concat", "es", registry=registry)))
    assert record.parts[TEXT_ENCODER].id == "someone/beto"


def test_predict_emotion_reads_model_json(published: Folders, tmp_path: Path) -> None:
    """With another text encoder the scores are others, so the one that model.json names is used."""
    beto = published("text_encoder", "es")
    names = {"concat": str(published("concat", "es")), "text_encoder": str(changed(beto, tmp_path / "other"))}
    (tmp_path / "model.json").write_text(json.dumps({"es": names}))
    arguments = (CLIP, "¡Qué alegría!", None, "concat", "es", "cpu", tmp_path / "model.json")
    theirs = predict_emotion(*arguments)
    assert predict_emotion(*arguments, text_encoder_id=names["text_encoder"]) == theirs
    assert predict_emotion(*arguments, text_encoder_id=beto)["scores"] != theirs["scores"]
    close()
