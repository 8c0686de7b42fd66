"""Trained models in the published layout: whole or not at all, and back as they were."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import load_file

from speech_emotion_jax.checkpoints import Request, resolve_emotion
from speech_emotion_jax.config import EmotionConfig
from speech_emotion_jax.convert.publication import publish, publish_and_convert
from speech_emotion_jax.convert.record import read_record
from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.models.emotion import EmotionModel
from speech_emotion_jax.models.parameters import parameters_of
from speech_emotion_jax.registry import FUSION_MODES, LABELS, MODES
from speech_emotion_jax.text.tokenizer import TextTokenizer
from speech_emotion_jax.text.word_vocabulary import SPECIAL_TOKENS, write_word_tokenizer

from .support.checkpoints import write_bert, write_roberta
from .support.examples import examples
from .support.folders import WEIGHTS, Folders, opened, predict, refusal
from .support.marks import rest_slow

TEXTS = ["Estoy muy triste, hoy.", "¡Qué alegría! No me lo puedo creer", "estoy feliz"]
Arrays = dict[str, np.ndarray]


def trained(mode: str, language: str = "es", **changes: Any) -> tuple[EmotionConfig, Arrays]:
    config = dataclasses.replace(EmotionConfig.tiny(language, mode), **changes)
    model = EmotionModel(config, rngs=nnx.Rngs(0))
    return config, {path: np.asarray(array) for path, array in parameters_of(model).items()}


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("words")
    write_word_tokenizer(TEXTS, folder)
    return folder


def assets(config: EmotionConfig, words: Path) -> dict[str, Any]:
    return {} if config.text is None else {"text_assets": words}


def read_back(folder: Path, config: EmotionConfig, language: str = "es") -> tuple[EmotionConfig, Arrays]:
    text = folder / "text_encoder" if config.mode in FUSION_MODES else None
    source = opened(folder, config.mode, language, text, labels=config.labels)
    assert isinstance(source.config, EmotionConfig)
    return source.config, dict(source.parameters())


def assert_equal(ours: Arrays, others: Arrays) -> None:
    assert ours.keys() == others.keys()
    for path, array in ours.items():
        assert array.dtype == others[path].dtype
        np.testing.assert_array_equal(array, others[path])


# There and back


@pytest.mark.parametrize("language", rest_slow(["es", "en"]))
@pytest.mark.parametrize("mode", MODES)
def test_what_is_published_is_read_back(words: Path, tmp_path: Path, mode: str, language: str) -> None:
    config, parameters = trained(mode, language)
    publish(config, parameters, tmp_path / "out", **assets(config, words))
    back, arrays = read_back(tmp_path / "out", config, language)
    assert back == config
    assert_equal(arrays, parameters)
    scores = predict(tmp_path / "out", mode=mode, language=language)  # by the folder's own files alone
    assert tuple(scores) == LABELS[language]


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"mask_embedding": False},
        {"mask_time_prob": 0.0},
        {"use_weighted_layer_sum": True},
        {"add_adapter": True},
        {"layerdrop": 0.3, "final_dropout": 0.25, "mask_feature_prob": 0.1},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_variants_of_the_audio_encoder(words: Path, tmp_path: Path, changes: dict[str, Any]) -> None:
    tiny = EmotionConfig.tiny("es", "audio").audio
    assert tiny is not None
    config, parameters = trained("audio", audio=dataclasses.replace(tiny, **changes))
    publish(config, parameters, tmp_path / "out")
    back, arrays = read_back(tmp_path / "out", config)
    assert_equal(arrays, parameters)
    assert back.audio is not None
    assert back.audio.mask_embedding == changes.get("mask_embedding", True)
    if not changes.keys() & {"mask_embedding", "mask_time_prob"}:
        assert back == config


def test_no_masking_stays_no_masking(tmp_path: Path) -> None:
    """PyTorch's class holds the vector only where a probability is above 0, so another setting must switch it off."""
    tiny = EmotionConfig.tiny("es", "audio").audio
    assert tiny is not None
    config, parameters = trained("audio", audio=dataclasses.replace(tiny, mask_time_prob=0.0))
    publish(config, parameters, tmp_path / "out")
    written = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (written["mask_time_prob"] > 0, written["apply_spec_augment"]) == (True, False)
    assert "mask_embedding" not in written


@pytest.mark.parametrize("mode", MODES)
def test_published_and_converted(words: Path, tmp_path: Path, mode: str) -> None:
    """A corpus may have labels of its own, which no language has."""
    config, parameters = trained(mode, labels=("calm", "tense", "glad"))
    published, converted = tmp_path / "best-published", tmp_path / "best"
    publish_and_convert(config, "es", parameters, published, converted, **assets(config, words))
    record = read_record(converted)
    assert (record.config, record.language) == (config, "es")
    assert resolve_emotion(Request(str(converted))).source == converted
    scores = predict(converted)
    assert tuple(scores) == config.labels
    assert scores == predict(published, mode=mode, language="es", labels=config.labels)


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_narrower_dtypes(words: Path, tmp_path: Path, dtype: Any) -> None:
    config, parameters = trained("concat")
    publish(config, parameters, tmp_path / "out", **assets(config, words), dtype=dtype)
    assert_equal(
        read_back(tmp_path / "out", config)[1], {path: array.astype(dtype) for path, array in parameters.items()}
    )
    for place in (tmp_path / "out", tmp_path / "out" / "text_encoder"):
        assert {array.dtype for array in load_file(place / WEIGHTS).values()} == {np.dtype(dtype)}
        assert json.loads((place / "config.json").read_text())["dtype"] == str(np.dtype(dtype))


def test_several_labels_at_once(words: Path, tmp_path: Path) -> None:
    config, parameters = trained("text", multi_label=True)
    publish(config, parameters, tmp_path / "out", text_assets=words)
    assert read_back(tmp_path / "out", config)[0] == config


# Files


def test_the_files_of_the_source_are_carried_along(published: Folders, tmp_path: Path) -> None:
    config, parameters = trained("mean")
    audio, text = published("audio", "es"), published("text_encoder", "es")
    publish(config, parameters, tmp_path / "out", text_assets=text, audio_assets=audio, notice="a toy")
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "preprocessor_config.json", WEIGHTS, "text_encoder"}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["notice"] == "a toy"
    own = {path.name for path in text.iterdir()} - {"config.json", WEIGHTS}
    assert {path.name for path in (tmp_path / "out" / "text_encoder").iterdir()} == own | {"config.json", WEIGHTS}
    for source, place, copies in ((audio, "", ["preprocessor_config.json"]), (text, "text_encoder", own)):
        for name in copies:
            assert (source / name).read_bytes() == (tmp_path / "out" / place / name).read_bytes()


def test_without_a_preprocessor_it_has_the_librarys_defaults(words: Path, tmp_path: Path) -> None:
    from transformers import SeamlessM4TFeatureExtractor

    config, parameters = trained("audio")
    publish(config, parameters, tmp_path / "out", audio_assets=words)  # a folder that has none
    ours = SeamlessM4TFeatureExtractor.from_pretrained(tmp_path / "out").to_dict()
    assert ours == SeamlessM4TFeatureExtractor().to_dict()


# All or nothing


def test_values_that_are_not_finite(words: Path, tmp_path: Path) -> None:
    config, parameters = trained("concat")
    name = "classifier.dense.bias"
    parameters[name] = np.full_like(parameters[name], 1e5)
    message = refusal(lambda: publish(config, parameters, tmp_path / "out", text_assets=words, dtype=np.float16))
    assert "not finite in float16: classifier.dense.bias;" in message
    publish(config, parameters, tmp_path / "fits", text_assets=words)
    parameters[name] = np.full_like(parameters[name], np.nan)
    assert "not finite in float32" in refusal(lambda: publish(config, parameters, tmp_path / "out", text_assets=words))
    assert [path.name for path in tmp_path.iterdir()] == ["fits"]


@pytest.mark.parametrize(("mode", "other"), [("text", "bert"), ("concat", "roberta")])
def test_a_text_encoder_that_the_layout_has_no_place_for(words: Path, tmp_path: Path, mode: str, other: str) -> None:
    tiny = EmotionConfig.tiny("es", mode).text
    assert tiny is not None
    config, parameters = trained(mode, text=dataclasses.replace(tiny, model_type=other))
    message = refusal(lambda: publish(config, parameters, tmp_path / "out", text_assets=words))
    assert f"this one is of {other!r}" in message
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_is_needed(tmp_path: Path) -> None:
    config, parameters = trained("mean")
    assert "needs its tokenizer" in refusal(lambda: publish(config, parameters, tmp_path / "out"))
    (tmp_path / "empty").mkdir()
    message = refusal(
        lambda: publish(config, parameters, tmp_path / "out", text_assets=tmp_path / "empty"), UnreadableInput
    )
    assert "no tokenizer" in message
    assert [path.name for path in tmp_path.iterdir()] == ["empty"]


def test_a_destination_that_exists(tmp_path: Path) -> None:
    config, parameters = trained("audio")
    (tmp_path / "out").mkdir()
    with pytest.raises(InvalidInput, match="exists already"):
        publish(config, parameters, tmp_path / "out")


@pytest.mark.parametrize("change", ["one is missing", "one too many"])
def test_parameters_of_another_model(tmp_path: Path, change: str) -> None:
    config, parameters = trained("audio")
    if change == "one is missing":
        del parameters["projector.bias"]
    else:
        parameters["projector.scale"] = np.ones(3, np.float32)
    with pytest.raises(KeyError, match="projector"):
        publish(config, parameters, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


# Tokenizers of whole words

WORDS = st.lists(st.text(alphabet="abcñÁé_-. ¡!0", min_size=1, max_size=12), min_size=1, max_size=6)


@settings(max_examples=examples(10))
@given(texts=WORDS.filter(lambda texts: any(text.strip() for text in texts)))
def test_every_word_of_the_texts_has_its_token(tmp_path_factory: pytest.TempPathFactory, texts: list[str]) -> None:
    folder = tmp_path_factory.mktemp("words")
    size = write_word_tokenizer(texts, folder)
    tokenizer = TextTokenizer(folder, 512)
    ids = {token for text in texts if text.strip() for token in tokenizer(text).ids}
    assert SPECIAL_TOKENS.index("[UNK]") not in ids
    assert max(ids) < size
    assert len(ids) == size - len(SPECIAL_TOKENS) + 2  # each once, and [CLS] and [SEP]


def test_the_same_texts_give_the_same_files(tmp_path: Path) -> None:
    for name, texts in (("one", TEXTS), ("other", TEXTS[::-1])):
        write_word_tokenizer(texts, tmp_path / name)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "other" / path.name).read_bytes()


def test_the_most_frequent_words_are_kept(tmp_path: Path) -> None:
    assert write_word_tokenizer(["b b c", "c a d"], tmp_path, max_words=3) == len(SPECIAL_TOKENS) + 3
    assert (tmp_path / "vocab.txt").read_text().split() == [*SPECIAL_TOKENS, "a", "b", "c"]
    ids = TextTokenizer(tmp_path, 512)("d A").ids
    assert ids == [2, SPECIAL_TOKENS.index("[UNK]"), len(SPECIAL_TOKENS), 3]


@pytest.mark.parametrize("write", [write_bert, write_roberta])
def test_vocabularies_from_elsewhere_are_copied_whole(tmp_path: Path, write: Any) -> None:
    source = write(tmp_path / "source", "es")
    config, parameters = trained("text" if write is write_roberta else "mean")
    publish(config, parameters, tmp_path / "out", text_assets=source)
    place = tmp_path / "out" / ("" if write is write_roberta else "text_encoder")
    for text in TEXTS:
        assert TextTokenizer(place, 512)(text) == TextTokenizer(source, 512)(text)
