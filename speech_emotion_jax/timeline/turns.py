"""Read files of turns, give them to their recordings, and check them."""

from __future__ import annotations

from collections.abc import Sequence
from os import PathLike, fspath
from pathlib import PurePath

from ..errors import InvalidInput, UnreadableInput
from .turn_formats import PARSERS, ParsedTurn
from .units import Turn

ROUNDING = 0.01  # seconds by which two turns of a speaker may overlap, as times in files are rounded


def read_turns(paths: Sequence[str | PathLike[str]], recordings: Sequence[str]) -> list[list[Turn]]:
    """Read the turns of recordings.

    A file that names recordings (RTTM, or CSV and JSON with a recording) has turns for those whose file name or stem it
    names. A file that names none belongs to the recording with its stem. The names are ignored if there is only one
    recording and one file with turns of one recording.

    Args:
        paths: Files of turns. The suffix tells the format: .rttm, .csv, .json, .srt or .vtt.
        recordings: Names of the recordings.

    Returns:
        The turns of each recording in the order of their starts.

    Raises:
        InvalidInput: A file or a turn can't be used. The message names the file and the line.
        UnreadableInput: A file can't be read.
    """
    assigned: dict[int, list[Turn]] = {}
    sources: dict[int, str] = {}
    for path in [fspath(each) for each in paths]:
        groups: dict[str | None, list[ParsedTurn]] = {}
        for parsed in _parse(path):
            groups.setdefault(parsed.recording, []).append(parsed)
        alone = len(recordings) == len(paths) == 1 and len(groups) <= 1
        for name, group in groups.items() or [(None, [])]:
            index = 0 if alone else _index(path, PurePath(path).stem if name is None else name, recordings)
            if index in assigned:
                raise InvalidInput(
                    f"{sources[index]} and {path} both have turns of {recordings[index]}; give one of them"
                )
            assigned[index] = _checked(path, group)
            sources[index] = path
    if missing := [name for index, name in enumerate(recordings) if index not in assigned]:
        raise InvalidInput(
            f"{', '.join(map(str, paths))}: no turns of {', '.join(missing)}; name the file of turns like the "
            "recording, name the recording in it, or leave the recording out"
        )
    return [assigned[index] for index in range(len(recordings))]


def _parse(path: str) -> list[ParsedTurn]:
    """Parse one file. Errors name it."""
    parse = PARSERS.get(PurePath(path).suffix.lower())
    if parse is None:
        raise InvalidInput(f"{path}: turns are read from {', '.join(PARSERS)}; give a file with such a suffix")
    try:
        with open(path, encoding="utf-8-sig", newline="") as file:
            content = file.read()
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8; save it as UTF-8") from error
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UnreadableInput(f"{path} can't be read ({reason}); check its path") from error
    try:
        return list(parse(content))
    except InvalidInput as error:
        raise InvalidInput(f"{path}: {error}") from error


def _index(path: str, name: str, recordings: Sequence[str]) -> int:
    """Return the index of the recording that a file of turns names."""
    for form in (str, lambda recording: PurePath(recording).name, lambda recording: PurePath(recording).stem):
        indices = [index for index, recording in enumerate(recordings) if form(recording) == name]
        if len(indices) > 1:
            raise InvalidInput(f"{path} has turns of {name!r}, and several recordings have that name; rename them")
        if indices:
            return indices[0]
    raise InvalidInput(f"{path} has turns of {name!r}, which is none of the recordings; give that recording, too")


def _checked(path: str, group: Sequence[ParsedTurn]) -> list[Turn]:
    """Return the turns of a recording by their start. Turns of one speaker must be in order and not overlap."""
    before: dict[str | None, Turn] = {}
    for place, _, turn in group:
        span = f"{path}: {place}: the turn from {turn.start:g} to {turn.end:g} s"
        if turn.start < 0:
            raise InvalidInput(f"{span} starts before the recording; correct its start")
        if turn.end <= turn.start:
            raise InvalidInput(f"{span} goes backwards or is empty; correct its end")
        whose = "" if turn.speaker is None else f" of {turn.speaker}"
        if (last := before.get(turn.speaker)) is not None:
            if turn.start < last.start:
                raise InvalidInput(f"{span} is not in order: the turn{whose} before it starts later; sort the turns")
            if turn.start < last.end - ROUNDING:
                raise InvalidInput(
                    f"{span} overlaps the turn{whose} before it, which ends at {last.end:g} s; join or shorten one"
                )
        before[turn.speaker] = turn
    return sorted((each.turn for each in group), key=lambda turn: turn.start)
