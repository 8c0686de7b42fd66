"""Timelines: the parts of conversations, who speaks in them, what is said, and how it sounds."""

from .document import Timeline, read_notice, spans
from .files import as_document, check_outputs, describe_unit, write_timeline
from .preparation import add_texts, require_texts, segment_units, turn_units, window_units
from .reading import count_channels
from .smoothing import check_smoothing, smooth
from .turns import read_turns
from .units import UNITS, TimelineUnit, Turn, Unit, Windows, timeline_unit

__all__ = [
    "UNITS",
    "Timeline",
    "TimelineUnit",
    "Turn",
    "Unit",
    "Windows",
    "add_texts",
    "as_document",
    "check_outputs",
    "check_smoothing",
    "count_channels",
    "describe_unit",
    "read_notice",
    "read_turns",
    "require_texts",
    "segment_units",
    "smooth",
    "spans",
    "timeline_unit",
    "turn_units",
    "window_units",
    "write_timeline",
]
