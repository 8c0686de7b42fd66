"""Rendered transcripts, read back as a player would read them."""

import html
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.whisper.subtitles import (
    FORMATS,
    LINE_SECONDS,
    LINE_WIDTH,
    Cue,
    render_subtitles,
    subtitle_lines,
)
from speech_emotion_jax.whisper.words import Word

HOURS_120 = 120 * 3600.0

texts = st.text(max_size=30) | st.lists(
    st.sampled_from([" hola", " año", "\n", "\n\n", "\r\n", "-->", "&", "<i>", "&amp;", " ", "東京", "1"]), max_size=6
).map("".join)
cues = st.builds(
    Cue, st.floats(0, HOURS_120), st.none() | st.floats(0, HOURS_120), texts.filter(lambda text: "\0" not in text)
)
transcripts = st.lists(cues, max_size=8)
TIME = r"(\d{2,}):([0-5]\d):([0-5]\d)[.,](\d{3})"


def shown(text: str) -> list[str]:
    """The lines of a cue's text that a reader sees."""
    return [line.strip() for line in text.splitlines() if line.strip()]


def parsed(block: str, point: str) -> tuple[int, int, list[str]]:
    timing, *text = block.split("\n")
    match = re.fullmatch(f"{TIME} --> {TIME}", timing)
    assert match is not None
    assert timing.count(point) == 2
    hour, minute, second, thousandth, *end = map(int, match.groups())
    return (
        ((hour * 60 + minute) * 60 + second) * 1000 + thousandth,
        ((end[0] * 60 + end[1]) * 60 + end[2]) * 1000 + end[3],
        text,
    )


def read_srt(content: str) -> list[tuple[int, int, list[str]]]:
    blocks = content.rstrip("\n").split("\n\n") if content.strip() else []
    read = []
    for number, block in enumerate(blocks, start=1):
        first, rest = block.split("\n", 1)
        assert first == str(number)
        read.append(parsed(rest, ","))
    return read


def read_vtt(content: str) -> list[tuple[int, int, list[str]]]:
    head, *blocks = content.rstrip("\n").split("\n\n")
    assert head == "WEBVTT"
    read = []
    for start, end, text in (parsed(block, ".") for block in blocks):
        assert not any("<" in line or "-->" in line for line in text)
        read.append((start, end, [html.unescape(line) for line in text]))
    return read


@pytest.mark.parametrize(("format", "read"), [("srt", read_srt), ("vtt", read_vtt)])
@given(transcript=transcripts)
def test_subtitles_read_back(format, read, transcript):
    content = render_subtitles(format, transcript)
    assert content.endswith("\n")
    back = read(content)
    given = sorted((cue for cue in transcript if shown(cue.text)), key=lambda cue: cue.start)
    assert [text for _, _, text in back] == [shown(cue.text) for cue in given]
    assert [start for start, _, _ in back] == [round(1000 * cue.start) for cue in given]
    for (start, end, _), cue in zip(back, given, strict=True):
        assert start < end
        known = cue.end is not None and round(1000 * cue.end) > start
        assert end == round(1000 * cue.end) if known else end <= start + 1000


def test_the_formats():
    transcript = [
        Cue(0.0, 1.5, " ¿Qué & cómo?"),
        Cue(3661.25, None, " Así <b> -->"),
        Cue(360_000.0, 360_000.0, " Fin."),
    ]
    assert render_subtitles("srt", transcript) == (
        "1\n00:00:00,000 --> 00:00:01,500\n¿Qué & cómo?\n\n"
        "2\n01:01:01,250 --> 01:01:02,250\nAsí <b> -->\n\n"
        "3\n100:00:00,000 --> 100:00:01,000\nFin.\n"
    )
    assert render_subtitles("vtt", transcript) == (
        "WEBVTT\n\n"
        "00:00:00.000 --> 00:00:01.500\n¿Qué &amp; cómo?\n\n"
        "01:01:01.250 --> 01:01:02.250\nAsí &lt;b&gt; --&gt;\n\n"
        "100:00:00.000 --> 100:00:01.000\nFin.\n"
    )


def test_an_unknown_end_lasts_up_to_the_next_cue():
    transcript = [Cue(1.0, None, "uno"), Cue(1.25, 1.25, "dos"), Cue(4.0, 3.0, "tres")]
    assert [(start, end) for start, end, _ in read_srt(render_subtitles("srt", transcript))] == [
        (1000, 1250),
        (1250, 2250),
        (4000, 5000),
    ]


@pytest.mark.parametrize("format", FORMATS)
def test_nothing_said(format):
    assert render_subtitles(format, []).strip() in ("", "WEBVTT")
    assert render_subtitles(format, [Cue(0.0, 1.0, "  ")]).endswith("\n")


def test_unknown_format():
    with pytest.raises(InvalidInput, match=r"no format 'ass'; use srt or vtt$"):
        render_subtitles("ass", [])


@st.composite
def spoken(draw: st.DrawFn) -> list[tuple[str, float, float]]:
    now, out = 0.0, []
    for _ in range(draw(st.integers(0, 40))):
        start = now + draw(st.sampled_from([0.0, 0.0, 0.3, 1.5]))
        now = start + draw(st.floats(0, 3))
        out.append((draw(st.sampled_from([" sí", " no.", " extraordinariamente", "東京", " " + "a" * 60])), start, now))
    return out


@given(spoken())
def test_lines_of_words(said):
    words = [Word(*each) for each in said]
    grouped = subtitle_lines(words)
    assert "".join(line.text for line in grouped) == "".join(word.text for word in words)
    for line, following in pairwise(grouped):
        assert line.end is not None
        assert line.start <= line.end <= following.start
    for line in grouped:
        text = line.text.strip()
        alone = text in {word.text.strip() for word in words}
        columns = len(text) + text.count("東") + text.count("京")
        assert line.end is not None
        assert alone or (columns <= LINE_WIDTH and line.end - line.start <= LINE_SECONDS)


def test_lines_end_with_sentences_and_pauses():
    words = [
        Word(" Hola.", 0.0, 0.5),
        Word(" Soy", 0.5, 0.8),
        Word(" yo", 0.8, 1.0),
        Word(" y", 2.5, 2.7),
        Word(" tú", 2.7, 3.0),
    ]
    assert subtitle_lines(words) == [Cue(0.0, 0.5, " Hola."), Cue(0.5, 1.0, " Soy yo"), Cue(2.5, 3.0, " y tú")]
