"""Shardings for training: replicated or fully sharded (FSDP) parameters.

The mesh has two axes, "data" and "fsdp". A batch is divided over both. Parameters, their gradients and the optimizer's
state are divided over "fsdp" alone, so data x fsdp devices hold `data` copies of the model.
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

# The first pattern that matches a parameter's path decides which of its axes is divided. Small parameters (norms,
# biases, position vectors) are replicated, because gathering them would cost more than the memory that they take.
RULES: tuple[tuple[str, PartitionSpec], ...] = (
    (r"(audio|text)_encoder\..*layers\..*\.kernel", PartitionSpec(None, "fsdp")),  # (layers, inputs, outputs)
    (r"fusion\.heads\..*\.kernel", PartitionSpec(None, "fsdp")),  # (heads, inputs, outputs)
    (r"text_encoder\.embeddings\.word", PartitionSpec("fsdp")),  # (tokens, width)
    (r"(projector|fusion\.proj|classifier\.dense)\.kernel", PartitionSpec("fsdp")),  # (inputs, outputs)
    (r".*", PartitionSpec()),
)


def training_mesh(fsdp: int = 1) -> Mesh:
    """Make a mesh of all devices of all hosts.

    Args:
        fsdp: how many devices hold one copy of the model together.

    Returns:
        A mesh (data, fsdp).

    Raises:
        InvalidInput: if `fsdp` does not divide the number of devices.
    """
    devices = jax.devices()
    if len(devices) % fsdp:
        raise InvalidInput(f"training.fsdp is {fsdp}, which does not divide the {len(devices)} devices; choose another")
    return Mesh(np.array(devices).reshape(-1, fsdp), BATCH)


def parameter_shardings(shapes: Mapping[str, tuple[int, ...]], mesh: Mesh) -> dict[str, NamedSharding]:
    """Return {path: sharding} by RULES. A parameter is replicated if the devices can't divide its axis evenly.

    Args:
        shapes: {path: shape} of the parameters.
        mesh: a mesh with the axis "fsdp".
    """
    return {path: NamedSharding(mesh, _spec(path, shape, mesh)) for path, shape in shapes.items()}


def _spec(path: str, shape: tuple[int, ...], mesh: Mesh) -> PartitionSpec:
    spec = next(spec for pattern, spec in RULES if re.fullmatch(pattern, path))
    even = all(axis is None or size % mesh.shape[axis] == 0 for axis, size in zip(spec, shape, strict=False))
    return spec if even else PartitionSpec()


def on_mesh(program: Callable[..., Result], mesh: Mesh) -> Callable[..., Result]:
    """Wrap a jitted program so that it is traced under `jax.set_mesh(mesh)`.

    The attention kernels of TPUs and GPUs look up this mesh to run on each chip's own clips; see `models.kernels`.
    """

    def run(*inputs: object) -> Result:
        with jax.set_mesh(mesh):
            return program(*inputs)

    return run


def place(array: np.ndarray | jax.Array, sharding: NamedSharding) -> jax.Array:
    """Put an array, of which every host has a full copy, onto the devices of all hosts.

    Args:
        array: the same array on every host.
        sharding: how the devices divide it.
    """
    whole = np.asarray(array)
    return jax.make_array_from_callback(whole.shape, sharding, lambda index: whole[index])
