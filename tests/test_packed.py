"""Recordings in shards: what went in comes out, and sounds the same."""

import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from array_record.python.array_record_module import ArrayRecordWriter
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.audio import Cut, describe, packed, waveform
from speech_emotion_jax.audio.packed import PackedRecording
from speech_emotion_jax.corpus.packing import MANIFEST, SHARD_BYTES, PackSummary, pack
from speech_emotion_jax.errors import InvalidInput, UnreadableInput

from .support.examples import examples
from .support.recordings import encode, encode_with_av, tones

FILES = {
    "a.wav": encode(tones(1, 16_000), 16_000),
    "b/stereo.flac": encode(tones(2, 44_100, 2), 44_100, "FLAC"),
    "ñ.ogg": encode(tones(1.5, 22_050), 22_050, "OGG", "VORBIS"),
    "video.m4a": encode_with_av(tones(1, 44_100), 44_100, "ipod", "aac"),
    "empty.wav": b"",
    "letter.wav": b"Dear listener, there is no sound in here.",
    "cut-off.wav": encode(tones(1, 16_000), 16_000)[:-500],
}
NAMES = list(FILES)


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    for name, content in FILES.items():
        (tmp_path / "corpus" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "corpus" / name).write_bytes(content)
    return tmp_path / "corpus"


def write_shard(path: Path, records: list[bytes]) -> str:
    writer = ArrayRecordWriter(str(path), "group_size:1,uncompressed")
    for record in records:
        writer.write(record)
    writer.close()
    return str(path)


def packed_from(
    table: pa.Table,
    root: Path,
    output: Path,
    shard_bytes: int = SHARD_BYTES,
    columns: dict[str, str] | None = None,
    time_unit: str = "s",
) -> PackSummary:
    """Pack a table, written as a manifest beside the corpus."""
    path = root.parent / "manifest-of-corpus.parquet"
    pq.write_table(table, path)
    return pack(str(path), str(root), output, columns=columns, time_unit=time_unit, shard_bytes=shard_bytes)


def rows(folder: Path) -> list[dict]:
    return pq.read_table(folder / MANIFEST).to_pylist()


def of(row: dict, folder: Path) -> PackedRecording:
    return PackedRecording(str(folder / row["shard"]), row["record"])


@given(contents=st.lists(st.binary(max_size=300), min_size=1, max_size=30), shard_bytes=st.integers(1, 2_000))
@settings(max_examples=examples(30))
def test_any_bytes_come_back(contents: list[bytes], shard_bytes: int):
    with tempfile.TemporaryDirectory() as home:
        root, folder = Path(home, "corpus"), Path(home, "packed")
        root.mkdir()
        for number, content in enumerate(contents):
            (root / str(number)).write_bytes(content)
        table = pa.table({"clip": [str(number) for number in range(len(contents))]})
        summary = packed_from(table, root, folder, shard_bytes, {"filename": "clip"})
        packed_rows = rows(folder)
        assert [of(row, folder).read() for row in packed_rows] == contents
        for name in {row["shard"] for row in packed_rows}:
            inside = [contents[number] for number, row in enumerate(packed_rows) if row["shard"] == name]
            assert len(inside) == 1 or sum(map(len, inside)) <= shard_bytes
        assert len(list(folder.iterdir())) == summary.shards + 1


def test_a_packed_recording_sounds_as_its_file(corpus: Path, tmp_path: Path):
    table = pa.table({"filename": NAMES, "label": list("abcdefg")})
    summary = packed_from(table, corpus, tmp_path / "out", 100_000)
    assert summary == PackSummary(7, 7, 3, sum(map(len, FILES.values())), 3)
    packed_rows = rows(tmp_path / "out")
    assert [row["filename"] for row in packed_rows] == NAMES
    assert [row["label"] for row in packed_rows] == list("abcdefg")
    assert sorted({row["shard"] for row in packed_rows}) == [
        f"audio-0000{shard}-of-0000{summary.shards}.array_record" for shard in range(summary.shards)
    ]
    for row in packed_rows[:4]:
        source = of(row, tmp_path / "out")
        path = corpus / row["filename"]
        np.testing.assert_array_equal(waveform.load(source), waveform.load(path))
        np.testing.assert_array_equal(waveform.load(Cut(source, 0.25, 0.75)), waveform.load(Cut(path, 0.25, 0.75)))
        assert waveform.stated_seconds(source) == waveform.stated_seconds(path)
        assert row["seconds"] == pytest.approx(len(waveform.load(path)) / 16_000, abs=1e-4)
    for row in packed_rows[4:]:
        assert row["seconds"] is None
        name = re.escape(f"record {row['record']} of {tmp_path / 'out' / row['shard']}")
        with pytest.raises(UnreadableInput, match=f"^{name} is"):
            waveform.load(of(row, tmp_path / "out"))


def test_cuts_of_one_file_share_a_record(corpus: Path, tmp_path: Path):
    table = pa.table(
        {
            "file": ["b/stereo.flac", "a.wav", "b/stereo.flac", "b/stereo.flac", "", None, "letter.wav", "a.wav"],
            "from": [0.5, None, 1.0, 0.0, 0.0, 0.0, 0.0, 5.0],
            "to": [1.25, None, 9.0, None, 1.0, None, 1.0, 6.0],
        }
    )
    columns = {"filename": "file", "start": "from", "end": "to"}
    summary = packed_from(table, corpus, tmp_path / "out", columns=columns)
    assert (summary.rows, summary.recordings) == (8, 3)
    packed_rows = rows(tmp_path / "out")
    assert [row["record"] for row in packed_rows] == [0, 1, 0, 0, None, None, 2, 1]
    assert [row["seconds"] for row in packed_rows] == [0.75, 1.0, 1.0, 2.0, None, None, None, None]
    assert [row["shard"] is None for row in packed_rows] == [False] * 4 + [True] * 2 + [False] * 2
    assert pq.read_table(tmp_path / "out" / MANIFEST).select(table.column_names).to_pylist() == table.to_pylist()


def test_milliseconds_stay_milliseconds(corpus: Path, tmp_path: Path):
    table = pa.table({"filename": ["a.wav"], "start": [250.0], "end": [750.0]})
    packed_from(table, corpus, tmp_path / "out", time_unit="ms")
    [row] = rows(tmp_path / "out")
    assert (row["start"], row["end"], row["seconds"]) == (250.0, 750.0, 0.5)


def test_the_same_corpus_gives_the_same_bytes(corpus: Path, tmp_path: Path):
    table = pa.table({"filename": NAMES})
    for name in ("one", "two"):
        packed_from(table, corpus, tmp_path / name, 50_000)
    one, two = ({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()} for name in ("one", "two"))
    assert one == two
    assert len(one) > 3


def test_what_is_refused_before_any_work(corpus: Path, tmp_path: Path):
    table = pa.table({"filename": ["x.wav", "a.wav", "no/y.wav", "b"]})
    with pytest.raises(UnreadableInput, match=r"^3 of 4 recordings are not there: .*/x\.wav, .*/no/y\.wav, .*/b; name"):
        packed_from(table, corpus, tmp_path / "out")
    table = pa.table({"filename": ["a.wav"]})
    with pytest.raises(InvalidInput, match="has a column 'record' already"):
        packed_from(table.append_column("record", pa.array([1])), corpus, tmp_path / "out")
    with pytest.raises(InvalidInput, match="no column of recordings"):
        packed_from(pa.table({"transcription": ["words"]}), corpus, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["corpus", "manifest-of-corpus.parquet"]
    packed_from(table, corpus, tmp_path / "out")
    with pytest.raises(InvalidInput, match="exists already"):
        packed_from(table, corpus, tmp_path / "out")


@pytest.mark.process
def test_a_killed_pack_leaves_no_folder_of_that_name(tmp_path: Path):
    root = tmp_path / "corpus"
    root.mkdir()
    (root / "noise").write_bytes(os.urandom(1 << 20))
    for number in range(3_000):
        (root / f"{number}").symlink_to("noise")
    code = (
        "import sys; from speech_emotion_jax.corpus.packing import pack\n"
        "pack(sys.argv[1], sys.argv[2], sys.argv[3], shard_bytes=1 << 22)\n"
    )
    table = tmp_path / "table.csv"
    table.write_text("filename\n" + "".join(f"{number}\n" for number in range(3_000)))
    run = subprocess.Popen([sys.executable, "-c", code, table, root, tmp_path / "out"])
    try:
        for _ in range(600):
            if len(list(tmp_path.glob(".out.unfinished-*/audio-*"))) > 2:
                break
            assert run.poll() is None
            time.sleep(0.05)
    finally:
        run.send_signal(signal.SIGKILL)
    assert run.wait() == -signal.SIGKILL
    assert not (tmp_path / "out").exists()


def test_threads_read_at_random(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(packed, "_OPEN_SHARDS", 2)  # of five: readers come and go under the threads
    generator = random.Random(0)
    contents = [[generator.randbytes(generator.randrange(2_000)) for _ in range(20)] for _ in range(5)]
    shards = [write_shard(tmp_path / str(number), records) for number, records in enumerate(contents)]

    def read(seed: int) -> bool:
        choose = random.Random(seed)
        picks = [(choose.randrange(5), choose.randrange(20)) for _ in range(300)]
        return all(PackedRecording(shards[shard], record).read() == contents[shard][record] for shard, record in picks)

    with ThreadPoolExecutor(4) as threads:
        assert all(threads.map(read, range(4)))
    assert len(packed._readers) <= 2


def test_errors_name_shard_and_record(tmp_path: Path):
    shard = write_shard(tmp_path / "whole", [bytes([number]) * 50_000 for number in range(5)])
    content = Path(shard).read_bytes()
    for name, broken in {
        "empty": b"",
        "junk": random.Random(0).randbytes(100_000),
        "short": content[:-5_000],
        "flipped": content.replace(b"\x02" * 10, b"\x07" * 10),
    }.items():
        (tmp_path / name).write_bytes(broken)
        with pytest.raises(
            UnreadableInput, match=rf"^record 2 of .*/{name} can't be read \(.+\); copy the shard again"
        ):
            waveform.load(PackedRecording(str(tmp_path / name), 2))
    for name in ("none", "a\0b", ""):
        with pytest.raises(UnreadableInput, match=r"^record 2 of .* can't be read"):
            PackedRecording(name and str(tmp_path / name), 2).read()
    with pytest.raises(UnreadableInput, match=r"^record 2 of .* can't be read"):
        PackedRecording(str(tmp_path), 2).read()
    for record in (5, 10**9, 10**30, -1):
        with pytest.raises(UnreadableInput, match=f"^{re.escape(shard)} has no record {record}, it has 5; use"):
            PackedRecording(shard, record).read()
    assert PackedRecording(shard, 3).read() == b"\3" * 50_000


def test_a_shard_written_anew_is_read_anew(tmp_path: Path):
    shard = write_shard(tmp_path / "shard", [b"old"])
    assert PackedRecording(shard, 0).read() == b"old"
    write_shard(tmp_path / "next", [b"new", b"more"])
    (tmp_path / "next").replace(shard)
    assert PackedRecording(shard, 1).read() == b"more"
    assert describe(PackedRecording("audio-00000-of-00001.array_record", 7)) == (
        "record 7 of audio-00000-of-00001.array_record"
    )
