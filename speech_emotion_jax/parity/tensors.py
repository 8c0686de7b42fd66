"""Compare the loaded parameters with the published tensors, bit by bit, and the constants of the modules.

Parameters are converted back to the published layout and names. Both sides are reduced to digests, which a golden file
can hold. In bfloat16 the expected digest is that of the file's tensor rounded to bfloat16.

The constants are attributes of PyTorch's modules that are stored in no tensor, such as the epsilon of a norm. They are
compared separately because a wrong epsilon may change no activation by more than rounding does.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import ml_dtypes
import numpy as np
from flax import nnx

from ..config import Architecture
from ..convert import MODEL, PublishedCheckpoint, tables_of
from ..models import SelfAttention
from ..runtime.precision import PRECISIONS, parameter_dtype

Digests = dict[str, str]  # {name of the tensor in the file: BLAKE2b digest}
Constants = dict[str, float]  # {"name of PyTorch's module.name of its attribute": value}
EPSILON, MAX_LEFT_DISTANCE = "eps", "left_max_position_embeddings"


def digest_files(
    published: PublishedCheckpoint,
    precisions: Iterable[str] = PRECISIONS,
    advance: Callable[[int], None] = lambda tensors: None,
) -> dict[str, Digests]:
    """Compute the digests that a checkpoint's parameters should have. Each published tensor is read once.

    Args:
        published: the checkpoint.
        precisions: the precisions to compute digests for.
        advance: called with the number of tensors that were read, to show progress.

    Returns:
        The digests by precision.
    """
    by_precision: dict[str, Digests] = {precision: {} for precision in precisions}
    tables = tables_of(published.config)
    for part, opened in published.parts.items():
        for assignment in opened.matching.assignments:
            for name, tensor in zip(assignment.names, opened.source.read(assignment.names), strict=True):
                full_name = _full_name(part, tables[part].layout.canonical(name))
                for precision, digests in by_precision.items():
                    digests[full_name] = _digest(tensor, parameter_dtype(assignment.target, precision))
            advance(len(assignment.names))
    return by_precision


def digest_parameters(
    config: Architecture, parameters: Mapping[str, jax.Array | np.ndarray], precision: str
) -> Digests:
    """Digest a loaded model's parameters, converted back to the published layout.

    Args:
        config: the architecture.
        parameters: the parameters by path.
        precision: "float32" or "bfloat16", as the model was loaded.
    """
    return {
        _full_name(part, name): _digest(tensor, parameter_dtype(path, precision))
        for part, path, name, tensor in _published_tensors(config, parameters)
    }


def module_constants(config: Architecture, model: nnx.Module) -> Constants:
    """Return the constants of a loaded model by the names of PyTorch's modules.

    They are the epsilon of each norm and the largest distance that relative attention looks back.
    """
    constants: Constants = {}
    for part, table in tables_of(config).items():
        for rule in table.layout.rules:
            if rule.target not in table.shapes:
                continue
            path, _, last = rule.target.rpartition(".")
            module = _module(model, path)
            count = table.shapes[rule.target][0] if rule.stacked else 1
            for name in (rule.source.replace("{i}", str(index)) for index in range(count)):
                if isinstance(module, nnx.LayerNorm) and last == "scale":
                    constants[_full_name(part, f"{name.rpartition('.')[0]}.{EPSILON}")] = module.epsilon
                elif isinstance(module, SelfAttention) and last == "distance_embedding":
                    constants[_full_name(part, f"{name.rpartition('.distance_embedding')[0]}.{MAX_LEFT_DISTANCE}")] = (
                        module.left
                    )
    return constants


def _module(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name)
    return model


def _published_tensors(
    config: Architecture, parameters: Mapping[str, jax.Array | np.ndarray]
) -> Iterator[tuple[str, str, str, np.ndarray]]:
    for part, table in tables_of(config).items():
        for path in table.shapes:
            for name, tensor in table.layout.tensors({path: np.asarray(parameters[path])}).items():
                yield part, path, name, tensor


def _full_name(part: str, name: str) -> str:
    return name if part == MODEL else f"{part}/{name}"


def _digest(tensor: np.ndarray, dtype: np.dtype) -> str:
    data = np.ascontiguousarray(tensor.astype(ml_dtypes.bfloat16 if dtype == ml_dtypes.bfloat16 else dtype))
    return hashlib.blake2b(data.tobytes(), digest_size=16).hexdigest()
