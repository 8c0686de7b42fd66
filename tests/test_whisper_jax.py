"""`FlaxWhisperPipline`: whisper-jax's arguments, inputs and results, on the real whisper-base."""

import copy
import inspect
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import soundfile
import soxr
from transformers import WhisperFeatureExtractor

from speech_emotion_jax import (
    FlaxWhisperPipline,
    InvalidInput,
    SpeechEmotionError,
    TranscriptionOptions,
    UnreadableInput,
)
from speech_emotion_jax.audio.waveform import load

from .support.bad_input import RATE

RECORDINGS = Path(__file__).parents[1] / "speech_emotion_jax" / "demo_data"
JOY, FEAR = RECORDINGS / "joy.flac", RECORDINGS / "fear.flac"


@pytest.fixture(scope="module")
def pipeline(whisper_base: Path) -> Iterator[FlaxWhisperPipline]:
    loaded = FlaxWhisperPipline(whisper_base)
    with closing(loaded.pipeline):
        yield loaded


@pytest.fixture(scope="module")
def waveform() -> np.ndarray:
    return load(JOY)


@pytest.fixture(scope="module")
def text(pipeline: FlaxWhisperPipline) -> str:
    """What greedy decoding hears."""
    found = pipeline(str(JOY), language="es")
    assert found.keys() == {"text"}
    assert found["text"].startswith(" ")
    assert "scribo por lo de" in found["text"]
    return found["text"]


@pytest.fixture(scope="module")
def features(whisper_base: Path) -> np.ndarray:
    """Log-mel of two recordings, (2, 80, 3000), by transformers."""
    extractor = WhisperFeatureExtractor.from_pretrained(whisper_base)
    waveforms = [load(JOY), load(FEAR)]
    return np.asarray(extractor(waveforms, sampling_rate=RATE, return_tensors="np")["input_features"], np.float32)


class _Quiet(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def address(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The recordings over HTTP."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(_Quiet, directory=str(RECORDINGS))) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def defaults(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    return [(each.name, each.default) for each in inspect.signature(function).parameters.values()]


# Arguments


def test_arguments_are_those_of_whisper_jax():
    this, required = ("self", inspect.Parameter.empty), inspect.Parameter.empty
    assert defaults(FlaxWhisperPipline.__init__) == [
        this,
        ("checkpoint", "openai/whisper-large-v2"),
        ("dtype", jnp.float32),
        ("batch_size", None),
        ("max_length", None),
    ]
    assert defaults(FlaxWhisperPipline.__call__) == [
        this,
        ("inputs", required),
        ("chunk_length_s", 30.0),
        ("stride_length_s", None),
        ("batch_size", None),
        ("language", None),
        ("task", None),
        ("return_timestamps", None),
        ("generate_kwargs", None),
    ]
    assert defaults(FlaxWhisperPipline.generate) == [
        this,
        ("input_features", required),
        ("language", None),
        ("task", None),
        ("return_timestamps", False),
    ]
    assert [name for name, _ in defaults(FlaxWhisperPipline.shard_params)] == [
        "self",
        "num_mp_partitions",
        "logical_axis_rules",
    ]


def test_attributes(pipeline: FlaxWhisperPipline, whisper_base: Path):
    assert pipeline.checkpoint == whisper_base
    assert pipeline.dtype is jnp.float32
    assert pipeline.batch_size == jax.device_count()
    assert pipeline.max_length is None


@pytest.mark.parametrize(
    ("dtype", "held"), [(jnp.float32, "float32"), (jnp.bfloat16, "bfloat16"), (jnp.float16, "bfloat16")]
)
def test_dtype(whisper_tiny: Path, dtype: Any, held: str):
    loaded = FlaxWhisperPipline(str(whisper_tiny), dtype=dtype, batch_size=3)
    with closing(loaded.pipeline):
        dtypes = {leaf.dtype.name for leaf in jax.tree.leaves(loaded.pipeline.programs.parameters)}
        assert held in dtypes
        assert dtypes <= {held, "float32"}
        assert loaded.batch_size == 3


def test_other_dtypes_are_refused(whisper_tiny: Path):
    with pytest.raises(InvalidInput, match=r"int8 is not implemented; use jnp\.float32 or jnp\.bfloat16"):
        FlaxWhisperPipline(whisper_tiny, dtype=jnp.int8)


def test_shard_params_does_nothing_and_says_so(pipeline: FlaxWhisperPipline):
    before = pipeline.pipeline.programs.parameters
    pipeline.shard_params()
    with pytest.warns(UserWarning, match="num_mp_partitions has no effect"):
        pipeline.shard_params(num_mp_partitions=2, logical_axis_rules=(("batch", "data"),))
    assert pipeline.pipeline.programs.parameters is before


# Inputs


def test_every_kind_of_input_gives_the_same_text(pipeline: FlaxWhisperPipline, waveform: np.ndarray, text: str):
    inputs = {
        "path": JOY,
        "bytes": JOY.read_bytes(),
        "array": waveform,
        "float64": waveform.astype(np.float64),
        "dict of array": {"array": waveform, "sampling_rate": RATE, "path": "not/used"},
        "dict of raw": {"raw": waveform, "sampling_rate": RATE},
        "list": {"array": waveform.tolist(), "sampling_rate": RATE},
    }
    assert {name: pipeline(given, language="es")["text"] for name, given in inputs.items()} == dict.fromkeys(
        inputs, text
    )
    assert inputs["dict of raw"].keys() == {"raw", "sampling_rate"}  # and is left alone


def test_other_rates_are_resampled(pipeline: FlaxWhisperPipline, waveform: np.ndarray, tmp_path: Path, text: str):
    faster = soxr.resample(waveform, RATE, 44_100).astype(np.float32)
    soundfile.write(tmp_path / "faster.wav", faster, 44_100, subtype="FLOAT")
    found = pipeline({"raw": faster, "sampling_rate": 44_100}, language="es")["text"]
    assert found == pipeline(tmp_path / "faster.wav", language="es")["text"]
    assert pipeline({"raw": faster, "sampling_rate": RATE}, language="es")["text"] != text  # the rate counts


def test_addresses_are_fetched(pipeline: FlaxWhisperPipline, address: str, text: str):
    assert pipeline(f"{address}/joy.flac", language="es")["text"] == text
    with pytest.raises(UnreadableInput, match=rf"^{address}/sorrow\.flac can't be fetched .*404.*; download it[^\n]*$"):
        pipeline(f"{address}/sorrow.flac")


def test_an_address_where_nobody_answers_is_refused(pipeline: FlaxWhisperPipline, address: str):
    with pytest.raises(UnreadableInput, match="can't be fetched"):
        pipeline(address.replace("http:", "https:") + "/joy.flac")
    with pytest.raises(UnreadableInput, match="can't be fetched"):
        pipeline("http://[::1/joy.flac")


@pytest.mark.parametrize(
    ("inputs", "sentence"),
    [
        ({"array": np.zeros(RATE, np.float32)}, '"sampling_rate"'),
        ({"sampling_rate": RATE}, 'nothing under "array", "bytes" or "path"'),
        ({"raw": ["a"] * RATE, "sampling_rate": RATE}, "holds <U1"),
        ("missing.flac", r"missing\.flac.*check the path"),
        (b"Dear listener", r"audio bytes \(13 bytes\)"),
    ],
    ids=["no rate", "no array", "list", "missing", "no audio"],
)
def test_bad_inputs_are_refused(pipeline: FlaxWhisperPipline, inputs: Any, sentence: str):
    with pytest.raises(SpeechEmotionError, match=sentence):
        pipeline(inputs)


def test_a_stride_needs_windows(pipeline: FlaxWhisperPipline, waveform: np.ndarray):
    inputs: Any = {"raw": waveform, "sampling_rate": RATE, "stride": (0, 1_000)}
    with pytest.raises(InvalidInput, match="stride needs neighbouring windows"):
        pipeline(inputs, chunk_length_s=0.0)


# Results


def test_silence_has_no_text(pipeline: FlaxWhisperPipline):
    assert pipeline(np.zeros(RATE, np.float32)) == {"text": ""}


@pytest.mark.parametrize("kind", [True, "word"])
def test_chunks_have_times(pipeline: FlaxWhisperPipline, waveform: np.ndarray, text: str, kind: bool | str):
    found = pipeline(waveform, language="es", return_timestamps=kind)
    assert found.keys() == {"text", "chunks"}
    chunks = found.get("chunks", [])
    assert all(chunk.keys() == {"timestamp", "text"} for chunk in chunks)
    assert "".join(chunk["text"] for chunk in chunks) == found["text"]
    assert len(chunks) == (len(found["text"].split()) if kind == "word" else 1)
    times = [time for chunk in chunks for time in chunk["timestamp"]]
    assert all(type(chunk["timestamp"]) is tuple and len(chunk["timestamp"]) == 2 for chunk in chunks)
    assert times == sorted(times)
    assert 0 <= times[0] < times[-1] <= len(waveform) / RATE + 0.02


BEGINNING = {"max_new_tokens": 4}  # of a window: those that are cut in a word may go on for long


@pytest.mark.parametrize(
    ("arguments", "window", "stride"),
    [
        ({"chunk_length_s": 1.5}, 1.5, (0.25, 0.25)),
        ({"chunk_length_s": 1.5, "stride_length_s": 0.5}, 1.5, (0.5, 0.5)),
        ({"chunk_length_s": 1.5, "stride_length_s": [0.2, 0.0]}, 1.5, (0.2, 0.0)),
        ({"chunk_length_s": 0.0}, 30.0, (0.0, 0.0)),
    ],
    ids=str,
)
def test_windows_of_other_lengths(
    pipeline: FlaxWhisperPipline, waveform: np.ndarray, text: str, arguments: Any, window: float, stride: Any
):
    found = pipeline(waveform, language="es", generate_kwargs=BEGINNING, **arguments)["text"]
    meant = TranscriptionOptions(language="es", window=window, stride=stride, batch_size=1, max_tokens=4)
    assert found == ours(pipeline, waveform, meant)
    assert text.startswith(found) == (window == 30)


@pytest.mark.parametrize("stride", [[0.5], (0.1, 0.1, 0.1), [], (20.0, 20.0), -1.0])
def test_strides_that_cannot_be_are_refused(pipeline: FlaxWhisperPipline, waveform: np.ndarray, stride: Any):
    with pytest.raises(InvalidInput, match="stride"):
        pipeline(waveform, stride_length_s=stride)


def ours(pipeline: FlaxWhisperPipline, waveform: np.ndarray, options: TranscriptionOptions) -> str:
    """The text by our own interface, with the leading space."""
    [transcript] = pipeline.pipeline.transcribe([{"array": waveform, "sampling_rate": RATE}], options)
    return " " + transcript["text"] if transcript["text"] else ""


# generate_kwargs

FAILING = {"logprob_threshold": 0.0, "no_speech_threshold": None}  # no window is good enough
DRAWN = TranscriptionOptions(language="es", temperatures=(1.0,))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        ({"num_beams": 5}, TranscriptionOptions(language="es", beams=5)),
        ({"max_new_tokens": 4}, TranscriptionOptions(language="es", max_tokens=4)),
        ({"task": "translate"}, TranscriptionOptions(language="es", task="translate")),
        ({"temperature": 1.0}, DRAWN),
        ({"temperature": (0.0, 1.0), **FAILING}, DRAWN),
        ({"temperature": [0.0, 1.0], "compression_ratio_threshold": 0.1}, DRAWN),
        ({"temperature": True, **FAILING}, DRAWN),
        (
            {"no_speech_threshold": 0.0, "logprob_threshold": 0.0},
            TranscriptionOptions(no_speech=0.0, log_probability=0.0),
        ),
    ],
    ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
)
def test_generate_kwargs_are_honoured(
    pipeline: FlaxWhisperPipline, waveform: np.ndarray, text: str, given: dict[str, Any], meant: TranscriptionOptions
):
    found = pipeline(waveform, generate_kwargs={"language": "Spanish", **given})["text"]
    assert found == ours(pipeline, waveform, meant)
    assert found != text


def test_a_prompt_of_earlier_text_needs_windows_in_sequence(pipeline: FlaxWhisperPipline):
    settings = pipeline._settings(None, None, None, {"condition_on_prev_tokens": True})
    assert (settings["condition_on_previous"], settings["sequential"]) == (True, True)
    assert "sequential" not in pipeline._settings(None, None, None, {"condition_on_prev_tokens": False})


def test_what_is_none_is_as_if_not_given(pipeline: FlaxWhisperPipline, waveform: np.ndarray, text: str):
    """transformers' `generate` has None for thresholds that are not used."""
    names = ("num_beams", "max_new_tokens", "logprob_threshold", "compression_ratio_threshold", "language", "task")
    assert pipeline(waveform, language="es", generate_kwargs=dict.fromkeys(names))["text"] == text


def test_arguments_count_more_than_generate_kwargs(pipeline: FlaxWhisperPipline, waveform: np.ndarray, text: str):
    given = {"language": "english", "task": "translate", "return_timestamps": True}
    found = pipeline(waveform, language="es", task="transcribe", return_timestamps=False, generate_kwargs=given)
    assert found == {"text": text}
    assert pipeline(waveform, language="es", generate_kwargs={"return_timestamps": True}).keys() == {"text", "chunks"}


def test_unknown_generate_kwargs_are_refused_by_name(pipeline: FlaxWhisperPipline, waveform: np.ndarray):
    with pytest.raises(InvalidInput, match=r"generate_kwargs has do_sample, num_beans; known are .*num_beams"):
        pipeline(waveform, generate_kwargs={"num_beans": 5, "do_sample": True, "num_beams": 5})


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"language": "Klingon"}, "doesn't know the language 'Klingon'"),
        ({"task": "sing"}, "task 'sing' is unknown"),
        ({"batch_size": 0}, "batch_size is 0"),
        ({"chunk_length_s": 31.0}, "windows of 31 s"),
        ({"generate_kwargs": {"num_beams": 0}}, "beams is 0"),
        ({"generate_kwargs": {"temperature": -1.0}}, "temperatures are"),
        ({"generate_kwargs": {"temperature": "hot"}}, "temperature"),
        ({"generate_kwargs": {"temperature": ()}}, "temperatures are"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_bad_settings_are_refused(pipeline: FlaxWhisperPipline, waveform: np.ndarray, given: Any, named: str):
    with pytest.raises(InvalidInput, match=named):
        pipeline(waveform, **given)


def test_max_length_counts_prompt_and_text(
    pipeline: FlaxWhisperPipline, waveform: np.ndarray, features: np.ndarray, text: str
):
    short = copy.copy(pipeline)
    short.max_length = 8
    vocabulary = pipeline.pipeline.vocabulary
    [ids] = short.generate(features[:1], language="es")
    assert (ids[8:] == vocabulary.end).all()
    assert (ids[:8] != vocabulary.end).all()
    begun = short(waveform, language="es")["text"]
    assert begun == vocabulary.text(ids.tolist())
    assert text.startswith(begun)
    assert begun != text


# generate


def test_generate_gives_ids(pipeline: FlaxWhisperPipline, features: np.ndarray, text: str):
    vocabulary = pipeline.pipeline.vocabulary
    ids = pipeline.generate(features, language="es")
    assert ids.dtype.kind == "i"
    assert len(ids) == 2
    prompt = (vocabulary.start, vocabulary.languages["es"], vocabulary.tasks["transcribe"], vocabulary.no_timestamps)
    for row in ids:
        assert tuple(row[:4]) == prompt
        written = row[4:] != vocabulary.end
        assert 0 < written.sum() < len(written)
        assert (np.diff(written.astype(int)) <= 0).all()  # and after the first end only ends
    assert vocabulary.text(ids[0].tolist()) == text
    assert vocabulary.text(ids[1].tolist()) == pipeline(str(FEAR), language="es")["text"]


def test_generate_recognises_the_language_and_stamps(pipeline: FlaxWhisperPipline, features: np.ndarray):
    vocabulary = pipeline.pipeline.vocabulary
    ids = pipeline.generate(features[:1], task="translate", return_timestamps=True)
    assert ids[0, 0] == vocabulary.start
    assert ids[0, 1] in vocabulary.languages.values()
    assert ids[0, 2] == vocabulary.tasks["translate"]
    assert ids[0, 3] >= vocabulary.first_timestamp


@pytest.mark.parametrize("shape", [(80, 3000), (1, 128, 3000), (1, 80, 2999), (1, 3000, 80)])
def test_generate_refuses_other_shapes(pipeline: FlaxWhisperPipline, shape: tuple[int, ...]):
    with pytest.raises((InvalidInput, TypeError), match=r"\(batch, 80, 3000\)|input_features"):
        pipeline.generate(np.zeros(shape, np.float32))
