"""The demo that comes with the package: small, in the published layout, and right on its own recordings."""

import json
from importlib.resources import files
from pathlib import Path

import pytest

from speech_emotion_jax.cli.main import main
from speech_emotion_jax.convert.emotion import open_emotion
from speech_emotion_jax.convert.published import Origin
from speech_emotion_jax.demo import NOTICE, run_demo
from speech_emotion_jax.registry import LABELS

FOLDER = Path(str(files("speech_emotion_jax") / "demo_data"))


def test_it_is_small():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) < 4_000_000


def test_the_checkpoint_is_laid_out_as_the_published_ones():
    origin = Origin.local(FOLDER / "checkpoint")
    text = Origin.local(FOLDER / "checkpoint" / "text_encoder")
    published = open_emotion(origin, "concat", "es", text_encoder=text)
    assert published.config.labels == LABELS["es"]
    assert "classifier.layernorm.weight" in published.parts["model"].matching.unused
    assert published.config.audio is not None
    assert published.config.audio.mask_embedding


@pytest.fixture(scope="module")
def results():
    return run_demo()


def test_every_label_is_heard(results):
    assert sorted(result.label for result in results) == sorted(LABELS["es"])
    right = sum(result.prediction["top_label"] == result.label for result in results)
    assert right >= len(results) - 1


def test_sentences_come_with_two_labels(results):
    """So that neither the text nor the voice decides."""
    labels = {}
    for result in results:
        labels.setdefault(result.text, set()).add(result.label)
    assert all(len(found) == 2 for found in labels.values())


def test_the_command_says_that_it_is_a_toy(capsys):
    assert main(["demo"]) == 0
    shown = capsys.readouterr().out
    assert NOTICE in shown
    assert "toy" in shown
    assert "synthetic" in shown
    assert shown.count("█") > 6


def test_json(capsys, results):
    assert main(["demo", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [each["prediction"]["top_label"] for each in shown] == [r.prediction["top_label"] for r in results]
