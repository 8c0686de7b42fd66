import io
import os
import re
import struct
import subprocess
import sys
import tracemalloc
import warnings

import numpy as np
import pytest
import soundfile
import soxr
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.audio import waveform
from speech_emotion_jax.audio.sources import describe
from speech_emotion_jax.errors import InvalidInput, UnreadableInput

from .support.examples import examples
from .support.recordings import encode, encode_with_av, librosa_load, tones


def reference(samples: np.ndarray, rate: int) -> np.ndarray:
    """What is asked for, in one piece: (channels, samples) float32 to mono at 16 kHz."""
    mono = samples.mean(axis=0)
    wanted = -(-len(mono) * 16_000 // rate)
    resampled = mono if rate == 16_000 else soxr.resample(mono, rate, 16_000, quality="HQ")[:wanted]
    return np.pad(resampled, (0, wanted - len(resampled)))


# ---- equal to librosa ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 6, 12])
@pytest.mark.parametrize("seconds", [1, 1.237])  # 1 s at 12,347 Hz is 16,001 samples there
@pytest.mark.parametrize("rate", [8_000, 11_025, 12_347, 16_000, 22_050, 44_100, 48_000])
def test_wav_equals_librosa(tmp_path, rate, seconds, channels):
    path = tmp_path / "speech.wav"
    soundfile.write(path, tones(seconds, rate, channels), rate)
    expected = librosa_load(path)
    loaded = waveform.load(path)
    assert loaded.dtype == np.float32
    np.testing.assert_array_equal(loaded, expected)


@pytest.mark.parametrize(
    ("container", "subtype", "rate"),
    [
        ("WAV", "PCM_U8", 8_000),
        ("WAV", "PCM_24", 44_100),
        ("WAV", "PCM_32", 44_100),
        ("WAV", "DOUBLE", 44_100),
        ("WAV", "ULAW", 8_000),
        ("WAV", "IMA_ADPCM", 22_050),
        ("WAVEX", "PCM_16", 44_100),
        ("RF64", "PCM_16", 44_100),
        ("AIFF", "PCM_16", 44_100),
        ("AU", "PCM_16", 44_100),
        ("CAF", "ALAC_16", 44_100),
        ("FLAC", "PCM_16", 44_100),
        ("FLAC", "PCM_24", 16_000),
        ("OGG", "VORBIS", 44_100),
        ("OGG", "OPUS", 48_000),
        ("MP3", "MPEG_LAYER_III", 44_100),
        ("MP3", "MPEG_LAYER_III", 16_000),
    ],
)
def test_formats_equal_librosa(tmp_path, container, subtype, rate):
    path = tmp_path / "speech"  # no suffix: the content tells
    path.write_bytes(encode(tones(7.3, rate, 2), rate, container, subtype))
    expected = librosa_load(path)
    np.testing.assert_array_equal(waveform.load(path), expected)
    np.testing.assert_array_equal(waveform.load(path.read_bytes()), expected)


@pytest.mark.process
def test_neither_librosa_nor_av_is_imported_for_wav(tmp_path):
    path = tmp_path / "speech.wav"
    path.write_bytes(encode(tones(0.1, 8_000), 8_000))
    code = (
        "import sys; from speech_emotion_jax.audio.waveform import load; load(sys.argv[1]);"
        "assert not {'librosa', 'numba', 'av'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code, path], check=True)


# ---- what libsndfile doesn't know ------------------------------------------------------------------------------------


@pytest.mark.parametrize("channels", [1, 2, 6])
@pytest.mark.parametrize(
    ("container", "codec", "bits"),
    [
        ("mov", "alac", 16),  # planar
        ("mov", "pcm_u8", 8),
        ("mov", "pcm_s16le", 16),
        ("mov", "pcm_s32le", 24),  # what float32 can hold
        ("mov", "pcm_f64le", 24),
        ("matroska", "flac", 16),
    ],
)
def test_lossless_through_av_is_exact(container, codec, bits, channels):
    samples = np.round(tones(1.1, 44_100, channels) * 2 ** (bits - 1)) / 2 ** (bits - 1)
    loaded = waveform.load(encode_with_av(samples.astype(np.float32), 44_100, container, codec))
    np.testing.assert_array_equal(loaded, reference(samples.T, 44_100))


@pytest.mark.parametrize("rate", [8_000, 22_050, 44_100])
@pytest.mark.parametrize(("container", "codec"), [("ipod", "aac"), ("webm", "libopus"), ("adts", "aac")])
def test_lossy_through_av(container, codec, rate):
    rate = 48_000 if codec == "libopus" else rate
    time = np.arange(2 * rate) / rate
    left = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    loaded = waveform.load(encode_with_av(np.stack([0.6 * left, 0.2 * left], 1), rate, container, codec))
    assert 32_000 <= len(loaded) < 32_000 + 3 * 1024 * 16_000 / rate  # encoders fill up their last frame
    middle = loaded[8_000:24_000]
    assert np.argmax(np.abs(np.fft.rfft(middle))) == 440
    assert np.sqrt(2 * np.mean(middle**2)) == pytest.approx(0.4, rel=0.03)


def test_content_decides_and_not_the_suffix(tmp_path):
    samples = tones(0.5, 16_000, 2)
    for name, content in (
        ("wav.m4a", encode(samples, 16_000)),
        ("flac.raw", encode(samples, 16_000, "FLAC")),
        ("alac.wav", encode_with_av(samples, 16_000, "mov", "alac")),
    ):
        (tmp_path / name).write_bytes(content)
        np.testing.assert_allclose(waveform.load(tmp_path / name), samples.mean(1), atol=1e-4)


def test_a_change_of_the_rate_is_told():
    streams = [encode_with_av(tones(1, rate), rate, "adts", "aac") for rate in (16_000, 44_100)]
    with pytest.raises(UnreadableInput, match="changes its rate from 16000 to 44100 Hz"):
        waveform.load(streams[0] + streams[1])


def test_tags_that_are_not_utf8():
    """PyAV had an option for such tags up to release 18, and has none since."""
    content = encode_with_av(tones(0.5, 16_000), 16_000, "matroska", "flac", title="ñandú")
    assert content.count("ñandú".encode()) == 1
    latin_1 = content.replace("ñandú".encode(), "ñandú..".encode("latin-1"))
    assert np.array_equal(waveform.load(latin_1), waveform.load(content))


def test_without_av_the_extra_is_named(monkeypatch):
    content = encode_with_av(tones(0.5, 16_000), 16_000, "ipod", "aac")
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UnreadableInput, match=r"pip install 'speech_emotion_jax\[m4a\]'"):
        waveform.load(content)


def test_a_playlist_opens_no_other_file(tmp_path):
    path = tmp_path / "secret.wav"
    path.write_bytes(encode(tones(0.5, 16_000), 16_000))
    for text in (f"#EXTM3U\n#EXTINF:1,\n{path}\n#EXT-X-ENDLIST\n", f"ffconcat version 1.0\nfile {path}\n"):
        with pytest.raises(UnreadableInput, match="not audio"):
            waveform.load(text.encode())


# ---- arrays ----------------------------------------------------------------------------------------------------------

RATES = st.integers(4_000, 96_000) | st.sampled_from([8_000, 11_025, 16_000, 22_050, 44_100, 48_000])


@given(data=st.data(), rate=RATES, channels=st.integers(1, 6), dtype=st.sampled_from(["i1", "i2", "i4", "u1", "f4"]))
@settings(max_examples=examples(60))
def test_arrays_equal_the_reference(data, rate, channels, dtype):
    length = data.draw(st.integers(-(-600 * rate // 16_000), 20_000))
    generator = np.random.default_rng(data.draw(st.integers(0, 99)))
    unit = generator.uniform(-1, 1, (channels, length)).astype(np.float32)
    if dtype == "f4":
        array, scaled = unit, unit
    else:
        limits = np.iinfo(dtype)
        array = generator.integers(limits.min, limits.max, (channels, length), dtype, endpoint=True)
        scaled = (array.astype(np.float64) - (128 if dtype == "u1" else 0)) / 2 ** (limits.bits - 1)
    expected = reference(scaled.astype(np.float32), rate)
    loaded = waveform.load({"array": array[0] if channels == 1 else array, "sampling_rate": rate})
    assert len(loaded) in (len(expected), len(expected) + 1)  # librosa's rounding: one more at rare rates
    np.testing.assert_array_equal(loaded[: len(expected)], expected)
    assert not loaded[len(expected) :].any()


@given(rate=RATES, seconds=st.floats(0.05, 1.5), block=st.integers(1, 30_000), channels=st.integers(1, 3))
@settings(max_examples=examples(60))
def test_blocks_never_change_a_sample(rate, seconds, block, channels):
    source = encode(tones(seconds, rate, channels), rate)
    parts = list(waveform.blocks(source, block))
    assert {len(part) for part in parts[:-1]} <= {block}
    assert 0 < len(parts[-1]) <= block
    np.testing.assert_array_equal(np.concatenate(parts), waveform.load(source))


def test_reads_longer_than_one_piece_never_change_a_sample():
    samples = tones(20, 44_100, 2)
    expected = reference(samples.T, 44_100)
    np.testing.assert_array_equal(waveform.load({"array": samples.T, "sampling_rate": 44_100.0}), expected)
    np.testing.assert_array_equal(waveform.load(encode(samples, 44_100, "WAV", "FLOAT")), expected)


def test_integer_arrays_are_scaled_as_in_a_file():
    for subtype, dtype in (("PCM_S8", "int8"), ("PCM_U8", "uint8"), ("PCM_16", "int16"), ("PCM_32", "int32")):
        container = "AIFF" if dtype == "int8" else "WAV"
        content = encode(tones(0.2, 16_000), 16_000, container, subtype)
        if dtype in ("int16", "int32"):
            array, _ = soundfile.read(io.BytesIO(content), dtype=dtype)
        else:  # libsndfile reads bytes as int16 at the least
            wide, _ = soundfile.read(io.BytesIO(content), dtype="int16")
            array = (wide // 256 + (128 if dtype == "uint8" else 0)).astype(dtype)
        np.testing.assert_array_equal(waveform.load({"array": array, "sampling_rate": 16_000}), waveform.load(content))


NOISE = tones(0.1, 16_000)[:, 0]


@pytest.mark.parametrize(
    ("array", "rate", "message"),
    [
        (tones(3, 16_000, 2), 16_000, r"shape \(48000, 2\) has 48000 channels; the order is \(channels, samples\)"),
        (NOISE[None, None], 16_000, "3 axes"),
        (np.array(0.5), 16_000, "0 axes"),
        (NOISE > 0, 16_000, "holds bool"),
        (NOISE.astype(complex), 16_000, "holds complex128"),
        (NOISE.astype(object), 16_000, "holds object"),
        ((NOISE * 100).astype(np.int64), 16_000, "holds int64"),
        (NOISE.astype(str), 16_000, "holds <U"),
        ([[0.5], [0.5, 0.25]], 16_000, "can't become a NumPy array"),
        (NOISE, None, "sampling rate None"),
        (NOISE, 0, "sampling rate 0"),
        (NOISE, -16_000, "sampling rate -16000"),
        (NOISE, 2**31, "sampling rate 2147483648"),
        (NOISE, 10**400, "sampling rate 1000"),
        (NOISE, 16_000.5, "sampling rate 16000.5"),
        (NOISE, float("nan"), "sampling rate nan"),
        (NOISE, True, "sampling rate True"),
        (NOISE, "16000", "sampling rate '16000'"),
        (NOISE[:0], 16_000, "no samples"),
        (NOISE[None][:, :0], 16_000, "no samples"),
        (NOISE[None][:0], 16_000, "no samples"),
        (NOISE[:559], 16_000, "has 559 samples at 16 kHz and 560 .* are needed"),
        (NOISE[:279], 8_000, "has 558 samples"),
        (np.zeros(16_000), 16_000, "digital silence"),
        (np.full(16_000, 0.25), 44_100, "digital silence: every sample is 0.25"),
        (np.stack([NOISE, -NOISE]), 8_000, "2 channels cancel each other.* --channel.* 0 to 1"),
        (np.where(np.arange(1_600) == 700, np.nan, NOISE), 8_000, "NaN, infinite"),
        (np.where(np.arange(1_600) == 1_599, np.inf, NOISE), 8_000, "NaN, infinite"),
        (np.where(np.arange(1_600) == 0, 1e300, NOISE.astype(float)), 16_000, "NaN, infinite"),
        (np.where(np.arange(1_600) == 9, 1e12, NOISE.astype(float)), 16_000, "absurdly large"),
        (np.where(np.arange(1_600) == 0, 3e38, NOISE).astype(np.float32) * np.ones((3, 1), "f4"), 16_000, "infinite"),
    ],
)
def test_arrays_refused(array, rate, message):
    with pytest.raises(InvalidInput, match=message):
        waveform.load({"array": array, "sampling_rate": rate})


@pytest.mark.process
@pytest.mark.parametrize("source", ["np.ones(9)", "None", "16000", "[0.5, 0.25]", "{'text': 'a.wav'}"])
def test_other_sources_refused(source):
    # In a process of its own: here the type checker would speak first.
    code = f"import numpy as np; from speech_emotion_jax.audio.waveform import load; load({source})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert re.search(r'InvalidInput: audio .*; pass .*{"array": .*, "sampling_rate": .*}', done.stderr)


def test_560_samples_are_enough():
    assert len(waveform.load({"array": NOISE[:560], "sampling_rate": 16_000})) == 560
    assert len(waveform.load({"array": NOISE[:280], "sampling_rate": 8_000})) == 560


def test_a_block_of_nothing_is_refused():
    with pytest.raises(ValueError, match="at least 1"):
        next(waveform.blocks({"array": NOISE, "sampling_rate": 16_000}, 0))


# ---- files that are none ---------------------------------------------------------------------------------------------


def test_missing_directory_empty_and_pipe(tmp_path):
    (tmp_path / "empty.wav").touch()
    os.mkfifo(tmp_path / "pipe.wav")
    for path, message in (
        (tmp_path / "none.wav", "none.wav does not exist"),
        (tmp_path, "is a directory"),
        (tmp_path / "empty.wav", "empty.wav is empty"),
        (tmp_path / "pipe.wav", "pipe.wav is a pipe or a device"),
        ("/dev/zero", "is a pipe or a device"),
        (tmp_path / "empty.wav" / "x", "can't be opened"),
        ("a\0b.wav", r"'a\\x00b.wav' can't be opened"),
        ("x" * 5_000, "can't be opened"),
        ("", "'' does not exist"),
        (b"", r"audio bytes \(0 bytes\) is empty"),
        (b"not audio at all", r"audio bytes \(16 bytes\) is truncated, damaged or not audio"),
        ("hello world, hello".encode("utf-16"), "not audio"),
        (b"\x89PNG\r\n\x1a\n" + bytes(500), "not audio"),
    ):
        with pytest.raises(UnreadableInput, match=message):
            waveform.load(path)


@pytest.mark.parametrize(
    "name", ["a b'c\"d;.wav", "ñandú 🎤.wav", "new\nline.wav", b"latin-\xf1.wav", "-i.wav", "%d.wav"]
)
def test_odd_paths(tmp_path, name):
    path = os.path.join(tmp_path, os.fsdecode(name))
    with open(path, "wb") as file:
        file.write(encode(tones(0.2, 16_000), 16_000))
    assert len(waveform.load(path)) == 3_200
    assert describe(path).isprintable()


def test_describe(tmp_path):
    assert describe(tmp_path / "a.wav") == str(tmp_path / "a.wav")
    assert describe(b"1234") == "audio bytes (4 bytes)"
    assert describe({"array": np.zeros((2, 9)), "sampling_rate": 1}) == "audio array of shape (2, 9)"


# ---- files that end too early ----------------------------------------------------------------------------------------

STATES_LENGTH = {
    "wav": encode(tones(2, 16_000), 16_000),
    "wav, float": encode(tones(2, 16_000), 16_000, "WAV", "FLOAT"),
    "wav, adpcm": encode(tones(2, 16_000), 16_000, "WAV", "IMA_ADPCM"),
    "rifx": encode(tones(2, 16_000), 16_000, "WAV", endian="BIG"),
    "rf64": encode(tones(2, 16_000), 16_000, "RF64"),
    "aiff": encode(tones(2, 16_000), 16_000, "AIFF"),
    "au": encode(tones(2, 16_000), 16_000, "AU"),
    "caf": encode(tones(2, 16_000), 16_000, "CAF"),
    "flac": encode(tones(2, 16_000), 16_000, "FLAC"),
    "m4a, index last": encode_with_av(tones(2, 16_000), 16_000, "ipod", "aac"),
    "m4a, index first": encode_with_av(tones(2, 16_000), 16_000, "ipod", "aac", movflags="faststart"),
    "matroska": encode_with_av(tones(4, 16_000), 16_000, "matroska", "flac"),
}


@pytest.mark.parametrize("name", STATES_LENGTH)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(name, share):
    content = STATES_LENGTH[name]
    waveform.load(content)
    with pytest.raises(UnreadableInput, match="truncated"):
        waveform.load(content[: int(share * len(content))])


@given(
    name=st.sampled_from([name for name in STATES_LENGTH if "m4a" not in name and name != "matroska"]), data=st.data()
)
@settings(max_examples=examples(100))
def test_truncated_by_any_number_of_bytes(name, data):
    content = STATES_LENGTH[name]
    missing = data.draw(st.integers(1, 200) | st.integers(1, len(content)))
    with pytest.raises(UnreadableInput):
        waveform.load(content[:-missing])


def test_flac_of_stated_length_cut_between_frames():
    content = encode(tones(2, 16_000), 16_000, "FLAC")
    frames = [match.start() for match in re.finditer(rb"\xff[\xf8\xf9]", content)]
    for cut in frames[1:]:
        with pytest.raises(UnreadableInput, match="truncated"):
            waveform.load(content[:cut])


@given(position=st.floats(0.3, 0.99), noise=st.binary(min_size=8, max_size=40))
@settings(max_examples=examples(30))
def test_flac_damaged_in_the_middle(position, noise):
    content = bytearray(STATES_LENGTH["flac"])
    start = int(position * len(content)) - len(noise)
    if content[start : start + len(noise)] == noise:
        return
    content[start : start + len(noise)] = noise
    with pytest.raises(UnreadableInput, match="damaged"):
        waveform.load(bytes(content))


def test_flac_of_unstated_length_and_with_a_tag():
    samples = tones(2, 16_000, 2)
    content = bytearray(encode(samples, 16_000, "FLAC"))
    expected = waveform.load(bytes(content))
    np.testing.assert_array_equal(waveform.load(bytes(content) + b"TAG" + bytes(125)), expected)
    content[21] &= 0xF0
    content[22:26] = bytes(4)
    np.testing.assert_array_equal(waveform.load(bytes(content)), expected)


@pytest.mark.parametrize("riff", [0, 8, 36, 0x7FFF_F024, 0xFFFF_FFFF])
@pytest.mark.parametrize("data", [0, 0x7F00_0000, 0x7FFF_F000, 0x7FFF_FFFF, 0xFFFF_FFFF])
def test_streamed_wav_of_unstated_length(riff, data, tmp_path):
    content = bytearray(encode(tones(0.5, 22_050, 2), 22_050))
    expected = waveform.load(bytes(content))
    content[4:8], content[40:44] = struct.pack("<I", riff), struct.pack("<I", data)
    path = tmp_path / "streamed.wav"
    path.write_bytes(content)
    np.testing.assert_array_equal(waveform.load(path), expected)
    assert path.read_bytes() == content


def test_streamed_rf64_of_unstated_length():
    content = bytearray(encode(tones(0.5, 22_050, 2), 22_050, "RF64"))
    expected = waveform.load(bytes(content))
    content[20:44] = bytes(24)  # sizes and count of ds64
    np.testing.assert_array_equal(waveform.load(bytes(content)), expected)


def test_a_chunk_of_odd_size_is_padded():
    content = encode(tones(2, 16_000), 16_000)
    odd = content[:12] + b"note" + struct.pack("<I", 5) + b"hello\0" + content[12:]
    np.testing.assert_array_equal(waveform.load(odd), waveform.load(content))
    with pytest.raises(UnreadableInput, match="truncated: it states 64000 bytes of samples and has 63000"):
        waveform.load(odd[:-1_000])


def test_a_wav_that_is_really_empty_holds_no_samples():
    empty = encode(tones(0, 16_000), 16_000)
    comment = b"LIST" + struct.pack("<I", 2_000) + b"INFO" + bytes(1_996)
    followed = empty[:4] + struct.pack("<I", len(empty) - 8 + len(comment)) + empty[8:] + comment
    for content in (empty, followed):
        with pytest.raises(InvalidInput, match="no samples"):
            waveform.load(content)


# ---- streams that may end anywhere -----------------------------------------------------------------------------------

STREAMS = {
    "vorbis": encode(tones(3, 44_100, 2), 44_100, "OGG", "VORBIS"),
    "opus": encode(tones(3, 48_000, 2), 48_000, "OGG", "OPUS"),
    "mp3": encode(tones(3, 44_100, 2), 44_100, "MP3"),
}


@pytest.mark.parametrize("name", STREAMS)
def test_cut_streams_are_read_for_what_is_there(name):
    content = STREAMS[name]
    whole = waveform.load(content)
    pages = [page.start() + size for page in re.finditer(b"OggS", content) for size in (0, 26, 27, 28)]
    for size in [*range(0, len(content), len(content) // 40), *pages]:
        expected = 3 * 16_000 * size / len(content)
        try:
            part = waveform.load(content[:size])
        except (UnreadableInput, InvalidInput):
            assert expected < 20_000  # less than a page; those of Opus are a second long
            continue
        assert expected - 20_000 < len(part) <= len(whole)
        sure = max(0, len(part) - 1_500)  # the last frame overlaps the one that is gone
        np.testing.assert_allclose(part[:sure], whole[:sure], atol=1e-6)


def test_a_lost_page_of_an_ogg_is_told():
    content = bytearray(encode(tones(20, 44_100), 44_100, "OGG", "VORBIS"))
    content[len(content) // 2] ^= 0xFF  # the page's checksum fails
    with pytest.raises(UnreadableInput, match="damaged"):
        waveform.load(bytes(content))


def test_what_libsndfile_would_leave_out_is_told(monkeypatch):
    """Without FFmpeg, which reads all of it: see test_sounds."""
    monkeypatch.setitem(sys.modules, "av", None)
    loud_then_quiet = tones(20, 44_100) * np.linspace(1, 0, 20 * 44_100, dtype=np.float32)[:, None] ** 4
    variable = encode(loud_then_quiet, 44_100, "MP3", bitrate_mode="VARIABLE")
    assert len(waveform.load(variable)) == 320_000
    without_index = variable[variable.index(b"\xff\xfb", 100) :]
    ogg = encode(tones(20, 44_100), 44_100, "OGG", "VORBIS")
    for content in (without_index, variable + variable, ogg + ogg):
        with pytest.raises(UnreadableInput, match="where libsndfile stops; pip install"):
            waveform.load(content)


# ---- bytes that lie --------------------------------------------------------------------------------------------------

SEEDS = [*STATES_LENGTH.values(), *STREAMS.values()]
STARTS = [
    b"",
    b"RIFF\x40\0\0\0WAVEfmt ",
    b"FORM\0\0\0\x40AIFF",
    b"fLaC\0\0\0\x22",
    b"OggS\0\2",
    b"\xff\xfb\x90\x44",
    b"ID3\4",
]
STARTS += [b"caff\0\1\0\0", b".snd\0\0\0\x18", b"RF64\xff\xff\xff\xffWAVEds64", b"\0\0\0\x1cftypM4A ", b"\x1aE\xdf\xa3"]


def is_audio_or_refused(content: bytes) -> None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # a wrong scale, bytes between the frames of an MP3
            loaded = waveform.load(content)
    except (InvalidInput, UnreadableInput) as error:
        message = str(error)
    else:
        assert loaded.dtype == np.float32
        assert loaded.ndim == 1
        assert len(loaded) >= waveform.MIN_SAMPLES
        assert np.isfinite(loaded).all()
        return
    assert message.startswith("audio bytes (")
    assert "\n" not in message


@given(start=st.sampled_from(STARTS), rest=st.binary(max_size=3_000))
@settings(max_examples=examples(200))
def test_random_bytes(start, rest):
    is_audio_or_refused(start + rest)


@given(seed=st.sampled_from(SEEDS), data=st.data())
@settings(max_examples=examples(200))
def test_mutated_headers(seed, data):
    content = bytearray(seed)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, 120))
        extreme = st.sampled_from([b"\xff" * 4, b"\xff\xff\xff\x7f", b"\0\0\0\x80", bytes(4), b"\0\0\0\1", b"\1\0\0\0"])
        content[position : position + 4] = data.draw(extreme | st.binary(max_size=6))
    is_audio_or_refused(bytes(content))


def test_an_impossible_seek_is_told(capfd):
    asf = bytes.fromhex("3026b2758e66cf11a6d900aa0062ce6c") + struct.pack("<QIH", 64, 5, 0x0201)
    with pytest.raises(UnreadableInput, match="not audio"):
        waveform.load(asf + b"an unknown one.." + struct.pack("<Q", 0x7F << 48) + bytes(10))
    assert capfd.readouterr().err == ""  # PyAV would print an exception of Python's file


def test_absurd_headers_take_no_memory():
    def patched(name: str, *patches: tuple[int, bytes]) -> bytes:
        content = bytearray(STATES_LENGTH[name])
        for position, value in patches:
            content[position : position + len(value)] = value
        return bytes(content)

    absurd = [
        patched("wav", (22, b"\xff\xff")),  # channels
        patched("wav", (22, b"\x00\x04"), (32, b"\x00\x08")),  # 1024 channels, as the block size has it
        patched("wav", (24, b"\xff\xff\xff\x7f")),  # rates
        patched("wav", (24, b"\x01\x00\x00\x00")),
        patched("wav", (40, b"\xff\xff\xff\x7e")),  # bytes of samples
        patched("flac", (21, b"\x0f\xff\xff\xff\xff")),  # 2^36 - 1 samples
        patched("aiff", (22, b"\x7f\xff\xff\xff")),
        patched("au", (20, b"\x00\x00\x03\xe8")),
    ]
    tracemalloc.start()
    for content in absurd:
        is_audio_or_refused(content)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 20e6
    for content in (absurd[1], absurd[2], absurd[3]):
        with pytest.raises(UnreadableInput):
            waveform.load(content)


# ---- length ----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(("seconds", "channels"), [(3_600, 1), (60, 32)])
def test_long_files_take_little_memory(tmp_path, seconds, channels):
    path = tmp_path / "long.wav"
    part = tones(20, 8_000, channels)
    with soundfile.SoundFile(path, "w", 8_000, channels) as file:
        for _ in range(seconds // 20):
            file.write(part)
    tracemalloc.start()
    total = sum(len(block) for block in waveform.blocks(path, 30 * 16_000))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert total == seconds * 16_000
    assert peak < 20e6
