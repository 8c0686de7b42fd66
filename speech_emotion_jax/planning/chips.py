"""The chips that can be planned for, and their topologies.

Peaks and bandwidths are the published ones: Google Cloud's pages "system architecture" of TPU v4, v5e, v5p and v6e, and
NVIDIA's data sheet of the H100 SXM, without sparsity.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from ..errors import InvalidInput


@dataclass(frozen=True)
class Chip:
    """The peaks of one chip.

    Attributes:
        name: "v5e", "h100", ...
        bfloat16: FLOP/s of bfloat16 products.
        float32: FLOP/s of full float32 products. A TPU makes each of six bfloat16 products.
        memory: bytes.
        bandwidth: bytes per second to and from memory.
        network: bytes per second that the chip can receive from others.
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
    """Chips that are wired together.

    Attributes:
        name: such as "v5e:2x4" or "v4:2x2x1"; "h100:8" for the GPUs of one machine.
        chip: the kind of chip.
        shape: the number of chips along each axis.
    """

    name: str
    chip: Chip
    shape: tuple[int, ...]

    @property
    def chips(self) -> int:
        """The number of chips."""
        return math.prod(self.shape)

    @classmethod
    def parse(cls, name: str) -> Topology:
        """Parse a topology's name, such as "v5e:2x4"; "h100" stands for "h100:1".

        Raises:
            InvalidInput: if the chip is unknown or the shape has the wrong number of axes.
        """
        match = re.fullmatch(r"(\w+?)(?::(\d+(?:x\d+)*))?", name.strip().lower())
        chip = CHIPS.get(match[1]) if match else None
        if match is None or chip is None:
            raise InvalidInput(f"the topology {name!r} is unknown; name one like {', '.join(_EXAMPLES.values())}")
        shape = tuple(int(each) for each in (match[2] or "1").split("x"))
        axes = {"v4": 3, "v5p": 3, "h100": 1}.get(chip.name, 2)
        if len(shape) != axes or not all(shape):
            raise InvalidInput(f"{name!r} is no shape of {chip.name}; name one like {_EXAMPLES[chip.name]}")
        return cls(f"{chip.name}:{'x'.join(map(str, shape))}", chip, shape)


_EXAMPLES = {"v4": "v4:2x2x1", "v5e": "v5e:2x4", "v5p": "v5p:2x2x1", "v6e": "v6e:2x4", "h100": "h100:8"}
