"""Benchmark time and memory on this machine, alone or side by side with PyTorch."""

from .machine import peak_memory
from .run import DEFAULT_TASKS, BenchmarkConfig, benchmark, render_benchmark
from .weights import concat_config, random_checkpoint, random_parameters

__all__ = [
    "DEFAULT_TASKS",
    "BenchmarkConfig",
    "benchmark",
    "concat_config",
    "peak_memory",
    "random_checkpoint",
    "random_parameters",
    "render_benchmark",
]
