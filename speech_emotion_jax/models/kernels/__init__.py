"""Attention, one file for each way to compute it: on a CPU, by a TPU kernel, and in plain XLA."""
