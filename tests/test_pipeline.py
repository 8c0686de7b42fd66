"""EmotionPipeline: batches, compilations, truncation, precision, and what it frees."""

import gc
import itertools
import json
import logging
import re
import subprocess
import sys
import unicodedata
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import soundfile
from flax import nnx

from speech_emotion_jax import EmotionPipeline, InvalidInput, UnreadableInput
from speech_emotion_jax.audio.fbank import Clip, MelStatistics, read_clip
from speech_emotion_jax.inference.batching import FRAME_BUCKETS, TOKEN_BUCKETS
from speech_emotion_jax.models.parameters import parameter_shapes
from speech_emotion_jax.parity.original import TorchOriginal

from .support.bad_input import RATE, noise
from .support.budgets import BATCH_BUDGET, PROBABILITY_BUDGET
from .support.checkpoints import Size, write_audio_checkpoint, write_bert, write_roberta

WORDS = ["hoy", "estoy", "muy", "feliz", "y", "mañana", "triste"]

# Small enough for the original to attend over 160 s: it builds a (frames, frames, head width) table.
NARROW = Size(1, 8, 2, 20, 12, 1, 12, 2, 20, bert_vocabulary=300, roberta_vocabulary=500)


def make_example(number: int) -> dict[str, Any]:
    """A clip of 0.1 to 0.6 s, or every eighth time of 0.8 to 1.3 s, in the next bucket; a text of 1 to 7 words."""
    seconds = 0.1 + 0.5 * (number * 0.618 % 1) + (0.7 if number % 8 == 7 else 0)
    text = " ".join(WORDS[: 1 + number % len(WORDS)])
    return {"audio": {"array": noise(seconds, seed=number), "sampling_rate": RATE}, "text": text}


def rows(predictions: list[Any]) -> np.ndarray:
    return np.array([list(prediction["scores"].values()) for prediction in predictions])


@pytest.fixture(scope="module")
def load(published) -> Iterator[Callable[..., EmotionPipeline]]:
    """Loads Spanish pipelines, each once."""
    made: dict[Any, EmotionPipeline] = {}

    def pipeline(mode: str, **options: Any) -> EmotionPipeline:
        key = (mode, *options.items())
        if key not in made:
            if mode not in ("text", "audio"):
                options["text_encoder"] = published("text_encoder", "es")
            made[key] = EmotionPipeline.from_pretrained(published(mode, "es"), mode=mode, language="es", **options)
        return made[key]

    yield pipeline
    for each in made.values():
        each.close()


def test_decomposed_letters_give_what_composed_ones_give(load):
    texts = [unicodedata.normalize(form, "Te escribo por lo de la infección del teatro.") for form in ("NFC", "NFD")]
    composed, decomposed = load("text").predict([{"text": text} for text in texts])
    assert composed["scores"] == decomposed["scores"]


@pytest.fixture(scope="module")
def one_by_one(load) -> tuple[list[dict[str, Any]], np.ndarray]:
    """70 examples, more than eight batches of eight, and the probabilities of each alone."""
    examples = [make_example(number) for number in range(70)]
    pipeline = load("concat", batch_size=1)
    alone = rows([pipeline.predict([example])[0] for example in examples])
    assert np.ptp(alone, axis=0).max() > 0.1, "the examples are too alike to tell them apart"
    return examples, alone


@pytest.mark.slow
@pytest.mark.parametrize("batch_size", [1, 8])  # and 3 below
def test_batches_change_nothing(load, one_by_one, batch_size: int):
    examples, alone = one_by_one
    pipeline = load("concat", batch_size=batch_size)
    np.testing.assert_allclose(rows(pipeline.predict(examples)), alone, atol=BATCH_BUDGET)
    np.testing.assert_allclose(rows(pipeline.predict(iter(examples[:5]))), alone[:5], atol=BATCH_BUDGET)


@pytest.mark.slow
def test_order_and_duplicates_are_kept(load, one_by_one):
    examples, alone = one_by_one
    order = [3, 1, 3, 3, 60, 0, 1]
    predictions = load("concat", batch_size=8).predict([examples[number] for number in order])
    np.testing.assert_allclose(rows(predictions), alone[order], atol=BATCH_BUDGET)


def test_no_examples_give_no_predictions(load):
    assert load("concat", batch_size=8).predict([]) == []
    assert load("concat", batch_size=8).predict(iter(())) == []


def test_audio_may_be_a_path_or_bytes_or_an_array_or_read_before(load, tmp_path: Path):
    waveform = np.round(noise(0.5) * 2**15).astype(np.int16)
    soundfile.write(tmp_path / "clip.wav", waveform, RATE)
    path = tmp_path / "clip.wav"
    array = {"array": waveform, "sampling_rate": RATE}
    sources = [path, str(path), path.read_bytes(), array, read_clip(path)]
    first, *others = load("audio", batch_size=8).predict([{"audio": source} for source in sources])
    np.testing.assert_allclose(rows(others), rows([first] * len(others)), atol=BATCH_BUDGET)


@pytest.mark.parametrize(
    ("broken", "error", "named"),
    [
        ({"audio": "missing.wav", "text": "hola"}, UnreadableInput, r"missing\.wav does not exist"),
        ({"audio": b"RIFF", "text": "hola"}, UnreadableInput, r"audio bytes \(4 bytes\)"),
        ({"audio": {"array": noise(0.01), "sampling_rate": RATE}, "text": "hola"}, InvalidInput, r"\(160,\)"),
        ({"audio": "hola.wav", "text": None}, UnreadableInput, "hola.wav"),
        ({"text": "hola"}, InvalidInput, "needs 'audio'"),
        (make_example(0) | {"text": " "}, InvalidInput, "blank"),
        (make_example(0) | {"text": 5}, InvalidInput, "type int"),
        (make_example(0) | {"text": None}, InvalidInput, "needs 'text'"),
        ("clip.wav", InvalidInput, "a str is not an example"),
    ],
)
def test_an_error_names_the_example(load, broken: Any, error: type[Exception], named: str):
    examples = [make_example(0), make_example(1), broken, make_example(2)]
    with pytest.raises(error, match=rf"^examples\[2\]: .*{named}"):
        load("concat", batch_size=8).predict(iter(examples))


@pytest.mark.slow
def test_compilations_are_bounded(load, one_by_one, caplog: pytest.LogCaptureFixture):
    examples, alone = one_by_one
    pipeline = load("concat", batch_size=3)
    caplog.set_level(logging.DEBUG, "speech_emotion_jax")
    first = pipeline.predict(examples[:26])
    np.testing.assert_allclose(rows(first), alone[:26], atol=BATCH_BUDGET)

    shapes = re.findall(r"compiling (.*?) for (\d+) x (\d+)", caplog.text)
    assert len(set(shapes)) == len(shapes), "a shape is compiled twice"
    for part, buckets in (("audio", FRAME_BUCKETS[:2]), ("text", TOKEN_BUCKETS[:1])):
        layers = f"2 layers of the {part} encoder"
        compiled = {(int(batch), int(length)) for name, batch, length in shapes if name == layers}
        assert {(3, length) for length in buckets} <= compiled <= set(itertools.product((1, 2, 3), buckets))
    assert [shape for shape in shapes if shape[0] == "the head"] == [("the head", "3", "24")]

    caplog.clear()
    with jax.log_compiles():
        again = pipeline.predict(examples[:26])
    assert again == first
    assert "ompil" not in caplog.text


@pytest.mark.slow
def test_bfloat16_is_near_float32_and_only_for_the_encoders_matrices(load, one_by_one):
    examples, alone = one_by_one
    pipeline = load("concat", batch_size=8, precision="bfloat16")
    difference = np.abs(rows(pipeline.predict(examples[:7])) - alone[:7]).max()
    assert 1e-5 < difference < 0.05

    dtypes = {".".join(map(str, path)): leaf.get_value().dtype for path, leaf in parameters(pipeline)}
    assert dtypes.keys() == parameter_shapes(pipeline.config).keys()
    lower = {path for path, dtype in dtypes.items() if dtype == jax.numpy.bfloat16}
    encoders = {path for path in dtypes if path.startswith(("audio_encoder.", "text_encoder."))}
    assert {path for path in encoders if path.endswith(".kernel")} <= lower <= encoders
    norms_and_biases = {path for path in dtypes if path.endswith((".scale", ".bias"))}
    assert norms_and_biases
    assert {dtypes[path] for path in dtypes.keys() - lower} == {jax.numpy.dtype("float32")}
    assert not norms_and_biases & lower
    in_float32 = {leaf.get_value().dtype for _, leaf in parameters(load("concat", batch_size=8))}
    assert in_float32 == {jax.numpy.dtype("float32")}


def parameters(pipeline: EmotionPipeline) -> list[Any]:
    assert pipeline.scorer._parameters is not None
    return list(nnx.to_flat_state(pipeline.scorer._parameters))


def test_close_frees_the_parameters(published):
    pipeline = EmotionPipeline.from_pretrained(published("text", "es"), mode="text", language="es")
    pipeline.predict([{"text": "hola"}])
    held = [weakref.ref(leaf.get_value()) for _, leaf in parameters(pipeline)]
    assert len(held) > 20
    pipeline.close()  # gigabytes can't wait for the garbage collector, so no collection here
    assert not [each for each in held if each() is not None]


def test_a_dropped_pipeline_is_collected(published):
    pipeline = EmotionPipeline.from_pretrained(published("text", "es"), mode="text", language="es")
    held = [weakref.ref(leaf.get_value()) for _, leaf in parameters(pipeline)]
    del pipeline
    gc.collect()
    assert not [each for each in held if each() is not None]


def test_a_closed_pipeline_says_so(published):
    pipeline = EmotionPipeline.from_pretrained(published("text", "es"), mode="text", language="es")
    pipeline.close()
    pipeline.close()
    with pytest.raises(RuntimeError, match="closed; load it again"):
        pipeline.predict([{"text": "hola"}])


@pytest.mark.parametrize("batch_size", [0, -1])
def test_batch_size_is_at_least_one(published, batch_size: int):
    with pytest.raises(InvalidInput, match=f"batch_size is {batch_size}"):
        EmotionPipeline.from_pretrained(published("text", "es"), mode="text", language="es", batch_size=batch_size)


@pytest.mark.slow
def test_a_recording_over_160_s_is_truncated_as_by_the_original(tmp_path: Path):
    folder = write_audio_checkpoint(tmp_path / "narrow", "audio", "es", size=NARROW)
    # The last ten seconds are louder: not scored, and yet part of what all is normalised by.
    waveform = np.concatenate([noise(160, seed=1), 8 * noise(10, seed=2)]).astype(np.float32) / 4
    path = tmp_path / "long.wav"
    soundfile.write(path, waveform, RATE, subtype="FLOAT")
    pipeline = EmotionPipeline.from_pretrained(folder, mode="audio", language="es", batch_size=1)
    with pytest.warns(
        UserWarning, match=f"^{re.escape(str(path))} is longer than 160 s; only the first 160 s"
    ) as warned:
        short, long = pipeline.predict([make_example(0), {"audio": path}])
    assert len(warned) == 1
    assert [prediction.get("truncated") for prediction in (short, long)] == [None, True]
    assert short == pipeline.predict([make_example(0)])[0]
    expected = TorchOriginal(folder, "audio").probabilities(waveform)
    np.testing.assert_allclose(rows([long])[0], expected, atol=PROBABILITY_BUDGET)


def test_a_recording_read_before_is_truncated_with_a_warning(load):
    statistics = MelStatistics(np.zeros((1, 80), np.float32), np.ones((1, 80), np.float32))
    clip = Clip(noise(0.5), 200 * RATE, statistics)
    with pytest.warns(UserWarning, match="^the recording is longer than 160 s"):
        [prediction] = load("audio", batch_size=8).predict([{"audio": clip}])
    assert prediction["truncated"] is True


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["text", "mean"])
def test_a_text_over_512_tokens_is_truncated_as_by_the_original(tmp_path: Path, mode: str):
    random = np.random.default_rng(0)
    text = " ".join(random.choice(WORDS, 600))
    encoder = None
    if mode == "text":
        folder = write_roberta(tmp_path / "model", "es", size=NARROW)
    else:
        folder = write_audio_checkpoint(tmp_path / "model", mode, "es", size=NARROW)
        encoder = write_bert(tmp_path / "encoder", "es", size=NARROW)
    waveform = noise(0.5)
    pipeline = EmotionPipeline.from_pretrained(folder, mode=mode, language="es", text_encoder=encoder)
    with pytest.warns(UserWarning, match="more than 512 tokens; only the first 512 are scored") as warned:
        whole, short = pipeline.predict(
            [{"text": each, "audio": {"array": waveform, "sampling_rate": RATE}} for each in (text, text[:200])]
        )
    assert len(warned) == 1
    assert text[:20] in str(warned[0].message)
    assert whole.get("truncated") is True
    assert "truncated" not in short
    expected = TorchOriginal(folder, mode, encoder).probabilities(waveform, text)
    np.testing.assert_allclose(rows([whole])[0], expected, atol=PROBABILITY_BUDGET)


MEMORY = """
import json, resource, sys
from speech_emotion_jax.audio.fbank import read_clip
peaks = []
for path in sys.argv[1:]:
    assert read_clip(path).truncated
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
print(json.dumps(peaks))
"""


@pytest.mark.process
def test_memory_does_not_grow_with_the_recording(tmp_path: Path):
    # Reading is all that meets the whole recording: the encoder never has more than 160 s.
    random = np.random.default_rng(0)
    paths = [tmp_path / f"{seconds}.wav" for seconds in (170, 600)]
    for path in paths:
        samples = random.integers(-3_000, 3_000, int(path.stem) * 8_000, dtype=np.int16)
        soundfile.write(path, samples, 8_000)
    done = subprocess.run([sys.executable, "-c", MEMORY, *paths], capture_output=True, text=True, check=True)
    short, long = json.loads(done.stdout)  # megabytes
    assert long - short < 200, f"{short:.0f} MB for 170 s, {long:.0f} MB for 10 min"
