"""Time and memory on this machine, side by side with PyTorch."""

from .run import DEFAULT_TASKS, BenchmarkConfig, benchmark, render_benchmark

__all__ = ["DEFAULT_TASKS", "BenchmarkConfig", "benchmark", "render_benchmark"]
