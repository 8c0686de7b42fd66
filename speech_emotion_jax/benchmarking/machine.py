"""What the machine is, how fast it multiplies matrices, and how much memory a process takes."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

SIDE = 2048  # of the square matrices that are multiplied: large enough for the best rate, 0.05 s on two cores
PRODUCTS = 5  # of one sample


def describe() -> dict[str, str | int]:
    """Processor, cores that this process may use, memory in bytes, system and Python."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """The machine's memory."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def matmul_rate(product: Callable[[], object]) -> float:
    """FLOP/s of a product of two square matrices of width SIDE that is done when it returns: the median of some."""
    product()
    seconds = []
    for _ in range(PRODUCTS):
        begun = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - begun)
    return 2 * SIDE**3 / median(seconds)


def peak_memory() -> int:
    """The most bytes of memory that this process has had, since `forget_peak` where the system can do that."""
    if kilobytes := _field("/proc/self/status", "VmHWM"):
        return int(kilobytes.split()[0]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def forget_peak() -> None:
    """Let the peak be counted anew, from what is taken now. Only Linux can."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _field(path: str, name: str) -> str | None:
    """What follows "name:" in a file of lines, the first time; None where there is no such file or line."""
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None
