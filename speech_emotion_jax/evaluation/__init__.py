"""Bulk runs: score the clips of a manifest, measure and report the results, and compare runs."""

from .audit_text import render_audit
from .batches import BatchPlan
from .calibration import calibrate, render_calibration, write_calibration
from .comparison import compare, render_comparison, write_comparison
from .group_split import partition_groups, render_split, split_by_group
from .leakage import audit
from .manifest_texts import transcribe_manifest
from .mesh import score_batches
from .metrics import group_codes, measure
from .parts import ResultParts, Throughput
from .reading import READER_THREADS, read_ahead, recording_source
from .results import PREDICTIONS, EvaluationRun, claim_folder
from .run import METRICS, EvaluateConfig, EvaluateResult, evaluate

__all__ = [
    "METRICS",
    "PREDICTIONS",
    "READER_THREADS",
    "BatchPlan",
    "EvaluateConfig",
    "EvaluateResult",
    "EvaluationRun",
    "ResultParts",
    "Throughput",
    "audit",
    "calibrate",
    "claim_folder",
    "compare",
    "evaluate",
    "group_codes",
    "measure",
    "partition_groups",
    "read_ahead",
    "recording_source",
    "render_audit",
    "render_calibration",
    "render_comparison",
    "render_split",
    "score_batches",
    "split_by_group",
    "transcribe_manifest",
    "write_calibration",
    "write_comparison",
]
