"""The models as pure functions of a plain tree of parameters, to build on.

    config, parameters, tokens = load("DEST")
    heard = encode_audio(parameters, config, *features(waveform))
    logits = classify(parameters, config, heard.pooled, encode_text(parameters, config, *tokens(["..."])).pooled)

The parameters are nested dicts of arrays, {"audio_encoder": {"layers": {"ffn1": {...}}}, ...}; equal layers are stacked
on a first axis. Everything takes one clip or any number of batch axes, and goes through `jit` (the configuration is
static), `vmap`, `grad` (once, in reverse), `shard_map` and `pmap`. What is computed is what
`models.emotion.EmotionModel` computes. Inside a mesh of explicit axes, call them under `jax.sharding.auto_axes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import NamedTuple

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
from .models import EmotionModel, Parameters, flat, nested, parameters_of, table, with_parameters
from .runtime.devices import select_device
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


class Loaded(NamedTuple):
    """A checkpoint: `tokens` makes padded ids and their mask of texts; None in mode audio."""

    config: EmotionConfig
    parameters: Parameters
    tokens: Tokenizer | None


class Heard(NamedTuple):
    """What becomes of sound: the vector that is classified, and the encoder's states, float32.

    `mask` is true at real frames; `hidden_states`, on request, are the projection and what each layer puts out.
    """

    pooled: Float[Array, "*batch width"]
    last: Float[Array, "*batch frames hidden"]
    mask: Bool[Array, "*batch frames"]
    hidden_states: Float[Array, "states *batch all_frames all_hidden"] | None


class Read(NamedTuple):
    """What becomes of text: the state of the first token, which is classified, and the encoder's states, float32.

    `hidden_states`, on request, are the embeddings and what each layer puts out.
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
    """A checkpoint by hub id, published or converted folder, as in `EmotionPipeline.from_pretrained`, on one device.

    Raises InvalidInput or UnreadableInput.
    """
    request = Request(model_id, mode, language, text_encoder)
    checkpoint = load_checkpoint(request, select_device(device), precision)
    text = checkpoint.config.text
    tokens = None if text is None else _tokenizer(TextTokenizer(checkpoint.text_folder, text.max_tokens), text)
    return Loaded(checkpoint.config, nested(parameters_of(checkpoint.model)), tokens)


def random_parameters(config: EmotionConfig, key: Key[Array, ""]) -> Parameters:
    """Random parameters of an architecture, as training from scratch starts with."""
    return nested(parameters_of(EmotionModel(config, rngs=nnx.Rngs(key))))


def padded(
    waveforms: Sequence[Float[np.ndarray, " _samples"]],
) -> tuple[Float[Array, "batch samples"], Int[Array, " batch"]]:
    """Waveforms of several lengths as one array, zeros behind the shorter ones, and their lengths in samples.

    Raises InvalidInput where there are none.
    """
    if not waveforms:
        raise InvalidInput("there are no waveforms to pad; give one at least")
    lengths = [len(each) for each in waveforms]
    rows = [np.pad(np.asarray(each, np.float32), (0, max(lengths) - len(each))) for each in waveforms]
    return jnp.asarray(np.stack(rows)), jnp.asarray(lengths, jnp.int32)


def features(
    waveform: Float[Array | np.ndarray, "*batch samples"], lengths: Int[Array | np.ndarray, "*batch"] | None = None
) -> tuple[Float[Array, "*batch frames 160"], Bool[Array, "*batch frames"]]:
    """Filter banks of waveforms, mono, 16 kHz, full scale 1, and the mask of real frames: one every 20 ms.

    `lengths` are the real samples of each; None: all. A clip has 560 samples (35 ms) at least, and one that is said to
    have fewer becomes NaN. Of more than 160 s a checkpoint hears the first 160 s, normalised by all: see
    `inputs.features.read_clip`. Formula: Kaldi's, in `inputs.features`. Raises InvalidInput where the shapes don't fit.
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
    x, mask = audio_features(waveform.reshape(rows, samples), counts.reshape(rows), padding_value=0.0)
    return x.reshape(*batch, *x.shape[1:]), mask.reshape(*batch, mask.shape[1])


@partial(jax.jit, static_argnames=("config", "hidden_states"))
def encode_audio(
    parameters: Parameters,
    config: EmotionConfig,
    features: Float[Array, "*batch frames 160"],
    mask: Bool[Array, "*batch frames"],
    *,
    hidden_states: bool = False,
) -> Heard:
    """Wav2Vec2-BERT (Barrault et al. 2023), then the projection, averaged over the real frames.

    Takes what `features` gives. Raises TypeError where the mode doesn't hear, InvalidInput where the shapes don't fit.
    """
    model = _model(parameters, config)
    if model.audio_encoder is None or config.audio is None:
        raise TypeError(f"a model of mode {config.mode!r} has no audio encoder")
    *batch, frames, width = features.shape
    _check_alike("features", (*batch, frames), "their mask", mask.shape)
    if width != config.audio.feature_projection_input_dim:
        raise InvalidInput(
            f"features of width {width} don't fit; the model's are {config.audio.feature_projection_input_dim} wide"
        )
    wanted, rows = hidden_states or model.layer_weights is not None, _rows(batch)
    states = model.audio_encoder(
        features.reshape(rows, frames, width), mask.reshape(rows, frames), hidden_states=wanted
    )
    return Heard(
        _by_batch(model.pool(states), batch),
        _by_batch(states.last, batch),
        _by_batch(states.mask, batch),
        _layers_by_batch(states.hidden_states if hidden_states else None, batch),
    )


@partial(jax.jit, static_argnames=("config", "hidden_states"))
def encode_text(
    parameters: Parameters,
    config: EmotionConfig,
    ids: Int[Array, "*batch tokens"],
    mask: Bool[Array, "*batch tokens"],
    *,
    hidden_states: bool = False,
) -> Read:
    """BERT (Devlin et al. 2019) or RoBERTa on token ids, the special ones included, real ones where `mask` is true.

    Takes what `Loaded.tokens` gives, `config.text.max_tokens` of them at most. Raises TypeError where the mode doesn't
    read, InvalidInput where the shapes don't fit.
    """
    model = _model(parameters, config)
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


@partial(jax.jit, static_argnames="config")
def classify(
    parameters: Parameters,
    config: EmotionConfig,
    audio: Float[Array, "*batch audio_width"] | None = None,
    text: Float[Array, "*batch text_width"] | None = None,
) -> Float[Array, "*batch labels"]:
    """Logits, in the order of `config.labels`, from the pooled vectors that the mode uses; the other is None.

    Raises TypeError where one is missing or not used, InvalidInput where the shapes don't fit.
    """
    batch = next((each.shape[:-1] for each in (audio, text) if each is not None), ())
    if audio is not None and text is not None:
        _check_alike("audio vectors", audio.shape[:-1], "text vectors", text.shape[:-1])
    rows = [None if each is None else each.reshape(_rows(batch), each.shape[-1]) for each in (audio, text)]
    return _by_batch(_model(parameters, config).classify(*rows), batch)


def _tokenizer(tokenizer: TextTokenizer, config: BertConfig) -> Tokenizer:
    def tokens(texts: Sequence[str]) -> tuple[Int[Array, "batch tokens"], Bool[Array, "batch tokens"]]:
        if not texts:
            raise InvalidInput("there are no texts; give one at least")
        ids = [tokenizer(each).ids for each in texts]
        padded, mask = pad_tokens(ids, max(map(len, ids)), config.pad_token_id)
        return jnp.asarray(padded), jnp.asarray(mask)

    return tokens


def _model(parameters: Parameters, config: EmotionConfig) -> EmotionModel:
    return with_parameters(config, flat(parameters))


def _rows(batch: Sequence[int]) -> int:
    """The clips of all batch axes together."""
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
