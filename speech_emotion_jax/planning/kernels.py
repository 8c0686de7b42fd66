"""Cost of the hand-written kernels in a compiled program, which XLA's text does not tell."""

from __future__ import annotations

from ..models.kernels import attention_tpu
from .hlo import Array, Kernel

HEAD_WIDTH = 64  # Wav2Vec2-BERT's, for which the kernel is made.
POSITIONS = 73
BYTES = {"bf16": 2, "f32": 4}


def _relative_attention(operands: list[Array], results: list[Array]) -> Kernel:
    """Return the cost of a call whose result is (batch, time, heads x head width)."""
    (batch, time, lanes), itemsize = results[0].shape, BYTES[results[0].dtype]
    return Kernel(*attention_tpu.work(batch, time, lanes // HEAD_WIDTH, HEAD_WIDTH, POSITIONS, itemsize))


KERNELS = {"relative_attention": _relative_attention}
