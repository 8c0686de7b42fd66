"""The dtype of each parameter for a precision. `models.layers` multiplies in the dtype of its kernel."""

from __future__ import annotations

import re

import jax.numpy as jnp

from ..errors import InvalidInput

PRECISIONS = ("float32", "bfloat16")

# Only the matrices of the encoders and of Whisper are lowered to bfloat16, because they take nearly all of the time.
# Norms, biases, embeddings and the small heads stay in float32. Whisper's token embedding is lowered because it is also
# the output matrix.
_MATRICES = re.compile(
    r"((audio|text)_encoder|encoder|decoder)\..*(\.kernel|\.distance_embedding)|decoder\.embed_tokens"
)


def check_precision(precision: str) -> str:
    """Return the precision as it is.

    Raises:
        InvalidInput: if it is not one of PRECISIONS.
    """
    if precision not in PRECISIONS:
        raise InvalidInput(f"unknown precision {precision!r}; choose {' or '.join(PRECISIONS)}")
    return precision


def parameter_dtype(path: str, precision: str) -> jnp.dtype:
    """Return the dtype of a parameter.

    Args:
        path: the parameter's path, such as "audio_encoder.layers.attention.query.kernel".
        precision: one of PRECISIONS.
    """
    lower = precision == "bfloat16" and _MATRICES.fullmatch(path)
    return jnp.dtype(jnp.bfloat16 if lower else jnp.float32)
