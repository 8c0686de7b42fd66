"""Timelines: units are what cuts are, scores are those of `predict`, and files say the same in every format."""

import json
import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import jsonschema
import numpy as np
import pyarrow.csv
import pyarrow.parquet
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax import EmotionPipeline, InvalidInput, UnreadableInput
from speech_emotion_jax.audio import Cut, as_cut, load
from speech_emotion_jax.cli.main import main
from speech_emotion_jax.timeline import (
    Timeline,
    TimelineUnit,
    Turn,
    Windows,
    check_outputs,
    smooth,
    spans,
    turn_units,
    window_units,
    write_timeline,
)

from .support.bad_input import RATE, noise
from .support.budgets import BATCH_BUDGET
from .support.examples import examples
from .support.recordings import encode, tones
from .support.timelines import SPOKEN, made_unit

DEMO = Path(str(files("speech_emotion_jax") / "demo_data"))
SECONDS = 4.0
RECORDINGS = {
    "wav": encode(tones(SECONDS, 16_000), 16_000),
    "stereo": encode(tones(SECONDS, 44_100, 2), 44_100, "FLAC", "PCM_16"),
    "mp3": encode(tones(SECONDS, 44_100, 2), 44_100, "MP3"),
    "array": {"array": tones(SECONDS, 8_000, 2).T, "sampling_rate": 8_000},
    "channel": Cut({"array": tones(SECONDS, 8_000, 2).T, "sampling_rate": 8_000}, channel=1),
}


@given(
    name=st.sampled_from(list(RECORDINGS)),
    parts=st.lists(st.tuples(st.floats(0, 3.8), st.floats(0.04, 3)), min_size=1, max_size=4),
)
@settings(max_examples=examples(60))
def test_units_are_cuts(name: str, parts: list[tuple[float, float]]):
    """In one pass and in any overlap, the samples of each unit are those of a cut of its own."""
    turns = [Turn(start, min(start + length, SECONDS)) for start, length in sorted(parts)]
    source = RECORDINGS[name]
    for turn, unit in zip(turns, turn_units([source], [turns]), strict=True):
        assert unit.audio is not None
        np.testing.assert_array_equal(load(unit.audio), load(as_cut(source)._replace(start=turn.start, end=turn.end)))


@given(
    name=st.sampled_from(list(RECORDINGS)),
    window=st.floats(0.1, 6),
    hops=st.floats(0.1, 1),
    end=st.floats(0.2, SECONDS),
)
@settings(max_examples=examples(60))
def test_windows_cover_the_recording(name: str, window: float, hops: float, end: float):
    source = {"array": load(as_cut(RECORDINGS[name])._replace(end=end)), "sampling_rate": RATE}
    units = list(window_units([source], Windows(window, hop := window * hops)))
    np.testing.assert_allclose([unit.start for unit in units], hop * np.arange(len(units)))
    assert all(unit.end == pytest.approx(unit.start + window) for unit in units[:-1])
    assert units[-1].end == pytest.approx(len(source["array"]) / RATE, abs=1e-3)
    assert units[-1].end - units[-1].start <= window + 1e-9
    assert all(unit.end < units[-1].end for unit in units[:-1])


def test_what_cannot_be_scored_is_marked(tmp_path: Path):
    sound = noise(3)
    sound[RATE : 2 * RATE] = 0
    soundfile.write(tmp_path / "call.wav", sound, RATE)
    turns = [Turn(0.0, 1.0), Turn(0.5, 0.52), Turn(1.1, 1.9), Turn(2.0, 3.05)]
    units = list(turn_units([tmp_path / "call.wav"], [turns]))
    assert [unit.unscored for unit in units] == [None, "too short", "silence", None]
    assert [unit.audio is None for unit in units] == [False, True, True, False]


@pytest.mark.parametrize("turn", [Turn(2.5, 3.2), Turn(3.0, 3.05), Turn(100.0, 101.0), Turn(1.0, 300.0)])
@pytest.mark.parametrize("container", ["WAV", "MP3"])
def test_turns_past_the_end(tmp_path: Path, turn: Turn, container: str):
    path = tmp_path / "call"
    path.write_bytes(encode(tones(3, RATE), RATE, container))
    if container == "MP3" and turn.end < 3.1:
        return  # an encoder adds up to 0.1 s
    with pytest.raises(InvalidInput, match=r"call .*(is 3\.\d+ s long, and a turn|after the end of the rec)"):
        list(turn_units([path], [[Turn(0.0, 1.0), turn]]))


def test_recordings_that_cannot_be_read(tmp_path: Path):
    soundfile.write(tmp_path / "nothing.wav", np.empty(0), RATE)
    with pytest.raises(InvalidInput, match=r"nothing\.wav holds no samples"):
        list(window_units([tmp_path / "nothing.wav"], Windows()))
    with pytest.raises(UnreadableInput, match=r"none\.wav does not exist"):
        list(window_units([tmp_path / "none.wav"], Windows()))
    broken = noise(2)
    broken[RATE + 100] = np.nan
    soundfile.write(tmp_path / "nan.wav", broken, RATE, subtype="FLOAT")
    with pytest.raises(InvalidInput, match=r"nan\.wav from 1 to 2 s: .* has NaN"):
        list(window_units([tmp_path / "nan.wav"], Windows(1.0, 1.0)))
    with pytest.raises(InvalidInput, match="is a cut; pass the whole recording"):
        list(window_units([Cut(tmp_path / "nan.wav", 0, 1)], Windows()))
    for values in ((0.0, 0.0), (161.0, 1.0), (1.0, 2.0), (1.0, 0.0), (float("nan"), 1.0)):
        with pytest.raises(InvalidInput, match="it must be from"):
            Windows(*values)


@pytest.fixture(scope="module")
def pipeline(published) -> Iterator[EmotionPipeline]:
    pipeline = EmotionPipeline.from_pretrained(published("audio", "es"), mode="audio", language="es", batch_size=2)
    yield pipeline
    pipeline.close()


def test_units_are_scored_as_predict_scores_their_cuts(pipeline: EmotionPipeline, tmp_path: Path):
    paths = [str(tmp_path / name) for name in ("a.wav", "b.flac")]
    soundfile.write(paths[0], noise(1.3, seed=1), RATE)
    soundfile.write(paths[1], np.stack([noise(1.1, seed=2, rate=22_050), noise(1.1, seed=3, rate=22_050)], 1), 22_050)
    turns = [[Turn(0.0, 0.5, "Ana"), Turn(0.25, 0.5, "Luis"), Turn(0.6, 0.61, "Ana"), Turn(0.7, 1.3)], [Turn(0.1, 1.1)]]
    units = list(pipeline.timeline(paths, turns=turns))
    assert [unit["recording"] for unit in units] == [paths[0]] * 4 + [paths[1]]
    assert [unit["speaker"] for unit in units] == ["Ana", "Luis", "Ana", None, None]
    assert [unit["unscored"] for unit in units] == [None, None, "too short", None, None]
    scored = [unit for unit in units if unit["probabilities"] is not None]
    cuts = [{"audio": Cut(unit["recording"], unit["start"], unit["end"])} for unit in scored]
    for unit, prediction in zip(scored, pipeline.predict(cuts), strict=True):
        assert unit["top_label"] == prediction["top_label"]
        assert unit["probabilities"] == pytest.approx(prediction["scores"], abs=BATCH_BUDGET)


@pytest.mark.slow
def test_each_channel_is_a_speaker(published, tmp_path: Path, capfd):
    path = tmp_path / "call.wav"
    soundfile.write(path, np.stack([noise(1, seed=1), noise(1, seed=2)], 1), RATE)
    checkpoint = ["--mode", "audio", "--language", "es", "--model-id", str(published("audio", "es"))]
    arguments = ["timeline", str(path), *checkpoint, "--json"]
    assert main([*arguments, "--window", "0.6", "--hop", "0.6", "--channel", "each"]) == 0
    both = json.loads(capfd.readouterr().out)["units"]
    assert [(each["start"], each["channel"], each["speaker"]) for each in both] == [
        (start, channel, f"channel {channel}") for start in (0.0, 0.6) for channel in (0, 1)
    ]
    assert main([*arguments, "--window", "0.6", "--hop", "0.6", "--channel", "right"]) == 0
    right = json.loads(capfd.readouterr().out)["units"]
    assert [each["probabilities"] for each in right] == [each["probabilities"] for each in both[1::2]]
    assert right[0]["probabilities"] != both[0]["probabilities"]


def test_arguments_that_do_not_fit(pipeline: EmotionPipeline):
    for arguments, message in (
        ({}, "needs turns, windows, or a transcriber"),
        ({"turns": [[]], "windows": Windows()}, "turns or of windows; give one"),
        ({"turns": []}, "turns of 0 recordings, and 1"),
    ):
        with pytest.raises(InvalidInput, match=message):
            list(pipeline.timeline(["a.wav"], **arguments))


def test_spans_share_the_time_of_windows_that_overlap():
    windows = [made_unit(0.0, 10.0), made_unit(2.5, 12.5), made_unit(5.0, 13.0)]
    assert [(start, end) for start, end, _ in spans(windows)] == [(0, 6.25), (6.25, 8.25), (8.25, 13)]
    turns = [made_unit(0.0, 2.0, "A"), made_unit(1.0, 3.0, "B"), made_unit(2.0, 4.0, "A")]
    assert [(start, end) for start, end, _ in spans(turns)] == [(0, 2), (1, 3), (2, 4)], "two speakers at a time"


@given(
    starts=st.lists(st.floats(0, 100), min_size=1, max_size=6).map(sorted),
    joys=st.lists(st.floats(0, 1), min_size=6, max_size=6),
    seconds=st.floats(0.1, 50),
)
def test_smoothing_is_a_weighted_mean_of_what_was_before(starts: list[float], joys: list[float], seconds: float):
    units = [
        made_unit(
            start, start + 2, probabilities={"joy": joy, "fear": 1 - joy}, top_label="joy" if joy > 0.5 else "fear"
        )
        for start, joy in zip(starts, joys, strict=False)
    ]
    marked = made_unit(starts[0], starts[0] + 0.01, probabilities=None, top_label=None, unscored="too short")
    other = made_unit(starts[0], starts[0] + 2, "Ana")
    first, *rest = smooth([marked, other, *units], seconds)
    assert [first, rest.pop(0)] == [marked, other], "neither is changed, nor changes others"
    value = joys[0]
    for number, each in enumerate(rest):
        if number:
            kept = np.exp(-(starts[number] - starts[number - 1]) / seconds)
            value = kept * value + (1 - kept) * joys[number]
        assert each["probabilities"] == pytest.approx({"joy": value, "fear": 1 - value})
        assert each["probabilities"][each["top_label"]] == max(each["probabilities"].values())


def test_every_format_says_the_same(tmp_path: Path):
    names = ["t.json", "t.csv", "t.parquet", "t.srt", "t.vtt", "t.rttm"]
    paths = [str(tmp_path / name) for name in names]
    check_outputs(paths, SPOKEN.recordings)
    for path in paths:
        write_timeline(SPOKEN, path)
    document = json.loads((tmp_path / "t.json").read_text(encoding="utf-8"))
    assert document["units"] == SPOKEN.units
    assert document["notice"] == "a toy"
    table = pyarrow.parquet.read_table(tmp_path / "t.parquet")
    assert table.column("score_fear").to_pylist() == [0.25, None, 0.25]
    assert table.column("unscored").to_pylist() == [None, "too short", None]
    assert pyarrow.csv.read_csv(tmp_path / "t.csv").column("text").to_pylist() == ['¡Hola, "tú" <&>!', "", "Sí"]
    assert "[joy 75%] Luis: Sí" in (tmp_path / "t.srt").read_text(encoding="utf-8")
    assert "&lt;&amp;&gt;!" in (tmp_path / "t.vtt").read_text(encoding="utf-8")
    assert (tmp_path / "t.rttm").read_text(encoding="utf-8").splitlines() == [
        "SPEAKER my_call 1 0.000 1.500 <NA> <NA> joy 0.750000 <NA>",
        "SPEAKER my_call 1 2.000 1.250 <NA> <NA> joy 0.750000 <NA>",
    ]


def test_the_document_follows_its_schema(tmp_path: Path):
    schema = json.loads((files("speech_emotion_jax") / "timeline" / "schema.json").read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    for timeline in (SPOKEN, Timeline(["a.wav"], ["joy"], [], {})):
        write_timeline(timeline, str(tmp_path / "t.json"))
        jsonschema.validate(json.loads((tmp_path / "t.json").read_bytes()), schema)
    assert set(schema["properties"]["units"]["items"]["required"]) == set(TimelineUnit.__annotations__)


@pytest.mark.parametrize(
    ("paths", "recordings", "message"),
    [
        (["t.txt"], ["a.wav"], r"t\.txt: a timeline is written as \.json"),
        (["no/t.json"], ["a.wav"], r"no/t\.json is a folder or in none"),
        (["t.srt"], ["a.wav", "b.wav"], "subtitles are of one recording, and there are 2"),
        (["t.json", "t.json"], ["a.wav"], r"t\.json is named twice"),
        (["a.csv"], ["a.csv"], r"a\.csv is a recording"),
    ],
)
def test_outputs_that_cannot_be_written(tmp_path: Path, monkeypatch, paths, recordings, message: str):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match=message):
        check_outputs(paths, recordings)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["none.wav", "--units", "windows"], "none.wav does not exist; check the path"),
        (["call.wav", "call.wav"], "call.wav is named twice"),
        (["call.wav", "--units", "words"], "the units 'words' are unknown; use segments or windows"),
        (["call.wav", "--turns", "late.csv"], "call.wav is 1.000 s long, and a turn starts at 1.5 s"),
        (["call.wav", "--turns", "late.csv", "--units", "windows"], "leave --units out"),
        (["call.wav", "--turns", "late.csv", "--hop", "1"], "--window and --hop are of --units windows"),
        (["call.wav", "--units", "windows", "--hop", "20"], "the hop is 20 s; it must be"),
        (["call.wav", "--channel", "right"], "call.wav, channel 1: the recording has 1 channel; leave the channel out"),
        (["call.wav", "--channel", "middle"], "the channel 'middle' is unknown; use left, right, each"),
        (["call.wav", "--channel", "each", "--turns", "good.csv"], "--channel each makes speakers of channels"),
        (["call.wav", "--smooth", "0"], "the smoothing is 0 s; it must be above 0"),
        (["call.wav", "--smooth", "nan"], "the smoothing is nan s"),
        (["call.wav", "--output", "out.doc"], "out.doc: a timeline is written as"),
    ],
)
def test_the_command_refuses_in_one_sentence(tmp_path: Path, monkeypatch, capfd, arguments, message: str):
    """Before a model is loaded: there is none."""
    monkeypatch.chdir(tmp_path)
    soundfile.write("call.wav", noise(1), RATE)
    Path("late.csv").write_text("start,end,speaker\n1.5,2,A\n")
    Path("good.csv").write_text("start,end,speaker\n0,1,A\n")
    before = sorted(Path().iterdir())
    assert main(["timeline", *arguments, "--mode", "audio", "--model-id", "models/not/here"]) == 2
    captured = capfd.readouterr()
    assert message in captured.err
    assert len(captured.err.strip().splitlines()) == 1
    assert not captured.out
    assert sorted(Path().iterdir()) == before


def demo(*arguments: str) -> list[str]:
    return ["timeline", *arguments, "--mode", "concat", "--language", "es", "--model-id", str(DEMO / "checkpoint")]


def test_a_recording_in_which_nobody_speaks(tmp_path: Path, capfd):
    soundfile.write(tmp_path / "call.wav", noise(1), RATE)
    (tmp_path / "call.rttm").write_text("")
    arguments = demo(str(tmp_path / "call.wav"), "--turns", str(tmp_path / "call.rttm"), "--json")
    assert main(arguments) == 0
    captured = capfd.readouterr()
    assert json.loads(captured.out)["units"] == []
    assert "call.wav: nobody speaks in it; its timeline is empty" in captured.err
    assert "a toy trained on synthetic speech" in captured.err


@pytest.mark.slow
def test_the_command_on_the_demo(tmp_path: Path, capfd):
    turns = tmp_path / "turns.csv"
    turns.write_text("start,end,speaker,text,recording\n0,1.5,Ana,Hola,joy\n0.2,2,Luis,¡Qué miedo!,fear\n")
    outputs = [str(tmp_path / name) for name in ("t.json", "t.rttm")]
    recordings = [str(DEMO / "fear.flac"), str(DEMO / "joy.flac")]
    assert main(demo(*recordings, "--turns", str(turns), "--output", *outputs)) == 0
    units = json.loads(Path(outputs[0]).read_text(encoding="utf-8"))["units"]
    assert [(unit["speaker"], unit["text"]) for unit in units] == [("Luis", "¡Qué miedo!"), ("Ana", "Hola")]
    pipeline = EmotionPipeline.from_pretrained(str(DEMO / "checkpoint"), mode="concat", language="es")
    for unit in units:
        cut = Cut(unit["recording"], unit["start"], unit["end"])
        [prediction] = pipeline.predict([{"audio": cut, "text": unit["text"]}])
        assert unit["probabilities"] == pytest.approx(prediction["scores"], abs=1e-5)
    assert len(re.findall("^SPEAKER", Path(outputs[1]).read_text(), re.MULTILINE)) == 2
    with pytest.raises(InvalidInput, match="has no text, and mode 'concat' reads text"):
        list(pipeline.timeline(recordings, windows=Windows(2.0, 1.0)))


@pytest.mark.whisper
def test_segments_and_their_texts(whisper_base: Path, tmp_path: Path, capfd):
    """Whisper's segments; then the windows of the same recordings, each with a text of its own."""
    output = tmp_path / "t.json"
    recordings = [str(DEMO / "fear.flac"), str(DEMO / "joy.flac")]
    for units in ("segments", "windows"):
        more = ["--window", "3", "--hop", "3"] if units == "windows" else []
        options = ["--units", units, *more, "--whisper-model", str(whisper_base), "--output", str(output)]
        assert main(demo(*recordings, *options)) == 0, capfd.readouterr().err
        found = json.loads(output.read_text(encoding="utf-8"))["units"]
        assert {unit["recording"] for unit in found} == set(recordings)
        assert all(unit["language"] == "es" and unit["no_speech_probability"] < 0.9 for unit in found)
        assert "escribo por lo" in " ".join(unit["text"] or "" for unit in found)
        assert any(unit["probabilities"] for unit in found)
