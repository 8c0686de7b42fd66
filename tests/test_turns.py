"""Files of turns: read as they were written, given to their recordings, and refused with the line that is wrong."""

import contextlib
import csv
import io
import json
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.timeline import Turn, read_turns
from speech_emotion_jax.timeline.turn_formats import PARSERS
from speech_emotion_jax.whisper import Cue, render_subtitles

names = st.text(st.characters(categories=("L", "N"), codec="utf-8"), min_size=1, max_size=8).filter(str.isprintable)
words = st.text(st.characters(categories=("L", "N", "P"), exclude_characters="<>&", codec="utf-8"), max_size=12)
texts = st.lists(words.filter(bool), min_size=1, max_size=4).map(" ".join)


@st.composite
def conversations(draw: st.DrawFn) -> list[Turn]:
    """Turns of up to three speakers, in order, with times in milliseconds."""
    speakers = draw(st.lists(names, min_size=1, max_size=3, unique=True))
    turns, clock = [], 0
    for _ in range(draw(st.integers(0, 6))):
        clock += draw(st.integers(0, 90_000))
        length = draw(st.integers(1, 400_000))
        turns.append(Turn(clock / 1000, (clock + length) / 1000, draw(st.sampled_from(speakers)), draw(texts)))
        clock += length
    return turns


def as_rttm(turns: list[Turn]) -> str:
    lines = [
        f"SPEAKER call 1 {turn.start:.3f} {turn.end - turn.start:.3f} <NA> <NA> {turn.speaker} <NA> <NA>"
        for turn in turns
    ]
    return ";; a comment\nSPKR-INFO call 1 <NA> <NA> <NA> unknown A <NA> <NA>\n" + "\n".join(lines)


def as_csv(turns: list[Turn]) -> str:
    content = io.StringIO(newline="")
    rows = csv.writer(content)
    rows.writerow(["Start", "end", "speaker", "text"])
    rows.writerows((turn.start, turn.end, turn.speaker, turn.text) for turn in turns)
    return content.getvalue()


def as_json(turns: list[Turn]) -> str:
    return json.dumps({"segments": [vars(turn) for turn in turns]})


def as_vtt(turns: list[Turn]) -> str:
    cues = [Cue(turn.start, turn.end, f"«{turn.speaker}»{turn.text}") for turn in turns]
    return render_subtitles("vtt", cues).replace("«", "<v ", len(cues)).replace("»", ">", len(cues))


def as_srt(turns: list[Turn]) -> str:
    return render_subtitles("srt", [Cue(turn.start, turn.end, turn.text or "") for turn in turns])


def parse(suffix: str, content: str) -> list[Turn]:
    return [parsed.turn for parsed in PARSERS[suffix](content)]


@given(conversations())
def test_turns_are_read_as_they_were_written(turns: list[Turn]):
    assert parse(".rttm", as_rttm(turns)) == [Turn(turn.start, turn.end, turn.speaker) for turn in turns]
    assert parse(".csv", as_csv(turns)) == turns
    assert parse(".json", as_json(turns)) == turns


@given(conversations())
def test_subtitles_are_read_with_their_texts(turns: list[Turn]):
    shown = [turn for turn in turns if turn.text and not set("«»") & set(turn.text)]
    assert parse(".srt", as_srt(shown)) == [Turn(turn.start, turn.end, None, turn.text) for turn in shown]
    assert parse(".vtt", as_vtt(shown)) == shown


PIECES = """SPEAKER call --> 00:01 00:00:01,5 , " start end [ { } ] "start":1
1e400 nan -1 WEBVTT NOTE <v > &lt; <NA> null :"""
pieces = st.sampled_from([*PIECES.split(), " 1", " ", "\t", "\0", "\n", "\n\n"])
junk = st.lists(pieces | st.text(max_size=4), max_size=30).map("".join)


@pytest.mark.parametrize("suffix", PARSERS)
@given(content=junk)
def test_what_is_no_file_of_turns_is_refused_in_a_sentence(suffix: str, content: str):
    with contextlib.suppress(InvalidInput):  # Any other error fails the test.
        assert all(math.isfinite(turn.start + turn.end) for turn in parse(suffix, content))


def test_tags_of_webvtt_are_no_words():
    content = "WEBVTT - talk\nKind: captions\n\nNOTE none\n\n1\n00:01.000 --> 00:02.500 align:start\n"
    content += "<v.loud Ana &amp; Co><i>Ah</i>, <00:01.500>sí &lt;3\n"
    assert parse(".vtt", content) == [Turn(1.0, 2.5, "Ana & Co", "Ah, sí <3")]


def write(folder: Path, name: str, content: str) -> str:
    (folder / name).write_text(content, encoding="utf-8")
    return str(folder / name)


def test_turns_find_their_recording(tmp_path: Path):
    both = "SPEAKER b 1 1 1 x x A x x\nSPEAKER a 1 2 1 x x A x x\nSPEAKER b 1 0 3 x x B x x\n"
    path = write(tmp_path, "all.rttm", both)
    a, b = read_turns([path], ["in/a.wav", "in/b.mp3"])
    assert a == [Turn(2.0, 3.0, "A")]
    assert b == [Turn(0.0, 3.0, "B"), Turn(1.0, 2.0, "A")], "different speakers may overlap, in any order"

    first = write(tmp_path, "a.srt", "1\n00:00:00,000 --> 00:00:01,000\nHola\n")
    second = write(tmp_path, "b.csv", "start,duration,recording\n0,1.5,b.mp3\n")
    assert read_turns([second, first], ["a.wav", "b.mp3"]) == [[Turn(0.0, 1.0, None, "Hola")], [Turn(0.0, 1.5)]]
    assert read_turns([first], ["other.wav"]) == [[Turn(0.0, 1.0, None, "Hola")]], "there is nothing to mix up"
    assert read_turns([write(tmp_path, "none.rttm", "")], ["a.wav"]) == [[]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("0,3,A\n2,4,A", "line 3: the turn from 2 to 4 s overlaps the turn of A before it, which ends at 3 s"),
        ("5,6,A\n1,2,A", "line 3: the turn from 1 to 2 s is not in order: the turn of A before it starts later"),
        ("5,4,A", "line 2: the turn from 5 to 4 s goes backwards"),
        ("5,5,A", "goes backwards or is empty"),
        ("-1,4,A", "starts before the recording"),
        ("1,4,", "line 2 names no speaker"),
        ("1,x,A", "line 2: 'x' is no time in seconds"),
        ("1,nan,A", "'nan' is no time"),
        ("1,2", "line 2 has 2 cells, the first 3"),
    ],
)
def test_turns_that_contradict_each_other(tmp_path: Path, content: str, message: str):
    path = write(tmp_path, "a.csv", f"start,end,speaker\n{content}\n")
    with pytest.raises(InvalidInput) as error:
        read_turns([path], ["a.wav"])
    assert str(error.value).startswith(f"{path}: ")
    assert message in str(error.value)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.rttm", "SPEAKER a 1 0 1 x x <NA> x x", "line 1 names no speaker"),
        ("a.rttm", "SPEAKER a 1 0", "line 1 has 4 fields"),
        ("a.rttm", "start,end", "line 1 is no line of RTTM"),
        ("a.json", "{}", "no list of turns"),
        ("a.json", "[1]", "turn 1 is no object"),
        ("a.json", "[{", "it is no JSON"),
        ("a.json", '[{"start": 1}]', "turn 1 has no end"),
        ("a.csv", "begin,end\n1,2", "line 2 has no start"),
        ("a.srt", "1\nhola", "line 1 is no cue"),
        ("a.txt", "", "turns are read from .rttm, .csv"),
    ],
)
def test_files_that_cannot_be_used(tmp_path: Path, name: str, content: str, message: str):
    with pytest.raises(InvalidInput, match=message):
        read_turns([write(tmp_path, name, content)], ["a.wav"])


def test_files_that_do_not_fit_the_recordings(tmp_path: Path):
    a = write(tmp_path, "a.rttm", "SPEAKER a 1 0 1 x x A x x\n")
    again = write(tmp_path, "a.srt", "00:00:00,000 --> 00:00:01,000\nHola\n")
    other = write(tmp_path, "c.rttm", "SPEAKER c 1 0 1 x x A x x\nSPEAKER d 1 0 1 x x A x x\n")
    with pytest.raises(InvalidInput, match=r"a\.rttm and .*a\.srt both have turns of a\.wav; give one"):
        read_turns([a, again], ["a.wav"])
    with pytest.raises(InvalidInput, match=r"c\.rttm has turns of 'c', which is none of the recordings"):
        read_turns([other], ["a.wav"])
    with pytest.raises(InvalidInput, match=r"no turns of b\.wav"):
        read_turns([a], ["a.wav", "b.wav"])
    with pytest.raises(InvalidInput, match="several recordings have that name"):
        read_turns([a], ["one/a.wav", "two/a.wav"])
    with pytest.raises(UnreadableInput, match=r"none\.rttm can't be read"):
        read_turns([str(tmp_path / "none.rttm")], ["a.wav"])
    (tmp_path / "latin.csv").write_bytes("start,end,speaker\n0,1,Begoña\n".encode("latin-1"))
    with pytest.raises(InvalidInput, match="not UTF-8"):
        read_turns([str(tmp_path / "latin.csv")], ["a.wav"])
