"""Count the floating-point operations of an instruction: its matrix products and convolutions."""

from __future__ import annotations

import math
import re

from .hlo_text import Array, Computation, Instruction, Program


def flops(instruction: Instruction, computation: Computation, program: Program) -> float:
    """Count the FLOPs of the products in an instruction, two for each multiplication and addition.

    Args:
        instruction: the instruction; a fusion counts what is in it.
        computation: the computation that contains the instruction.
        program: the program that contains the computation.
    """
    if instruction.operation == "fusion":
        inner = program.called(instruction, "calls")
        return sum(flops(part, inner, program) for part in inner.instructions)
    if instruction.operation == "dot":
        left = computation.by_name[instruction.operands[0]].results[0]
        axes = re.search(r"lhs_contracting_dims=\{([\d,]*)\}", instruction.attributes)
        contracted = [left.shape[int(axis)] for axis in axes[1].split(",") if axis] if axes else []
        return 2.0 * math.prod(instruction.results[0].shape) * math.prod(contracted)
    if instruction.operation == "convolution":
        left, right = (computation.by_name[name].results[0] for name in instruction.operands[:2])
        return _convolution_flops(instruction, left, right)
    return 0.0


def _convolution_flops(instruction: Instruction, left: Array, right: Array) -> float:
    """Count only multiplications with an element of the input, not those with padding or the gaps of a dilation."""
    labels = re.search(r"dim_labels=(\w+)_(\w+)->(\w+)", instruction.attributes)
    assert labels is not None
    window = re.search(r"window=\{([^}]*)\}", instruction.attributes)
    settings = dict(part.split("=") for part in window[1].split()) if window else {}

    def per_axis(name: str, default: str) -> list[str]:
        return settings[name].split("x") if name in settings else [default] * len(spatial)

    out, spatial = instruction.results[0].shape, sorted(label for label in labels[1] if label.isdigit())
    pairs = 1
    for number, axis in enumerate(spatial):
        stride = int(per_axis("stride", "1")[number])
        input_dilation = int(per_axis("lhs_dilate", "1")[number])
        kernel_dilation = int(per_axis("rhs_dilate", "1")[number])
        padding = int(per_axis("pad", "0_0")[number].split("_")[0])
        extent = (left.shape[labels[1].index(axis)] - 1) * input_dilation + 1
        pairs *= sum(
            0 <= (index := start * stride + tap * kernel_dilation - padding) < extent and index % input_dilation == 0
            for start in range(out[labels[3].index(axis)])
            for tap in range(right.shape[labels[2].index(axis)])
        )
    batch, features = out[labels[3].index("b")], out[labels[3].index("f")]
    return 2.0 * pairs * batch * features * right.shape[labels[2].index("i")]
