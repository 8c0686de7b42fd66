"""Stage 0 of a parity check: tensors of the published files against parameters in memory, bit by bit, and constants.

Both are compared as published, by their names in the file, and as digests, which a golden can keep: two tensors have
one digest where all their bits agree. In bfloat16 a matrix has to be the rounded one of the file. The constants are
those of PyTorch's modules that no tensor tells: a wrong epsilon may change no number by more than it is rounded.
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
from ..convert import MODEL, Published, tables_of
from ..models import SelfAttention
from ..runtime.precision import PRECISIONS, parameter_dtype

Digests = dict[str, str]  # {the tensor's name in the file: digest}
Constants = dict[str, float]  # {the name of PyTorch's module, and of its attribute: value}
EPSILON, MAX_LEFT_DISTANCE = "eps", "left_max_position_embeddings"


def digest_files(
    published: Published, precisions: Iterable[str] = PRECISIONS, advance: Callable[[int], None] = lambda tensors: None
) -> dict[str, Digests]:
    """{precision: digests} of what a published checkpoint's tensors should be in memory. Each is read once."""
    found: dict[str, Digests] = {precision: {} for precision in precisions}
    tables = tables_of(published.config)
    for part, opened in published.parts.items():
        for filled in opened.matching.filled:
            for name, tensor in zip(filled.names, opened.source.read(filled.names), strict=True):
                known = _named(part, tables[part].layout.canonical(name))
                for precision, digests in found.items():
                    digests[known] = _digest(tensor, parameter_dtype(filled.target, precision))
            advance(len(filled.names))
    return found


def digest_parameters(
    config: Architecture, parameters: Mapping[str, jax.Array | np.ndarray], precision: str
) -> Digests:
    """Digests of a loaded model's parameters, laid out as in the published files."""
    return {
        _named(part, name): _digest(tensor, parameter_dtype(path, precision))
        for part, path, name, tensor in _as_published(config, parameters)
    }


def module_constants(config: Architecture, model: nnx.Module) -> Constants:
    """The epsilon of each norm and the largest distance before a frame, by the names of PyTorch's modules."""
    found: Constants = {}
    for part, table in tables_of(config).items():
        for rule in table.layout.rules:
            if rule.target not in table.shapes:
                continue
            path, _, last = rule.target.rpartition(".")
            module = _module(model, path)
            count = table.shapes[rule.target][0] if rule.stacked else 1
            for name in (rule.source.replace("{i}", str(index)) for index in range(count)):
                if isinstance(module, nnx.LayerNorm) and last == "scale":
                    found[_named(part, f"{name.rpartition('.')[0]}.{EPSILON}")] = module.epsilon
                elif isinstance(module, SelfAttention) and last == "distance_embedding":
                    found[_named(part, f"{name.rpartition('.distance_embedding')[0]}.{MAX_LEFT_DISTANCE}")] = (
                        module.left
                    )
    return found


def _module(model: Any, path: str) -> Any:
    for name in path.split("."):
        model = getattr(model, name)
    return model


def _as_published(
    config: Architecture, parameters: Mapping[str, jax.Array | np.ndarray]
) -> Iterator[tuple[str, str, str, np.ndarray]]:
    for part, table in tables_of(config).items():
        for path in table.shapes:
            for name, tensor in table.layout.tensors({path: np.asarray(parameters[path])}).items():
                yield part, path, name, tensor


def _named(part: str, name: str) -> str:
    return name if part == MODEL else f"{part}/{name}"


def _digest(tensor: np.ndarray, dtype: np.dtype) -> str:
    data = np.ascontiguousarray(tensor.astype(ml_dtypes.bfloat16 if dtype == ml_dtypes.bfloat16 else dtype))
    return hashlib.blake2b(data.tobytes(), digest_size=16).hexdigest()
