"""The models as pure functions of a plain tree of parameters, to build on.

    config, parameters, tokens = load("DEST")
    audio = encode_audio(parameters, config, *features(waveform))
    logits = classify(parameters, config, audio.pooled, encode_text(parameters, config, *tokens(["..."])).pooled)

The parameters are nested dicts of arrays, {"audio_encoder": {"layers": {"ffn1": {...}}}, ...}. Equal layers are stacked
on a first axis. Each function uses some branches of the tree and ignores the others, which may be left out:
`encode_audio` uses "audio_encoder", "projector" and "layer_weights", `encode_text` uses "text_encoder", and `classify`
uses "fusion" and "classifier".

Every function takes one clip or any number of batch axes, and works under `jit` (the configuration is static), `vmap`,
`grad` (once, in reverse), `shard_map` and `pmap`. It computes what `models.emotion.EmotionModel` computes. On a mesh of
explicit axes, call it under `jax.sharding.auto_axes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import Any, NamedTuple, TypeVar, cast

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jaxtyping import Array, Bool, Float, Int, Key

from .audio import features as audio_features
from .audio import samples_for
from .checkpoints import Request, load_checkpoint
from .config import BertConfig, EmotionConfig
from .errors import InvalidInput
from .inference import pad_tokens
from .models import EmotionModel, abstract_model, fill_parameters, parameters_of, table
from .runtime.devices import select_device
from .runtime.parameter_tree import Parameters, flatten, nest
from .text import TextTokenizer

__all__ = [
    "Heard",
    "Loaded",
    "Parameters",
    "Read",
    "classify",
    "encode_audio",
    "encode_text",
    "features",
    "load",
    "padded",
    "random_parameters",
    "table",
]

Tokenizer = Callable[[Sequence[str]], tuple[Int[Array, "batch tokens"], Bool[Array, "batch tokens"]]]
Function = TypeVar("Function", bound=Callable[..., Any])

# The branches of the tree that each function uses.
AUDIO = ("audio_encoder", "projector", "layer_weights")
TEXT = ("text_encoder",)
HEAD = ("fusion", "classifier")


def _jit(*static: str) -> Callable[[Function], Function]:
    """Return `jax.jit` as a decorator that keeps the function's type, which type checkers lose otherwise."""
    return lambda function: cast(Function, jax.jit(function, static_argnames=static))


class Loaded(NamedTuple):
    """A checkpoint.

    Attributes:
        config: Its architecture.
        parameters: Nested dicts of arrays.
        tokens: Tokenizes texts: returns padded ids and the mask of real tokens. None in mode audio.
    """

    config: EmotionConfig
    parameters: Parameters
    tokens: Tokenizer | None


class Heard(NamedTuple):
    """What `encode_audio` returns, all of it float32 but the mask.

    Attributes:
        pooled: The vector that is classified.
        last: Output of the encoder.
        mask: True at real frames of `last`.
        hidden_states: The masked projection and each layer's output, where requested; else None.
    """

    pooled: Float[Array, "*batch width"]
    last: Float[Array, "*batch frames hidden"]
    mask: Bool[Array, "*batch frames"]
    hidden_states: Float[Array, "states *batch all_frames all_hidden"] | None


class Read(NamedTuple):
    """What `encode_text` returns, all of it float32.

    Attributes:
        pooled: The vector that is classified: the state of the first token.
        last: Output of the last layer.
        hidden_states: The embeddings and each layer's output, where requested; else None.
    """

    pooled: Float[Array, "*batch width"]
    last: Float[Array, "*batch tokens width"]
    hidden_states: Float[Array, "states *batch tokens width"] | None


def load(
    model_id: str,
    mode: str | None = None,
    language: str | None = None,
    *,
    text_encoder: str | None = None,
    precision: str = "float32",
    device: object = None,
) -> Loaded:
    """Load a checkpoint onto one device.

    Args:
        model_id: A hub id, a published folder or a converted folder.
        mode: "text", "audio", "concat", "mean" or "multihead". None is allowed for a converted folder.
        language: "es" or "en". None is allowed for a converted folder.
        text_encoder: The frozen text encoder of a fusion mode. None selects the one inside the checkpoint, or else the
            language's.
        precision: The dtype of the encoders' matrices, "float32" or "bfloat16".
        device: None for JAX's default, "cpu", "gpu", "cuda:1", "tpu", or a jax.Device.

    Raises:
        InvalidInput: An argument can't be used or does not fit the checkpoint.
        UnreadableInput: A file or download is missing or broken.
    """
    request = Request(model_id, mode, language, text_encoder)
    checkpoint = load_checkpoint(request, select_device(device), precision)
    text = checkpoint.config.text
    tokens = None if text is None else _tokenizer(TextTokenizer(checkpoint.text_folder, text.max_tokens), text)
    return Loaded(checkpoint.config, nest(parameters_of(checkpoint.model)), tokens)


def random_parameters(config: EmotionConfig, key: Key[Array, ""]) -> Parameters:
    """Return random parameters of an architecture, as training from scratch starts with."""
    return nest(parameters_of(EmotionModel(config, rngs=nnx.Rngs(key))))


def padded(
    waveforms: Sequence[Float[np.ndarray, " _samples"]],
) -> tuple[Float[Array, "batch samples"], Int[Array, " batch"]]:
    """Pad waveforms with zeros to one length.

    Returns:
        The waveforms as one array, and the length of each in samples.

    Raises:
        InvalidInput: There are no waveforms.
    """
    if not waveforms:
        raise InvalidInput("there are no waveforms to pad; give one at least")
    lengths = [len(each) for each in waveforms]
    rows = [np.pad(np.asarray(each, np.float32), (0, max(lengths) - len(each))) for each in waveforms]
    return jnp.asarray(np.stack(rows)), jnp.asarray(lengths, jnp.int32)


def features(
    waveform: Float[Array | np.ndarray, "*batch samples"], lengths: Int[Array | np.ndarray, "*batch"] | None = None
) -> tuple[Float[Array, "*batch frames 160"], Bool[Array, "*batch frames"]]:
    """Compute the stacked Kaldi filter banks of waveforms, one frame every 20 ms, and the mask of real frames.

    Frames and formula are those of `audio.fbank`. A clip needs at least 560 samples (35 ms); one whose length is below
    that becomes NaN. The checkpoints were trained on at most 160 s. Longer recordings are cut after normalising by the
    statistics of the whole recording, which `audio.read_clip` does.

    Args:
        waveform: Mono, 16 kHz, full scale 1.
        lengths: Number of real samples of each waveform. None: all samples are real.

    Raises:
        InvalidInput: There are fewer than 560 samples, or the shapes do not fit.
    """
    waveform = jnp.asarray(waveform)
    *batch, samples = waveform.shape
    if samples < samples_for(1):
        raise InvalidInput(f"{samples} samples are too few for features; give {samples_for(1)} (35 ms)")
    if lengths is None:
        counts = jnp.full(batch, samples, jnp.int32)
    else:
        counts = jnp.asarray(lengths)
        _check_alike("waveforms", waveform.shape[:-1], "lengths", counts.shape)
    rows = _rows(batch)
    x, mask = audio_features(waveform.reshape(rows, samples), counts.reshape(rows))
    return x.reshape(*batch, *x.shape[1:]), mask.reshape(*batch, mask.shape[1])


@_jit("config", "hidden_states")
def encode_audio(
    parameters: Parameters,
    config: EmotionConfig,
    features: Float[Array, "*batch frames 160"],
    mask: Bool[Array, "*batch frames"],
    *,
    hidden_states: bool = False,
) -> Heard:
    """Encode audio by Wav2Vec2-BERT (Barrault et al. 2023), then project it and average over the real frames.

    Args:
        parameters: The tree, or its branches "audio_encoder", "projector" and, where there is one, "layer_weights".
        config: The architecture.
        features: Stacked filter banks, as `features` computes them.
        mask: True at real frames.
        hidden_states: Whether to return the states of all layers.

    Raises:
        TypeError: The mode has no audio encoder.
        InvalidInput: The shapes do not fit.
        KeyError: A parameter is missing or unknown.
    """
    model = _model(parameters, config, AUDIO)
    if model.audio_encoder is None or config.audio is None:
        raise TypeError(f"a model of mode {config.mode!r} has no audio encoder")
    *batch, frames, width = features.shape
    _check_alike("features", (*batch, frames), "their mask", mask.shape)
    if width != config.audio.feature_projection_input_dim:
        raise InvalidInput(
            f"features of width {width} don't fit; the model's are {config.audio.feature_projection_input_dim} wide"
        )
    rows = _rows(batch)
    states = model.audio_encoder(
        features.reshape(rows, frames, width),
        mask.reshape(rows, frames),
        hidden_states=hidden_states or model.layer_weights is not None,
    )
    return Heard(
        _by_batch(model.pool(states), batch),
        _by_batch(states.last, batch),
        _by_batch(states.mask, batch),
        _layers_by_batch(states.hidden_states if hidden_states else None, batch),
    )


@_jit("config", "hidden_states")
def encode_text(
    parameters: Parameters,
    config: EmotionConfig,
    ids: Int[Array, "*batch tokens"],
    mask: Bool[Array, "*batch tokens"],
    *,
    hidden_states: bool = False,
) -> Read:
    """Encode token ids by BERT (Devlin et al. 2019) or RoBERTa (Liu et al. 2019).

    Args:
        parameters: The tree, or its branch "text_encoder".
        config: The architecture.
        ids: Token ids, the special tokens included, as `Loaded.tokens` returns them; at most `config.text.max_tokens`.
        mask: True at real tokens.
        hidden_states: Whether to return the states of all layers.

    Raises:
        TypeError: The mode has no text encoder.
        InvalidInput: The shapes do not fit.
        KeyError: A parameter is missing or unknown.
    """
    model = _model(parameters, config, TEXT)
    if model.text_encoder is None or config.text is None:
        raise TypeError(f"a model of mode {config.mode!r} has no text encoder")
    *batch, tokens = ids.shape
    _check_alike("ids", ids.shape, "their mask", mask.shape)
    if tokens > config.text.max_tokens:
        raise InvalidInput(f"{tokens} tokens are too many; the text encoder takes {config.text.max_tokens}")
    rows = (_rows(batch), tokens)
    states = model.text_encoder(ids.reshape(rows), mask.reshape(rows), hidden_states=hidden_states)
    last = _by_batch(states.last, batch)
    return Read(last[..., 0, :], last, _layers_by_batch(states.hidden_states, batch))


@_jit("config")
def classify(
    parameters: Parameters,
    config: EmotionConfig,
    audio: Float[Array, "*batch audio_width"] | None = None,
    text: Float[Array, "*batch text_width"] | None = None,
) -> Float[Array, "*batch labels"]:
    """Compute logits, in the order of `config.labels`, from pooled vectors.

    Args:
        parameters: The tree, or its branches "classifier" and, in mode multihead, "fusion".
        config: The architecture.
        audio: Pooled audio vectors; None in mode text.
        text: Pooled text vectors; None in mode audio.

    Raises:
        TypeError: A vector that the mode needs is missing, or one is given that it does not use.
        InvalidInput: The shapes do not fit.
        KeyError: A parameter is missing or unknown.
    """
    batch = next((each.shape[:-1] for each in (audio, text) if each is not None), ())
    if audio is not None and text is not None:
        _check_alike("audio vectors", audio.shape[:-1], "text vectors", text.shape[:-1])
    rows = [None if each is None else each.reshape(_rows(batch), each.shape[-1]) for each in (audio, text)]
    return _by_batch(_model(parameters, config, HEAD).classify(*rows), batch)


def _tokenizer(tokenizer: TextTokenizer, config: BertConfig) -> Tokenizer:
    def tokens(texts: Sequence[str]) -> tuple[Int[Array, "batch tokens"], Bool[Array, "batch tokens"]]:
        if not texts:
            raise InvalidInput("there are no texts; give one at least")
        ids = [tokenizer(each).ids for each in texts]
        padded, mask = pad_tokens(ids, max(map(len, ids)), config.pad_token_id)
        return jnp.asarray(padded), jnp.asarray(mask)

    return tokens


def _model(parameters: Parameters, config: EmotionConfig, branches: Sequence[str]) -> EmotionModel:
    """Return a model with these branches of the parameters, and None in place of the others."""
    model = abstract_model(config)
    unused = {*AUDIO, *TEXT, *HEAD} - {*branches}
    for name in unused:
        setattr(model, name, nnx.data(None))
    return fill_parameters(model, flatten({name: tree for name, tree in parameters.items() if name not in unused}))


def _rows(batch: Sequence[int]) -> int:
    """Return the number of clips in all batch axes together."""
    if not (rows := prod(batch)):
        raise InvalidInput(f"a batch of shape {tuple(batch)} has no clips; give one at least")
    return rows


def _check_alike(name: str, shape: Sequence[int], other: str, other_shape: Sequence[int]) -> None:
    if tuple(shape) != tuple(other_shape):
        raise InvalidInput(
            f"{name} of shape {tuple(shape)} and {other} of shape {tuple(other_shape)} don't fit together"
        )


def _by_batch(rows: jax.Array, batch: Sequence[int]) -> jax.Array:
    return rows.reshape(*batch, *rows.shape[1:])


def _layers_by_batch(states: jax.Array | None, batch: Sequence[int]) -> jax.Array | None:
    return None if states is None else states.reshape(len(states), *batch, *states.shape[2:])
