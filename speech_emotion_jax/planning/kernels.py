"""What the hand-written kernels do in a compiled program, of which XLA knows nothing."""

from __future__ import annotations

from ..models.kernels import attention_gpu, attention_tpu
from .hlo import Array, Kernel

HEAD_WIDTH = 64  # of Wav2Vec2-BERT, for which the kernels are made
POSITIONS = 73
BYTES = {"bf16": 2, "f32": 4}


def _relative_attention(operands: list[Array], results: list[Array]) -> Kernel:
    """Its result is (batch, time, heads, head width) on a GPU, (batch, time, heads x head width) on a TPU."""
    shape, itemsize = results[0].shape, BYTES[results[0].dtype]
    if len(shape) == 4:
        batch, time, heads, width = shape
        return Kernel(*attention_gpu.work(batch, time, heads, width, POSITIONS, itemsize))
    batch, time, lanes = shape
    return Kernel(*attention_tpu.work(batch, time, lanes // HEAD_WIDTH, HEAD_WIDTH, POSITIONS, itemsize))


KERNELS = {"relative_attention": _relative_attention}
