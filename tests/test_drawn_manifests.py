"""Manifests as other tools write them: each is read as meant, or refused in one sentence."""

import unicodedata
import warnings
from pathlib import Path

import pytest

from speech_emotion_jax.corpus import read_manifest
from speech_emotion_jax.errors import SpeechEmotionError

from .support.manifests import Drawn, draw


def read(drawn: Drawn) -> str | None:
    """Read a manifest and compare each row with what it means. Return the sentence that refuses it, if one does."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the notes that name separator and encoding
            manifest = read_manifest(drawn.path, columns=drawn.columns)
    except SpeechEmotionError as error:
        return str(error)
    rows = manifest.rows(range(len(manifest)))
    assert [row.id for row in rows] == [clip.id for clip in drawn.clips], drawn.how
    for row, clip in zip(rows, drawn.clips, strict=True):
        text = unicodedata.normalize("NFC", clip.text or "")
        shown = f"{drawn.how}: {row} {clip}"
        spaced = text.translate(dict.fromkeys(map(ord, "\t\n,"), " ")) if "raw" in drawn.how else text
        assert (row.text or "") in {text, text.replace("\t", " ").replace("\n", " "), spaced, spaced.strip('"')}, shown
        name = clip.filename.replace(",", " ") if "raw comma" in drawn.how else clip.filename
        assert (row.filename, row.label, row.start) == (name, clip.label, clip.start), shown
    return None


@pytest.mark.parametrize(
    ("seeds", "allowed"),
    [(range(200), 20), pytest.param(range(200, 5200), 400, marks=pytest.mark.slow)],
    ids=["200", "5000"],
)
def test_each_is_read_as_meant_or_refused(seeds: range, allowed: int, tmp_path: Path):
    refused = 0
    for seed in seeds:
        drawn = draw(seed, tmp_path)
        said = read(drawn)
        refused += said is not None
        assert said is None or (drawn.path in said and "\n" not in said), drawn.how
    assert refused <= allowed, f"{refused} of {len(seeds)} refused"
