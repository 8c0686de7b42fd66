"""Bulk runs: score a manifest once, measure it, report it, and compare runs."""

from .batches import Batches
from .calibration import calibrate, render_calibration, write_calibration
from .comparison import compare, render_comparison, write_comparison
from .leakage import audit, render_audit, render_split, split_by_group
from .mesh import score
from .metrics import group_codes, measure
from .parts import Effort, Parts
from .reading import THREADS, read_ahead, recording
from .results import PREDICTIONS, Run, claim
from .run import METRICS, EvaluateConfig, EvaluateResult, evaluate

__all__ = [
    "METRICS",
    "PREDICTIONS",
    "THREADS",
    "Batches",
    "Effort",
    "EvaluateConfig",
    "EvaluateResult",
    "Parts",
    "Run",
    "audit",
    "calibrate",
    "claim",
    "compare",
    "evaluate",
    "group_codes",
    "measure",
    "read_ahead",
    "recording",
    "render_audit",
    "render_calibration",
    "render_comparison",
    "render_split",
    "score",
    "split_by_group",
    "write_calibration",
    "write_comparison",
]
