"""A model's parameters by path, {"audio_encoder.layers.ffn1.output_dense.kernel": array, ...}, and as a nested tree."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import cache
from math import prod
from types import MappingProxyType
from typing import Any, overload

import numpy as np
from flax import nnx
from jaxtyping import Array, Float

from ..config import Architecture, EmotionConfig, WhisperConfig
from .emotion import EmotionModel
from .whisper import Whisper

Parameters = dict[str, Any]  # of arrays, or of the same
Arrays = Mapping[str, Float[Array | np.ndarray, "*_shape"]]


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
def with_parameters(config: EmotionConfig, arrays: Arrays) -> EmotionModel: ...
@overload
def with_parameters(config: WhisperConfig, arrays: Arrays) -> Whisper: ...
def with_parameters(config: Architecture, arrays: Arrays) -> EmotionModel | Whisper:
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


def nested(parameters: Mapping[str, Any]) -> Parameters:
    """{path: array} as a tree: {"audio_encoder": {"layers": {...}, ...}, ...}."""
    tree: Parameters = {}
    for path, leaf in parameters.items():
        *names, last = path.split(".")
        branch = tree
        for name in names:
            branch = branch.setdefault(name, {})
        branch[last] = leaf
    return tree


def flat(tree: Parameters) -> dict[str, Any]:
    """A tree as {path: array}."""

    def leaves(tree: Parameters, before: str) -> Iterator[tuple[str, Any]]:
        for name, value in tree.items():
            if isinstance(value, dict):
                yield from leaves(value, f"{before}{name}.")
            else:
                yield f"{before}{name}", value

    return dict(leaves(tree, ""))


def table(parameters: Parameters, depth: int | None = None) -> str:
    """Path, shape, dtype, count and size of each array of a tree, or of all below `depth` names of a path together."""
    rows: dict[str, list[Any]] = {}
    for path, leaf in flat(parameters).items():
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
