"""Write timelines: JSON, tables, subtitles with the emotion, RTTM of emotions, and the page."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from pathlib import Path, PurePath

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv as arrow_csv

from ..errors import InvalidInput
from ..runtime.atomic import atomic_file
from ..whisper import SUBTITLE_FORMATS, Cue, render_subtitles
from .document import SCHEMA, Timeline, spans
from .page import render_page
from .units import TimelineUnit

PAGE = ".html"


def check_outputs(paths: Sequence[str], recordings: Sequence[str]) -> None:
    """Check that timelines can be written to paths, before any work is done.

    Raises:
        InvalidInput: A suffix is unknown, a folder is missing, or several recordings would go to a file for one.
    """
    for path in paths:
        suffix = PurePath(path).suffix.lower()
        if suffix not in (*WRITERS, PAGE):
            raise InvalidInput(
                f"{path}: a timeline is written as {', '.join((*WRITERS, PAGE))}; give a file with such a suffix"
            )
        if not Path(path).parent.is_dir() or Path(path).is_dir():
            raise InvalidInput(f"{path} is a folder or in none; make its folder, or name another file")
        if suffix[1:] in SUBTITLE_FORMATS and len(recordings) > 1:
            raise InvalidInput(
                f"{path}: subtitles are of one recording, and there are {len(recordings)}; run each alone"
            )
    if repeated := {path for path in paths if paths.count(path) > 1}:
        raise InvalidInput(f"{', '.join(sorted(repeated))} is named twice; name each output once")
    if same := [path for path in paths if path in recordings]:
        raise InvalidInput(f"{', '.join(same)} is a recording; name another output")


def write_timeline(timeline: Timeline, path: str) -> None:
    """Write a timeline in the format of the path's suffix. The file is complete or absent."""
    suffix = PurePath(path).suffix.lower()
    content = render_page(timeline, Path(path).parent) if suffix == PAGE else WRITERS[suffix](timeline)
    with atomic_file(path) as file:
        file.write(content)


def as_document(timeline: Timeline) -> dict[str, object]:
    """Return a timeline as JSON values. schema.json describes them."""
    return {
        "schema": SCHEMA,
        "notice": timeline.notice,
        "settings": dict(timeline.settings),
        "labels": list(timeline.labels),
        "recordings": list(timeline.recordings),
        "units": list(timeline.units),
    }


def describe_unit(unit: TimelineUnit) -> str:
    """Return the emotion of a unit in brackets, with speaker and text where they are known."""
    if unit["probabilities"] is None or unit["top_label"] is None:
        emotion = f"[{unit['unscored']}]"
    else:
        emotion = f"[{unit['top_label']} {unit['probabilities'][unit['top_label']]:.0%}]"
    speaker = None if unit["speaker"] is None else f"{unit['speaker']}:"
    return " ".join(part for part in (emotion, speaker, unit["text"]) if part)


def _json(timeline: Timeline) -> bytes:
    return json.dumps(as_document(timeline), ensure_ascii=False, indent=1).encode("utf-8", "replace")


def _table(timeline: Timeline) -> pa.Table:
    units = timeline.units
    columns: dict[str, pa.Array] = {
        name: pa.array([unit[name] for unit in units], kind)
        for name, kind in (
            ("recording", pa.string()),
            ("start", pa.float64()),
            ("end", pa.float64()),
            ("speaker", pa.string()),
            ("channel", pa.int64()),
            ("text", pa.string()),
            ("language", pa.string()),
            ("top_label", pa.string()),
        )
    }
    for label in timeline.labels:
        columns[f"score_{label}"] = pa.array([(unit["probabilities"] or {}).get(label) for unit in units], pa.float64())
    columns["no_speech_probability"] = pa.array([unit["no_speech_probability"] for unit in units], pa.float64())
    columns["truncated"] = pa.array([unit["truncated"] for unit in units], pa.bool_())
    columns["unscored"] = pa.array([unit["unscored"] for unit in units], pa.string())
    return pa.table(columns)


def _csv(timeline: Timeline) -> bytes:
    content = io.BytesIO()
    arrow_csv.write_csv(_table(timeline), content)
    return content.getvalue()


def _parquet(timeline: Timeline) -> bytes:
    content = io.BytesIO()
    pq.write_table(_table(timeline), content)
    return content.getvalue()


def _subtitles(format: str) -> Callable[[Timeline], bytes]:
    def write(timeline: Timeline) -> bytes:
        cues = [Cue(start, end, describe_unit(unit)) for start, end, unit in spans(timeline.units)]
        return render_subtitles(format, cues).encode("utf-8", "replace")

    return write


def _rttm(timeline: Timeline) -> bytes:
    """Return a line for each scored span. The label stands where RTTM has the speaker, its probability is the score."""
    lines = []
    for start, end, unit in spans(timeline.units):
        if unit["probabilities"] is not None and unit["top_label"] is not None:
            name = _field(PurePath(unit["recording"]).stem)
            label, score = _field(unit["top_label"]), unit["probabilities"][unit["top_label"]]
            lines.append(f"SPEAKER {name} 1 {start:.3f} {end - start:.3f} <NA> <NA> {label} {score:.6f} <NA>\n")
    return "".join(lines).encode("utf-8", "replace")


def _field(text: str) -> str:
    """Return a text as a field of RTTM, which has no blanks."""
    return "_".join(text.split()) or "<NA>"


WRITERS: dict[str, Callable[[Timeline], bytes]] = {
    ".json": _json,
    ".csv": _csv,
    ".parquet": _parquet,
    ".srt": _subtitles("srt"),
    ".vtt": _subtitles("vtt"),
    ".rttm": _rttm,
}
