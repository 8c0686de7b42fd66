"""Recordings as people have them: channels, scales, codecs, and objects of other libraries."""

import io
import os
import re
import struct
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import av
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile

from speech_emotion_jax.audio import Cut, describe, load, read_windows, stated_seconds
from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.whisper.transcript_cache import cached_transcripts

from .support.recordings import encode, encode_with_av, librosa_load, tones

RATE = 16_000
SPEECH = tones(0.5, RATE)[:, 0]
COARSE = np.round(SPEECH * 1024) / 1024  # sums and means of these samples are exact
STEREO = tones(0.5, RATE, 2)


def sound(array: Any, rate: int = RATE, **fields: Any) -> dict[str, Any]:
    return {"array": array, "sampling_rate": rate, **fields}


@contextmanager
def no_output_of_libraries() -> Iterator[None]:
    """Fail if anything is written to the descriptor of stderr, where C libraries write."""
    with tempfile.TemporaryFile() as file:
        kept = os.dup(2)
        os.dup2(file.fileno(), 2)
        try:
            yield
        finally:
            os.dup2(kept, 2)
            os.close(kept)
        file.seek(0)
        assert file.read() == b""


# ---- channels that cancel --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "channels",
    [[COARSE, -COARSE], [COARSE, 0.25 - COARSE], [COARSE, -COARSE, 0 * COARSE], [COARSE, -COARSE / 2, -COARSE / 2]],
    ids=["inverted", "with an offset", "and silence", "three"],
)
def test_channels_that_cancel_are_told(channels: list[np.ndarray]):
    array = np.stack(channels)
    with pytest.raises(InvalidInput, match=r"channels cancel each other.* --channel.* 0 to"):
        load(sound(array))
    with pytest.raises(InvalidInput, match="channels cancel each other"):
        list(read_windows(sound(array), 30 * RATE, 0, 0))
    assert load(sound(array, channel=0)).any()  # what the message advises


def test_channels_that_nearly_cancel_are_noted():
    array = np.stack([SPEECH, -0.998 * SPEECH])
    with pytest.warns(UserWarning, match=r"nearly cancel each other: their mean, which is used, is 60 dB below"):
        samples = load(sound(array))
    np.testing.assert_array_equal(samples, array.mean(axis=0))


@pytest.mark.parametrize(
    "array",
    [
        STEREO.T,
        np.stack([SPEECH, 0 * SPEECH]),
        np.stack([SPEECH, -0.5 * SPEECH]),
        np.stack([SPEECH, *np.zeros((31, len(SPEECH)), np.float32)]),
        tones(0.5, RATE, 32).T,
        np.stack([SPEECH + 0.9, SPEECH - 0.9]),
    ],
)
def test_other_channels_are_not_noted(array: np.ndarray):
    load(sound(array))


def test_silence_of_all_channels_is_silence():
    with pytest.raises(InvalidInput, match=r"digital silence: every sample is 0\.1; check the microphone"):
        load(sound(np.full((2, RATE), np.float32(0.1))))


# ---- one channel -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", ["array", "bytes", "path", "m4a", "cut"])
def test_one_channel(tmp_path: Path, form: str):
    path = tmp_path / "call.wav"
    path.write_bytes(encode(STEREO, RATE, subtype="FLOAT"))
    sources: dict[str, Any] = {
        "array": sound(STEREO.T),
        "bytes": {"bytes": path.read_bytes()},
        "path": {"path": str(path)},
        "m4a": {"bytes": encode_with_av(STEREO, RATE, "mov", "pcm_f32le")},
        "cut": {"path": path},
    }
    for channel in (0, 1):
        source = {**sources[form], "channel": channel}
        expected = STEREO[:, channel]
        if form == "cut":
            source, expected = Cut(path, 0.1, 0.4, channel), expected[1_600:6_400]
        np.testing.assert_array_equal(load(source), expected)
    for channel, message in ((2, "the recording has 2 channels; give 0 to 1"), (-1, "-1 is not a channel")):
        with pytest.raises(InvalidInput, match=message):
            load({**sources[form], "channel": channel})
    for channel in (True, 0.5, "left"):
        with pytest.raises(InvalidInput, match="is not a channel; give a whole number, 0 for the first one"):
            load({**sources[form], "channel": channel})


def test_a_channel_of_one():
    np.testing.assert_array_equal(load(sound(SPEECH, channel=0)), SPEECH)
    with pytest.raises(InvalidInput, match="has 1 channel; leave the channel out"):
        load(sound(SPEECH, channel=1))
    assert describe(Cut("a.wav", 1, 2, 1)) == "a.wav, channel 1 from 1 to 2 s"
    assert describe(Cut("a.wav", channel=1)) == "a.wav, channel 1"


# ---- scale -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("full_scale", "advice"), [(2**15, "divide them by 32768, or pass int16"), (2**31, "int32")])
def test_floats_on_another_scale_are_told(full_scale: int, advice: str):
    for source in (sound(SPEECH * full_scale), encode(SPEECH * full_scale, RATE, subtype="FLOAT")):
        with pytest.warns(UserWarning, match=f"full scale is 1; .*{advice}"):
            load(source)
    load(sound(np.clip(SPEECH * 20, -9, 9)))  # overdriven, on the right scale


# ---- codecs ----------------------------------------------------------------------------------------------------------

CODECS = [
    ("adpcm_yamaha", "wav"),
    ("g722", "wav"),
    ("g726", "wav"),
    ("alac", "caf"),
    ("adpcm_ima_qt", "caf"),
    ("flac", "ogg"),
    ("tta", "tta"),
    ("wavpack", "wv"),
    ("pcm_u8", "voc"),
    ("mp2", "mp2"),
]


@pytest.mark.parametrize(("codec", "container"), CODECS)
def test_what_any_decoder_reads_is_read(codec: str, container: str):
    rate = 8_000 if codec == "g726" else RATE
    samples = tones(0.5, rate)
    content = encode_with_av(samples, rate, container, codec)
    with no_output_of_libraries():
        loaded = load(content)
    with av.open(io.BytesIO(content)) as file:
        frames = [frame.to_ndarray() for frame in file.decode(file.streams.audio[0])]
        rate = file.streams.audio[0].rate  # a VOC file holds a rounded one
    assert 0.48 * RATE <= len(loaded) < 0.5 * RATE + 3_000  # encoders fill up or lose their last frame
    expected = load(sound(np.concatenate(frames, axis=1)[0], rate))
    np.testing.assert_allclose(loaded, expected, atol=2e-4 if codec == "mp2" else 1e-6)


def test_a_codec_that_nothing_reads_is_named():
    content = bytearray(encode(SPEECH, RATE))
    content[20:22] = struct.pack("<H", 0x1234)
    with pytest.raises(UnreadableInput, match=r"codec that is not supported, WAV format 0x1234; export it"):
        load(bytes(content))


def test_formats_that_nothing_reads_are_named():
    for content, name in (
        (encode_with_av(tones(1, RATE), RATE, "mpegts", "aac"), "an MPEG transport stream"),
        (b"FLV\x01" + bytes(40), "FLV"),
    ):
        with pytest.raises(UnreadableInput, match=f"is {name}, a format that is not supported; convert it"):
            load(content)


def test_a_broken_header_is_told_as_such():
    content = bytearray(encode(SPEECH, RATE))
    content[34:36] = struct.pack("<H", 77)  # bits
    with pytest.raises(UnreadableInput, match="truncated, damaged or not audio"):
        load(bytes(content))


@pytest.mark.parametrize("container", ["W64", "NIST"])
def test_formats_of_speech_corpora(tmp_path: Path, container: str):
    content = encode(STEREO, RATE, container, "PCM_16")
    path = tmp_path / "speech"
    path.write_bytes(content)
    np.testing.assert_array_equal(load(content), librosa_load(path))
    with pytest.raises(UnreadableInput, match="truncated: it states 32000 bytes"):
        load(content[:-2_000])


# ---- MPEG audio ------------------------------------------------------------------------------------------------------

FADING = tones(10, 44_100) * np.linspace(1, 0, 441_000, dtype=np.float32)[:, None] ** 4
INDEXED = encode(FADING, 44_100, "MP3", bitrate_mode="VARIABLE")
FIRST = INDEXED.index(b"\xff\xfb", 100)
ID3 = b"ID3\3\0\0\0\0\1\0COMM\0\0\0\x04\0\0\0eng" + bytes(114)  # a comment of which mpg123 says that it has none


def by_ffmpeg(content: bytes) -> np.ndarray:
    with av.open(io.BytesIO(content), format="mp3") as file:
        return np.concatenate([frame.to_ndarray() for frame in file.decode(file.streams.audio[0])], axis=1)


@pytest.mark.parametrize(
    "content",
    [INDEXED[FIRST:], INDEXED + INDEXED, INDEXED + ID3 + INDEXED, INDEXED[FIRST:] + bytes(20_000)],
    ids=["no index", "joined", "joined with tags", "no index, zeros after it"],
)
def test_mp3_of_which_libsndfile_reads_a_part(content: bytes):
    with no_output_of_libraries():
        loaded = load(content)
    whole = by_ffmpeg(content.replace(ID3, b"").removesuffix(bytes(20_000)))
    np.testing.assert_array_equal(loaded, load(sound(whole, 44_100)))
    assert len(loaded) > 159_000 * (1 + (content.count(b"Xing") > 1))


@pytest.mark.parametrize(
    "content",
    [INDEXED + b"TAG" + bytes(125), INDEXED + bytes(9_000), ID3 + INDEXED],
    ids=["tag", "zeros", "odd comment"],
)
def test_what_surrounds_an_mp3_changes_nothing(content: bytes):
    with no_output_of_libraries():
        np.testing.assert_array_equal(load(content), load(INDEXED))


def test_a_cut_off_mp3_is_read_for_what_is_there():
    with no_output_of_libraries():
        part = load(INDEXED[:-9_000])
    np.testing.assert_allclose(part[:-2_000], load(INDEXED)[: len(part) - 2_000], atol=1e-6)


def test_a_hole_in_an_mp3_is_noted():
    content = INDEXED[:20_000] + b"junk" * 500 + INDEXED[20_000:]
    with no_output_of_libraries(), pytest.warns(UserWarning, match=r"has \d+ bytes between its frames"):
        assert len(load(content)) > 159_000


def test_joined_ogg_is_read_whole():
    parts = [tones(seconds, 44_100) for seconds in (1, 2)]
    content = b"".join(encode(part, 44_100, "OGG", "VORBIS") for part in parts)
    assert len(load(content)) == pytest.approx(3 * RATE, abs=200)


def test_without_ffmpeg_the_extra_is_named(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "av", None)
    for content in (INDEXED[FIRST:], encode_with_av(SPEECH[:, None], RATE, "caf", "alac")):
        with pytest.raises(UnreadableInput, match=re.escape("pip install 'speech_emotion_jax[m4a]'")):
            load(content)


# ---- as other libraries hand sounds over -----------------------------------------------------------------------------


class Item:
    """A row's sound in the library datasets 4: nothing but items."""

    def __init__(self, **items: Any):
        self.items = items

    def __getitem__(self, key: str) -> Any:
        return self.items[key]


def test_sounds_of_other_libraries(tmp_path: Path):
    content = encode(SPEECH, RATE, subtype="FLOAT")
    path = tmp_path / "speech.wav"
    path.write_bytes(content)
    behind = io.BytesIO(content)
    behind.seek(0, os.SEEK_END)  # just written
    sources: list[Any] = [
        {"path": "no/such.wav", "bytes": content},
        {"path": None, "bytes": content},
        {"path": str(path), "bytes": None},
        {"path": path},
        {"bytes": bytearray(content)},
        bytearray(content),
        memoryview(content),
        behind,
        sound(SPEECH.tolist()),
        sound(jnp.asarray(SPEECH)),
        {**sound(SPEECH), "path": "no/such.wav"},
        {"raw": SPEECH, "sampling_rate": RATE},
        Item(**sound(SPEECH)),
        Item(path=str(path), bytes=None),
        Cut({"path": str(path), "bytes": None}, 0),
    ]
    for source in sources:
        np.testing.assert_array_equal(load(source), SPEECH)
        np.testing.assert_array_equal(load(source), SPEECH)  # an open file, too, is read again from its start
        assert stated_seconds(source) == 0.5
    with path.open("rb") as file:
        np.testing.assert_array_equal(load(file), SPEECH)
        assert describe(file) == str(path)
    assert describe(sources[0]) == "no/such.wav"


def test_torch_arrays():
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(load(sound(torch.from_numpy(SPEECH))), SPEECH)
    with pytest.raises(InvalidInput, match=r"pass one, from PyTorch by array\.detach\(\)"):
        load(sound(torch.from_numpy(SPEECH.copy()).requires_grad_()))


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({"path": None, "bytes": None}, 'nothing under "array", "bytes" or "path"; pass a path'),
        ({"bytes": 7}, 'has a int under "bytes"'),
        ({"array": jnp.zeros(9)}, "has the sampling rate None; pass whole hertz"),
        (jnp.zeros(9), "has no sampling rate"),
        ({"array": jnp.zeros(RATE, jnp.bfloat16), "sampling_rate": RATE}, "holds bfloat16; convert it to floats"),
        (Item(), "audio of type Item can't be read; pass"),
        (io.StringIO("text"), "open it with mode 'rb'"),
        (Cut(Cut("a.wav", 1), 2), "is a cut of a cut"),  # pyright: ignore[reportArgumentType]
    ],
)
def test_sounds_that_are_none(source: Any, message: str):
    with pytest.raises(InvalidInput, match=message):
        load(source)


def test_a_closed_file_is_told():
    file = io.BytesIO(b"")
    file.close()
    with pytest.raises(UnreadableInput, match="pass its path or its bytes"):
        load(file)


def test_transcripts_are_kept_by_content_in_every_form(tmp_path: Path):
    content = encode(STEREO, RATE)
    transcript: Any = {"text": "a", "language": "es", "duration": 1.0, "no_speech_probability": 0.0}
    asked = []

    def make() -> Any:
        asked.append(1)
        return transcript

    for source in (content, {"bytes": content, "path": None}, io.BytesIO(content)):
        cached_transcripts(tmp_path, source, {}, make)
    assert len(asked) == 1
    cached_transcripts(tmp_path, {"bytes": content, "channel": 1}, {}, make)
    assert len(asked) == 2


def test_soundfile_writes_what_is_tested_here():
    assert {"W64", "NIST", "MP3"} <= soundfile.available_formats().keys()
