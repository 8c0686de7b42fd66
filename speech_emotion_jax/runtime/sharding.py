"""Where parameters lie while a model is trained: on every device, or each on a share of them (FSDP).

The mesh has two axes. The clips of a batch are divided over both; parameters, and with them their gradients and the
optimizer's state, are divided over "fsdp" alone, so that data x fsdp devices hold `data` copies of the model.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import TypeVar

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from ..errors import InvalidInput

Result = TypeVar("Result")

BATCH = ("data", "fsdp")  # the axes that a batch is divided over

# The first pattern that fits a parameter's path says which of its axes is divided; the others fit no more. Small
# parameters (norms, biases, position vectors) are worth less than what fetching them costs.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(audio|text)_encoder\..*layers\..*\.kernel", PartitionSpec(None, "fsdp")),  # (layers, inputs, outputs)
    (r"fusion\.heads\..*\.kernel", PartitionSpec(None, "fsdp")),  # (heads, inputs, outputs)
    (r"text_encoder\.embeddings\.word", PartitionSpec("fsdp")),  # (tokens, width)
    (r"(projector|fusion\.proj|classifier\.dense)\.kernel", PartitionSpec("fsdp")),  # (inputs, outputs)
    (r".*", PartitionSpec()),
)


def training_mesh(fsdp: int = 1) -> Mesh:
    """All devices of all hosts, in groups of `fsdp` that hold a copy of the model together.

    Raises InvalidInput where the number of devices is no multiple of that.
    """
    devices = jax.devices()
    if len(devices) % fsdp:
        raise InvalidInput(f"training.fsdp is {fsdp}, which does not divide the {len(devices)} devices; choose another")
    return Mesh(np.array(devices).reshape(-1, fsdp), BATCH)


def parameter_shardings(shapes: Mapping[str, tuple[int, ...]], mesh: Mesh) -> dict[str, NamedSharding]:
    """{path: sharding} by the rules; an axis that the devices can't divide evenly is not divided."""
    return {path: NamedSharding(mesh, _spec(path, shape, mesh)) for path, shape in shapes.items()}


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    spec = next(spec for pattern, spec in RULES if re.fullmatch(pattern, path))
    even = all(axis is None or size % mesh.shape[axis] == 0 for axis, size in zip(spec, shape, strict=False))
    return spec if even else PartitionSpec()


def on_mesh(program: Callable[..., Result], mesh: Mesh) -> Callable[..., Result]:
    """A jitted program that is traced with its mesh in use.

    By that attention on TPUs and GPUs knows that each chip attends its own clips; see `models.kernels`.
    """

    def run(*inputs: object) -> Result:
        with jax.set_mesh(mesh):
            return program(*inputs)

    return run


def place(array: np.ndarray | jax.Array, sharding: NamedSharding) -> jax.Array:
    """An array that every host has whole, on the mesh: each host gives its devices their part."""
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
