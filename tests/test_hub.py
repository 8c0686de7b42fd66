"""Downloads by hub id, from a hub on 127.0.0.1: which files, when again, without a network, and every refusal."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
from huggingface_hub import hf_hub_download
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.convert.hub import (
    Snapshot,
    current_revision,
    download,
    download_config,
    looks_like_hub_id,
    needed_files,
)
from speech_emotion_jax.errors import InvalidInput, UnreadableInput

from .support.loopback_hub import Fault, LoopbackHub, hub_environment, loopback_hub

ID = "UMUTeam/tiny-es"
INFO = f"GET /api/models/{ID}"
MODEL = {
    "config.json": b'{"hidden_size": 8}',
    "tokenizer.json": b"{}",
    "vocab.txt": b"[CLS]\n",
    "model.safetensors": b"weights " * 1000,
    "README.md": b"# card",
    "flax_model.msgpack": b"flax",
    "onnx/model.onnx": b"onnx",
}
NEEDED = ["config.json", "model.safetensors", "tokenizer.json", "vocab.txt"]


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[LoopbackHub]:
    with loopback_hub({ID: MODEL}, home=tmp_path / "home") as server:
        yield server


@pytest.fixture
def no_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    """huggingface_hub waits a second before it asks again for a broken download."""
    monkeypatch.setattr(time, "sleep", lambda seconds: None)


def contents(snapshot: Snapshot) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in snapshot.folder.iterdir()}


def refusal(
    model_id: str, revision: str | None = None, weights: str | None = None, error: type[Exception] = UnreadableInput
) -> str:
    """The message with which a download is refused; one sentence."""
    with pytest.raises(error) as caught:
        download(model_id, revision, weights)
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


# Which files


@pytest.mark.parametrize(
    ("names", "weights", "expected"),
    [
        ("model.safetensors pytorch_model.bin", None, "model.safetensors"),
        ("model.safetensors model.bin", None, "model.bin model.safetensors"),
        ("model.safetensors model.bin pytorch_model.bin", None, "model.bin model.safetensors"),
        ("model.safetensors model.bin", "safetensors", "model.safetensors"),
        ("model.safetensors model.bin", "bin", "model.bin"),
        ("model.safetensors pytorch_model.bin", "bin", "pytorch_model.bin"),
        ("pytorch_model.bin training_args.bin optimizer.pt", None, "pytorch_model.bin"),
        ("model.bin pytorch_model.bin", None, "model.bin pytorch_model.bin"),
        ("pytorch_model.bin", "safetensors", ""),
        ("model.safetensors", "bin", ""),
        ("model.safetensors model.fp32-00001-of-00002.safetensors", None, "model.safetensors"),
        (
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json",
            None,
            "model-00001-of-00002.safetensors model-00002-of-00002.safetensors model.safetensors.index.json",
        ),
        (
            "model.safetensors pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json",
            None,
            "model.safetensors",
        ),
        (
            "model.safetensors pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json",
            "bin",
            "pytorch_model-00001-of-00001.bin pytorch_model.bin.index.json",
        ),
        ("model.safetensors model-00001-of-00001.bin model.bin.index.json", None, "model.safetensors"),
        (
            "model.safetensors model.fp32-00001-of-00002.safetensors model.safetensors.index.fp32.json "
            "generation_config.json normalizer.json",
            None,
            "generation_config.json model.safetensors normalizer.json",
        ),
        ("model.safetensors.index.json", None, ""),
        ("config.json vocab.json merges.txt spiece.model", None, "config.json merges.txt spiece.model vocab.json"),
        ("preprocessor_config.json notes.txt trainer_state.json all_results.json", None, "preprocessor_config.json"),
        ("model.onnx tf_model.h5 rust_model.ot flax_model.msgpack model.gguf adapter_model.safetensors", None, ""),
        ("checkpoint-500/model.safetensors onnx/config.json text_encoder/vocab.txt", None, ""),
    ],
)
def test_needed_files(names: str, weights: str | None, expected: str) -> None:
    assert needed_files(names.split(), weights) == expected.split()


stems = (
    "model",
    "pytorch_model",
    "flax_model",
    "config",
    "model-00001-of-00002",
    "optimizer",
    "vocab",
    "checkpoint-1/x",
)
suffixes = (".safetensors", ".bin", ".json", ".txt", ".msgpack", ".h5", ".safetensors.index.json", ".bin.index.json")
listings = st.sets(st.builds(str.__add__, st.sampled_from(stems), st.sampled_from(suffixes)))


@given(listings, st.sampled_from([None, "safetensors", "bin"]))
def test_needed_files_of_any_listing(names: set[str], weights: str | None) -> None:
    chosen = needed_files(names, weights)
    assert set(chosen) <= names
    assert chosen == sorted(set(chosen))
    assert not any("/" in name or name.endswith((".msgpack", ".h5")) for name in chosen)
    safetensors = [name for name in chosen if name.endswith(".safetensors")]
    pickles = [name for name in chosen if name.endswith(".bin")]
    if safetensors:
        assert weights != "bin"
        assert set(pickles) <= {"model.bin"}
    if pickles and "model.safetensors" in names:
        assert weights == "bin" or safetensors
    for index in (name for name in chosen if ".index." in name):
        stem, suffix = index.removesuffix(".index.json").split(".")
        assert f"{stem}-00001-of-00002.{suffix}" in chosen


def test_only_the_needed_files_are_fetched(hub: LoopbackHub, capfd: pytest.CaptureFixture[str]) -> None:
    snapshot = download(ID)
    assert hub.files_sent() == NEEDED
    assert contents(snapshot) == {name: MODEL[name] for name in NEEDED}
    assert snapshot.model_id == ID
    assert snapshot.revision == hub.refs[ID]["main"]
    assert capfd.readouterr() == ("", "")


def test_file_names_are_no_patterns(hub: LoopbackHub) -> None:
    hub.commit(ID, {"model.safetensors": b"w", "[ab]*.json": b"{}", "a1.json/evil.json": b"{}", "sub/x.json": b"{}"})
    assert set(contents(download(ID))) == {"model.safetensors", "[ab]*.json"}


def test_weights_can_be_chosen_one_after_the_other(hub: LoopbackHub) -> None:
    hub.commit(ID, {**MODEL, "pytorch_model.bin": b"pickle"})
    download(ID)
    assert hub.files_sent() == NEEDED
    snapshot = download(ID, weights="bin")
    assert hub.files_sent() == sorted([*NEEDED, "pytorch_model.bin"])
    assert (snapshot.folder / "pytorch_model.bin").read_bytes() == b"pickle"


def test_a_folder_on_disk_is_served(hub: LoopbackHub, tmp_path: Path) -> None:
    folder = tmp_path / "published"
    (folder / "runs").mkdir(parents=True)
    (folder / "config.json").write_bytes(b"{}")
    (folder / "model.safetensors").write_bytes(os.urandom(3_000_000))
    (folder / "runs" / "events.json").write_bytes(b"{}")
    hub.commit("name-alone", folder)
    snapshot = download("name-alone")
    assert contents(snapshot) == {name: (folder / name).read_bytes() for name in ("config.json", "model.safetensors")}


# Again, other revisions, and without a network


def test_a_second_download_only_asks_for_the_commit(hub: LoopbackHub) -> None:
    first = download(ID)
    hub.requests.clear()
    assert download(ID) == first
    assert hub.requests == [INFO]


def test_a_commit_in_the_cache_is_not_asked_for(hub: LoopbackHub) -> None:
    first = download(ID)
    hub.requests.clear()
    assert download(ID, first.revision) == first
    assert hub.requests == []


def test_revisions(hub: LoopbackHub) -> None:
    old = hub.refs[ID]["main"]
    new = hub.commit(ID, {**MODEL, "config.json": b'{"hidden_size": 16}'})
    tag = hub.commit(ID, {**MODEL, "config.json": b'{"hidden_size": 32}'}, "refs/pr/1")
    assert contents(download(ID, old))["config.json"] == b'{"hidden_size": 8}'
    assert contents(download(ID))["config.json"] == b'{"hidden_size": 16}'
    assert contents(download(ID, "refs/pr/1"))["config.json"] == b'{"hidden_size": 32}'
    assert [current_revision(ID, revision) for revision in (None, "main", "refs/pr/1", old)] == [new, new, tag, old]
    # The weights are the same in all three and the cache goes by content.
    assert hub.files_sent().count("model.safetensors") == 1
    hub.stop()
    assert [download(ID, revision).revision for revision in (None, "main", "refs/pr/1", old)] == [new, new, tag, old]


@pytest.mark.parametrize("way", ["HF_HUB_OFFLINE", "refused connections", "no answer", "HTTP 503", "a login page"])
def test_what_was_downloaded_works_without_the_hub(
    hub: LoopbackHub, way: str, capfd: pytest.CaptureFixture[str]
) -> None:
    first = download(ID)
    hub.requests.clear()
    with hub_environment(HF_HUB_OFFLINE="1" if way == "HF_HUB_OFFLINE" else None):
        match way:
            case "refused connections":
                hub.stop()
            case "no answer":
                hub.faults["/"] = "close"
            case "HTTP 503":
                hub.faults["/"] = Fault(503)
            case "a login page":
                hub.faults["/"] = Fault(200)
        assert current_revision(ID) is None
        assert download(ID) == first
        assert download(ID, "main") == first
        missing = refusal(ID, weights="bin")
    assert "local folder" in missing
    assert os.environ["HF_HOME"] + "/hub" in missing
    assert not [line for line in hub.requests if line != INFO and line != f"{INFO}/revision/main"]
    assert capfd.readouterr() == ("", "")


def test_an_unseen_update_does_not_hide_the_older_commit(hub: LoopbackHub, no_waiting: None) -> None:
    first = download(ID)
    update = hub.commit(ID, {**MODEL, "model.safetensors": b"better weights"})
    assert current_revision(ID) == update
    hub.faults[f"/{ID}/resolve/{update}/model.safetensors"] = "close"
    assert "broke off" in refusal(ID)
    hub.stop()
    assert download(ID) == first


def test_a_folder_that_another_program_filled_works_without_the_hub(hub: LoopbackHub) -> None:
    hub.commit("UMUTeam/other", MODEL)
    for name in NEEDED:
        hf_hub_download(ID, name)
    hf_hub_download("UMUTeam/other", "config.json")
    hub.stop()
    assert set(contents(download(ID))) == set(NEEDED)
    assert "not completely in the cache" in refusal("UMUTeam/other")


def test_a_folder_that_another_program_filled_is_completed(hub: LoopbackHub) -> None:
    revision = hub.commit(ID, {**MODEL, "model.bin": b"other weights"})
    hf_hub_download(ID, "model.safetensors")
    hf_hub_download(ID, "config.json")
    assert set(contents(download(ID, revision))) == {*NEEDED, "model.bin"}


# config.json alone


def test_config_json_is_fetched_alone_and_told_without_the_hub(hub: LoopbackHub) -> None:
    path = download_config(ID)
    assert path.read_bytes() == MODEL["config.json"]
    assert hub.files_sent() == ["config.json"]
    assert contents(download(ID)).keys() == set(NEEDED)  # the folder that it began is not taken for a whole one
    hub.commit(ID, MODEL | {"config.json": b"{}"}, "v2")
    assert download_config(ID, "v2").read_bytes() == b"{}"
    hub.stop()
    assert download_config(ID).read_bytes() == MODEL["config.json"]


@pytest.mark.parametrize(
    ("content", "revision", "said"),
    [
        ({"model.safetensors": b"x"}, None, f"{ID} has no config.json"),
        (MODEL, "v9", f"the hub has no {ID} at revision v9"),
    ],
)
def test_no_such_config_json(hub: LoopbackHub, content: dict[str, bytes], revision: str | None, said: str) -> None:
    hub.commit(ID, content)
    with pytest.raises(UnreadableInput, match=said):
        download_config(ID, revision)


def test_config_json_that_can_not_be_asked_for(hub: LoopbackHub) -> None:
    with pytest.raises(InvalidInput, match="not a valid hub id"):
        download_config("./nowhere")
    hub.stop()
    with pytest.raises(UnreadableInput, match=f"{ID} is not completely in the cache"):
        download_config(ID)


# Refusals


def test_unknown_repository(hub: LoopbackHub) -> None:
    message = refusal("UMUTeam/nothing")
    assert "UMUTeam/nothing is neither a folder here nor a public model on the hub" in message
    assert "hf auth login" in message
    with pytest.raises(UnreadableInput, match="UMUTeam/nothing"):
        current_revision("UMUTeam/nothing")


@pytest.mark.parametrize("revision", ["v9", "0" * 40])
def test_unknown_revision(hub: LoopbackHub, revision: str) -> None:
    assert f"the hub has no {ID} at revision {revision}" in refusal(ID, revision)


@pytest.mark.parametrize("fault", [Fault(401), Fault(401, "GatedRepo"), Fault(403, "GatedRepo"), Fault(403)])
@pytest.mark.parametrize("start", ["/api/models", f"/{ID}/resolve"])
def test_no_access(hub: LoopbackHub, fault: Fault, start: str) -> None:
    hub.faults[start] = fault
    message = refusal(ID)
    assert f"the hub refuses access to {ID}" in message
    assert "hf auth login" in message


@pytest.mark.parametrize("way", ["HF_HUB_OFFLINE", "refused connections", "HTTP 500", "a login page", "no commit"])
def test_unreachable_and_not_in_the_cache(hub: LoopbackHub, way: str) -> None:
    with hub_environment(HF_HUB_OFFLINE="1" if way == "HF_HUB_OFFLINE" else None):
        match way:
            case "refused connections":
                hub.stop()
            case "HTTP 500":
                hub.faults["/"] = Fault(500)
            case "a login page":
                hub.faults["/"] = Fault(200)
            case "no commit":
                hub.refs[ID]["main"] = "../../outside"
        message = refusal(ID)
    assert f"{ID} is not completely in the cache {os.environ['HF_HOME']}/hub" in message
    assert "pass a local folder instead" in message
    cause = {
        "HF_HUB_OFFLINE": "HF_HUB_OFFLINE is set",
        "refused connections": "refused",
        "HTTP 500": "500",
        "a login page": "something else than JSON",
        "no commit": "names no commit",
    }
    assert cause[way] in message


@pytest.mark.parametrize("fault", ["cut", "close"])
def test_a_broken_download_leaves_nothing_that_loads(
    hub: LoopbackHub, no_waiting: None, fault: Literal["cut", "close"]
) -> None:
    hub.faults[f"/{ID}/resolve/{hub.refs[ID]['main']}/model.safetensors"] = fault
    assert "broke off" in refusal(ID)
    home = Path(os.environ["HF_HOME"])
    assert not list(home.rglob("model.safetensors"))
    assert not list(home.rglob("*.incomplete"))
    assert not list(home.rglob("refs/main"))
    hub.faults.clear()
    assert contents(download(ID)) == {name: MODEL[name] for name in NEEDED}


def test_a_listing_that_breaks_off(hub: LoopbackHub, no_waiting: None) -> None:
    hub.faults[f"/api/models/{ID}/tree"] = "close"
    assert "broke off" in refusal(ID)


def test_a_file_cut_off_in_the_cache(hub: LoopbackHub) -> None:
    weights = download(ID).folder / "model.safetensors"
    os.truncate(weights.resolve(), 100)
    message = refusal(ID)
    assert f"{weights} has 100 bytes where the hub lists 8000" in message
    assert "delete the folder" in message


@pytest.mark.parametrize(
    ("names", "weights", "missing"),
    [
        (["config.json", "flax_model.msgpack"], None, "no weights in model.safetensors"),
        (["config.json", "model.safetensors"], "bin", "no bin weights"),
        (["config.json", "pytorch_model.bin"], "safetensors", "no safetensors weights"),
    ],
)
def test_no_such_weights(hub: LoopbackHub, names: list[str], weights: str | None, missing: str) -> None:
    hub.commit(ID, dict.fromkeys(names, b"x"))
    assert f"{ID} holds {missing}" in refusal(ID, weights=weights)
    assert hub.files_sent() == []


@pytest.mark.parametrize("name", ["../evil.json", "/etc/evil.json", "a/../../evil", "..\\evil.json", "C:evil.json"])
def test_file_names_that_leave_the_folder(hub: LoopbackHub, name: str) -> None:
    hub.commit(ID, {**MODEL, name: b"{}"})
    assert repr(name) in refusal(ID)
    assert hub.files_sent() == []


@pytest.mark.parametrize("model_id", ["", "a/b/c", "./folder", "/folder", "../x", "a--b/c", "x" * 97, "espacio y ñ"])
def test_ids_that_no_repository_can_have(hub: LoopbackHub, model_id: str) -> None:
    assert "is not a valid hub id" in refusal(model_id, error=InvalidInput)
    with pytest.raises(InvalidInput, match="is not a valid hub id"):
        current_revision(model_id)
    assert hub.requests == []


def test_unknown_weights(hub: LoopbackHub) -> None:
    assert "'onnx' are unknown" in refusal(ID, weights="onnx", error=InvalidInput)


@pytest.mark.parametrize("below", ["", "hub"])
def test_a_cache_that_is_no_folder(hub: LoopbackHub, below: str) -> None:
    in_the_way = Path(os.environ["HF_HOME"], below)
    in_the_way.parent.mkdir(exist_ok=True)
    in_the_way.touch()
    message = refusal(ID)
    assert f"can't be stored in {os.environ['HF_HOME']}/hub" in message
    assert "Not a directory" in message
    assert str(in_the_way) in message


SCRIPT = f"from speech_emotion_jax.convert.hub import download; download({ID!r})"


@pytest.mark.process
def test_no_room_for_the_weights(hub: LoopbackHub) -> None:
    """The limit of a file's size stands for a full disk: in both the operating system refuses the write."""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))\n"
    limited = subprocess.run([sys.executable, "-c", limit + SCRIPT], capture_output=True, text=True)
    assert f"{ID} at revision {hub.refs[ID]['main']} can't be stored in" in limited.stderr.splitlines()[-1]
    assert "make room" in limited.stderr.splitlines()[-1]
    assert not list(Path(os.environ["HF_HOME"]).rglob("model.safetensors"))
    assert contents(download(ID))["model.safetensors"] == MODEL["model.safetensors"]


# What a person sees


def run_on_terminal(script: str) -> tuple[str, str]:
    """stdout, and what a terminal as stderr was sent, of a new Python process."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    with subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=theirs, text=True) as process:
        os.close(theirs)
        screen = bytearray()

        def read_screen() -> None:
            try:
                while data := os.read(ours, 4096):
                    screen.extend(data)
            except OSError:  # Linux: the other side is closed
                pass

        reader = threading.Thread(target=read_screen)
        reader.start()
        stdout = process.communicate(timeout=60)[0]
        reader.join()
    os.close(ours)
    assert process.returncode == 0, screen.decode()
    return stdout, screen.decode()


@pytest.mark.process
def test_a_terminal_shows_progress_and_only_while_fetching(hub: LoopbackHub) -> None:
    stdout, screen = run_on_terminal(SCRIPT)
    assert stdout == ""
    assert "4/4" in screen
    assert hub.files_sent() == NEEDED
    assert run_on_terminal(SCRIPT) == ("", "")


# What is an id


def test_ids_and_paths(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "UMUTeam" / "here").mkdir(parents=True)
    (tmp_path / "weights.bin").touch()
    ids = ["UMUTeam/MarIA-emotion-es", "google-bert/bert-base-uncased", "gpt2", "a.b_c-d/e.f"]
    paths = ["UMUTeam/here", "UMUTeam", "weights.bin", "./x", "../x", "/x", "~/x", "~", ".", "", "a/b/c", "a/", "C:\\x"]
    assert [text for text in ids + paths if looks_like_hub_id(text)] == ids


@given(st.text(alphabet="abZ9._-/~\\ é\n\0", max_size=12))
def test_ids_of_any_text(text: str) -> None:
    if looks_like_hub_id(text):
        assert text.count("/") <= 1
        assert text.isascii()
        assert ".." not in text
        assert text[0].isalnum() or text[0] == "_"
        assert not os.path.exists(text)
