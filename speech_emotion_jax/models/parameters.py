"""The parameters of a model by path, {"audio_encoder.layers.ffn1.output_dense.kernel": array, ...}."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from math import prod
from types import MappingProxyType
from typing import Any, TypeVar, overload

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..config import Architecture, EmotionConfig, WhisperConfig
from ..runtime.parameter_tree import Parameters, flatten
from .emotion import EmotionModel
from .whisper import Whisper

Arrays = Mapping[str, Float[Array | np.ndarray, "*_shape"]]
Model = TypeVar("Model", bound=nnx.Module)


@overload
def abstract_model(config: EmotionConfig) -> EmotionModel: ...
@overload
def abstract_model(config: WhisperConfig) -> Whisper: ...
def abstract_model(config: Architecture) -> EmotionModel | Whisper:
    """Return the model with shapes and dtypes in place of arrays. It takes no memory."""
    if isinstance(config, WhisperConfig):
        return nnx.eval_shape(lambda: Whisper(config, rngs=nnx.Rngs(0)))
    return nnx.eval_shape(lambda: EmotionModel(config, rngs=nnx.Rngs(0)))


def parameters_of(model: nnx.Module) -> dict[str, Any]:
    """Return {path: array} of a model, or {path: jax.ShapeDtypeStruct} of an abstract one."""
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(nnx.state(model, nnx.Param))}


@cache
def parameter_shapes(config: Architecture) -> Mapping[str, tuple[int, ...]]:
    """Return {path: shape} of every parameter of an architecture."""
    return MappingProxyType({path: leaf.shape for path, leaf in parameters_of(abstract_model(config)).items()})


@overload
def with_parameters(config: EmotionConfig, arrays: Arrays) -> EmotionModel: ...
@overload
def with_parameters(config: WhisperConfig, arrays: Arrays) -> Whisper: ...
def with_parameters(config: Architecture, arrays: Arrays) -> EmotionModel | Whisper:
    """Return a model of an architecture that holds these arrays.

    Args:
        config: The architecture.
        arrays: {path: array}, exactly the parameters of the architecture.

    Raises:
        KeyError: A parameter is missing or unknown.
        ValueError: An array has another shape than the parameter.
    """
    return fill_parameters(abstract_model(config), arrays)


def fill_parameters(model: Model, arrays: Arrays) -> Model:
    """Return a model with the structure of `model`, usually an abstract one, that holds these arrays.

    Args:
        model: The structure.
        arrays: {path: array}, exactly the parameters of the model.

    Raises:
        KeyError: A parameter is missing or unknown.
        ValueError: An array has another shape than the parameter.
    """
    graph, state = nnx.split(model)
    flat = dict(nnx.to_flat_state(state))
    paths = {".".join(map(str, path)): path for path in flat}
    if odd := paths.keys() ^ arrays.keys():
        raise KeyError(f"parameters missing or unknown: {sorted(odd)}")
    for name, path in paths.items():
        if flat[path].shape != arrays[name].shape:
            raise ValueError(f"{name} has shape {arrays[name].shape} in place of {flat[path].shape}")
        flat[path] = flat[path].replace(arrays[name])
    return nnx.merge(graph, nnx.from_flat_state(flat))


def table(parameters: Parameters, depth: int | None = None) -> str:
    """Format the arrays of a tree as a table of path, shape, dtype, number of values and size in megabytes.

    Args:
        parameters: Nested dicts of arrays or of `jax.ShapeDtypeStruct`.
        depth: Sum up all arrays whose paths start with the same `depth` names. None gives each array a row.
    """
    rows: dict[str, list[Any]] = {}
    for path, leaf in flatten(parameters).items():
        names = path.split(".")
        row = rows.setdefault(".".join(names[:depth]), ["", "", 0, 0])
        if depth is None or len(names) <= depth:
            row[:2] = str(leaf.shape).replace(" ", ""), str(leaf.dtype)
        row[2] += prod(leaf.shape)
        row[3] += prod(leaf.shape) * leaf.dtype.itemsize
    rows["together"] = ["", "", *(sum(row[place] for row in rows.values()) for place in (2, 3))]
    lines = [
        (path, shape, dtype, f"{count:,}", f"{size / 1e6:,.3f} MB")
        for path, (shape, dtype, count, size) in rows.items()
    ]
    path, shape, dtype, count, size = (max(map(len, column)) for column in zip(*lines, strict=True))
    return "\n".join(
        f"{line[0]:{path}}  {line[1]:{shape}}  {line[2]:{dtype}}  {line[3]:>{count}}  {line[4]:>{size}}"
        for line in lines
    )
