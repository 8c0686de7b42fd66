"""`predict_emotion`: the toolkit's function, its parameters, its result, and what it refuses."""

import gc
import inspect
import json
import logging
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch

import speech_emotion_jax
from speech_emotion_jax import EmotionPipeline, InvalidInput, UnreadableInput, predict_emotion
from speech_emotion_jax.inference import predict
from speech_emotion_jax.parity.original import TorchOriginal
from speech_emotion_jax.registry import LABELS, MODES
from speech_emotion_jax.runtime.devices import select_device
from speech_emotion_jax.whisper import TranscriptionOptions, WhisperPipeline

from .support.bad_input import AUDIO, CONCAT, RATE, TEXT, furnish, noise
from .support.budgets import BATCH_BUDGET, PROBABILITY_BUDGET


@pytest.fixture(autouse=True)
def workplace(published, whisper_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory with recordings and models."""
    furnish(tmp_path, published, whisper_tiny)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module", autouse=True)
def _nothing_stays_loaded():
    yield
    speech_emotion_jax.close()


@pytest.fixture
def loads(caplog: pytest.LogCaptureFixture) -> Callable[[], int]:
    """Counts the models that were loaded since the test began with none."""
    speech_emotion_jax.close()
    caplog.set_level(logging.INFO, "speech_emotion_jax")
    return lambda: sum(record.getMessage() == "Reading tensors ..." for record in caplog.records)


def test_parameters_are_those_of_the_toolkit():
    parameters = inspect.signature(predict_emotion).parameters.values()
    positional = {each.name: each.default for each in parameters if each.kind is each.POSITIONAL_OR_KEYWORD}
    assert list(positional.items()) == [
        ("audio_path", None),
        ("text", None),
        ("model_id", None),
        ("mode", "text"),
        ("language", "es"),
        ("device", None),
        ("model_config_path", None),
    ]


@pytest.mark.parametrize(("mode", "language"), [*((mode, "es") for mode in MODES), ("multihead", "en"), ("text", "en")])
def test_result_is_that_of_the_pipeline(published, mode: str, language: str):
    """The pipeline's is that of the original, which parity/test_models.py holds by mode and language."""
    recording = {"array": noise(1.7, seed=1), "sampling_rate": RATE}
    fusion = mode not in ("text", "audio")
    encoder = published("text_encoder", language) if fusion else None
    prediction = predict_emotion(
        recording,
        "hoy estoy feliz and very sad",
        published(mode, language),
        mode,
        language,
        text_encoder_id=encoder,
    )
    pipeline = EmotionPipeline.from_pretrained(
        str(published(mode, language)), mode=mode, language=language, text_encoder=encoder and str(encoder)
    )
    [expected] = pipeline.predict([{"audio": recording, "text": "hoy estoy feliz and very sad"}])

    assert prediction.keys() == {"top_label", "top_score", "scores"}
    scores = prediction["scores"]
    assert tuple(scores) == LABELS[language]
    assert all(type(score) is float for score in [prediction["top_score"], *scores.values()])
    assert sum(scores.values()) == pytest.approx(1, abs=1e-6)
    assert type(prediction["top_label"]) is str
    assert prediction["top_label"] == max(scores, key=scores.__getitem__)
    assert prediction["top_score"] == scores[prediction["top_label"]]
    assert json.loads(json.dumps(prediction)) == prediction
    assert scores == pytest.approx(expected["scores"], abs=BATCH_BUDGET)


def test_inputs_are_checked_before_a_model_is_loaded(loads: Callable[[], int]):
    for arguments in (AUDIO | {"audio_path": "nan.wav"}, TEXT | {"text": " "}, TEXT | {"device": "tpu:9"}):
        with pytest.raises(ValueError, match=r"nan\.wav|blank|tpu:9"):
            predict_emotion(**arguments)
    assert loads() == 0


def test_what_a_mode_does_not_use_is_ignored(loads: Callable[[], int]):
    useless = {"text_encoder_id": "models/not/here", "whisper_id": "nobody"}
    for plain, ignored in ((TEXT, {"audio_path": "missing.wav"}), (AUDIO, {"text": " "})):
        assert predict_emotion(**plain, **ignored, **useless) == predict_emotion(**plain)
    assert loads() == 2


def test_mode_and_language_may_be_in_capitals():
    assert predict_emotion(**AUDIO | {"mode": "Audio"}, language="ES") == predict_emotion(**AUDIO)


def test_model_json_names_the_checkpoints(workplace: Path):
    entries = {"text": "text-es", "concat": "concat-es", "text_encoder": "models/not/here", "whisper": "any/whisper"}
    (workplace / "model.json").write_text(json.dumps({"es": entries}))
    assert predict_emotion(text=TEXT["text"], model_config_path="model.json") == predict_emotion(**TEXT)
    with pytest.raises(UnreadableInput, match="models/not/here"):
        predict_emotion("speech.wav", "hola", mode="concat", model_config_path="model.json")


def test_all_names_of_a_device_share_one_model(loads: Callable[[], int]):
    names: list[Any] = ["cpu", "cpu:0", "CPU", torch.device("cpu"), jax.devices("cpu")[0]]
    predictions = [predict_emotion(**AUDIO, device=name) for name in names]
    assert predictions == predictions[:1] * len(names)
    assert loads() == 1
    assert select_device() == jax.devices()[0]


@pytest.mark.parametrize(
    "name", ["cuda:9", "gpu:9", "tpu:9", "banana", "cpu:7", "cpu:", "", "cpu:99999999999999999999", "mps"]
)
def test_absent_devices_are_refused_with_a_list_of_those_there_are(name: str):
    with pytest.raises(InvalidInput, match=rf"'{name}'.*cpu:0"):
        select_device(name)


def test_one_model_stays_loaded_until_another_is_wanted(loads: Callable[[], int], published):
    english = {"text": "so happy", "model_id": published("text", "en"), "language": "en"}
    before = live_arrays()
    predict_emotion(**TEXT)
    predict_emotion(**TEXT)
    assert loads() == 1
    [first] = (weakref.ref(entry.model) for entry in predict._emotion_models._entries)
    with_one_model = live_arrays()
    assert with_one_model > before

    predict_emotion(**english)
    assert loads() == 2
    assert len(predict._emotion_models) == 1
    assert live_arrays() == with_one_model
    assert first() is None

    speech_emotion_jax.close()
    assert live_arrays() == before
    speech_emotion_jax.close()  # again does no harm
    predict_emotion(**TEXT)  # and loads again
    assert loads() == 3


def live_arrays() -> int:
    gc.collect()
    return len(jax.live_arrays())


def test_a_refusal_keeps_the_loaded_model(loads: Callable[[], int]):
    first = predict_emotion(**TEXT)
    with pytest.raises(InvalidInput):
        predict_emotion(**TEXT | {"text": ""})
    assert predict_emotion(**TEXT) == first
    assert loads() == 1


def test_truncation_is_told():
    with pytest.warns(UserWarning, match="qué alegría.* the first 512 are scored"):
        prediction = predict_emotion(**TEXT | {"text": "qué alegría " * 300})
    assert prediction.get("truncated") is True
    assert json.loads(json.dumps(prediction)) == prediction


@pytest.mark.slow
def test_a_multi_label_checkpoint_has_a_sigmoid_for_each_label(tmp_path: Path):
    from .support.checkpoints import write_roberta

    folder = write_roberta(tmp_path / "several", "es", problem_type="multi_label_classification")
    scores = predict_emotion(**TEXT | {"model_id": folder})["scores"]  # pyright: ignore[reportArgumentType]
    expected = TorchOriginal(folder, "text").probabilities(text=TEXT["text"])
    np.testing.assert_allclose(list(scores.values()), expected, atol=PROBABILITY_BUDGET)
    assert sum(scores.values()) != pytest.approx(1, abs=1e-3)


def test_labels_may_be_the_checkpoints_own():
    published = predict_emotion(**TEXT)
    own = predict_emotion(**TEXT, labels=list("uvwxyz"))
    assert list(own["scores"].items()) == list(zip("uvwxyz", published["scores"].values(), strict=True))


# Transcription


SPOKEN = {name: value for name, value in CONCAT.items() if name != "text"} | {"whisper_id": "whisper"}


@pytest.fixture(scope="module")
def spoken(whisper_tiny: Path) -> str:
    """What the tiny random Whisper takes speech.wav for."""
    pipeline = WhisperPipeline.from_pretrained(whisper_tiny, device="cpu")
    clip = {"array": speech_wav(), "sampling_rate": RATE}
    [transcript] = pipeline.transcribe([clip], TranscriptionOptions(language="es"))
    pipeline.close()
    assert transcript["text"]
    return transcript["text"]


def speech_wav() -> np.ndarray:
    """speech.wav as it is read: 16 bits a sample."""
    return np.round(noise(1.0) * 32_768).clip(-32_768, 32_767).astype(np.int16)


@pytest.mark.parametrize("mode", ["concat", "text"])
def test_a_recording_without_text_is_transcribed(spoken: str, mode: str):
    arguments = (
        SPOKEN if mode == "concat" else TEXT | {"text": None, "audio_path": "speech.wav", "whisper_id": "whisper"}
    )
    prediction = predict_emotion(**arguments)  # pyright: ignore[reportArgumentType]
    assert prediction.get("text") == spoken
    told = predict_emotion(**arguments | {"text": spoken})  # pyright: ignore[reportArgumentType]
    assert "text" not in told
    assert told == {name: value for name, value in prediction.items() if name != "text"}
    assert json.loads(json.dumps(prediction)) == prediction


@pytest.mark.parametrize("sound", ["digital zeros", "a last bit"])
def test_silence_is_not_transcribed(sound: str):
    level = 0 if sound == "digital zeros" else 1
    clip = {"array": np.resize(np.array([level, -level], np.int16), RATE), "sampling_rate": RATE}
    with pytest.raises(InvalidInput, match=r"nothing that is said .*no-speech probability 0\.\d\d.*--text.*mode audio"):
        predict_emotion(**TEXT | {"text": None, "audio_path": clip, "whisper_id": "whisper"})


def test_the_model_file_names_the_transcriber(workplace: Path, spoken: str):
    (workplace / "model.json").write_text(json.dumps({"es": {"whisper": "whisper"}}))
    without = {name: value for name, value in SPOKEN.items() if name != "whisper_id"}
    assert predict_emotion(**without, model_config_path="model.json").get("text") == spoken


@pytest.mark.slow
def test_transcripts_are_kept_by_content(workplace: Path, loads: Callable[[], int]):
    first = predict_emotion(**SPOKEN, transcripts="kept")
    [entry] = (workplace / "kept").iterdir()
    assert json.loads(entry.read_text())["text"] == first.get("text")

    speech_emotion_jax.close()
    loaded = loads()
    (workplace / "speech.wav").rename(workplace / "renamed.wav")
    again = predict_emotion(**SPOKEN | {"audio_path": "renamed.wav"}, transcripts="kept")
    assert again == first
    assert loads() == loaded + 1  # the emotion model alone

    kept = json.loads(entry.read_text()) | {"text": "estoy muy triste hoy"}
    entry.write_text(json.dumps(kept))
    other = predict_emotion(**SPOKEN | {"audio_path": "renamed.wav"}, transcripts="kept")
    assert other.get("text") == "estoy muy triste hoy"
    assert other["scores"] == predict_emotion(**CONCAT | {"audio_path": "renamed.wav"})["scores"]


def test_a_folder_that_takes_no_transcripts_is_told(workplace: Path):
    with pytest.raises(UnreadableInput, match=r"can't be saved in speech\.wav.*name another folder"):
        predict_emotion(**SPOKEN, transcripts="speech.wav")


@pytest.mark.slow
def test_one_transcriber_stays_loaded_until_close(loads: Callable[[], int]):
    before = live_arrays()
    predict_emotion(**SPOKEN)
    predict_emotion(**SPOKEN)
    assert loads() == 2  # one of each
    assert live_arrays() > before
    speech_emotion_jax.close()
    assert live_arrays() == before
