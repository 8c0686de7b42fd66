"""A checkpoint's special tokens, from the real whisper-base and with its files taken away."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from speech_emotion_jax.config import WhisperConfig
from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.text.tokenizer import load_tokenizer
from speech_emotion_jax.whisper.vocabulary import Vocabulary

START, END, SPANISH, TRANSCRIBE, TRANSLATE, NO_TIMESTAMPS = 50258, 50257, 50262, 50359, 50358, 50363


@pytest.fixture(scope="module")
def tokenizer(whisper_base: Path):
    return load_tokenizer(whisper_base)


@pytest.fixture(scope="module")
def settings(whisper_base: Path) -> dict:
    return json.loads((whisper_base / "config.json").read_text())


@pytest.fixture(scope="module")
def generation(whisper_base: Path) -> dict:
    return json.loads((whisper_base / "generation_config.json").read_text())


@pytest.fixture(scope="module")
def vocabulary(tokenizer, settings, generation) -> Vocabulary:
    return Vocabulary.read("whisper-base", tokenizer, WhisperConfig.from_json(settings), settings, generation)


def test_prompts_are_those_of_the_original(vocabulary: Vocabulary):
    assert vocabulary.prompt("es", "transcribe", timestamps=False) == (START, SPANISH, TRANSCRIBE, NO_TIMESTAMPS)
    assert vocabulary.prompt("es", "translate", timestamps=True) == (START, SPANISH, TRANSLATE)


def test_the_checkpoints_own_lists_count(vocabulary: Vocabulary, generation: dict):
    rules = vocabulary.rules(timestamps=True)
    assert set(generation["suppress_tokens"]) <= set(rules.suppressed)
    assert rules.begin_suppressed == tuple(generation["begin_suppress_tokens"])
    assert (rules.end, rules.no_speech, rules.first_timestamp) == (END, NO_TIMESTAMPS - 1, NO_TIMESTAMPS + 1)
    assert rules.latest_start == generation["max_initial_timestamp_index"]
    assert vocabulary.alignment_heads == tuple(map(tuple, generation["alignment_heads"]))
    assert vocabulary.languages == {name[2:-2]: token for name, token in generation["lang_to_id"].items()}


@pytest.mark.parametrize(("stated", "code"), [(None, None), ("spanish", "es"), ("<|en|>", "en")])
def test_the_language_that_the_checkpoint_states(tokenizer, settings: dict, generation: dict, stated, code):
    generation = {**generation, "language": stated}
    read = Vocabulary.read("x", tokenizer, WhisperConfig.from_json(settings), settings, generation)
    assert read.default_language == code


@pytest.mark.parametrize("name", ["es", "ES", "Spanish", "castilian", "<|es|>", " spanish "])
def test_a_language_has_many_names(vocabulary: Vocabulary, name: str):
    assert vocabulary.language_code(name) == "es"


@pytest.mark.parametrize("name", ["xx", "", "klingon", "yue", "<|endoftext|>"])
def test_an_unknown_language_is_refused_with_the_known_ones(vocabulary: Vocabulary, name: str):
    with pytest.raises(InvalidInput, match=r"whisper-base doesn't know the language .* use one of af, am, .*, es, "):
        vocabulary.language_code(name)


def test_an_unknown_task_is_refused(vocabulary: Vocabulary):
    with pytest.raises(InvalidInput, match="the task 'sing' is unknown; use transcribe or translate"):
        vocabulary.check_task("sing")


def test_without_generation_config_the_checkpoint_works(tokenizer, settings: dict, vocabulary: Vocabulary):
    older = {**settings, "suppress_tokens": [1, 2], "begin_suppress_tokens": [220, END]}
    read = Vocabulary.read("old", tokenizer, WhisperConfig.from_json(settings), older, None)
    assert read.prompt("es", "transcribe", timestamps=False) == vocabulary.prompt("es", "transcribe", timestamps=False)
    assert {1, 2} <= set(read.rules(timestamps=False).suppressed)
    assert read.rules(timestamps=False).begin_suppressed == (220, END)
    # All heads of the upper half of six layers of eight heads.
    assert read.alignment_heads == tuple((layer, head) for layer in (3, 4, 5) for head in range(8))


def test_an_english_only_checkpoint(tokenizer, settings: dict, generation: dict):
    english = replace(WhisperConfig.from_json(settings), vocab_size=51864)
    only = {**generation, "is_multilingual": False}
    for given in (only, None):
        read = Vocabulary.read("whisper-base.en", tokenizer, english, settings, given)
        assert read.prompt("en", "transcribe", timestamps=False) == (START, NO_TIMESTAMPS)
        assert read.language_code("English") == "en"
        with pytest.raises(InvalidInput, match=r"whisper-base\.en is an English-only checkpoint .* 'es'"):
            read.language_code("es")
        with pytest.raises(InvalidInput, match="can't translate"):
            read.check_task("translate")


@pytest.mark.parametrize(
    "broken", [{"suppress_tokens": ["a"]}, {"alignment_heads": [[1]]}, {"begin_suppress_tokens": [None]}]
)
def test_a_broken_generation_config_is_named(tokenizer, settings: dict, generation: dict, broken: dict):
    with pytest.raises(InvalidInput, match=r"the generation_config\.json of x is broken .* fetch it again"):
        Vocabulary.read("x", tokenizer, WhisperConfig.from_json(settings), settings, {**generation, **broken})


def test_a_tokenizer_of_another_model_is_refused(settings: dict, published):
    other = load_tokenizer(published("text_encoder", "es"))
    with pytest.raises(InvalidInput, match=r"the tokenizer of x has no <\|startoftranscript\|>"):
        Vocabulary.read("x", other, WhisperConfig.from_json(settings), settings, None)


def test_text_has_no_special_tokens(vocabulary: Vocabulary, tokenizer):
    ids = tokenizer(" ¿Qué tal?", add_special_tokens=False)["input_ids"]
    assert vocabulary.text([START, SPANISH, NO_TIMESTAMPS + 5, *ids, END]) == " ¿Qué tal?"
