"""Benchmark time and memory on this machine, alone or side by side with PyTorch."""

from .run import DEFAULT_TASKS, BenchmarkConfig, benchmark, render_benchmark

__all__ = ["DEFAULT_TASKS", "BenchmarkConfig", "benchmark", "render_benchmark"]
