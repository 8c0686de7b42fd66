"""Manifests: what is read is what was written, and all that is wrong with one is said at once."""

import csv
import hashlib
import io
import json
import re
import unicodedata
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.audio import Cut
from speech_emotion_jax.cli.options import any_place, disk_place
from speech_emotion_jax.corpus import load_label_map, parse_columns, read_manifest, write_manifest
from speech_emotion_jax.corpus import manifest_formats as module
from speech_emotion_jax.corpus.manifest import Manifest, Row, locate
from speech_emotion_jax.corpus.manifest_formats import clean_name
from speech_emotion_jax.corpus.validation import rename_clashes, validate
from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.evaluation import recording_source

from .support.examples import examples

LABELS = ("anger", "joy", "neutral")
KINDS = (".csv", ".tsv", ".jsonl", ".parquet")


def write(path: Path, rows: list[dict[str, Any]]) -> str:
    """A manifest of rows with the same keys, in the format of the suffix."""
    if path.suffix == ".parquet":
        pq.write_table(pa.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        text = io.StringIO(newline="")
        writer = csv.DictWriter(text, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
        writer.writeheader()
        writer.writerows(rows)
        path.write_bytes(text.getvalue().encode())
    return str(path)


def check(manifest: Manifest, audio_root: Path | None = None, *, audio: bool = False, text: bool = False) -> str:
    """What validation says, or "" where all is well."""
    root = None if audio_root is None else str(audio_root)
    try:
        validate(manifest, audio_root=root, needs_audio=audio, needs_text=text, labels=LABELS)
    except InvalidInput as error:
        return str(error)
    return ""


# --- reading

# Letters of Unicode 3.2, which all libraries compose alike; no separators that only Python strips.
LETTERS = st.characters(codec="utf-8", exclude_characters="\x1c\x1d\x1e\x1f", exclude_categories=("Cs", "Cn", "Co"))
TEXT = st.text(LETTERS, max_size=12).filter(lambda text: text not in NOTHING)
NOTHING = ("nan", "NaN", "NaT", "<NA>", "None")


@settings(max_examples=examples(60))
@given(
    kind=st.sampled_from(KINDS),
    cells=st.lists(st.tuples(TEXT, TEXT, TEXT), min_size=1, max_size=8),
)
def test_any_text_is_read_as_it_was_written(kind: str, cells: list[tuple[str, str, str]], tmp_path_factory: Any):
    rows = [{"filename": f"{n}.wav", "transcription": a, "label": b, "é x": c} for n, (a, b, c) in enumerate(cells)]
    path = write(tmp_path_factory.mktemp("m") / f"m{kind}", rows)
    manifest = read_manifest(path)
    assert [(row or "") for row in manifest.table.column("é x").to_pylist()] == [c for _, _, c in cells]
    for row, (text, label, _) in zip(manifest.rows(range(len(manifest))), cells, strict=True):
        assert row.text == (unicodedata.normalize("NFC", text) if text.strip() else None)
        assert row.label == (clean_name(label) or None)
    assert manifest.labels() == [clean_name(label) or None for _, label, _ in cells]
    assert manifest.sha256 == hashlib.sha256(Path(path).read_bytes()).hexdigest()


@pytest.mark.parametrize("kind", KINDS)
def test_text_stays_text(kind: str, tmp_path: Path):
    rows = [{"filename": "007", "label": "1.50", "transcription": text} for text in ("NA", "null", "", "  ")]
    manifest = read_manifest(write(tmp_path / f"m{kind}", rows))
    found = manifest.rows(range(4))
    assert [row.filename for row in found] == ["007"] * 4
    assert [row.label for row in found] == ["1.50"] * 4
    assert [row.text for row in found] == ["NA", "null", None, None]


@pytest.mark.parametrize("nothing", ["nan", "NaN", "NaT", "<NA>", "None"])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_of_python_and_pandas_is_nothing(kind: str, nothing: str, tmp_path: Path):
    rows = [dict.fromkeys(("filename", "label", "transcription", "start", "end", "seconds"), nothing)]
    row = read_manifest(write(tmp_path / f"m{kind}", [*rows, {**rows[0], "transcription": "nan nan"}])).rows(range(2))
    assert row[0][2:] == (None,) * 9
    assert row[1].text == "nan nan"


def test_not_a_number_is_nothing(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"filename": "a", "transcription": NaN, "label": NaN, "end": NaN}\n')
    nan = float("nan")
    pq.write_table(
        pa.table({"filename": ["a"], "label": [nan], "end": [nan], "transcription": [nan]}), tmp_path / "m.parquet"
    )
    for each in (str(path), str(tmp_path / "m.parquet")):
        row = read_manifest(each).rows(range(1))[0]
        assert (row.text, row.label, row.end) == (None, None, None)


def test_a_table_of_spanish_excel(tmp_path: Path):
    path = tmp_path / "m.csv"
    path.write_bytes("archivo;emoción;inicio\r\nseñal, uno.wav;alegría;1,5\r\n".encode("cp1252"))
    with pytest.warns(UserWarning, match="is separated by semicolons, and is encoded in Windows-1252; it is read so"):
        manifest = read_manifest(str(path), columns={"filename": "archivo", "label": "emoción", "start": "inicio"})
    row = manifest.rows(range(1))[0]
    assert (row.filename, row.label, row.start) == ("señal, uno.wav", "alegría", 1.5)


def test_quotes_of_a_tsv_without_quoting_are_letters(tmp_path: Path):
    path = tmp_path / "m.tsv"
    path.write_text('filename\ttranscription\tlabel\na\t"basta ya\tanger\nb\tque bien" grita\tjoy\nc\t"no"\tfear\n')
    with pytest.warns(UserWarning, match="has quotes that are part of its texts"):
        rows = read_manifest(str(path)).rows(range(3))
    assert [(row.id, row.label, row.text) for row in rows] == [
        ("a", "anger", '"basta ya'),
        ("b", "joy", 'que bien" grita'),
        ("c", "fear", '"no"'),
    ]


def test_durations_are_times(tmp_path: Path):
    durations = pa.array([1_500_000_000], pa.duration("ns"))
    pq.write_table(pa.table({"filename": ["a"], "start": durations}), tmp_path / "m.parquet")
    written = write(tmp_path / "m.csv", [{"filename": "a", "start": "0 days 00:00:01.500000"}])
    for path in (str(tmp_path / "m.parquet"), written):
        for unit in ("s", "ms"):
            assert read_manifest(path, time_unit=unit).rows(range(1))[0].start == 1.5


def test_letters_are_composed(tmp_path: Path):
    parts = {
        "filename": "nin\u0303o.wav",
        "label": "alegri\u0301a ",
        "transcription": "infeccio\u0301n",
        "an\u0303o": "1",
    }
    manifest = read_manifest(write(tmp_path / "m.csv", [parts]), label_map={"alegri\u0301a": "joy"})
    row = manifest.rows(range(1))[0]
    assert (row.id, row.label, row.text) == ("niño.wav", "joy", "infección")
    assert "año" in manifest.table.column_names


def test_a_json_array_is_a_table(tmp_path: Path):
    path = tmp_path / "m.json"
    path.write_text('\ufeff [{"filename": "a", "start": 1},\n {"filename": "b", "label": null}]', "utf-8")
    assert [row[1:3] for row in read_manifest(str(path)).rows(range(2))] == [("a:1-", "a"), ("b:-", "b")]
    path.write_text('{"filename": {"0": "a"}}')
    with pytest.raises(UnreadableInput, match=r"to_json\(orient='records'\)"):
        read_manifest(str(path))


def test_a_byte_order_mark_is_no_part_of_a_name(tmp_path: Path):
    for name, content in (("m.csv", "filename,label\na,joy\n"), ("m.jsonl", '{"filename": "a", "label": "joy"}\n')):
        path = tmp_path / name
        path.write_text(content, encoding="utf-8-sig")
        assert read_manifest(str(path)).rows(range(1))[0][1:3] == ("a", "a")


def test_json_lines_may_differ_in_their_keys(tmp_path: Path):
    path = tmp_path / "m.jsonl"
    path.write_text('{"filename": "a", "label": 3}\n\n{"filename": "b", "tags": ["x"], "start": 1}\n')
    manifest = read_manifest(str(path))
    assert manifest.table.to_pylist() == [
        {"filename": "a", "label": "3", "tags": None, "start": None, "id": "a:-"},
        {"filename": "b", "label": None, "tags": '["x"]', "start": 1.0, "id": "b:1-"},
    ]


def test_columns_have_other_names(tmp_path: Path):
    path = write(tmp_path / "m.csv", [{"path": "a", "emotion": "calm", "words": "hi"}])
    columns = {"filename": "path", "label": "emotion", "transcription": "words"}
    manifest = read_manifest(path, columns=columns, label_map={"calm": "neutral"})
    assert manifest.rows([0]) == [Row(0, "a", "a", None, None, None, None, "hi", "neutral", None, None)]
    assert manifest.columns == {"id": "path", **columns}
    with pytest.raises(InvalidInput, match=r"'emotoin' \(for label\).*path, emotion, words"):
        read_manifest(path, columns={"label": "emotoin"})


@pytest.mark.parametrize("kind", KINDS)
def test_cuts(kind: str, tmp_path: Path):
    rows = [{"filename": "a", "start": start, "end": start + 500, "seconds": 0.5} for start in (0, 1500)]
    manifest = read_manifest(write(tmp_path / f"m{kind}", rows), time_unit="ms")
    assert [row[1:2] + row[5:7] + row[9:10] for row in manifest.rows(range(2))] == [
        ("a:0-500", 0.0, 0.5, 0.5),
        ("a:1500-2000", 1.5, 2.0, 0.5),
    ]
    assert manifest.table.column("start").to_pylist() == [0.0, 1500.0]  # carried along as it is
    assert manifest.has_generated_id


def test_clips_without_a_name_are_told_apart(tmp_path: Path):
    packed = read_manifest(write(tmp_path / "p.csv", [{"shard": "x", "record": 4}, {"shard": "x", "record": 10}]))
    assert [row.id for row in packed.rows(range(2))] == ["x:4", "x:10"]
    texts = [{"transcription": text, "split": split} for text, split in (("a", "dev"), ("b", "test"), ("c", "test"))]
    assert [row.id for row in read_manifest(write(tmp_path / "t.csv", texts), split="test").rows(range(2))] == [
        "2",
        "3",
    ]


@pytest.mark.parametrize("kind", KINDS)
def test_splits(kind: str, tmp_path: Path):
    splits = ["train", "dev", "test", "dev"]
    path = write(tmp_path / f"m{kind}", [{"filename": str(n), "split": split} for n, split in enumerate(splits)])
    manifest = read_manifest(path, split="dev, test")
    assert [(row.number, row.filename) for row in manifest.rows(range(3))] == [(0, "1"), (1, "2"), (2, "3")]
    assert [row.filename for row in manifest.rows([2, 0])] == ["3", "1"]
    assert manifest.file_rows.tolist() == [2, 3, 4]
    with pytest.raises(InvalidInput, match="there are train, dev, test"):
        read_manifest(path, split="tset")


def test_a_long_table_is_as_a_short_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    rows = [{"id": str(n), "filename": "one.wav", "label": LABELS[n % 3], "split": "ab"[n % 2]} for n in range(1000)]
    path = write(tmp_path / "m.csv", rows)
    (tmp_path / "one.wav").touch()
    short = read_manifest(path, split="a")
    monkeypatch.setattr(module, "CHUNK_ROWS", 64)
    monkeypatch.setattr(module, "BLOCK", 512)
    long = read_manifest(path, split="a")
    assert long.table.column("filename").num_chunks > 3
    assert pa.types.is_dictionary(long.table.column("filename").type)
    assert pa.types.is_string(long.table.column("id").type)
    assert long.rows(range(500)) == short.rows(range(500)) == short.rows(list(range(500)))
    assert long.labels() == short.labels()
    assert long.table.to_pylist() == short.table.to_pylist()
    assert check(long, tmp_path, audio=True) == ""
    assert "duplicate ids" in check(read_manifest(path, columns={"id": "filename"}), tmp_path, audio=True)


def test_a_manifest_on_a_bucket():
    path = f"memory://{uuid.uuid4()}/m.csv"
    with fsspec.open(path, "wb") as file:
        file.write(b"filename,label\na,joy\n")  # pyright: ignore
    assert read_manifest(path).labels() == ["joy"]
    with pytest.raises(UnreadableInput, match="nowhere"):
        read_manifest("memory://nowhere/m.csv")


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("m.csv", b"a,b\n1,2\n3\n", "line 3 has 1 cells, the first 2"),
        ("m.csv", "a,b\n1,ñ\n".encode() + b"2,\xf1\n", "line 3 of .* is not UTF-8, and line 2 is"),
        ("m.csv", b"a,b\n1,\x81\n", "line 2 of .* is neither UTF-8 nor Windows-1252"),
        ("m.csv", "a,b\n1,ñ\n".encode("utf-16-le"), "neither UTF-8 nor"),
        ("m.csv", "a,b\n1,2\n".encode("utf-16")[:-1], "begins as UTF-16"),
        ("m.csv", b'a,b\n1,2\n1,"2\n3,4\n', "a quote opens on line 3 and is never closed"),
        ("m.csv", b'a,b\n1,"no" dijo\n3,4\n', "a quote opens on line 2 and is not closed"),
        ("m.csv", b'a,b,c\n1.wav,"si,x\n2.wav,no",x\n', "a quote opens on line 2 and swallows the rows up to line 3"),
        ("m.csv", b'a,b\n1, "si"\n', "line 2 has a blank between a separator and a quote"),
        ("m.csv", b"a,a\n1,2\n", "more than one column 'a'"),
        ("m.csv", b"a,b\n", "has no rows"),
        ("m.csv", b"", "has no rows"),
        ("m.jsonl", b"\n", "has no rows"),
        ("m.csv", b"filename,start\na,1\nb,soon\n", "row 2 has 'soon' in the column 'start', which is not a number"),
        ("m.csv", b"shard,record\na,1.5\n", "row 1 has '1.5' in the column 'record', which is not a whole number"),
        ("m.jsonl", b'{"a": 1}\n{"a": \n', "line 2 of .* is not a row"),
        ("m.jsonl", b'{"a": 1}\n[1]\n', "line 2 of .* it is not an object"),
        ("m.jsonl", b'{"a": "\xff"}\n', "line 1 of .* is not UTF-8"),
        ("m.jsonl", b'{"a": "\\ud800"}\n', "line 1 of"),
        ("m.jsonl", b'{"a": 1, "a": 2}\n', "it has a key twice"),
        ("m.parquet", b"PAR1 no", "can't be read"),
        ("m.parquet", b"", "can't be read"),
        ("m.xlsx", b"", "as .csv, .tsv, .jsonl, .json, .parquet"),
    ],
)
def test_what_is_no_manifest(name: str, content: bytes, says: str, tmp_path: Path):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises((InvalidInput, UnreadableInput), match=says) as caught:
        read_manifest(str(path))
    assert str(path) in str(caught.value)


def test_a_manifest_that_is_not_there(tmp_path: Path):
    with pytest.raises(UnreadableInput, match=r"none\.csv can't be read"):
        read_manifest(str(tmp_path / "none.csv"))


# --- flags


def test_columns_flag():
    assert parse_columns("filename=path, label=emotion") == {"filename": "path", "label": "emotion"}
    for wrong in ("labl=x", "label", "label=", "label=a,label=b", ""):
        with pytest.raises(InvalidInput):
            parse_columns(wrong)


def test_label_map_flag(tmp_path: Path):
    assert load_label_map("calm=neutral,surprise=") == {"calm": "neutral", "surprise": ""}
    path = tmp_path / "map.json"
    path.write_text('{"a=b": "joy", "x": null}')
    assert load_label_map(str(path)) == {"a=b": "joy", "x": ""}
    path.write_text("[1]")
    for wrong in ("calm", "=joy", "a=b,a=c", str(path)):
        with pytest.raises(InvalidInput):
            load_label_map(wrong)
    path.write_text("{")
    for wrong in (str(path), str(tmp_path / "none.json")):
        with pytest.raises(UnreadableInput):
            load_label_map(wrong)


# --- validation


@pytest.fixture(scope="module")
def audio(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("corpus") / "audio"
    (root / "b").mkdir(parents=True)
    for number in range(100):
        (root / "b" / f"{number}.wav").touch()
    (root / "a.wav").touch()
    (root.parent / "secret.wav").touch()
    return root


DEFECTS: dict[str, tuple[Callable[[list[dict[str, Any]]], None], str]] = {
    "missing": (lambda rows: rows[3].update(filename="b/none.wav"), "missing files under .* row 4: b/none.wav"),
    "climbs": (lambda rows: rows[4].update(filename="../secret.wav"), r"leave the audio root.*row 5: \.\./secret.wav"),
    "absolute": (lambda rows: rows[5].update(filename="/etc/passwd"), "leave the audio root.*row 6: /etc/passwd"),
    "unnamed": (lambda rows: rows[6].update(filename=""), r"rows without a filename \(1\): row 7"),
    "label": (lambda rows: rows[7].update(label="calm"), r"unknown labels.*anger, joy, neutral.*calm \(1 rows\)"),
    "id": (lambda rows: rows[8].update(id="c0"), r"duplicate ids.*row 9: c0 \(as row 1\)"),
    "no id": (lambda rows: rows[9].update(id=""), r"rows without an id \(1\): row 10"),
    "text": (lambda rows: rows[10].update(transcription=" \t"), r"rows without a text.*\(1\): row 11"),
    "end": (lambda rows: rows[11].update(start=2, end=2), r"0 <= start < end \(.*row 12: 2 to 2"),
    "start": (lambda rows: rows[12].update(start=-1), r"0 <= start < end \(.*row 13: -1 to"),
    "inf": (lambda rows: rows[13].update(end="inf"), r"0 <= start < end \(.*row 14: 0 to inf"),
    "seconds": (lambda rows: rows[14].update(seconds=0), r"seconds that are not a positive duration \(1\): row 15: 0"),
}


@settings(max_examples=examples(60))
@given(chosen=st.sets(st.sampled_from(sorted(DEFECTS))), kind=st.sampled_from((".csv", ".tsv", ".jsonl")))
def test_every_defect_is_said_at_once(
    chosen: set[str], kind: str, audio: Path, tmp_path_factory: pytest.TempPathFactory
):
    rows = [
        {"id": f"c{n}", "filename": f"b/{n}.wav", "label": LABELS[n % 3], "transcription": "x", "start": 0, "end": 1}
        | {"seconds": 1.5}
        for n in range(90)
    ]
    for name in chosen:
        DEFECTS[name][0](rows)
    manifest = read_manifest(write(tmp_path_factory.mktemp("m") / f"m{kind}", rows))
    said = check(manifest, audio, audio=True, text=True)
    flat = said.replace("\n", " ")
    for name in chosen:
        lines = [line for line in said.splitlines()[1:] if re.search(DEFECTS[name][1], line)]
        assert len(lines) == 1, (name, flat)
    if not chosen:
        assert said == ""
    else:
        assert f"can't be used: {len(said.splitlines()) - 1} problem" in said.splitlines()[0]
        kinds = chosen - {"absolute" if "climbs" in chosen else "", *({"start", "inf"} if "end" in chosen else ())}
        kinds -= {"inf"} if "start" in kinds else set()
        assert len(said.splitlines()) == 1 + len(kinds)


def test_flags_find_files_in_either_form(tmp_path: Path):
    name = tmp_path / unicodedata.normalize("NFD", "señal.wav")
    name.touch()
    assert disk_place(str(tmp_path / "señal.wav")) == any_place(str(tmp_path / "señal.wav")) == str(name)
    assert disk_place("ñ/none.wav") == "ñ/none.wav"


@pytest.mark.parametrize("count", [2, 70])
def test_files_are_found_in_either_form(count: int, tmp_path: Path):
    forms = ("NFC", "NFD")
    names = [unicodedata.normalize(forms[n % 2], f"año {n}/niño {n}.wav") for n in range(count)]
    if count > 2:
        names = [name.replace(f" {n}/", "/") for n, name in enumerate(names)]
    rows = [{"filename": unicodedata.normalize(forms[(n + 1) % 2], name)} for n, name in enumerate(names)]
    for name in names:
        file = tmp_path / unicodedata.normalize("NFD", name.rpartition("/")[0]) / name.rpartition("/")[2]
        file.parent.mkdir(exist_ok=True)
        file.touch()
    manifest = read_manifest(write(tmp_path / "m.csv", rows))
    assert check(manifest, tmp_path, audio=True) == ""
    for row in manifest.rows(range(count)):
        assert Path(locate(str(row.filename), str(tmp_path))).is_file()


def test_few_files_and_many_are_looked_for_alike(audio: Path, tmp_path: Path):
    for count in (3, 99):
        rows = [{"filename": f"b/{n}.wav"} for n in range(count)] + [{"filename": f"b/x{n}.wav"} for n in range(7)]
        said = check(read_manifest(write(tmp_path / "m.csv", rows + rows)), audio, audio=True)
        assert f"(7): row {count + 1}: b/x0.wav" in said
        assert "row {}: b/x4.wav, and 2 more".format(count + 5) in said  # noqa: UP032
    folder = read_manifest(write(tmp_path / "m.csv", [{"filename": "b"}]))
    assert "missing files" in check(folder, audio, audio=True)


def test_what_a_mode_does_not_need_is_not_asked_for(audio: Path, tmp_path: Path):
    no_text = read_manifest(write(tmp_path / "a.csv", [{"filename": "a.wav"}]))
    assert check(no_text, audio, audio=True) == ""
    assert "missing columns" in check(no_text, audio, audio=True, text=True)
    no_audio = read_manifest(write(tmp_path / "t.csv", [{"transcription": "hola"}]))
    assert check(no_audio, None, text=True) == ""
    assert "missing columns" in check(no_audio, audio, audio=True)
    assert "the audio root is not a folder" in check(no_text, audio / "none", audio=True)


def test_packed_recordings(audio: Path, tmp_path: Path):
    rows = [{"shard": "a.wav", "record": 0}, {"shard": "none", "record": 1}, {"shard": "a.wav", "record": -1}]
    said = check(read_manifest(write(tmp_path / "m.csv", rows)), audio, audio=True)
    assert "row 2: none" in said
    assert "not a number from 0 (1): row 3: -1" in said


def test_a_label_map_that_maps_nothing_is_a_slip(tmp_path: Path):
    rows = [{"filename": "a", "label": "calm", "split": "x"}, {"filename": "b", "label": "joy", "split": "y"}]
    path = write(tmp_path / "m.csv", rows)
    assert check(read_manifest(path, label_map={"calm": ""}, split="y")) == ""  # elsewhere in the file
    assert "no row has (1): calmm" in check(read_manifest(path, label_map={"calmm": "joy", "calm": "neutral"}))
    assert read_manifest(path, label_map={"calm": ""}).labels() == [None, "joy"]


def test_a_transcription_may_be_called_text(tmp_path: Path):
    path = write(tmp_path / "m.csv", [{"text": "hola"}])
    assert rename_clashes(read_manifest(path, columns={"transcription": "text"}))[1] == {}
    assert rename_clashes(read_manifest(path))[1] == {"text": "manifest_text"}


def test_columns_named_like_results_get_another_name(tmp_path: Path):
    row = {"filename": "a", "duration": 2.5, "manifest_duration": "x", "score_joy": 0.5, "truth": "joy"}
    manifest = read_manifest(write(tmp_path / "m.csv", [row]), columns={"seconds": "duration", "label": "truth"})
    renamed, names = rename_clashes(manifest)
    assert names["duration"] == "manifest_manifest_duration"
    assert renamed.rows(range(1)) == manifest.rows(range(1))
    assert rename_clashes(renamed) == (renamed, {})


def test_rows_without_file_or_text_can_be_left_out(audio: Path, tmp_path: Path):
    rows = [
        {"filename": name, "transcription": text} for name, text in (("a.wav", "x"), ("b/1.wav", ""), ("lost", "x"))
    ]
    lost = {"filename": "lost", "transcription": "x", "start": 1}
    manifest = read_manifest(write(tmp_path / "m.csv", [{**each, "start": ""} for each in rows] + [lost]))
    settings: Any = {"audio_root": str(audio), "needs_audio": True, "needs_text": True, "labels": LABELS}
    problems = validate(manifest, **settings, strict=False)
    assert [problem.rows for problem in problems] == [[2, 3], [1]]
    with pytest.raises(InvalidInput, match="2 problems"):
        validate(manifest, **settings)
    with pytest.raises(InvalidInput, match="missing files"):
        validate(read_manifest(write(tmp_path / "l.csv", [lost])), **settings, strict=False)
    wrong = read_manifest(write(tmp_path / "w.csv", [{**rows[0], "label": "calm"}, {**rows[2], "label": "calm"}]))
    with pytest.raises(InvalidInput, match="2 problems"):
        validate(wrong, **settings, strict=False)


def test_what_to_name_is_in_the_message(audio: Path, tmp_path: Path):
    near = read_manifest(write(tmp_path / "m.csv", [{"File Name": "a.wav", "Label": "joy"}]))
    assert "--columns filename=File Name" in check(near, audio, audio=True)
    with pytest.raises(InvalidInput, match="--columns label=Label"):
        read_manifest(near.name, columns={"label": "labels"})
    sounds = pa.table({"audio": [{"bytes": b"RIFF", "path": "a.wav"}], "label": ["joy"]})
    pq.write_table(sounds, tmp_path / "m.parquet")
    said = check(read_manifest(str(tmp_path / "m.parquet")), audio, audio=True)
    assert "the recordings in the column 'audio' are not read; write them as files" in said


def test_nested_columns_are_written_as_json(tmp_path: Path):
    cells = {"a": [["x", "y"], None], "b": [{"n": 1}, {"n": 2}], "c": [b"123", None]}
    write_manifest(pa.table(cells), str(tmp_path / "m.csv"))
    table = read_manifest(str(tmp_path / "m.csv")).table
    assert table.column("a").to_pylist() == ['["x", "y"]', None]
    assert table.column("b").to_pylist() == ['{"n": 1}', '{"n": 2}']
    assert table.column("c").to_pylist() == ['"3 bytes"', None]


def test_recordings_are_looked_for_below_the_audio_root_alone(tmp_path: Path):
    root = str(tmp_path)
    assert locate("a/b.wav", root) == f"{root}/a/b.wav"
    assert locate(f"{root}/a.wav", root) == f"{root}/a.wav"
    assert locate("/data/a.wav", None) == "/data/a.wav"
    assert locate("a..b/...wav", root) == f"{root}/a..b/...wav"
    for name, above in (
        ("../a", root),
        ("a/../../b", root),
        ("/etc/passwd", root),
        (f"{root}x/a", root),
        ("../a", None),
    ):
        with pytest.raises(InvalidInput, match="leaves the audio root"):
            locate(name, above)
    with pytest.raises(InvalidInput):
        locate("a\0b", root)


def test_a_table_is_written_as_it_is_read(tmp_path: Path):
    table = pa.table({"filename": ["007", 'a "b",\nc'], "label": ["NA", None]})
    path = str(tmp_path / "new" / "m.csv")
    write_manifest(table, path)
    assert read_manifest(path).table.equals(table)
    with pytest.raises(InvalidInput, match="exists already"):
        write_manifest(table, path)
    with pytest.raises(InvalidInput, match=r"\.csv"):
        write_manifest(table, str(tmp_path / "m.txt"))


def test_one_speaker_a_channel(tmp_path: Path):
    path = tmp_path / "calls.csv"
    path.write_text("filename,channel\na.wav,0.0\na.wav,1.0\nb.wav,\n")
    manifest = read_manifest(str(path))
    rows = manifest.rows(range(3))
    assert [(row.id, row.channel) for row in rows] == [("a.wav#0", 0), ("a.wav#1", 1), ("b.wav#", None)]
    sources = [recording_source(row, "calls") for row in rows]
    assert sources == [Cut("calls/a.wav", 0, None, 0), Cut("calls/a.wav", 0, None, 1), "calls/b.wav"]
    path.write_text("filename,channel,start,end\na.wav,1,0.5,2\n")
    assert read_manifest(str(path)).rows([0])[0].id == "a.wav:0.5-2#1"


def test_a_channel_of_words_is_a_column_like_others(tmp_path: Path):
    path = tmp_path / "videos.csv"
    path.write_text("filename,channel\na.wav,News at ten\n")
    manifest = read_manifest(str(path))
    assert manifest.rows([0])[0].channel is None
    assert manifest.table.column("channel").to_pylist() == ["News at ten"]
    with pytest.raises(InvalidInput, match="'News at ten' in the column 'channel', which is not a whole number"):
        read_manifest(str(path), columns={"channel": "channel"})
