"""Make manifests of the field's corpora, from the names of their files or from their own lists.

Labels are those of the checkpoints. RAVDESS, TESS and SAVEE have the English ones: angry, disgust, fear, happy,
neutral, sad, surprise. MESD and MEACorpus have the Spanish ones: anger, disgust, fear, joy, neutral, sadness. No
checkpoint has RAVDESS's label calm, which --label-map calm=neutral maps. Only MEACorpus has splits.
"""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Callable, Collection, Mapping
from pathlib import PurePosixPath
from typing import NamedTuple

import pyarrow as pa
import pyarrow.compute as pc

from ..errors import InvalidInput, UnreadableInput
from .manifest_files import read_manifest

AUDIO = frozenset({".wav", ".flac", ".mp3", ".ogg", ".opus", ".m4a"})
VIDEO = frozenset({".mp4"})  # RAVDESS alone has its recordings in videos, too
SHOWN = 5  # files that a message names at most


class CorpusManifest(NamedTuple):
    """The manifest of a corpus.

    Attributes:
        table: One row per recording, in the order of the file names, or of the corpus's own list.
        notes: Remarks for the user, one sentence each.
    """

    table: pa.Table
    notes: list[str]


def make_manifest(corpus: str, folder: str) -> CorpusManifest:
    """Make the manifest of a corpus.

    All manifests have the column filename, which is relative to the folder. The other columns are:

    - ravdess: label, speaker, gender, modality, channel, intensity, statement, repetition, transcription.
    - tess: label, speaker, word, transcription ("Say the word ...").
    - savee: label, speaker, sentence.
    - mesd: label, voice (child, female or male; the names don't tell the speakers), corpus, transcription (the word).
    - meacorpus: the columns of dataset.csv, of dataset-with-video-keys.csv, or of both. One of them must lie in the
      folder. Rows whose recording is not in the folder are left out, and a note says so.

    Args:
        corpus: One of `CORPORA`.
        folder: Folder of the corpus.

    Returns:
        The manifest and its notes.

    Raises:
        InvalidInput: The corpus is unknown, the folder holds another one, or recordings have unknown names or are there
            twice.
        UnreadableInput: The folder cannot be read.
    """
    if corpus not in CORPORA:
        raise InvalidInput(
            f"the corpus {corpus!r} is unknown; name one of {', '.join(CORPORA)}, or write a CSV of another one"
            " yourself: a row per clip, with the columns filename, label and transcription"
        )
    recordings = _recordings(folder, AUDIO | VIDEO if corpus == "ravdess" else AUDIO)
    if corpus == "meacorpus":
        return _meacorpus(folder, recordings)
    rows, unknown = {}, []
    if corpus == "ravdess":
        recordings = [name for name in recordings if not _SILENT.match(PurePosixPath(name).name)]
    for name in recordings:
        row = PARSERS[corpus](PurePosixPath(unicodedata.normalize("NFC", name)))
        if row is None:
            unknown.append(name)
        else:
            rows[name] = row
    if not rows:
        raise InvalidInput(
            f"{folder} is not {corpus}: none of its {len(recordings):,} recordings is named like {EXAMPLES[corpus]};"
            " name the corpus's folder"
        )
    if unknown:
        raise InvalidInput(
            f"{len(unknown):,} of the {len(recordings):,} recordings in {folder} are not named like {corpus}'s"
            f" {EXAMPLES[corpus]}: {_first(unknown)}; move them away, or correct their names"
        )
    _refuse_copies(folder, rows)
    columns = {
        "filename": list(rows),
        **{key: [row[key] for row in rows.values()] for key in next(iter(rows.values()))},
    }
    columns["filename"] = _composed(columns["filename"])
    notes = []
    if corpus == "ravdess" and (doubles := _doubles(rows)):
        notes.append(
            f"{len(doubles):,} takes are there twice, as audio and as audio-video, such as {doubles[0]}: keep the rows"
            " of one modality, or split by the group speaker"
        )
    if "calm" in columns["label"]:
        notes.append(
            "the label calm is in no checkpoint: evaluate with --label-map calm=neutral, or calm= to leave it out"
        )
    return CorpusManifest(pa.table(columns), notes)


def _composed(names: list[str]) -> list[str]:
    """Return names in composed letters (NFC), in which they are found again; as they are if two would be the same."""
    composed = [unicodedata.normalize("NFC", name) for name in names]
    return composed if len(set(composed)) == len(names) else names


def _doubles(rows: Mapping[str, Mapping[str, str]]) -> list[str]:
    """Return the recordings whose take is also there in another modality."""
    first: dict[tuple[str, ...], str] = {}
    takes = {name: tuple(value for key, value in row.items() if key != "modality") for name, row in rows.items()}
    return [name for name, take in takes.items() if first.setdefault(take, name) != name]


def _recordings(folder: str, suffixes: Collection[str]) -> list[str]:
    """Return the sorted paths of the files with one of the suffixes below a folder, relative to it and with slashes."""
    if not os.path.isdir(folder):
        raise UnreadableInput(f"{folder} is not a folder; name the folder of the corpus")
    recordings = []
    for above, _, names in os.walk(folder):
        for name in names:
            if os.path.splitext(name)[1].lower() in suffixes and not name.startswith("."):
                recordings.append(os.path.relpath(os.path.join(above, name), folder).replace(os.sep, "/"))
    return sorted(recordings)


def _refuse_copies(folder: str, rows: Mapping[str, Mapping[str, str]]) -> None:
    """Raise InvalidInput if recordings are there twice, as in archives that hold a copy of the corpus in a folder."""
    first: dict[tuple[str, ...], str] = {}
    copies = [name for name, row in rows.items() if first.setdefault(tuple(row.values()), name) != name]
    if copies:
        other = first[tuple(rows[copies[0]].values())]
        raise InvalidInput(
            f"{folder} holds {len(copies):,} recordings twice, such as {other} and {copies[0]}; name the folder of one"
            " copy"
        )


def _first(names: list[str]) -> str:
    more = f", and {len(names) - SHOWN:,} more" if len(names) > SHOWN else ""
    return ", ".join(names[:SHOWN]) + more


# --- corpora whose file names hold everything

RAVDESS_LABELS: dict[str, str] = dict(
    zip(
        ("01", "02", "03", "04", "05", "06", "07", "08"),
        ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise"),
        strict=True,
    )
)
RAVDESS_MODALITIES = {"01": "audio-video", "03": "audio"}  # 02 has no sound
_SILENT = re.compile(r"02(-\d\d){6}\.")  # videos without sound
RAVDESS_STATEMENTS = {"01": "Kids are talking by the door", "02": "Dogs are sitting by the door"}
TESS_LABELS = {
    "angry": "angry",
    "disgust": "disgust",
    "fear": "fear",
    "happy": "happy",
    "neutral": "neutral",
    "sad": "sad",
    "ps": "surprise",
    "pleasant_surprise": "surprise",
    "pleasant_surprised": "surprise",
}
SAVEE_LABELS = {
    "a": "angry",
    "d": "disgust",
    "f": "fear",
    "h": "happy",
    "n": "neutral",
    "sa": "sad",
    "su": "surprise",
}
MESD_LABELS = {
    "anger": "anger",
    "disgust": "disgust",
    "fear": "fear",
    "happiness": "joy",
    "neutral": "neutral",
    "sadness": "sadness",
}
MESD_VOICES = {"C": "child", "F": "female", "M": "male"}


def _ravdess(path: PurePosixPath) -> dict[str, str] | None:
    """Parse 03-01-06-01-02-01-12: modality, channel, emotion, intensity, statement, repetition, actor."""
    match = re.fullmatch(r"(01|03)-(01|02)-(0[1-8])-(01|02)-(01|02)-(01|02)-(0[1-9]|1\d|2[0-4])", path.stem)
    if match is None:
        return None
    modality, channel, emotion, intensity, statement, repetition, actor = match.groups()
    return {
        "label": RAVDESS_LABELS[emotion],
        "speaker": actor,
        "gender": "male" if int(actor) % 2 else "female",
        "modality": RAVDESS_MODALITIES[modality],
        "channel": {"01": "speech", "02": "song"}[channel],
        "intensity": {"01": "normal", "02": "strong"}[intensity],
        "statement": statement,
        "repetition": repetition,
        "transcription": RAVDESS_STATEMENTS[statement],
    }


def _tess(path: PurePosixPath) -> dict[str, str] | None:
    """Parse OAF_back_angry: speaker, word, emotion. One file of the corpus is called OA_bite_neutral."""
    match = re.fullmatch(r"(OAF?|YAF)_([^_]+)_(.+)", path.stem, re.IGNORECASE)
    if match is None or (label := TESS_LABELS.get(match[3].lower())) is None:
        return None
    speaker = "YAF" if match[1].upper() == "YAF" else "OAF"
    return {"label": label, "speaker": speaker, "word": match[2], "transcription": f"Say the word {match[2]}"}


def _savee(path: PurePosixPath) -> dict[str, str] | None:
    """Parse DC_a01 or DC/a01: speaker, emotion, sentence."""
    match = re.fullmatch(r"(DC|JE|JK|KL)[_/](sa|su|[adfhn])(\d\d)", path.stem) or re.fullmatch(
        r"(DC|JE|JK|KL)[_/](sa|su|[adfhn])(\d\d)", f"{path.parent.name}/{path.stem}"
    )
    if match is None:
        return None
    return {"label": SAVEE_LABELS[match[2]], "speaker": match[1], "sentence": match[2] + match[3]}


def _mesd(path: PurePosixPath) -> dict[str, str] | None:
    """Parse Anger_C_A_abajo: emotion, voice, word corpus, word."""
    match = re.fullmatch(r"([A-Za-z]+)_([CFM])_([AB])_(.+)", path.stem)
    if match is None or (label := MESD_LABELS.get(match[1].lower())) is None:
        return None
    word = match[4].replace("_", " ").strip()
    return {"label": label, "voice": MESD_VOICES[match[2]], "corpus": match[3], "transcription": word}


PARSERS: Mapping[str, Callable[[PurePosixPath], dict[str, str] | None]] = {
    "ravdess": _ravdess,
    "tess": _tess,
    "savee": _savee,
    "mesd": _mesd,
}
EXAMPLES = {
    "ravdess": "03-01-06-01-02-01-12.wav",
    "tess": "OAF_back_angry.wav",
    "savee": "DC_a01.wav or DC/a01.wav",
    "mesd": "Anger_C_A_abajo.wav",
}
CORPORA = (*PARSERS, "meacorpus")


# --- MEACorpus, which has its own list

PUBLISHED = "dataset.csv"  # filename, label, transcription, split
KEYED = "dataset-with-video-keys.csv"  # youtube_key, segment_id, start_time and end_time in ms, ...


def _meacorpus(folder: str, recordings: list[str]) -> CorpusManifest:
    """Join the lists of MEACorpus that are in the folder, whose rows are in the same order."""
    there = [name for name in (PUBLISHED, KEYED) if os.path.isfile(os.path.join(folder, name))]
    if not there:
        raise InvalidInput(
            f"{folder} is not meacorpus: it has neither {PUBLISHED} nor {KEYED}; put one beside the audio"
        )
    lists = {name: read_manifest(os.path.join(folder, name)) for name in there}
    tables = {
        name: manifest.table.drop_columns(["id"]) if manifest.has_generated_id else manifest.table
        for name, manifest in lists.items()
    }
    _check_columns(tables.get(PUBLISHED), PUBLISHED, ("filename", "label", "transcription", "split"))
    _check_columns(
        tables.get(KEYED), KEYED, ("youtube_key", "segment_id", "label", "transcription", "start_time", "end_time")
    )
    table = tables[there[0]]
    if len(there) == 2:
        keyed = tables[KEYED]
        if len(table) != len(keyed):
            raise InvalidInput(f"{PUBLISHED} has {len(table):,} rows and {KEYED} {len(keyed):,}; keep one of them")
        for column in ("label", "transcription"):
            for number, (one, other) in enumerate(
                zip(table.column(column).to_pylist(), keyed.column(column).to_pylist(), strict=True), start=1
            ):
                if one != other:
                    raise InvalidInput(
                        f"row {number} of {PUBLISHED} and {KEYED} is not the same clip ({column}: {one!r}, {other!r});"
                        " keep one of the files"
                    )
        for column in keyed.column_names:
            if column not in table.column_names:
                table = table.append_column(column, keyed.column(column))
    if "start_time" in table.column_names:
        table = table.append_column("seconds", _seconds(table))
    return _with_recordings(table, folder, recordings)


def _check_columns(table: pa.Table | None, name: str, columns: tuple[str, ...]) -> None:
    missing = [] if table is None else [column for column in columns if column not in table.column_names]
    if missing:
        raise InvalidInput(f"{name} has no column {', '.join(missing)}; take the corpus's own file")


def _seconds(table: pa.Table) -> pa.ChunkedArray:
    """Return the duration of each clip in seconds, from its start and end in the video in milliseconds."""
    try:
        start, end = (table.column(name).cast(pa.float64()) for name in ("start_time", "end_time"))
    except pa.ArrowInvalid as error:
        raise InvalidInput(f"{KEYED} has times that are not numbers ({error}); take the corpus's own file") from error
    return pc.divide(pc.subtract(end, start), 1000.0)  # pyright: ignore


def _with_recordings(table: pa.Table, folder: str, recordings: list[str]) -> CorpusManifest:
    """Keep the rows whose recording is in the folder, at any depth.

    A recording is found by its file name, or by video/segment if the list has no file names.
    """
    names: list[str | None] = [None] * len(table)
    if "filename" in table.column_names:
        names = table.column("filename").to_pylist()
    elif {"youtube_key", "segment_id"} <= set(table.column_names):
        keys, segments = (table.column(name).to_pylist() for name in ("youtube_key", "segment_id"))
        names = [f"{key}/{segment}" for key, segment in zip(keys, segments, strict=True)]
    depth = 1 + max((name or "").count("/") for name in names)
    places: dict[str, str] = {}
    for path in recordings:
        tail = "/".join(path.split("/")[-depth:])
        if tail in places:
            raise InvalidInput(f"{folder} holds {tail} twice ({places[tail]} and {path}); name the folder of one copy")
        places[tail] = path
    located = [places.get(name or "") for name in names]
    missing = [name or "(none)" for name, path in zip(names, located, strict=True) if path is None]
    if len(missing) == len(names):
        raise InvalidInput(
            f"none of the {len(names):,} recordings is in {folder}, such as {missing[0]}; put the audio beside the list"
        )
    paths = pa.array(located, pa.string())
    if "filename" in table.column_names:
        table = table.set_column(table.column_names.index("filename"), "filename", paths)
    else:
        table = table.add_column(0, "filename", paths)
    notes = []
    if missing:
        notes = [f"{len(missing):,} of {len(names):,} clips are left out, they have no recording: {_first(missing)}"]
    return CorpusManifest(table.filter(paths.is_valid()), notes)
