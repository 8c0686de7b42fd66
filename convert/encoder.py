"""Open pretrained encoders, alone or inside another model, for training to start from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..config import BertConfig, EmotionConfig, Wav2Vec2BertConfig
from ..errors import InvalidInput
from ..models import parameter_shapes
from .emotion import PROJECTION, audio_config, check_audio_preprocessor, most_common, stated_sizes
from .layouts import bert, roberta, wav2vec2_bert
from .published import PREPROCESSOR, Origin, PublishedPart, Table, open_part, tokenizer_files
from .rules import TensorInfo, unwrapped
from .sources import CONFIG, open_as_transformers, read_json

MODEL_TYPES = {"audio": ("wav2vec2-bert",), "text": ("bert", "roberta")}  # The model_type in config.json.
EXAMPLES = {"audio": "facebook/w2v-bert-2.0", "text": "dccuchile/bert-base-spanish-wwm-uncased"}


@dataclass(frozen=True)
class Encoder:
    """An encoder that fits its architecture in every tensor."""

    config: Wav2Vec2BertConfig | BertConfig
    part: PublishedPart

    @property
    def folder(self) -> Path:
        """The folder of its tokenizer or preprocessor."""
        return self.part.origin.folder

    def parameters(self, advance: Callable[[int], None] = lambda tensors: None) -> Iterator[tuple[str, np.ndarray]]:
        """Read (path, array) one parameter at a time, in the dtypes of the file; see `PublishedPart.parameters`.

        The paths are those in an emotion model, below "audio_encoder." or "text_encoder.". The audio encoder of an
        emotion checkpoint comes with its "projector." and, where there are some, its "layer_weights".
        """
        return self.part.parameters(advance)

    def sha256(self) -> dict[str, str]:
        """Return {weight file: SHA-256 in hexadecimal digits}."""
        return self.part.source.sha256()


def check_encoder(name: str, kind: str, settings: Mapping[str, Any]) -> None:
    """Raise InvalidInput unless a config.json is that of an encoder of this kind.

    Args:
        name: The name of the checkpoint, for the message.
        kind: "audio" or "text".
        settings: The content of config.json.
    """
    if settings.get("model_type") not in MODEL_TYPES[kind]:
        raise InvalidInput(
            f"{name} is of model_type {settings.get('model_type')!r}, and the encoder of {kind} has to be "
            f"{' or '.join(MODEL_TYPES[kind])}; name one such as {EXAMPLES[kind]}"
        )


def open_encoder(origin: Origin, kind: str, weights: str | None = None) -> Encoder:
    """Open the encoder that a folder holds, alone or inside a model for one task.

    Args:
        origin: The folder. It must hold the tokenizer of a text encoder; an audio encoder needs no preprocessor.
        kind: "audio" or "text".
        weights: "safetensors" or "bin". None selects the file that transformers would read.

    Raises:
        UnreadableInput: A file is missing or broken.
        InvalidInput: Something does not fit. The message names all tensors that do not.
    """
    settings = read_json(origin.folder / CONFIG)
    check_encoder(origin.id, kind, settings)
    source = open_as_transformers(origin.folder, weights)
    if kind == "text":
        config = BertConfig.from_json(settings)
        assets = tokenizer_files(origin)
        table = _text_table(config)
    else:
        tensors = {wav2vec2_bert.LAYOUT.canonical(name): info for name, info in unwrapped(source.tensors).items()}
        config = audio_config(settings, "masked_spec_embed" in tensors)
        assets = [PREPROCESSOR] if (origin.folder / PREPROCESSOR).is_file() else []
        if assets:
            check_audio_preprocessor(origin.folder)
        table = _audio_table(config, tensors)
    return Encoder(config, open_part(origin, source, table, [CONFIG, *assets]))


def _text_table(config: BertConfig) -> Table:
    model = EmotionConfig("text", ("any",), None, config, None, head_width=config.hidden_size)
    shapes = {path: shape for path, shape in parameter_shapes(model).items() if path.startswith("text_encoder.")}
    return Table(roberta.ENCODER_LAYOUT if config.model_type == "roberta" else bert.LAYOUT, shapes)


def _audio_table(config: Wav2Vec2BertConfig, tensors: Mapping[str, TensorInfo]) -> Table:
    """Return the table of the encoder, and of the projector and layer weights where the file has them."""
    width = most_common([*stated_sizes(tensors, PROJECTION), *([] if _any(tensors, "projector.") else [1])])
    model = EmotionConfig("audio", ("any",), config, None, projection_width=width, head_width=width)
    prefixes = ("audio_encoder.", *(name for name in ("projector.", "layer_weights") if _any(tensors, name)))
    shapes = {path: shape for path, shape in parameter_shapes(model).items() if path.startswith(prefixes)}
    return Table(wav2vec2_bert.LAYOUT, shapes)


def _any(tensors: Mapping[str, TensorInfo], prefix: str) -> bool:
    return any(name.startswith(prefix) for name in tensors)
