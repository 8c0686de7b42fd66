"""Read, write, validate and pack the manifests of corpora."""

from .known_corpora import make_manifest
from .manifest import NOTHING, Manifest, Row, locate, nearest_column
from .manifest_files import check_new_manifest, read_manifest, write_csv, write_manifest
from .manifest_options import load_label_map, parse_columns
from .packing import pack
from .recordings import fetch_recordings, recordings_root
from .validation import Problem, is_reserved, rename_clashes, validate

__all__ = [
    "NOTHING",
    "Manifest",
    "Problem",
    "Row",
    "check_new_manifest",
    "fetch_recordings",
    "is_reserved",
    "load_label_map",
    "locate",
    "make_manifest",
    "nearest_column",
    "pack",
    "parse_columns",
    "read_manifest",
    "recordings_root",
    "rename_clashes",
    "validate",
    "write_csv",
    "write_manifest",
]
