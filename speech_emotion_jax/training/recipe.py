"""Recipes: the settings of a training run, read from a TOML file.

Each table of the file is a dataclass here. The type of a field states the values it takes; `Annotated` adds a check.
All problems of a recipe are reported together in one message.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from difflib import get_close_matches
from os import PathLike
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

from ..audio import MIN_SAMPLES, SAMPLE_RATE
from ..config import BertConfig, Wav2Vec2BertConfig
from ..errors import InvalidInput, UnreadableInput
from ..registry import FUSION_MODES, check_language, check_mode


def _must(words: str, holds: Callable[[Any], bool]) -> Callable[[Any], Any]:
    def checked(value: Any) -> Any:
        if not holds(value):
            raise ValueError(f"must be {words}")
        return value

    return checked


Word = Annotated[str, _must("a text that is not empty", bool)]
Count = Annotated[int, _must("1 or more", lambda x: x >= 1)]
Natural = Annotated[int, _must("0 or more", lambda x: x >= 0)]
Positive = Annotated[float, _must("above 0", lambda x: x > 0)]
NotNegative = Annotated[float, _must("0 or more", lambda x: x >= 0)]
Share = Annotated[float, _must("from 0 to 1", lambda x: 0 <= x <= 1)]
BelowOne = Annotated[float, _must("0 or more and below 1", lambda x: 0 <= x < 1)]
Labels = Annotated[tuple[Word, ...], _must("two labels or more, each once", lambda x: len(set(x)) == len(x) != 1)]
Seconds = Annotated[
    float, _must(f"{MIN_SAMPLES / SAMPLE_RATE} s (two windows) or more", lambda x: x >= MIN_SAMPLES / SAMPLE_RATE)
]


@dataclass(frozen=True)
class StartConfig:
    """The table [start]: where the weights come from. Each name is a hub id or a folder."""

    init: Literal["pretrained", "scratch"] = "pretrained"  # scratch: random weights, sizes from [model]
    checkpoint: Word | None = None  # a whole emotion checkpoint to go on from, published or converted
    audio: Word | None = None  # an encoder of sound, or an emotion checkpoint whose encoder is taken
    text: Word | None = None  # the same for text; None in a fusion mode: the published one, or the checkpoint's
    head: Literal["fresh", "kept"] = "fresh"  # kept: projector, fusion and classifier of `checkpoint` go on


@dataclass(frozen=True)
class ModelConfig:
    """The table [model]: the architecture. Other keys are fields of `Wav2Vec2BertConfig` or `BertConfig`.

    Attributes:
        mode: The mode.
        language: The language.
        projection_width: The width of the pooled audio vector.
        encoders: {field: value}, set in every encoder that has the field.
        audio: {field: value} of [model.audio], set in the audio encoder after `encoders`.
        text: {field: value} of [model.text], set in the text encoder after `encoders`.
    """

    mode: Annotated[str, check_mode]
    language: Annotated[str, check_language]
    projection_width: Count | None = None  # of the pooled audio vector
    encoders: Mapping[str, Any] = field(default_factory=dict)
    audio: Mapping[str, Any] = field(default_factory=dict)
    text: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class DataConfig:
    """The table [data]: which clips of the manifest are used for what."""

    train: Word = "train"
    valid: Word | None = None
    valid_share: Annotated[float, _must("above 0 and below 1", lambda x: 0 < x < 1)] = 0.1  # of train, without `valid`
    test: Word | None = "test"
    group_by: Word | None = None  # column; clips of one group stay on one side
    labels: Labels = ()  # (): the checkpoint's, else the corpus's own, sorted
    max_seconds: Seconds = 20.0  # of a longer clip a random part is taken each time
    balanced: bool = False  # draw labels equally often


@dataclass(frozen=True)
class OptimizerConfig:
    """The table [optimizer]: AdamW. See `make_optimizer`."""

    learning_rate: Positive = 3e-5
    head_learning_rate: Positive | None = None  # of all that is no encoder; None: learning_rate
    layer_decay: Annotated[float, _must("above 0 and at most 1", lambda x: 0 < x <= 1)] = 1.0
    weight_decay: NotNegative = 0.01
    beta1: BelowOne = 0.9
    beta2: BelowOne = 0.999
    epsilon: Positive = 1e-8
    warmup: Share = 0.1  # of all steps
    schedule: Literal["linear", "cosine", "constant"] = "linear"  # after the warm-up
    clip_norm: Positive | None = 1.0
    freeze: tuple[Word, ...] = ()  # "text_encoder", "audio_encoder.layers[:12]"


@dataclass(frozen=True)
class LossConfig:
    """The table [loss]: cross-entropy and its modifications."""

    class_weights: Literal["none", "balanced"] = "none"
    focal: NotNegative = 0.0  # gamma
    label_smoothing: BelowOne = 0.0


@dataclass(frozen=True)
class AugmentConfig:
    """The table [augment]: changes to the waveform of a training clip."""

    speed: Annotated[float, _must("from 0 to 0.5", lambda x: 0 <= x <= 0.5)] = 0.0  # drawn from 1 - speed .. 1 + speed
    noise: Share = 0.0  # probability of white noise
    snr_low: float = 10.0  # dB
    snr_high: float = 30.0


@dataclass(frozen=True)
class LoopConfig:
    """The table [training]: the training loop."""

    epochs: Count = 10
    batch_size: Count = 32  # clips of one step, of all devices together
    accumulation: Count = 1  # parts in which a batch is computed
    precision: Literal["float32", "bfloat16"] = "float32"
    remat: bool = True
    fsdp: Count = 1
    ema: BelowOne = 0.0  # 0: none
    pool: Count = 4  # steps whose clips are sorted by length together; 1: clips of all lengths share a step
    metric: Literal["macro_f1", "uar", "loss"] = "macro_f1"  # by which the best state is chosen
    patience: Natural = 0  # validations without a better one before it stops; 0: never
    validate_every: Natural = 0  # steps; 0: each epoch
    save_every: Natural = 200  # steps; 0: each epoch
    keep_last: Count = 2
    across_batch: bool = False  # multihead as the original couples a batch
    seed: Natural = 0


@dataclass(frozen=True)
class Recipe:
    """A whole recipe. See the dataclass of each table."""

    start: StartConfig
    model: ModelConfig
    data: DataConfig
    optimizer: OptimizerConfig
    loss: LossConfig
    augment: AugmentConfig
    training: LoopConfig

    def settings(self) -> dict[str, Any]:
        """Return {table: {field: value}} as JSON values."""
        return json.loads(json.dumps(asdict(self)))


TABLES: Mapping[str, type] = {
    "start": StartConfig,
    "model": ModelConfig,
    "data": DataConfig,
    "optimizer": OptimizerConfig,
    "loss": LossConfig,
    "augment": AugmentConfig,
    "training": LoopConfig,
}
ENCODERS: Mapping[str, type] = {"audio": Wav2Vec2BertConfig, "text": BertConfig}

Key = tuple[str, ...]  # ("model", "audio", "layerdrop")


def read_recipe(path: str | PathLike[str], overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe from a TOML file.

    Args:
        path: The file.
        overrides: "table.field=VALUE", applied in order. A VALUE is written as in TOML; a bare word is a text, as in
            "model.mode=audio". "none" clears a field that may be absent. With "start.checkpoint=ID" the file's
            start.audio and start.text do not count.

    Raises:
        UnreadableInput: The file can't be read.
        InvalidInput: The recipe can't be used. The message lists all problems.
    """
    given = {key: (value, str(path)) for key, value in _leaves(_read(Path(path)))}
    problems = []
    for override in overrides:
        name, equals, text = override.partition("=")
        if not equals or "." not in name:
            problems.append(f"--set {override} must be table.field=VALUE, such as training.epochs=3")
            continue
        leaves = _leaves(_parsed(text.strip()), tuple(name.strip().split(".")))
        given.update((key, (value, f"--set {override}")) for key, value in leaves)
    _drop_parts_of_checkpoint(given, str(path))

    known = _known()
    values = _defaults()
    wrong = set()
    for key, (value, source) in given.items():
        if key in known:
            try:
                values[key] = _fitting(known[key], value)
            except ValueError as reason:
                wrong.add(key)
                problems.append(f"{_dotted(key)} = {_shown(value)} ({source}): {reason}")
        elif any(other[: len(key)] == key for other in known):
            if value != {}:
                problems.append(f"{_dotted(key)} ({source}) is a table; set its fields, such as {_nearest(key, known)}")
        else:
            problems.append(f"{_dotted(key)} ({source}) is unknown; the nearest is {_nearest(key, known)}")
    for key in (("model", "mode"), ("model", "language")):
        if key not in values and key not in wrong:
            wrong.add(key)
            problems.append(f"{_dotted(key)} is missing from {path}; add it to [model]")
    problems += [
        f"{path}: {words}" for keys, words in _contradictions(values, given.keys() - wrong) if not keys & wrong
    ]
    if problems:
        raise InvalidInput("\n".join(dict.fromkeys(problems)))
    return _recipe(values)


def _drop_parts_of_checkpoint(given: dict[Key, tuple[Any, str]], file: str) -> None:
    """Drop the encoders that the file starts from if an override names a whole checkpoint, which has its own.

    Args:
        given: {key: (value, source)}, changed in place.
        file: The source of what the file states.
    """
    checkpoint, source = given.get(("start", "checkpoint"), (None, file))
    if source != file and checkpoint != "none":
        for encoder in ENCODERS:
            if given.get(("start", encoder), (None, ""))[1] == file:
                del given["start", encoder]


def _read(path: Path) -> dict[str, Any]:
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnreadableInput(f"the recipe {path} can't be read ({error.strerror}); give a TOML file") from error
    try:
        return tomllib.loads(content.decode())
    except ValueError as error:  # of TOML or of UTF-8
        raise InvalidInput(f"the recipe {path} is no TOML ({error}); mend it there") from error


def _parsed(text: str) -> Any:
    """Parse the value of an override."""
    try:
        parsed = tomllib.loads(f"value = {text}")
    except tomllib.TOMLDecodeError:
        return text
    return parsed["value"] if len(parsed) == 1 else text


def _leaves(value: Any, key: Key = ()) -> Iterator[tuple[Key, Any]]:
    """Yield (key, value) of everything in nested tables that is no table, or an empty one."""
    if isinstance(value, dict) and (value or not key):
        for name, inner in value.items():
            yield from _leaves(inner, (*key, name))
    else:
        yield key, value


def _known() -> dict[Key, Any]:
    """Return {key: type} of every field that a recipe can set."""
    known = {}
    for table, cls in TABLES.items():
        hints = get_type_hints(cls, include_extras=True)
        known |= {(table, name): hint for name, hint in hints.items() if get_origin(hint) is not Mapping}
    for encoder, cls in ENCODERS.items():
        hints = get_type_hints(cls)
        for each in fields(cls):
            hint = _of_encoder(each.name, hints[each.name])
            known["model", each.name] = known["model", encoder, each.name] = hint
    return known


def _of_encoder(name: str, kind: type) -> Any:
    """Return the type of an encoder's field with its limits: floats are rates, integers sizes and counts."""
    if kind is float:
        return BelowOne
    if kind is int:
        may_be_0 = name.startswith(("pad_", "left_", "right_")) or name.endswith("_min_masks")
        return Natural if may_be_0 else Count
    return kind


def _defaults() -> dict[Key, Any]:
    return {
        (table, each.name): each.default
        for table, cls in TABLES.items()
        for each in fields(cls)
        if each.default is not MISSING
    }


NAMES = {int: "a whole number", bool: "true or false", str: "a text"}


def _fitting(hint: Any, value: Any) -> Any:
    """Convert a value to the type of its field. Raises ValueError with the values that are accepted."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, UnionType):
        return None if value == "none" else _fitting(inner[0], value)
    if origin is Annotated:
        return inner[1](_fitting(inner[0], value))
    if origin is Literal:
        return _must(" or ".join(map(repr, inner)), lambda x: x in inner)(value)
    if origin is tuple:
        return tuple(_fitting(inner[0], each) for each in _must("a list", lambda x: isinstance(x, list))(value))
    if hint is float:
        return float(_must("a finite number", lambda x: type(x) in (int, float) and abs(x) < 1e300)(value))
    return _must(NAMES[hint], lambda x: type(x) is hint)(value)


def _contradictions(values: Mapping[Key, Any], given: set[Key]) -> Iterator[tuple[set[Key], str]]:
    """Yield (the keys involved, the problem) of fields that contradict one another."""

    def of(*names: str) -> tuple[set[Key], list[Any]]:
        keys = [tuple(name.split(".")) for name in names]
        return set(keys), [values.get(key) for key in keys]

    keys, (size, parts) = of("training.batch_size", "training.accumulation")
    if size % parts:
        yield keys, f"training.batch_size {size} can't be split into training.accumulation = {parts} equal parts"
    keys, (low, high) = of("augment.snr_low", "augment.snr_high")
    if low > high:
        yield keys, f"augment.snr_low {low} is above augment.snr_high {high}"
    keys, (mode, across) = of("model.mode", "training.across_batch")
    if across and mode != "multihead":
        yield keys, f"training.across_batch is of mode 'multihead' and model.mode is {mode!r}; leave it out"

    keys, (init, head, checkpoint) = of("start.init", "start.head", "start.checkpoint")
    if head == "kept" and checkpoint is None:
        yield keys, "start.head = 'kept' needs the checkpoint whose head goes on; set start.checkpoint"
    if init == "scratch" and checkpoint is not None:
        yield keys, "start.checkpoint is not for start.init = 'scratch'; leave one of them out"
    for encoder in ENCODERS:
        keys, (mode, init, checkpoint, weights) = of("model.mode", "start.init", "start.checkpoint", f"start.{encoder}")
        name = f"start.{encoder}"
        if not _has(mode, encoder):
            if weights is not None:
                yield keys, f"{name} is set and mode {mode!r} has no {encoder} encoder; leave it out"
            for key in sorted(key for key in given if key[:2] == ("model", encoder) and len(key) == 3):
                yield keys, f"{_dotted(key)} is set and mode {mode!r} has no {encoder} encoder; leave it out"
        elif weights is not None and init == "scratch":
            yield keys, f"{name} is not for start.init = 'scratch'; leave one of them out"
        elif weights is not None and checkpoint is not None and (encoder, mode in FUSION_MODES) != ("text", True):
            yield keys, f"{name} is also in start.checkpoint; leave one of them out"
        elif init == "pretrained" and checkpoint is None and weights is None and (encoder == "audio" or mode == "text"):
            yield keys, f"mode {mode!r} has nothing to start its {encoder} encoder from; set {name} or start.checkpoint"

    keys, (mode,) = of("model.mode")
    own = {each.name for each in fields(ModelConfig)}
    there = {each.name for encoder, cls in ENCODERS.items() if _has(mode, encoder) for each in fields(cls)}
    for key in sorted(key for key in given if key[0] == "model" and len(key) == 2 and key[1] not in own | there):
        yield keys, f"{_dotted(key)} is set and no encoder of mode {mode!r} has it; leave it out"


def _has(mode: str | None, encoder: str) -> bool:
    return mode == encoder or mode not in ENCODERS


def _recipe(values: Mapping[Key, Any]) -> Recipe:
    tables: dict[str, dict[str, Any]] = {table: {} for table in TABLES}
    own = {each.name for each in fields(ModelConfig)}
    for (table, *inner), value in values.items():
        if len(inner) == 2:
            tables[table].setdefault(inner[0], {})[inner[1]] = value
        elif table == "model" and inner[0] not in own:
            tables[table].setdefault("encoders", {})[inner[0]] = value
        else:
            tables[table][inner[0]] = value
    return Recipe(**{table: cls(**tables[table]) for table, cls in TABLES.items()})


def _nearest(key: Key, known: Mapping[Key, Any]) -> str:
    """Return the most similar known key: of the same field if another table has it."""
    same = [_dotted(other) for other in known if other[-1] == key[-1] or other[: len(key)] == key]
    return get_close_matches(_dotted(key), same or map(_dotted, known), n=1, cutoff=0.0)[0]


def _dotted(key: Key) -> str:
    return ".".join(key)


def _shown(value: Any) -> str:
    return json.dumps(value, default=str)
