"""One HTML page of a timeline that needs no other file: sound, probabilities over time, texts, and a summary."""

from __future__ import annotations

import base64
import json
import mimetypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from ..runtime.pages import render_page as render_template
from .document import Timeline, spans
from .page_graphics import POINTS, stacked_paths, waveform_path
from .page_words import WORDS, label_colours, label_name
from .units import TimelineUnit

EMBEDDED_BYTES = 8 << 20  # A larger recording is linked.


def render_page(timeline: Timeline, folder: Path) -> bytes:
    """Render a timeline as a page in the checkpoint's language.

    Args:
        timeline: The timeline. Its recordings are paths.
        folder: The folder of the page, from which large recordings are linked.

    Raises:
        UnreadableInput: A recording has gone.
    """
    language = "es" if timeline.settings.get("language") == "es" else "en"
    labels = list(timeline.labels)
    speakers = sorted({unit["speaker"] or "" for unit in timeline.units})
    return render_template(
        __name__.rpartition(".")[0],
        language=language,
        words=WORDS[language],
        toy=(timeline.notice or "").startswith("a toy"),
        notice=timeline.notice,
        labels=[
            {"name": label_name(label, language), "colour": colour}
            for label, colour in zip(labels, label_colours(labels), strict=True)
        ],
        speakers=[name or WORDS[language]["nobody"] for name in speakers],
        recordings=[_recording(timeline, name, speakers, folder, language) for name in timeline.recordings],
        points=POINTS,
        settings=[
            (name, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
            for name, value in timeline.settings.items()
            if value is not None
        ],
        clock=clock,
        percent=lambda value: f"{100 * value:.0f} %",
    )


def clock(seconds: float) -> str:
    """Return a time as 1:02:03 or 2:03."""
    minutes, second = divmod(int(seconds), 60)
    hour, minute = divmod(minutes, 60)
    return f"{hour}:{minute:02}:{second:02}" if hour else f"{minute}:{second:02}"


def _recording(timeline: Timeline, name: str, speakers: Sequence[str], folder: Path, language: str) -> dict[str, Any]:
    """Return what the page shows of one recording."""
    units = [unit for unit in timeline.units if unit["recording"] == name]
    seconds, waveform = waveform_path(name)
    shown = list(spans(units))
    labels = list(timeline.labels)
    lanes = []
    for index, speaker in enumerate(speakers):
        own = [span for span in shown if (span[2]["speaker"] or "") == speaker]
        if own:
            lanes.append({"speaker": index, "paths": stacked_paths(own, labels), **_summary(own, labels)})
    source, embedded = _sound(name, folder)
    return {
        "name": os.path.basename(name),
        "seconds": seconds,
        "waveform": waveform,
        "source": source,
        "embedded": embedded,
        "lanes": lanes,
        "units": [_row(unit, labels, speakers, language) for unit in units],
    }


def _summary(own: Sequence[tuple[float, float, TimelineUnit]], labels: Sequence[str]) -> dict[str, Any]:
    """Return the scored time of a speaker, and the fraction of it in which each label is the most probable."""
    times = dict.fromkeys(labels, 0.0)
    for start, end, unit in own:
        if unit["top_label"] is not None:
            times[unit["top_label"]] += end - start
    total = sum(times.values())
    return {
        "time": total,
        "unscored": sum(unit["top_label"] is None for _, _, unit in own),
        "shares": [each / total if total else 0.0 for each in times.values()],
    }


def _row(unit: TimelineUnit, labels: Sequence[str], speakers: Sequence[str], language: str) -> dict[str, Any]:
    """Return a unit as the page lists it."""
    scores = unit["probabilities"]
    return {
        "start": unit["start"],
        "end": unit["end"],
        "speaker": speakers.index(unit["speaker"] or ""),
        "text": unit["text"] or "",
        "label": -1 if unit["top_label"] is None else labels.index(unit["top_label"]),
        "scores": None if scores is None else [scores[label] for label in labels],
        "unscored": unit["unscored"] and WORDS[language][unit["unscored"]],
        "truncated": unit["truncated"],
    }


def _sound(name: str, folder: Path) -> tuple[str, bool]:
    """Return the address of a recording, and whether it holds the sound itself."""
    if os.path.getsize(name) > EMBEDDED_BYTES:
        return quote(os.path.relpath(name, folder).replace(os.sep, "/")), False
    kind = mimetypes.guess_type(name)[0] or "audio/wav"
    return f"data:{kind};base64,{base64.b64encode(Path(name).read_bytes()).decode()}", True
