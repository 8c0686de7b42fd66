"""Read, write, validate and pack the manifests of corpora."""

from .known_corpora import make_manifest
from .manifest import Manifest, Row, locate
from .manifest_files import read_manifest, write_manifest
from .manifest_options import load_label_map, parse_columns
from .packing import pack
from .recordings import fetch_recordings, recordings_root
from .validation import validate

__all__ = [
    "Manifest",
    "Row",
    "fetch_recordings",
    "load_label_map",
    "locate",
    "make_manifest",
    "pack",
    "parse_columns",
    "read_manifest",
    "recordings_root",
    "validate",
    "write_manifest",
]
