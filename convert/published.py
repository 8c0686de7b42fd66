"""A published folder, opened: architecture, labels, files and tensors, all checked before anything large is read."""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from ..config import BertConfig, EmotionConfig, Wav2Vec2BertConfig
from ..errors import InvalidInput, UnreadableInput
from ..models.parameters import parameter_shapes
from ..registry import FUSION_MODES, LABELS, check_language, check_mode
from .layouts import bert, fusion, roberta
from .rules import FLOATS, Layout, Matching, TensorInfo, complain, match
from .sources import TensorSource, open_source, open_text_encoder, read_json

CONFIG = "config.json"
PREPROCESSOR = "preprocessor_config.json"
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.txt",
    "vocab.json",
    "merges.txt",
)

MODEL, TEXT_ENCODER = "model", "text_encoder"


@dataclass(frozen=True)
class Origin:
    """A folder on disk, and what it is called: its hub id and commit, or its path."""

    folder: Path
    id: str
    revision: str | None = None

    @classmethod
    def local(cls, folder: Path) -> Origin:
        return cls(folder, str(folder))


@dataclass(frozen=True)
class PublishedPart:
    """The model, or its frozen text encoder: files, and which tensor fills which parameter."""

    origin: Origin
    source: TensorSource
    matching: Matching
    assets: tuple[str, ...]  # names of the files that are carried along


@dataclass(frozen=True)
class Published:
    """A published checkpoint that fits its mode and language in every tensor."""

    language: str
    config: EmotionConfig
    parts: Mapping[str, PublishedPart]

    def parameters(self, advance: Callable[[int], None] = lambda tensors: None) -> Iterator[tuple[str, np.ndarray]]:
        """Read (path, array) one parameter at a time, in the dtypes of the file.

        `advance` is told how many tensors were read. Raises InvalidInput, at the end, that names every tensor with a
        value that is not finite.
        """
        for part in self.parts.values():
            broken: list[str] = []
            for filled in part.matching.filled:
                parameter = np.empty(filled.shape, common_dtype([part.source.tensors[name] for name in filled.names]))
                items = parameter if filled.stacked else parameter[None]
                for item, name, tensor in zip(items, filled.names, part.source.read(filled.names), strict=True):
                    if not np.isfinite(tensor).all():
                        broken.append(name)
                    item[...] = filled.transform.forward(tensor)
                yield filled.target, parameter
                advance(len(filled.names))
            broken += [name for name, tensor in self.unused(part) if not np.isfinite(tensor).all()]
            if broken:
                raise complain(part.origin.id, [f"{name} is not finite" for name in broken])

    @staticmethod
    def unused(part: PublishedPart) -> Iterator[tuple[str, np.ndarray]]:
        """The tensors of a part that are only carried along, in their own dtypes."""
        names = list(part.matching.unused)
        return zip(names, part.source.read(names), strict=True)


def open_published(
    model: Origin,
    mode: str,
    language: str,
    *,
    text_encoder: Origin | None = None,
    weights: str | None = None,
    labels: Sequence[str] | None = None,
) -> Published:
    """Open a published folder for a mode and language.

    The fusion modes need the frozen `text_encoder`. `weights` chooses between safetensors and bin where the folder has
    both; `labels` names the outputs in place of config.json, for a checkpoint with labels of its own.
    Raises UnreadableInput for files that are missing or broken and InvalidInput for what does not fit; all tensors that
    are missing, unknown, twice there or of a wrong shape are named at once.
    """
    mode, language = check_mode(mode), check_language(language)
    source = open_source(model.folder, weights)
    _check_mode_fits(model.id, source.tensors, mode)
    settings = read_json(model.folder / CONFIG)
    text_source = text_settings = None
    if mode in FUSION_MODES:
        if text_encoder is None:
            raise InvalidInput(f"mode {mode!r} needs its frozen text encoder; name one with --text-encoder")
        text_settings = read_json(text_encoder.folder / CONFIG)
        text_source = open_text_encoder(text_encoder.folder)
    config = _architecture(model.id, mode, settings, text_settings, source.tensors)
    config = replace(config, labels=_labels(model.id, settings, language, source.tensors, labels))

    shapes = parameter_shapes(config)
    frozen = {path: shape for path, shape in shapes.items() if text_source and path.startswith("text_encoder.")}
    own = {path: shape for path, shape in shapes.items() if path not in frozen}
    parts = {MODEL: _part(model, source, MODEL, mode, own)}
    if text_encoder is not None and text_source is not None:
        parts[TEXT_ENCODER] = _part(text_encoder, text_source, TEXT_ENCODER, mode, frozen)
    return Published(language, config, parts)


def layout_of(part: str, mode: str) -> Layout:
    """The table for the file of a part in a mode."""
    if part == TEXT_ENCODER:
        return bert.LAYOUT
    return roberta.LAYOUT if mode == "text" else fusion.LAYOUT


def _part(
    origin: Origin, source: TensorSource, part: str, mode: str, shapes: Mapping[str, tuple[int, ...]]
) -> PublishedPart:
    matching, problems = match(layout_of(part, mode), source.tensors, shapes)
    problems += source.twice
    if problems:
        floats = [name for name, info in source.tensors.items() if info.dtype in FLOATS]
        problems += [
            f"{name} is not finite"
            for name, tensor in zip(floats, source.read(floats), strict=True)
            if not np.isfinite(tensor).all()
        ]
        raise complain(origin.id, problems)
    wanted = [CONFIG]
    if part == MODEL and mode != "text":
        _check_preprocessor(origin.folder)
        wanted.append(PREPROCESSOR)
    if part == TEXT_ENCODER or mode == "text":
        tokenizer = [name for name in TOKENIZER_FILES if (origin.folder / name).is_file()]
        if not {"tokenizer.json", "vocab.txt", "vocab.json"} & set(tokenizer):
            raise UnreadableInput(f"{origin.id} has no tokenizer (tokenizer.json or vocab.txt); fetch the whole folder")
        wanted += tokenizer
    return PublishedPart(origin, source, matching, tuple(wanted))


def fitting_modes(tensors: Mapping[str, TensorInfo]) -> tuple[str, ...]:
    """The modes whose weights these can be. Audio and mean have the same tensors."""
    if any(name.startswith("roberta.") for name in tensors):
        return ("text",)
    projections, heads = _sizes(tensors, PROJECTION), _sizes(tensors, HEAD)
    if not projections or not heads:
        return ()
    if any(name.startswith("mult_attn_model.") for name in tensors):
        return ("multihead",)
    # Where tensors contradict each other several modes fit, and their shapes are then what is complained of.
    equal = ("audio", "mean") if set(projections) & set(heads) else ()
    return (*equal, "concat") if max(heads) > min(projections) else equal


def _check_mode_fits(where: str, tensors: Mapping[str, TensorInfo], mode: str) -> None:
    fitting = fitting_modes(tensors)
    if not fitting:
        raise InvalidInput(
            f"{where} is no emotion checkpoint: it has neither roberta.* nor projector and classifier.dense tensors; "
            "name one of the published checkpoints, or a folder laid out like them"
        )
    if mode not in fitting:
        raise InvalidInput(f"{where} holds weights of mode {' or '.join(fitting)}, not {mode}; use --mode {fitting[0]}")


# Tensors and axes that state a width. All but one broken tensor agree.
PROJECTION = (("projector.weight", 0), ("projector.bias", 0))
HEAD = (
    ("classifier.dense.weight", 0),
    ("classifier.dense.weight", 1),
    ("classifier.dense.bias", 0),
    ("classifier.out_proj.weight", 1),
)
OUTPUTS = (("classifier.out_proj.weight", 0), ("classifier.out_proj.bias", 0))


def _sizes(tensors: Mapping[str, TensorInfo], axes: Sequence[tuple[str, int]]) -> list[int]:
    return [tensors[name].shape[axis] for name, axis in axes if name in tensors and axis < len(tensors[name].shape)]


def _agreed(sizes: Sequence[int]) -> int:
    """What most say, the first of them in a tie: a tensor that differs is then named as broken, and not believed."""
    return Counter(sizes).most_common(1)[0][0]


def _architecture(
    where: str,
    mode: str,
    settings: Mapping[str, Any],
    text_settings: Mapping[str, Any] | None,
    tensors: Mapping[str, TensorInfo],
) -> EmotionConfig:
    """The architecture from config.json, and the widths that only the tensors tell. Labels are still to come."""
    if mode == "text":
        text = _bert_config(where, settings, "roberta")
        multi_label = settings.get("problem_type") == "multi_label_classification"
        return EmotionConfig(mode, (), None, text, None, head_width=text.hidden_size, multi_label=multi_label)
    text = None if text_settings is None else _bert_config(f"the text encoder of {where}", text_settings, "bert")
    projections, heads = _sizes(tensors, PROJECTION), _sizes(tensors, HEAD)
    if mode == "concat" and text is not None:
        head_width = _agreed(heads)
        projection_width = _agreed([*projections, head_width - text.hidden_size])
    else:
        head_width = projection_width = _agreed(projections + heads)
    if text is not None:
        needed = head_width - projection_width if mode == "concat" else projection_width
        if text.hidden_size != needed:
            raise InvalidInput(
                f"{where} was trained with text vectors {needed} wide, and the text encoder gives {text.hidden_size}; "
                "name the one it was trained with by --text-encoder"
            )
    fusion_heads = {name.split(".")[2] for name in tensors if name.startswith("mult_attn_model.heads.")}
    return EmotionConfig(
        mode,
        (),
        audio=Wav2Vec2BertConfig.from_json(settings),
        text=text,
        projection_width=projection_width,
        head_width=head_width,
        fusion_heads=max(len(fusion_heads), 1) if mode == "multihead" else None,
    )


def _bert_config(where: str, settings: Mapping[str, Any], model_type: str) -> BertConfig:
    config = BertConfig.from_json(settings)
    if config.model_type != model_type:
        raise InvalidInput(f"{where} is of model_type {config.model_type!r} where {model_type!r} is needed")
    return config


def _labels(
    where: str,
    settings: Mapping[str, Any],
    language: str,
    tensors: Mapping[str, TensorInfo],
    given: Sequence[str] | None,
) -> tuple[str, ...]:
    """The names of the outputs in order: those given, else config.json's, which must be the language's."""
    published = LABELS[language]
    table = settings.get("id2label") or {}
    try:
        named = tuple(str(table[str(index)]) for index in range(len(table)))
    except (TypeError, KeyError) as error:
        raise InvalidInput(
            f"{where} has an id2label in config.json that does not number labels from 0; name the outputs with --labels"
        ) from error
    outputs = _agreed([*_sizes(tensors, OUTPUTS), len(given or named or published)])
    if given is not None:
        if len(set(given)) != len(given) or len(given) != outputs or not all(given):
            raise InvalidInput(
                f"{where} has {outputs} outputs; --labels must name each once, and names {', '.join(given)}"
            )
        return tuple(given)
    if all(re.fullmatch(r"LABEL_\d+", label) for label in named):
        if outputs != len(published):
            raise InvalidInput(
                f"{where} has {outputs} outputs and no label names, and {language!r} has the {len(published)} labels "
                f"{', '.join(published)}; choose the right --language or name the outputs with --labels"
            )
        warnings.warn(
            f"{where} does not name its labels; they are taken to be in the published order: {', '.join(published)}",
            stacklevel=2,
        )
        return published
    if len(named) != outputs or sorted(named) != sorted(published):
        raise InvalidInput(
            f"{where} has {outputs} outputs with the labels {', '.join(named)}, and {language!r} has "
            f"{', '.join(published)}; choose the right --language, or name the outputs with --labels"
        )
    return named


def _check_preprocessor(folder: Path) -> None:
    settings = read_json(folder / PREPROCESSOR)
    expected = {"feature_size": 80, "num_mel_bins": 80, "stride": 2, "sampling_rate": 16_000}
    for key, value in expected.items():
        if settings.get(key, value) != value:
            raise InvalidInput(
                f"{folder / PREPROCESSOR} has {key} {settings[key]!r}; only {value!r} is implemented, as in the "
                "published checkpoints"
            )
    if not isinstance(padding := settings.get("padding_value", 0.0), int | float):
        raise InvalidInput(f"{folder / PREPROCESSOR} has padding_value {padding!r}, which is no number; fetch it again")


_NUMPY_DTYPES = {"F32": np.dtype(np.float32), "F16": np.dtype(np.float16), "BF16": np.dtype(ml_dtypes.bfloat16)}


def common_dtype(infos: Sequence[TensorInfo]) -> np.dtype:
    """The dtype of all, or float32, which holds each of them exactly."""
    dtypes = {_NUMPY_DTYPES[info.dtype] for info in infos}
    return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
