"""Check numerical parity with the PyTorch original, stage by stage, and compare precisions."""

from .check import ParityConfig, parity
from .precisions import PrecisionsConfig, measure_precisions, precisions_as_dict, render_precisions
from .report import parity_as_dict, render_parity

__all__ = [
    "ParityConfig",
    "PrecisionsConfig",
    "measure_precisions",
    "parity",
    "parity_as_dict",
    "precisions_as_dict",
    "render_parity",
    "render_precisions",
]
