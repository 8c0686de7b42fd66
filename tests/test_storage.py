"""A folder of results: a file in it is whole or not there, on disks and on buckets."""

import os
import signal
import stat
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from speech_emotion_jax.errors import UnreadableInput
from speech_emotion_jax.runtime.addresses import is_remote
from speech_emotion_jax.runtime.storage import MARKER, Folder

from .support.examples import examples


@pytest.fixture
def bucket() -> Iterator[Folder]:
    folder = Folder.open(f"memory://bucket-{uuid.uuid4()}/run")
    folder.make()
    yield folder
    folder.files.rm(folder.root.rpartition("/")[0], recursive=True)


@pytest.fixture(params=["disk", "bucket"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Folder:
    if request.param == "bucket":
        return request.getfixturevalue("bucket")
    made = Folder.open(tmp_path / "results" / "run")
    made.make()
    return made


def raw(folder: Folder) -> set[str]:
    """Everything that lies there, whole or not."""
    return {path.rpartition("/")[2] for path in folder.files.ls(folder.root, detail=False)}


def test_what_is_written_is_there(folder: Folder):
    folder.make()  # a second time
    assert folder.names() == []
    folder.write("b.bin", b"\0two")
    with folder.writing("a.bin") as file:
        file.write(b"one")
        file.write(b"more")
    assert folder.names() == ["a.bin", "b.bin"]
    assert folder.holds("a.bin")
    assert not folder.holds("c.bin")
    assert folder.read("a.bin") == b"onemore"
    with folder.open_to_read("b.bin") as file:
        assert file.read() == b"\0two"
    folder.write("b.bin", b"short")
    assert folder.read("b.bin") == b"short"
    folder.remove("a.bin")
    folder.remove("a.bin")  # is gone already
    assert folder.names() == ["b.bin"]
    assert not folder.holds("a.bin")


@given(
    steps=st.lists(
        st.tuples(st.sampled_from(["write", "fail", "remove"]), st.sampled_from("abc"), st.binary(max_size=40)),
        max_size=12,
    )
)
@settings(max_examples=examples(40), suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_order_of_steps(folder: Folder, steps: list[tuple[str, str, bytes]]):
    for name in folder.names():
        folder.remove(name)
    held: dict[str, bytes] = {}
    for step, name, content in steps:
        if step == "write":
            folder.write(name, content)
            held[name] = content
        elif step == "remove":
            folder.remove(name)
            held.pop(name, None)
        else:
            fail_while_writing(folder, name, content)
            if not folder.on_disk:
                held.pop(name, None)  # what stood there had to make room
        assert folder.names() == sorted(held)
        assert {each: folder.read(each) for each in held} == held
        assert [each for each in "abc" if folder.holds(each)] == sorted(held)


def fail_while_writing(folder: Folder, name: str, content: bytes) -> None:
    def write_half() -> None:
        with folder.writing(name) as file:
            file.write(content)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        write_half()


def test_a_block_that_fails_leaves_no_file(folder: Folder):
    fail_while_writing(folder, "new", b"half")
    assert folder.names() == []
    assert not folder.holds("new")


def test_a_block_that_fails_leaves_the_old_file_on_a_disk(tmp_path: Path):
    folder = Folder.open(tmp_path)
    folder.write("old", b"whole")
    fail_while_writing(folder, "old", b"half")
    assert folder.read("old") == b"whole"
    assert raw(folder) == {"old"}


def test_while_a_file_is_written_it_is_not_there(folder: Folder):
    with folder.writing("file") as file:
        file.write(b"half")
        file.flush()
        assert folder.names() == []
        assert not folder.holds("file")
    assert folder.names() == ["file"]


@pytest.mark.process
@pytest.mark.parametrize("old", [None, b"the old one"])
def test_a_killed_process_leaves_no_half_file_on_a_disk(tmp_path: Path, old: bytes | None):
    folder = Folder.open(tmp_path)
    if old is not None:
        folder.write("part", old)
    code = (
        "import sys, time; from speech_emotion_jax.runtime.storage import Folder\n"
        "with Folder.open(sys.argv[1]).writing('part') as file:\n"
        "    file.write(b'half'); file.flush(); print('writing', flush=True); time.sleep(60)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code, tmp_path], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    assert writer.stdout.readline() == "writing\n"
    writer.send_signal(signal.SIGKILL)
    assert writer.wait() == -signal.SIGKILL
    writer.stdout.close()
    assert len(raw(folder)) == 1 + (old is not None)  # the half is there, under another name
    assert folder.names() == ([] if old is None else ["part"])
    assert folder.holds("part") == (old is not None)
    if old is not None:
        assert folder.read("part") == old
    folder.write("part", b"new")
    assert folder.names() == ["part"]
    assert folder.read("part") == b"new"


def test_on_a_bucket_a_file_without_its_marker_does_not_count(bucket: Folder):
    bucket.files.pipe_file(bucket.path("part"), b"half")
    bucket.write("other", b"whole")
    assert bucket.names() == ["other"]
    assert not bucket.holds("part")
    assert raw(bucket) == {"part", "other", "other" + MARKER}


def test_on_a_bucket_the_marker_goes_first(bucket: Folder, monkeypatch: pytest.MonkeyPatch):
    bucket.write("part", b"old")
    removed: list[str] = []
    remove = bucket.files.rm_file

    def watched(path: str) -> None:
        removed.append(path.rpartition("/")[2])
        remove(path)

    monkeypatch.setattr(bucket.files, "rm_file", watched)
    with bucket.writing("part") as file:
        assert raw(bucket).isdisjoint({"part" + MARKER})
        file.write(b"new")
    assert removed == ["part" + MARKER, "part"]
    assert bucket.read("part") == b"new"
    bucket.remove("part")
    assert removed[2:] == ["part" + MARKER, "part"]
    assert raw(bucket) == set()


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask(tmp_path: Path, mask: int):
    before = os.umask(mask)
    try:
        Folder.open(tmp_path).write("file", b"")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o666 & ~mask


def test_an_absent_folder_holds_nothing(tmp_path: Path):
    for path in (tmp_path / "absent", f"memory://{uuid.uuid4()}/absent"):
        absent = Folder.open(path)
        assert absent.names() == []
        assert not absent.holds("file")


def test_an_unknown_file_system_is_refused():
    with pytest.raises(UnreadableInput, match=r"^bogus://bucket/run can't be reached \(.*bogus.*\); install"):
        Folder.open("bogus://bucket/run")


def test_what_is_remote():
    assert [is_remote(path) for path in ("gs://b/x", "s3://b", "memory://x", "git+ssh://x")] == [True] * 4
    assert [is_remote(path) for path in ("runs/one", "/runs", "C://x", "a:b", "x/gs://y", "")] == [False] * 6


def test_a_path_is_kept_as_it_was_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    folder = Folder.open("run")
    monkeypatch.chdir("/")
    folder.make()
    folder.write("file", b"here")
    assert (folder.name, folder.on_disk) == ("run", True)
    assert (tmp_path / "run" / "file").read_bytes() == b"here"
    assert fsspec.filesystem("file").exists(folder.path("file"))
