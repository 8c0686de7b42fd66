"""Write what is said in the recordings of a manifest into a new manifest."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import NamedTuple

import pyarrow as pa

from ..audio import describe
from ..corpus import (
    check_new_manifest,
    fetch_recordings,
    read_manifest,
    recordings_root,
    validate,
    write_manifest,
)
from ..errors import InvalidInput, SpeechEmotionError
from ..runtime.progress import progress
from ..whisper import TranscriptionOptions, WhisperPipeline
from .reading import recording_source

COLUMN = "transcription"


class ManifestTexts(NamedTuple):
    """Counts and failures of a transcribed manifest.

    Attributes:
        audio_root: Folder or address that the file names are relative to.
        clips: Number of clips in the manifest.
        transcribed: Number of clips that had no text before and have one now.
        failures: Why clips have no text, one message each.
    """

    audio_root: str
    clips: int
    transcribed: int
    failures: list[str]


def transcribe_manifest(
    path: str,
    output: str,
    load: Callable[[], WhisperPipeline],
    options: TranscriptionOptions,
    *,
    audio_root: str | None,
    columns: Mapping[str, str],
    time_unit: str,
) -> ManifestTexts:
    """Transcribe the clips of a manifest that have no text, and write the manifest with all texts.

    Args:
        path: The manifest.
        output: The new manifest, a CSV file. Its columns are those of the manifest, and `transcription` if it had none.
        load: Function that loads Whisper. It is called once the manifest is known to be usable.
        options: How to transcribe.
        audio_root: Folder or address of the recordings. None: that of the manifest.
        columns: {field: column} for columns that are not named like their field.
        time_unit: Unit of start and end.

    Returns:
        The counts. A clip without speech, or with a broken recording, has an empty text.

    Raises:
        InvalidInput: The manifest can't be used, all clips have a text, or the output exists.
        UnreadableInput: The manifest can't be read, or the output can't be written.
    """
    check_new_manifest(output)
    manifest = read_manifest(path, columns=columns, time_unit=time_unit)
    root = recordings_root(path, audio_root)
    folder = fetch_recordings(manifest, root)
    labels = sorted({label for label in manifest.labels() if label is not None})
    validate(manifest, audio_root=folder, needs_audio=True, needs_text=False, labels=labels)
    rows = manifest.rows(range(len(manifest)))
    texts = [row.text or "" for row in rows]
    sources = [(row.number, source) for row in rows if row.text is None and (source := recording_source(row, folder))]
    if not sources:
        raise InvalidInput(f"all clips of {path} have a text; nothing was transcribed or written")
    failures = []
    whisper = load()
    with progress(f"Transcribing {len(sources):,} clips", len(sources)) as advance:
        results = whisper.transcribe_each([source for _, source in sources], options)
        for (number, source), result in zip(sources, results, strict=True):
            if isinstance(result, SpeechEmotionError):
                failures.append(str(result))
            elif not result["text"]:
                failures.append(f"no speech was recognised in {describe(source)}")
            else:
                texts[number] = result["text"]
            advance(1)
    table = manifest.table
    if manifest.has_generated_id:
        table = table.select(table.column_names[:-1])
    name, column = manifest.columns.get(COLUMN, COLUMN), pa.array(texts, pa.string())
    if name in table.column_names:
        table = table.set_column(table.column_names.index(name), name, column)
    else:
        table = table.append_column(name, column)
    write_manifest(table, output)
    return ManifestTexts(root, len(rows), len(sources) - len(failures), failures)
