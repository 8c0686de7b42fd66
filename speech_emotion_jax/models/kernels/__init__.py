"""Attention as fused kernels, one file for each kind of device."""
