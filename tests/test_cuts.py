"""Parts of recordings: the samples that librosa gives for an offset and a duration."""

import os
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.audio import decode, waveform
from speech_emotion_jax.audio.fbank import read_clip
from speech_emotion_jax.audio.sources import CUT_TOLERANCE, Cut, describe
from speech_emotion_jax.errors import InvalidInput, UnreadableInput

from .support.examples import examples
from .support.recordings import encode, encode_with_av, librosa_load, tones

SECONDS = 3.0
FORMATS = {
    f"{container} {subtype} {rate} {channels}": (encode(tones(SECONDS, rate, channels), rate, container, subtype), rate)
    for container, subtype, rate, channels in (
        ("WAV", "PCM_16", 16_000, 1),
        ("WAV", "FLOAT", 44_100, 2),
        ("WAV", "IMA_ADPCM", 22_050, 2),
        ("FLAC", "PCM_16", 44_100, 1),
        ("FLAC", "PCM_24", 48_000, 2),
        ("AIFF", "PCM_16", 12_347, 2),
        ("CAF", "ALAC_16", 22_050, 1),
    )
}
OTHERS = {  # a cut is what the whole recording holds there: libsndfile's seek goes astray, or there is none
    "vorbis": (encode(tones(4, 16_000), 16_000, "OGG", "VORBIS"), 16_000),
    "vorbis, stereo": (encode(tones(4, 44_100, 2), 44_100, "OGG", "VORBIS"), 44_100),
    "opus": (encode(tones(4, 48_000), 48_000, "OGG", "OPUS"), 48_000),
    "mp3": (encode(tones(4, 44_100, 2), 44_100, "MP3"), 44_100),
    "mp3, mono": (encode(tones(4, 16_000), 16_000, "MP3"), 16_000),
    "gsm": (encode(tones(4, 8_000), 8_000, "WAV", "GSM610"), 8_000),
    "m4a": (encode_with_av(tones(4, 44_100, 2), 44_100, "ipod", "aac"), 44_100),
    "array": ({"array": tones(4, 44_100, 2).T, "sampling_rate": 44_100}, 44_100),
}
LONG = encode(tones(70, 8_000), 8_000)


def librosa_cut(path: os.PathLike[str], start: float, end: float | None) -> np.ndarray:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import librosa

        return librosa.load(path, sr=16_000, offset=start, duration=None if end is None else end - start)[0]


def native(source: Any) -> np.ndarray:
    """(frames, channels) at the recording's own rate."""
    return np.concatenate([frames for _, frames in decode.decode_audio(source, "it")])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("cuts")
    paths = {name: folder / str(number) for number, name in enumerate(FORMATS)}
    for name, path in paths.items():
        path.write_bytes(FORMATS[name][0])
    librosa_load(next(iter(paths.values())))  # its first use takes seconds
    return paths


@given(
    name=st.sampled_from(list(FORMATS)),
    start=st.floats(0, 2.9) | st.integers(0, 2),
    length=st.none() | st.floats(0.05, 1.5) | st.integers(1, 3),
)
@settings(max_examples=examples(150))
def test_cuts_equal_librosa(files: dict[str, Path], name: str, start: float, length: float | None):
    end = None if length is None else min(start + length, SECONDS)
    expected = librosa_cut(files[name], start, end)
    np.testing.assert_array_equal(waveform.load(Cut(str(files[name]), start, end)), expected)
    np.testing.assert_array_equal(waveform.load(Cut(FORMATS[name][0], start, end)), expected)


@given(name=st.sampled_from(list(OTHERS)), start=st.floats(0, 3.8), length=st.none() | st.floats(0.05, 1.5))
@settings(max_examples=examples(80))
def test_other_formats_are_cut_from_the_whole(name: str, start: float, length: float | None):
    source, rate = OTHERS[name]
    end = None if length is None else min(start + length, 4.0)
    first = int(start * rate)
    last = None if end is None else first + int((end - start) * rate)
    np.testing.assert_array_equal(native(Cut(source, start, end)), native(source)[first:last])


@pytest.mark.parametrize("rate", [16_000, 44_100])
def test_ogg_equals_librosa_before_its_last_page(tmp_path: Path, rate: int):
    path = tmp_path / "speech.ogg"
    path.write_bytes(encode(tones(12, rate), rate, "OGG", "VORBIS"))
    for start, end in ((0, 1), (1.25, 2.75), (0.1, 9.3), (4.7, 8.123)):
        np.testing.assert_array_equal(waveform.load(Cut(path, start, end)), librosa_cut(path, start, end))


def test_a_long_ogg_is_cut_from_the_whole_though_it_is_sought():
    content = encode(tones(70, 8_000), 8_000, "OGG", "VORBIS")
    whole = native(content)
    for start, end in ((0, 1), (31.5, 33), (64.25, 66), (69, None), (69.875, 70)):
        last = None if end is None else round(end * 8_000)
        np.testing.assert_array_equal(native(Cut(content, start, end)), whole[round(start * 8_000) : last])


@given(name=st.sampled_from([*FORMATS, *OTHERS]), borders=st.lists(st.integers(1, 23), unique=True, max_size=5))
@settings(max_examples=examples(60))
def test_neighbours_together_are_the_whole(name: str, borders: list[int]):
    source, rate = (FORMATS | OTHERS)[name]
    step = 0.125 if rate % 8 == 0 else 1  # borders that fall on samples; elsewhere librosa rounds down
    inner = sorted({each * step for each in borders if each * step < SECONDS})
    parts = [Cut(source, start, end) for start, end in zip([0, *inner], [*inner, None], strict=True)]
    np.testing.assert_array_equal(np.concatenate([native(part) for part in parts]), native(source))


def test_cuts_longer_than_one_read():
    samples = native(LONG)
    np.testing.assert_array_equal(native(Cut(LONG, 10.5, 68)), samples[84_000:544_000])
    cut = Cut({"array": samples[:, 0], "sampling_rate": 8_000}, 1, 69.5)
    np.testing.assert_array_equal(native(cut), samples[8_000:556_000])
    expected = waveform.load({"array": samples[8_000:556_000, 0], "sampling_rate": 8_000})
    np.testing.assert_array_equal(waveform.load(cut), expected)
    np.testing.assert_array_equal(np.concatenate(list(waveform.blocks(cut, 7_777))), expected)
    clip = read_clip(cut)
    assert clip.samples == len(expected)


def test_what_lies_before_a_cut_is_not_read(tmp_path: Path):
    path = tmp_path / "long.wav"
    path.write_bytes(LONG)

    def read_bytes(cut: Cut) -> int:
        before = int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1])  # type: ignore[index]
        waveform.load(cut)
        return int(re.search(r"rchar: (\d+)", Path("/proc/self/io").read_text())[1]) - before  # type: ignore[index]

    if not os.path.exists("/proc/self/io"):
        pytest.skip("only Linux counts what a process reads")
    assert read_bytes(Cut(path, 69, 70)) < 16_000 + 40_000 < 0.1 * len(LONG)


@pytest.mark.parametrize("source", [FORMATS["WAV PCM_16 16000 1"][0], FORMATS["FLAC PCM_16 44100 1"][0]])
def test_cuts_beyond_the_recording(source: bytes):
    name = re.escape(describe(source))
    for start, end, message in (
        (3, 4, r"from 3 to 4 s (starts|ends) after the end of the recording, which is 3\.000 s long; correct"),
        (3, None, r"from 3 s starts after the end of the recording, which is 3\.000 s"),
        (1e9, None, "from 1000000000 s starts after the end"),
        (1, 3 + 1.1 * CUT_TOLERANCE, r"from 1 to 3\.11 s ends after the end of the recording"),
    ):
        with pytest.raises(InvalidInput, match=f"^{name} {message}"):
            waveform.load(Cut(source, start, end))
    within = waveform.load(Cut(source, 1, 3 + 0.9 * CUT_TOLERANCE))
    np.testing.assert_array_equal(within, waveform.load(Cut(source, 1)))


@pytest.mark.parametrize("name", OTHERS)
def test_cuts_beyond_other_recordings(name: str):
    for start, end in ((4.5, None), (1, 4.5)):
        with pytest.raises(InvalidInput, match=r"after the end of the recording, which is 4\.\d+ s long"):
            waveform.load(Cut(OTHERS[name][0], start, end))


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        (2, 1, "from 2 to 1 s is not a valid cut"),
        (1, 1, "is not a valid cut"),
        (-0.5, 1, "is not a valid cut"),
        (0, float("nan"), "is not a valid cut"),
        (float("nan"), None, "is not a valid cut"),
        (float("inf"), None, "is not a valid cut"),
        (0, float("inf"), "is not a valid cut"),
        ("1", 2, "'1' is not a number"),
        (0, True, "True is not a number"),
        (None, 2, "None is not a number"),
        (1, 1.00001, "holds no samples"),
        (1, 1.02, "has 320 samples"),
    ],
)
def test_cuts_that_are_none(start: Any, end: Any, message: str):
    with pytest.raises(InvalidInput, match=message):
        waveform.load(Cut(LONG, start, end))


def test_a_cut_of_what_is_missing_broken_or_cut_off(tmp_path: Path):
    with pytest.raises(UnreadableInput, match=r"none\.wav from 1 to 2 s does not exist"):
        waveform.load(Cut(tmp_path / "none.wav", 1, 2))
    wav, flac = FORMATS["WAV PCM_16 16000 1"][0], FORMATS["FLAC PCM_16 44100 1"][0]
    with pytest.raises(UnreadableInput, match="truncated: it states"):
        waveform.load(Cut(wav[:-2_000], 0, 1))
    for start in (0, 1.5, 2.5):
        with pytest.raises(UnreadableInput, match="truncated"):
            waveform.load(Cut(flac[: len(flac) // 3], start, 2.9))
    with pytest.raises(UnreadableInput, match="truncated"):
        waveform.load(Cut(OTHERS["m4a"][0][:-20_000], 0, 3.9))


def test_a_flac_of_unstated_length_is_cut():
    content = bytearray(FORMATS["FLAC PCM_16 44100 1"][0])
    expected = waveform.load(Cut(bytes(content), 1, 2))
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    np.testing.assert_array_equal(waveform.load(Cut(bytes(content), 1, 2)), expected)
    with pytest.raises(InvalidInput, match=r"ends after the end of the recording, which is 3\.000 s long"):
        waveform.load(Cut(bytes(content), 1, 4))


def test_describe_and_stated_seconds(tmp_path: Path):
    path = tmp_path / "talk.raw"  # no suffix is believed
    path.write_bytes(LONG)
    assert describe(Cut("talk.wav", 12.5, 20)) == "talk.wav from 12.5 to 20 s"
    assert describe(Cut("talk.wav", 3725.125)) == "talk.wav from 3725.125 s"
    assert waveform.stated_seconds(path) == waveform.stated_seconds(LONG) == 70
    assert waveform.stated_seconds(Cut(path, 12.5, 20)) == 7.5
    assert waveform.stated_seconds(Cut(path, 60)) == 10
    assert waveform.stated_seconds(Cut(path, 60, 1_000)) == 10
    assert waveform.stated_seconds(Cut(path, 70, 71)) is None
    assert waveform.stated_seconds(Cut(OTHERS["m4a"][0], 1, 2)) is None
    assert waveform.stated_seconds(Cut(OTHERS["array"][0], 1, 2.5)) == 1.5
    assert waveform.stated_seconds(LONG[:-100]) is None
    assert waveform.stated_seconds(tmp_path / "none.wav") is None
