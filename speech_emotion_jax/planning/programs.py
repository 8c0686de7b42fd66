"""Build the programs of `evaluate` and `train` for shapes alone, without parameters or data."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..audio import FEATURE_DIM, SAMPLE_RATE, feature_frames, features, samples_for
from ..config import EmotionConfig
from ..inference import FRAME_BUCKETS, TOKEN_BUCKETS, bucket
from ..models import EmotionModel, abstract_model, audio_encoder_flops, parameter_shapes, text_encoder_flops
from ..runtime.precision import parameter_dtype
from ..runtime.sharding import BATCH, parameter_shardings
from ..training import OptimizerConfig, TrainingMethod, frozen_layers, jit_step, make_optimizer, trainable_paths

Program = tuple[Any, tuple[Any, ...]]  # a jitted function, and its inputs as jax.ShapeDtypeStruct


def inference(config: EmotionConfig, mesh: Mesh, clips: int, seconds: float, tokens: int, precision: str) -> Program:
    """Build the program of `inference.Scorer`: from waveforms and token ids to probabilities.

    Args:
        config: the model.
        mesh: the devices. The clips are divided over them, the parameters are on each.
        clips: clips of all devices together.
        seconds: length of the clips; they are padded to the next bucket.
        tokens: length of the texts; they are padded to the next bucket.
        precision: "float32" or "bfloat16".

    Returns:
        The jitted function, and its inputs as shapes.
    """
    everywhere, divided = (NamedSharding(mesh, spec) for spec in (PartitionSpec(), PartitionSpec(mesh.axis_names)))
    graph, state = nnx.split(abstract_model(config))
    parameters = {
        path: leaf.replace(
            jax.ShapeDtypeStruct(
                leaf.get_value().shape, parameter_dtype(".".join(map(str, path)), precision), sharding=everywhere
            )
        )
        for path, leaf in nnx.to_flat_state(state)
    }

    def rows(*shape: int, dtype: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((clips, *shape), dtype, sharding=divided)

    def predict(parameters: Any, audio_inputs: Any, text_inputs: Any) -> jax.Array:
        model: EmotionModel = nnx.merge(graph, parameters)
        audio = None if audio_inputs is None else model.encode_audio(*features(*audio_inputs))
        text = None if text_inputs is None else model.encode_text(*text_inputs)
        return model.probabilities(model.classify(audio, text))

    audio_inputs = text_inputs = None
    if config.audio is not None:
        audio_inputs = rows(samples_for(bucketed_frames(seconds)), dtype=jnp.float32), rows(dtype=jnp.int32)
    if config.text is not None:
        padded = bucketed_tokens(tokens)
        text_inputs = rows(padded, dtype=jnp.int32), rows(padded, dtype=jnp.bool_)
    rows_of = PartitionSpec(mesh.axis_names)
    in_specs = (PartitionSpec(), rows_of, rows_of)
    on_each = jax.shard_map(predict, mesh=mesh, in_specs=in_specs, out_specs=rows_of, check_vma=False)
    return jax.jit(on_each), (nnx.from_flat_state(parameters), audio_inputs, text_inputs)


def training(config: EmotionConfig, mesh: Mesh, clips: int, seconds: float, tokens: int, precision: str) -> Program:
    """Build a training step of `train` with FSDP.

    Parameters, gradients and AdamW's state are float32 and divided over all devices. The text encoder of a fusion mode
    is frozen. Each layer is computed again in the backward pass (rematerialization).

    Args:
        config: the model.
        mesh: the devices.
        clips: clips of all devices together.
        seconds: length of the clips; they are padded to the next bucket.
        tokens: length of the texts; they are padded to the next bucket.
        precision: "float32" or "bfloat16".

    Returns:
        The jitted function, and its inputs as shapes.
    """
    shapes = parameter_shapes(config)
    settings = OptimizerConfig(freeze=("text_encoder",) if config.audio is not None and config.text is not None else ())
    places = parameter_shardings(shapes, mesh)
    learns = trainable_paths(shapes, settings.freeze)
    parameters = {
        path: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=places[path]) for path, shape in shapes.items()
    }
    learning: Any = {path: leaf for path, leaf in parameters.items() if path in learns}
    frozen = {path: leaf for path, leaf in parameters.items() if path not in learns}
    method = TrainingMethod(
        config,
        make_optimizer(settings, shapes, 10_000),
        jnp.ones(len(config.labels)),
        precision=precision,
        remat=True,
        frozen_layers={kind: frozen_layers(shapes, settings.freeze, f"{kind}_encoder") for kind in ("audio", "text")},
    )
    shardings = method.shardings(learning, mesh)
    state = jax.tree.map(
        lambda leaf, place: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=place),
        jax.eval_shape(method.init_state, learning),
        shardings,
    )
    divided = NamedSharding(mesh, PartitionSpec(None, BATCH))
    arrays: list[tuple[str, tuple[int, ...], Any]] = [("labels", (), jnp.int32), ("valid", (), jnp.bool_)]
    if config.audio is not None:
        frames = bucketed_frames(seconds)
        arrays += [("features", (frames, FEATURE_DIM), jnp.float32), ("frame_mask", (frames,), jnp.bool_)]
    if config.text is not None:
        padded = bucketed_tokens(tokens)
        arrays += [("ids", (padded,), jnp.int32), ("token_mask", (padded,), jnp.bool_)]
    batch = {name: jax.ShapeDtypeStruct((1, clips, *shape), dtype, sharding=divided) for name, shape, dtype in arrays}
    key = jax.eval_shape(lambda: jax.random.key(0))
    key = jax.ShapeDtypeStruct(key.shape, key.dtype, sharding=NamedSharding(mesh, PartitionSpec()))
    return jit_step(method, shardings, mesh), (state, frozen, batch, key)


def model_flops(config: EmotionConfig, seconds: float, tokens: int, *, train: bool) -> float:
    """Return the FLOPs that the model needs for one clip, without padding and without rematerialization.

    The backward pass takes twice the FLOPs of the forward pass, for all parts that are trained.

    Args:
        config: the model.
        seconds: length of the clip.
        tokens: length of its text.
        train: count the backward pass, too.
    """
    audio = text = 0.0
    if config.audio is not None and config.projection_width is not None:
        frames = feature_frames(round(seconds * SAMPLE_RATE))
        projector = 2.0 * frames * config.audio.output_width * config.projection_width
        audio = audio_encoder_flops(config.audio, frames) + projector
    if config.text is not None:
        text = text_encoder_flops(config.text, tokens)
    if not train:
        return audio + text
    return 3 * audio + text if config.audio is not None else 3 * text


def bucketed_frames(seconds: float) -> int:
    """Return the number of frames that clips of that length are padded to."""
    return bucket(feature_frames(round(seconds * SAMPLE_RATE)), FRAME_BUCKETS)


def bucketed_tokens(tokens: int) -> int:
    """Return the number of tokens that texts of that length are padded to."""
    return bucket(tokens, TOKEN_BUCKETS)
