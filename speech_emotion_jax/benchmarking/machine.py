"""Describe the machine, and measure its matrix products and the memory of a process."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from statistics import median

MATRIX_WIDTH = 2048  # large enough to reach the best rate; one product takes 0.05 s on two cores
PRODUCTS = 5  # products in one sample of the rate


def describe_machine() -> dict[str, str | int]:
    """Return the processor, the cores that this process may use, the memory in bytes, the system and Python."""
    return {
        "processor": _field("/proc/cpuinfo", "model name") or platform.processor() or platform.machine(),
        "cores": count_cores(),
        "memory_bytes": memory_bytes(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
    }


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory_bytes() -> int:
    """Return the memory of the machine in bytes."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def measure_matmul_rate(product: Callable[[], object]) -> float:
    """Return the median rate of a matrix product in FLOP/s.

    Args:
        product: multiplies two square matrices of MATRIX_WIDTH, and returns when the result is there.
    """
    product()
    seconds = []
    for _ in range(PRODUCTS):
        begun = time.perf_counter()
        product()
        seconds.append(time.perf_counter() - begun)
    return 2 * MATRIX_WIDTH**3 / median(seconds)


def peak_memory() -> int:
    """Return the peak memory of this process in bytes, on Linux since the last `reset_peak_memory`."""
    if kilobytes := _field("/proc/self/status", "VmHWM"):
        return int(kilobytes.split()[0]) * 1024
    import resource  # not on Windows

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if platform.system() == "Darwin" else peak * 1024


def reset_peak_memory() -> None:
    """Reset the peak to the memory in use now. Does nothing except on Linux."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def _field(path: str, name: str) -> str | None:
    """Return what follows the first "name:" at the start of a line. None if there is no such file or line."""
    with suppress(OSError):
        for line in Path(path).read_text().splitlines():
            key, _, value = line.partition(":")
            if key.strip() == name:
                return value.strip()
    return None
