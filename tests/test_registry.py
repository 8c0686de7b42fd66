"""(language, mode) → checkpoint, as published and by a model.json of the toolkit."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.registry import (
    FUSION_MODES,
    LABELS,
    LANGUAGES,
    MODES,
    PUBLISHED,
    Registry,
    check_language,
    check_mode,
    declared_mode,
    read_registry,
)


def written(tmp_path: Path, content: object) -> Path:
    path = tmp_path / "model.json"
    path.write_text(json.dumps(content))
    return path


def refusal(path: Path, error: type[Exception] = InvalidInput) -> str:
    """The message with which a model.json is refused; one sentence that names the file."""
    with pytest.raises(error) as caught:
        read_registry(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def test_the_ten_published_checkpoints() -> None:
    ids = {(language, mode): PUBLISHED.model_id(language, mode) for language in LANGUAGES for mode in MODES}
    assert len(set(ids.values())) == 10
    assert ids["es", "text"] == "UMUTeam/MarIA-emotion-es"
    assert ids["en", "text"] == "UMUTeam/roberta-emotion-en"
    for language in LANGUAGES:
        assert ids[language, "audio"] == f"UMUTeam/w2v-bert-emotion-{language}"
        for mode in FUSION_MODES:
            assert ids[language, mode] == f"UMUTeam/w2v-bert-beto-{mode}-emotion-{language}"


def test_what_the_published_checkpoints_need_besides() -> None:
    assert PUBLISHED.text_encoder_id("es") == "dccuchile/bert-base-spanish-wwm-uncased"
    assert PUBLISHED.text_encoder_id("en") == "google-bert/bert-base-uncased"
    assert {PUBLISHED.whisper_id(language) for language in LANGUAGES} == {"openai/whisper-large-v3-turbo"}


def test_labels_in_the_published_order() -> None:
    assert " ".join(LABELS["es"]) == "anger disgust fear joy neutral sadness"
    assert " ".join(LABELS["en"]) == "angry disgust fear happy neutral sad surprise"
    assert set(LABELS) == set(LANGUAGES)


def test_upper_case_is_understood() -> None:
    assert check_mode("MultiHead") == "multihead"
    assert check_language("ES") == "es"
    assert PUBLISHED.model_id("Es", "TEXT") == PUBLISHED.model_id("es", "text")
    assert PUBLISHED.text_encoder_id("EN") == PUBLISHED.text_encoder_id("en")
    assert PUBLISHED.whisper_id("EN") == PUBLISHED.whisper_id("en")


def test_unknown_names_list_the_choices() -> None:
    with pytest.raises(InvalidInput, match="the mode 'video' is unknown; use text, audio, concat, mean or multihead"):
        check_mode("video")
    with pytest.raises(InvalidInput, match="the language 'fr' is unknown; use es or en"):
        check_language("fr")
    with pytest.raises(InvalidInput, match="mode ''"):
        PUBLISHED.model_id("es", "")
    with pytest.raises(InvalidInput, match="language 'de'"):
        PUBLISHED.text_encoder_id("de")


@given(st.text() | st.sampled_from(MODES).map(str.title))
def test_any_text_is_a_known_mode_or_refused(text: str) -> None:
    if text.lower() in MODES:
        assert check_mode(text) in MODES
    else:
        with pytest.raises(InvalidInput):
            check_mode(text)


def test_declared_mode() -> None:
    for models in PUBLISHED.models.values():
        for mode, model_id in models.items():
            assert declared_mode(model_id) == mode
    assert declared_mode("UMUTeam/w2v-bert-beto-mean-emotion-fr") is None
    assert declared_mode("umuteam/w2v-bert-emotion-es") is None
    assert declared_mode(PUBLISHED.text_encoder_id("es")) is None


def test_without_a_file_the_published_registry() -> None:
    assert read_registry(None) is PUBLISHED


def test_a_file_of_the_toolkit(tmp_path: Path) -> None:
    models = {language: {mode: f"mine/{mode}-{language}" for mode in MODES} for language in LANGUAGES}
    assert read_registry(written(tmp_path, models)) == Registry(models, PUBLISHED.text_encoders, PUBLISHED.whispers)


def test_what_a_file_leaves_out_is_as_published(tmp_path: Path) -> None:
    content = {"es": {"concat": "./folder", "text_encoder": "mine/beto"}, "en": {"whisper": "openai/whisper-tiny"}}
    registry = read_registry(str(written(tmp_path, content)))
    assert registry.model_id("es", "concat") == "./folder"
    assert registry.text_encoder_id("es") == "mine/beto"
    assert registry.whisper_id("en") == "openai/whisper-tiny"
    assert registry.model_id("es", "text") == PUBLISHED.model_id("es", "text")
    assert registry.models["en"] == PUBLISHED.models["en"]
    assert registry.text_encoder_id("en") == PUBLISHED.text_encoder_id("en")
    assert registry.whisper_id("es") == PUBLISHED.whisper_id("es")
    assert read_registry(written(tmp_path, {})) == PUBLISHED


def test_reading_a_file_leaves_the_published_registry_alone(tmp_path: Path) -> None:
    read_registry(written(tmp_path, {"es": {"text": "mine/text"}}))
    assert PUBLISHED.model_id("es", "text") == "UMUTeam/MarIA-emotion-es"


def test_a_byte_order_mark_is_no_matter(tmp_path: Path) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(b'\xef\xbb\xbf{"es": {"text": "mine/text"}}')
    assert read_registry(path).model_id("es", "text") == "mine/text"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ({"fr": {"text": "a/b"}}, "the language 'fr'; use es or en"),
        ({"ES": {"text": "a/b"}}, "the language 'ES'"),
        ({"es": {"video": "a/b"}}, "the mode 'video' under 'es'; use text, audio, concat, mean, multihead"),
        ({"es": "a/b"}, "no object under 'es'"),
        ({"es": None}, "no object under 'es'"),
        ({"es": {"text": 3}}, "no model id under 'es', 'text'"),
        ({"es": {"text": None}}, "no model id under 'es', 'text'"),
        ({"en": {"whisper": ["a/b"]}}, "no model id under 'en', 'whisper'"),
        ({"en": {"text_encoder": ""}}, "no model id under 'en', 'text_encoder'"),
        ([], "does not hold a JSON object"),
        ("es", "does not hold a JSON object"),
        (None, "does not hold a JSON object"),
    ],
)
def test_a_file_of_another_shape(tmp_path: Path, content: object, said: str) -> None:
    assert said in refusal(written(tmp_path, content))


@pytest.mark.parametrize("content", [b"", b"{", b"{'es': {}}", b"\xff\xfe\x00", b"\x00", b"[" * 100_000])
def test_a_file_that_is_no_json(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.json"
    path.write_bytes(content)
    assert "is not JSON" in refusal(path)


def test_a_file_that_can_not_be_read(tmp_path: Path) -> None:
    assert "No such file" in refusal(tmp_path / "nowhere.json", UnreadableInput)
    assert "Is a directory" in refusal(tmp_path, UnreadableInput)


json_values = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["es", "text", "x"]), inner),
    max_leaves=6,
)


@given(json_values)
def test_any_json_is_a_registry_or_refused(tmp_path_factory: pytest.TempPathFactory, content: object) -> None:
    path = written(tmp_path_factory.getbasetemp(), content)
    try:
        registry = read_registry(path)
    except InvalidInput:
        return
    ids = [registry.model_id(language, mode) for language in LANGUAGES for mode in MODES]
    assert all(isinstance(model_id, str) and model_id for model_id in ids)


@pytest.mark.process
def test_the_import_is_light() -> None:
    """The command line imports the registry for its choices, and answers --help at once."""
    script = "import speech_emotion_jax.registry, sys; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert "json" in loaded
    assert not {"jax", "flax", "numpy", "transformers", "huggingface_hub", "torch"} & set(loaded)
