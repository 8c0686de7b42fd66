"""The chips that can be planned for, and the names of what is made of them.

Peaks and bandwidths are those that the makers publish: Google Cloud's pages of TPU v4, v5e, v5p and v6e ("system
architecture"), and NVIDIA's data sheet of the H100 SXM, without sparsity.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import InvalidInput


@dataclass(frozen=True)
class Chip:
    """`bfloat16` and `float32` are FLOP/s of products, `memory` bytes, `bandwidth` and `network` bytes a second.

    float32 at full precision is made of six products of bfloat16 on a TPU. `network` is what one chip can receive.
    """

    name: str
    bfloat16: float
    float32: float
    memory: float
    bandwidth: float
    network: float


def _tpu(name: str, teraflops: float, gibibytes: float, bandwidth: float, gigabits: float) -> Chip:
    flops = teraflops * 1e12
    return Chip(name, flops, flops / 6, gibibytes * 2**30, bandwidth * 1e9, gigabits / 8 * 1e9)


CHIPS = {
    chip.name: chip
    for chip in (
        _tpu("v4", 275.0, 32.0, 1228.0, 2400.0),
        _tpu("v5e", 197.0, 16.0, 819.0, 1600.0),
        _tpu("v5p", 459.0, 95.0, 2765.0, 4800.0),
        _tpu("v6e", 918.0, 32.0, 1640.0, 3584.0),
        Chip("h100", 989e12, 67e12, 80.0 * 2**30, 3350e9, 450e9),
    )
}


@dataclass(frozen=True)
class Topology:
    """Chips that are wired together: "v5e:2x4", "v4:2x2x1"; "h100" or "h100:8", the GPUs of a machine."""

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        return math.prod(self.shape)

    @classmethod
    def parse(cls, name: str) -> Topology:
        """Raises InvalidInput for a name that none has."""
        found = re.fullmatch(r"(\w+?)(?::(\d+(?:x\d+)*))?", name.strip().lower())
        chip = CHIPS.get(found[1]) if found else None
        if found is None or chip is None:
            raise InvalidInput(f"the topology {name!r} is unknown; name one like {', '.join(_EXAMPLES.values())}")
        shape = tuple(int(each) for each in (found[2] or "1").split("x"))
        wanted = {"v4": 3, "v5p": 3, "h100": 1}.get(chip.name, 2)
        if len(shape) != wanted or not all(shape):
            raise InvalidInput(f"{name!r} is no shape of {chip.name}; name one like {_EXAMPLES[chip.name]}")
        return cls(f"{chip.name}:{'x'.join(map(str, shape))}", chip, shape)


_EXAMPLES = {"v4": "v4:2x2x1", "v5e": "v5e:2x4", "v5p": "v5p:2x2x1", "v6e": "v6e:2x4", "h100": "h100:8"}
