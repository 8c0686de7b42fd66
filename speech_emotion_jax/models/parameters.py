"""A model's parameters as a flat table: {"audio_encoder.layers.ffn1.output_dense.kernel": array, ...}."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any, overload

import jax
from flax import nnx

from ..config import Architecture, EmotionConfig, WhisperConfig
from .emotion import EmotionModel
from .whisper import Whisper


@overload
def abstract_model(config: EmotionConfig) -> EmotionModel: ...
@overload
def abstract_model(config: WhisperConfig) -> Whisper: ...
def abstract_model(config: Architecture) -> EmotionModel | Whisper:
    """The model's structure with shapes and dtypes in place of arrays; takes no memory."""
    if isinstance(config, WhisperConfig):
        return nnx.eval_shape(lambda: Whisper(config, rngs=nnx.Rngs(0)))
    return nnx.eval_shape(lambda: EmotionModel(config, rngs=nnx.Rngs(0)))


def parameters_of(model: nnx.Module) -> dict[str, Any]:
    """{path: array} of a model, or {path: jax.ShapeDtypeStruct} of an abstract one."""
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@cache
def parameter_shapes(config: Architecture) -> Mapping[str, tuple[int, ...]]:
    """{path: shape} of every parameter of an architecture."""
    return MappingProxyType({path: leaf.shape for path, leaf in parameters_of(abstract_model(config)).items()})


@overload
def with_parameters(config: EmotionConfig, arrays: Mapping[str, jax.Array]) -> EmotionModel: ...
@overload
def with_parameters(config: WhisperConfig, arrays: Mapping[str, jax.Array]) -> Whisper: ...
def with_parameters(config: Architecture, arrays: Mapping[str, jax.Array]) -> EmotionModel | Whisper:
    """A model that holds these arrays. Every parameter must be there, with its shape, and nothing else."""
    graph, state = nnx.split(abstract_model(config))
    flat = dict(nnx.to_flat_state(state))
    wanted = {".".join(map(str, path)): path for path in flat}
    if odd := wanted.keys() ^ arrays.keys():
        raise KeyError(f"parameters missing or unknown: {sorted(odd)}")
    for name, path in wanted.items():
        if flat[path].shape != arrays[name].shape:
            raise ValueError(f"{name} has shape {arrays[name].shape} in place of {flat[path].shape}")
        flat[path] = flat[path].replace(arrays[name])
    return nnx.merge(graph, nnx.from_flat_state(flat))
