"""The page of a timeline: what it says, that it is inert and self-contained, and what it draws."""

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.timeline import spans, write_timeline
from speech_emotion_jax.timeline.page import EMBEDDED_BYTES, clock
from speech_emotion_jax.timeline.page_graphics import POINTS, stacked_paths, waveform_path
from speech_emotion_jax.timeline.page_words import LABELS, WORDS, label_colours, label_name

from .support.bad_input import RATE, noise
from .support.timelines import SPOKEN, made_unit

VOID = {"meta", "input", "path", "br"}


class Page(HTMLParser):
    """Tags with their attributes, and the text outside of style and script. Every tag must be closed."""

    def __init__(self, content: str):
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words = ""
        self.open: list[str] = []
        self.feed(content)
        self.close()
        self.words = " ".join(self.words.split())
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if not {"style", "script"} & set(self.open):
            self.words += data

    def values(self, name: str) -> list[str]:
        return [value for _, attributes in self.tags if (value := attributes.get(name)) is not None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory that holds the recording of SPOKEN."""
    monkeypatch.chdir(tmp_path)
    Path("in").mkdir()
    soundfile.write("in/my call.wav", noise(4), RATE)
    return tmp_path


def page(folder: Path, **changes) -> Page:
    write_timeline(replace(SPOKEN, **changes), str(folder / "t.html"))
    return Page((folder / "t.html").read_text(encoding="utf-8"))


def test_the_page_says_what_the_timeline_says(folder: Path):
    shown = page(folder, settings={"mode": "audio", "language": "es"}, notice="a toy trained on synthetic speech")
    assert shown.values("lang") == ["es"]
    assert "Este modelo es un juguete" in shown.words
    assert "alegría 75 %" in shown.words
    assert "demasiado corto para puntuarlo" in shown.words
    rows = [attributes for tag, attributes in shown.tags if tag == "li"]
    assert [row["data-label"] for row in rows] == ["0", "-1", "0"]
    assert [row["data-speaker"] for row in rows] == ["0", "1", "1"]
    assert sum(attributes.get("class") == "speaker" for _, attributes in shown.tags) == 2, "a lane for each speaker"
    english = page(folder, settings={"language": "en"}, notice=None)
    assert english.values("lang") == ["en"]
    assert "joy 75 %" in english.words
    assert "toy" not in english.words


def test_the_page_is_inert_and_needs_no_other_file(folder: Path):
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(2)>\"'&"
    shown = page(
        folder, units=[made_unit(0.0, 1.0, evil, text=evil), made_unit(1.0, 2.0, "Luis")], settings={"turns": [evil]}
    )
    assert evil in shown.words
    assert sum(tag == "script" for tag, _ in shown.tags) == 1
    assert not [tag for tag, _ in shown.tags if tag in ("img", "link", "iframe", "object")]
    assert not [name for _, attributes in shown.tags for name in attributes if name.startswith("on")]
    sources = [*shown.values("src"), *shown.values("href")]
    assert [source[:22] for source in sources] == ["data:audio/x-wav;base64"[:22]]
    assert "http" not in re.sub(r"base64,[\w+/=]*", "", (folder / "t.html").read_text(encoding="utf-8"))


def test_what_can_be_used_has_a_name(folder: Path):
    """A screen reader hears what each control and picture is."""
    shown = page(folder)
    for tag, attributes in shown.tags:
        if tag in ("button", "audio", "svg") or attributes.get("role") in ("slider", "img"):
            assert attributes.get("aria-label"), (tag, attributes)
    ids = shown.values("id")
    assert len(set(ids)) == len(ids)
    assert set(shown.values("aria-labelledby")) <= set(ids)


def test_an_empty_timeline_says_so(folder: Path):
    assert WORDS["en"]["empty"] in page(folder, units=[]).words


def test_a_large_recording_is_linked(folder: Path):
    soundfile.write("in/long #1.wav", np.tile(noise(4), 70), RATE)
    assert Path("in/long #1.wav").stat().st_size > EMBEDDED_BYTES
    shown = page(folder / "in", recordings=["in/long #1.wav"], units=[])
    assert shown.values("src") == ["long%20%231.wav"]
    assert len((folder / "in" / "t.html").read_bytes()) < 100_000
    assert WORDS["en"]["linked"] in shown.words


def test_the_waveform_is_bounded_and_shows_the_loudest(tmp_path: Path):
    sound = np.full(200 * RATE, 0.001, np.float32)
    sound[::2] *= -1
    sound[150 * RATE] = 0.5
    soundfile.write(tmp_path / "a.wav", sound, RATE)
    seconds, path = waveform_path(tmp_path / "a.wav")
    points = np.array([[float(value) for value in point.split()] for point in path[1:-1].split("L")])
    assert seconds == 200
    assert len(points) <= 2 * POINTS
    loudest = points[points[:, 1].argmin()]
    np.testing.assert_allclose(loudest, [0.75 * POINTS, -1], atol=1)


@given(st.lists(st.floats(0.01, 1), min_size=2, max_size=7), st.floats(0, 9), st.floats(0.1, 5))
def test_stacked_probabilities_fill_their_span(parts: list[float], start: float, length: float):
    labels = [str(index) for index in range(len(parts))]
    scores = {label: value / sum(parts) for label, value in zip(labels, parts, strict=True)}
    one = made_unit(start, start + length, probabilities=scores, top_label="0")
    paths = stacked_paths(list(spans([one])), labels)
    boxes = [tuple(map(int, match)) for path in paths for match in re.findall(r"M(\d+) (\d+)H(\d+)V(\d+)", path)]
    assert {box[0] for box in boxes} == {round(1000 * start)}
    assert boxes[0][1] == 1000
    assert boxes[-1][3] == 0
    assert all(low[3] == high[1] for low, high in pairwise(boxes))


def test_words_and_colours():
    assert WORDS["es"].keys() == WORDS["en"].keys()
    assert [label_name(label, "es") for label in ("sad", "sadness", "calm")] == ["tristeza", "tristeza", "calm"]
    assert set(LABELS["es"]) >= {"anger", "disgust", "fear", "joy", "neutral", "sadness", "surprise"}
    for labels in (["anger", "joy"], ["a", "b", "c"], ["angry", "anger"]):
        assert len(set(label_colours(labels))) == len(labels)
    assert [clock(seconds) for seconds in (0.0, 61.9, 3725.0)] == ["0:00", "1:01", "1:02:05"]
