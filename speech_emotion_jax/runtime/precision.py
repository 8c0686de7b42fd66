"""Which parameters are held in which dtype. `models.layers` multiplies in the dtype of the kernel it is given."""

from __future__ import annotations

import re

import jax.numpy as jnp

from ..errors import InvalidInput

PRECISIONS = ("float32", "bfloat16")

# The matrices of the encoders and of Whisper, where the time goes. Norms, biases, embeddings and the small heads stay
# float32; but Whisper's token embedding is also its output matrix.
_MATRICES = re.compile(
    r"((audio|text)_encoder|encoder|decoder)\..*(\.kernel|\.distance_embedding)|decoder\.embed_tokens"
)


def check_precision(precision: str) -> str:
    if precision not in PRECISIONS:
        raise InvalidInput(f"unknown precision {precision!r}; choose {' or '.join(PRECISIONS)}")
    return precision


def parameter_dtype(path: str, precision: str) -> jnp.dtype:
    """The dtype of the parameter at `path` when computing in "float32" or "bfloat16"."""
    lower = precision == "bfloat16" and _MATRICES.fullmatch(path)
    return jnp.dtype(jnp.bfloat16 if lower else jnp.float32)
