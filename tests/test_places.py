"""Files and folders on disks and at addresses: each flag of each verb takes an address, or refuses it at once."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from speech_emotion_jax.cli import options as flags
from speech_emotion_jax.cli.main import _parser, main
from speech_emotion_jax.corpus import fetch_recordings, pack, read_manifest, recordings_root
from speech_emotion_jax.errors import InvalidInput, SpeechEmotionError, UnreadableInput
from speech_emotion_jax.runtime.addresses import check_address, disk_path, is_remote
from speech_emotion_jax.runtime.atomic import atomic_file, atomic_folder
from speech_emotion_jax.runtime.cache_folder import cache_folder
from speech_emotion_jax.runtime.storage import Folder

from .support.object_store import ObjectStore

DATA = Path(flags.__file__).parent.parent / "demo_data"

# The values of these flags are words, not places. A new flag must be added here or have one of the two types.
WORDS = {
    *(
        "against:benchmark",
        "apply_split",
        "channel",
        "columns",
        "coordinator",
        "corpus",
        "device",
        "fit_split",
        "format",
    ),
    *("group_by", "init", "language", "mode", "precision", "print_completion", "revision", "set", "split", "task"),
    *("tasks", "test", "text", "time_unit", "timestamps", "to", "topology", "train", "units", "weights"),
}


def verbs() -> dict[str, argparse.ArgumentParser]:
    (subparsers,) = (each for each in _parser()._actions if isinstance(each, argparse._SubParsersAction))
    return subparsers.choices


def places(kind: object) -> list[tuple[str, str]]:
    """The flags of a type, as (verb, flag)."""
    return [(verb, each.dest) for verb, parser in verbs().items() for each in parser._actions if each.type is kind]


def action(verb: str, dest: str) -> argparse.Action:
    return next(each for each in verbs()[verb]._actions if each.dest == dest)


def test_every_flag_is_a_place_or_a_word():
    unsorted = [
        f"{verb} {each.dest}"
        for verb, parser in verbs().items()
        for each in parser._actions
        if each.nargs != 0 and each.type is None and not {each.dest, f"{each.dest}:{verb}"} & WORDS
    ]
    assert unsorted == []


@pytest.mark.parametrize(("verb", "dest"), places(flags.disk_place))
def test_what_has_to_be_on_a_disk_refuses_addresses(verb: str, dest: str, tmp_path: Path):
    parse = verbs()[verb]._get_values
    option = action(verb, dest)
    count = option.nargs if isinstance(option.nargs, int) else 1
    for address in ("memory://a/b", "s3://bucket/x", "gs:/bucket", "S3://bucket"):
        with pytest.raises(argparse.ArgumentError, match=r"is an address, and this has to be on a disk; name a place"):
            parse(option, [address] * count)
    value = parse(option, [f"file://{tmp_path}/x"] * count)
    assert value in (f"{tmp_path}/x", [f"{tmp_path}/x"] * count)


@pytest.mark.parametrize(("verb", "dest"), places(flags.any_place))
def test_what_may_be_at_an_address(verb: str, dest: str):
    parse = verbs()[verb]._get_values
    for value in ("memory://a/b", "bucket://a", "file:///a", "name/on-the-hub", "a/b"):
        assert parse(action(verb, dest), [value]) in (value, [value])
    for half in ("gs:/bucket", "file:/a", "simplecache::s3://b", "memory:"):
        with pytest.raises(argparse.ArgumentError, match="neither a path nor an address; write an address as SCHEME"):
            parse(action(verb, dest), [half])
    with pytest.raises(argparse.ArgumentError, match="nosuch://a can't be reached"):
        parse(action(verb, dest), ["nosuch://a"])


@pytest.mark.parametrize("address", ["gs://b/x", "gs:/b/x", "file:///b", "memory:", "simplecache::b://c"])
def test_nothing_makes_a_folder_with_a_colon(
    address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.chdir(tmp_path)
    for act in (
        lambda: atomic_folder(Path(address)).__enter__(),
        lambda: atomic_file(Path(address)).__enter__(),
        lambda: pack(str(DATA / "manifest.csv"), str(DATA), Path(address)),
    ):
        with pytest.raises(InvalidInput):
            act()
    if not is_remote(address):
        with pytest.raises(InvalidInput):
            Folder.open(address)
    if not address.startswith("file://"):
        monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", address)
        with pytest.raises(InvalidInput):
            cache_folder()
    assert list(tmp_path.iterdir()) == []


def test_a_file_address_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert disk_path(f"file://{tmp_path}/a b") == f"{tmp_path}/a b"
    assert disk_path(f"FILE://{tmp_path}") == str(tmp_path)
    assert (disk_path("a/b"), disk_path("C:/a"), check_address("D:\\a")) == ("a/b", "C:/a", "D:\\a")
    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", f"file://{tmp_path}/cache")
    assert cache_folder() == tmp_path / "cache"


@pytest.fixture(params=["file", "memory", "bucket"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """An empty place, as an address."""
    if request.param == "file":
        yield f"file://{tmp_path}/place"
        return
    yield f"{request.param}://{tmp_path.name}/place"
    ObjectStore.objects.clear()
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


def upload(source: Path, address: str) -> None:
    folder = Folder.open(address)
    for path in sorted(source.rglob("*")):
        if path.is_file():
            name = path.relative_to(source).as_posix()
            folder.files.makedirs(folder.path(name).rpartition("/")[0], exist_ok=True)
            folder.files.pipe_file(folder.path(name), path.read_bytes())


@pytest.mark.parametrize("packed", [False, True])
def test_recordings_beside_a_manifest_at_an_address(
    place: str, packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", str(tmp_path / "cache"))
    name = "manifest.parquet" if packed else "manifest.csv"
    if packed:
        pack(str(DATA / "manifest.csv"), str(DATA), tmp_path / "packed")
    source = tmp_path / "packed" if packed else DATA
    upload(source, place)
    manifest = read_manifest(f"{place}/{name}")
    root = recordings_root(f"{place}/{name}", None)
    folder = Path(fetch_recordings(manifest, root))
    files = manifest.column("shard" if packed else "filename").to_pylist()
    for file in files:
        assert (folder / file).read_bytes() == (source / file).read_bytes()
    if is_remote(root):
        copied = {path.name for path in folder.iterdir()}
        assert copied == {*files, "copied.json"}  # only what the manifest names
        before = {path: path.stat().st_mtime_ns for path in folder.iterdir()}
        fetch_recordings(manifest, root)
        assert {path: path.stat().st_mtime_ns for path in folder.iterdir()} == before
        Folder.open(place).files.pipe_file(Folder.open(place).path(files[0]), b"another")
        fetch_recordings(manifest, root)
        assert (folder / files[0]).read_bytes() == b"another"


def test_recordings_that_are_not_beside_it(place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", str(tmp_path / "cache"))
    Folder.open(place).make()
    Folder.open(place).files.pipe_file(
        Folder.open(place).path("manifest.csv"), b"filename\n../up.wav\n/etc/passwd\na.wav\n"
    )
    manifest = read_manifest(f"{place}/manifest.csv")
    if is_remote(root := recordings_root(manifest.name, None)):
        with pytest.raises(UnreadableInput, match=r"none of the 1 filenames .* --audio-root"):
            fetch_recordings(manifest, root)
    assert recordings_root("memory://manifest.csv", None) == "memory://"
    assert recordings_root("memory://a/manifest.csv", str(tmp_path)) == str(tmp_path)
    assert (recordings_root("manifest.csv", None), recordings_root("a/m.csv", None)) == (".", "a")


# Command lines that use addresses, in an order in which each finds what it reads. {p} is the place.
COMMANDS = [
    "info {p}/data/checkpoint",
    "convert {p}/data/checkpoint {disk}/converted --mode concat --language es"
    " --text-encoder {p}/data/checkpoint/text_encoder",
    "evaluate --manifest {p}/data/manifest.csv --model-id {p}/data/checkpoint --audio-root {p}/data --mode concat"
    " --language es --label-map {p}/data/map.json --output {p}/run --text-encoder {p}/data/checkpoint/text_encoder",
    "compare {p}/run {p}/run --output {p}/comparison",
    "calibrate {p}/run {p}/run --fit-split train --apply-split test --output {p}/calibration",
    "audit --manifest {p}/data/manifest.csv --group-by speaker --output {p}/split.csv",
    "audit --manifest {p}/data/manifest.csv --group-by speaker --predictions {p}/run",
    "predict --model-id {p}/data/checkpoint --mode concat --language es --audio {data}/joy.flac --text hola",
    "pack --manifest {p}/data/manifest.csv --audio-root {p}/data --output {disk}/packed",
    "manifest mesd {disk}/mesd --output {p}/mesd.csv",
]

# These flags reach the same functions, Folder.open and checkpoints.locate, by verbs that take long.
BY_THE_SAME_FUNCTIONS = {
    *((verb, "output") for verb in ("plan", "benchmark", "parity", "precision", "selfcheck")),
    *((verb, "model_id") for verb in ("timeline", "warmup", "export", "parity", "precision")),
    *((verb, "text_encoder") for verb in ("timeline", "warmup", "export", "parity", "precision", "predict")),
    *((verb, "whisper_model") for verb in ("predict", "evaluate", "timeline", "transcribe", "warmup")),
    *(("parity", flag) for flag in ("reference", "record", "against")),
    *(("train", flag) for flag in ("manifest", "audio_root", "label_map")),
    *(("transcribe", flag) for flag in ("manifest", "audio_root")),
    ("audit", "label_map"),
}


def test_every_flag_that_takes_an_address_is_tried():
    tried = set()
    for command in COMMANDS:
        words = command.format(p="memory://p", disk="/disk", data=DATA).split()
        parsed = vars(_parser().parse_args(words))
        tried |= {(words[0], dest) for dest, value in parsed.items() if "memory://" in str(value)}
    assert tried | BY_THE_SAME_FUNCTIONS == set(places(flags.any_place))
    assert not tried & BY_THE_SAME_FUNCTIONS


@pytest.mark.slow
def test_verbs_at_addresses(
    place: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    data = tmp_path / "data"
    shutil.copytree(DATA, data)
    (data / "map.json").write_text(json.dumps({"neutral": "neutral"}))
    rows = (DATA / "manifest.csv").read_text().replace("disgust.flac,disgust", "disgust.flac,joy").splitlines()
    more = ["speaker,split", *(f"{'uv'[i % 2]},{'train' if i % 3 else 'test'}" for i in range(6))]
    (data / "manifest.csv").write_text("\n".join(map(",".join, zip(rows, more, strict=True))))
    (tmp_path / "mesd").mkdir()
    shutil.copy(DATA / "fear.flac", tmp_path / "mesd" / "Fear_M_A_abajo.flac")
    upload(data, f"{place}/data")
    before = {path.name for path in tmp_path.iterdir()}
    for command in COMMANDS:
        code = main(command.format(p=place, disk=tmp_path, data=DATA).split())
        said = capsys.readouterr()
        assert code == 0, f"{command}: {said.err}"
    assert {path.name for path in tmp_path.iterdir()} - before <= {"converted", "packed", "cache", "place"}


def test_the_errors_are_of_this_package():
    with pytest.raises(SpeechEmotionError):
        check_address("gs:/b")
