"""The checkpoint of each language and mode: the published ids, or those in a model.json of the toolkit.

The command line imports this module for its choices, so it imports nothing that loads slowly.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path

from .errors import InvalidInput, UnreadableInput

FUSION_MODES = ("concat", "mean", "multihead")
MODES = ("text", "audio", *FUSION_MODES)
LANGUAGES = ("es", "en")

# In the order of the outputs of the published checkpoints.
LABELS: dict[str, tuple[str, ...]] = {
    "es": ("anger", "disgust", "fear", "joy", "neutral", "sadness"),
    "en": ("angry", "disgust", "fear", "happy", "neutral", "sad", "surprise"),
}


@dataclass(frozen=True)
class Registry:
    """Checkpoints by language and mode. Each id is a hub id or a folder.

    Attributes:
        models: {language: {mode: id}}.
        text_encoders: {language: id} of the frozen encoders of the fusion modes, which their checkpoints do not hold.
        whispers: {language: id} of the transcribers that are used if no text is given.
    """

    models: Mapping[str, Mapping[str, str]]
    text_encoders: Mapping[str, str]
    whispers: Mapping[str, str]

    def model_id(self, language: str, mode: str) -> str:
        """Return the id of the emotion checkpoint. Raise InvalidInput if the language or the mode is unknown."""
        return self.models[check_language(language)][check_mode(mode)]

    def text_encoder_id(self, language: str) -> str:
        """Return the id of the frozen text encoder. Raise InvalidInput if the language is unknown."""
        return self.text_encoders[check_language(language)]

    def whisper_id(self, language: str) -> str:
        """Return the id of the transcriber. Raise InvalidInput if the language is unknown."""
        return self.whispers[check_language(language)]


PUBLISHED = Registry(
    models={
        "es": {
            "text": "UMUTeam/MarIA-emotion-es",
            "audio": "UMUTeam/w2v-bert-emotion-es",
            "concat": "UMUTeam/w2v-bert-beto-concat-emotion-es",
            "mean": "UMUTeam/w2v-bert-beto-mean-emotion-es",
            "multihead": "UMUTeam/w2v-bert-beto-multihead-emotion-es",
        },
        "en": {
            "text": "UMUTeam/roberta-emotion-en",
            "audio": "UMUTeam/w2v-bert-emotion-en",
            "concat": "UMUTeam/w2v-bert-beto-concat-emotion-en",
            "mean": "UMUTeam/w2v-bert-beto-mean-emotion-en",
            "multihead": "UMUTeam/w2v-bert-beto-multihead-emotion-en",
        },
    },
    text_encoders={"es": "dccuchile/bert-base-spanish-wwm-uncased", "en": "google-bert/bert-base-uncased"},
    whispers={"es": "openai/whisper-large-v3-turbo", "en": "openai/whisper-large-v3-turbo"},
)


def check_mode(mode: str) -> str:
    """Return the mode in lower case.

    Raises:
        InvalidInput: The mode is unknown. The message names the choices.
    """
    return _check_choice("mode", mode, MODES)


def check_language(language: str) -> str:
    """Return the language in lower case.

    Raises:
        InvalidInput: The language is unknown. The message names the choices.
    """
    return _check_choice("language", language, LANGUAGES)


def declared_mode(model_id: str) -> str | None:
    """Return the mode of one of the ten published hub ids; None for any other text.

    The tensors alone do not tell the mode, because audio and mean checkpoints have the same ones.
    """
    for models in PUBLISHED.models.values():
        for mode, published_id in models.items():
            if published_id == model_id:
                return mode
    return None


def read_registry(model_config_path: str | PathLike[str] | None) -> Registry:
    """Read a model.json of the toolkit.

    The file holds {"es": {"text": id, ...}, "en": {...}}. A language may also name its "text_encoder" and its
    "whisper". What the file does not name is as published.

    Args:
        model_config_path: The file. None returns the published registry.

    Raises:
        UnreadableInput: The file can't be read.
        InvalidInput: It holds something else.
    """
    if model_config_path is None:
        return PUBLISHED
    path = Path(model_config_path)
    models = {language: dict(published) for language, published in PUBLISHED.models.items()}
    text_encoders = dict(PUBLISHED.text_encoders)
    whispers = dict(PUBLISHED.whispers)
    for language, entries in _read_object(path).items():
        if language not in LANGUAGES:
            raise InvalidInput(f"{path} names the language {language!r}; use {_listed(LANGUAGES)}")
        if not isinstance(entries, dict):
            raise InvalidInput(f"{path} holds no object under {language!r}; write {{mode: model id}} there")
        for key, model_id in entries.items():
            if not (isinstance(model_id, str) and model_id):
                raise InvalidInput(f"{path} holds no model id under {language!r}, {key!r}; write a hub id or a folder")
            if key in MODES:
                models[language][key] = model_id
            elif key == "text_encoder":
                text_encoders[language] = model_id
            elif key == "whisper":
                whispers[language] = model_id
            else:
                choices = _listed((*MODES, "text_encoder", "whisper"))
                raise InvalidInput(f"{path} names the mode {key!r} under {language!r}; use {choices}")
    return Registry(models, text_encoders, whispers)


def _check_choice(kind: str, value: object, choices: tuple[str, ...]) -> str:
    if isinstance(value, str) and value.lower() in choices:
        return value.lower()
    raise InvalidInput(f"the {kind} {value!r} is unknown; use {_listed(choices)}")


def _listed(choices: tuple[str, ...]) -> str:
    return f"{', '.join(choices[:-1])} or {choices[-1]}"


def _read_object(path: Path) -> dict[str, object]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableInput(f"the model file {path} can't be read ({error.strerror}); check its path") from error
    try:
        # Some editors write a byte order mark, which utf-8-sig skips. Deep nesting raises RecursionError.
        value = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise InvalidInput(f"the model file {path} is not JSON ({error}); write {{language: {{mode: id}}}}") from error
    if not isinstance(value, dict):
        raise InvalidInput(f"the model file {path} does not hold a JSON object; write {{language: {{mode: model id}}}}")
    return value
