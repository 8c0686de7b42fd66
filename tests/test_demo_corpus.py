"""The demo's corpus: the design is tested everywhere, the sound where espeak-ng is installed (apt install espeak-ng).

Only the tests marked `speaks` run espeak-ng; without it they are skipped, and nothing else here depends on it.
"""

import csv
import shutil
import unicodedata
from collections import Counter, defaultdict
from dataclasses import replace
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from scripts import demo_corpus
from scripts.demo_corpus import Clip, design, main, render, ssml
from speech_emotion_jax.errors import InvalidInput, UnreadableInput

from .support.examples import examples

speaks = pytest.mark.skipif(shutil.which("espeak-ng") is None, reason="rendering needs the program espeak-ng")
LABELS = {"anger", "disgust", "fear", "joy", "neutral", "sadness"}

corpora = st.builds(design, st.integers(0, 2**32), st.integers(1, 5).map(lambda count: 72 * count))


def best_accuracy(clips: list[Clip], *fields: str) -> float:
    """What the best possible rule reaches that sees these fields and nothing else, told the answers beforehand."""
    seen = defaultdict(Counter)
    for clip in clips:
        seen[tuple(getattr(clip, field) for field in fields)][clip.label] += 1
    return sum(max(labels.values()) for labels in seen.values()) / len(clips)


@given(corpora)
@settings(max_examples=examples(15))
def test_text_or_delivery_alone_leaves_two_labels_and_both_decide(corpus: list[Clip]):
    for split in ("train", "validation", "test"):
        clips = [clip for clip in corpus if clip.split == split]
        assert {clip.label for clip in clips} == LABELS
        assert best_accuracy(clips) == pytest.approx(1 / 6)
        assert best_accuracy(clips, "voice") == pytest.approx(1 / 6)
        assert best_accuracy(clips, "text") == pytest.approx(1 / 2)
        assert best_accuracy(clips, "theme") == pytest.approx(1 / 2)
        assert best_accuracy(clips, "delivery") == pytest.approx(1 / 2)
        assert best_accuracy(clips, "text", "delivery") == 1
        assert best_accuracy(clips, "theme", "delivery") == 1


@given(corpora)
@settings(max_examples=examples(15))
def test_every_sentence_has_two_labels_equally_often(corpus: list[Clip]):
    labels = defaultdict(Counter)
    for clip in corpus:
        labels[clip.text][clip.label] += 1
    assert all(len(counts) == 2 and len(set(counts.values())) == 1 for counts in labels.values())


@given(corpora)
@settings(max_examples=examples(15))
def test_splits_share_no_sentence_and_no_speaker(corpus: list[Clip]):
    assert Counter(clip.split for clip in corpus) == {
        "train": len(corpus) * 3 // 4,
        "validation": len(corpus) // 12,
        "test": len(corpus) // 6,
    }
    for of in (lambda clip: clip.text, lambda clip: clip.voice.split("+")[1]):
        splits = defaultdict(set)
        for clip in corpus:
            splits[of(clip)].add(clip.split)
        assert all(len(found) == 1 for found in splits.values())


@pytest.mark.parametrize("table", [demo_corpus.OPENINGS, demo_corpus.PLACES, demo_corpus.VARIANTS])
def test_nothing_but_nouns_and_accents_is_shared_by_splits(table: dict[str, tuple[str, ...]]):
    assert set(table) == {"train", "validation", "test"}
    everything = [item for items in table.values() for item in items]
    assert len(set(everything)) == len(everything)


def test_the_default_corpus_is_varied():
    corpus = design(seed=0)
    assert len(corpus) == 1800
    assert len({clip.name for clip in corpus}) == 1800
    assert len({clip.seed for clip in corpus}) == 1800
    texts = {split: {clip.text for clip in corpus if clip.split == split} for split in ("train", "validation", "test")}
    assert len(texts["train"]) > 600
    assert len(texts["test"]) > 120
    words = {split: {word for text in texts[split] for word in text.split()} for split in texts}
    nouns = {phrase.split()[1] for theme in demo_corpus.NOUNS for phrase in demo_corpus.noun_phrases(theme)}
    assert nouns <= words["train"]  # a noun that occurs in the test only couldn't be learned


def test_the_same_seed_gives_the_same_corpus():
    assert design(seed=7, clips=144) == design(seed=7, clips=144)
    assert design(seed=7, clips=144) != design(seed=8, clips=144)


@pytest.mark.parametrize(("seed", "clips"), [(0, 0), (0, -72), (0, 71), (0, 100), (-1, 72)])
def test_a_corpus_that_cannot_be_made_is_refused(seed: int, clips: int):
    with pytest.raises(InvalidInput, match=str(seed if seed < 0 else clips)):
        design(seed, clips)


def test_nouns_belong_to_one_theme_and_articles_to_none():
    phrases = [phrase for theme in demo_corpus.NOUNS for phrase in demo_corpus.noun_phrases(theme)]
    assert len({phrase.split()[1] for phrase in phrases}) == len(phrases)
    articles = [Counter(phrase.split()[0] for phrase in demo_corpus.noun_phrases(theme)) for theme in demo_corpus.NOUNS]
    assert all(count == articles[0] for count in articles)


def test_sentences_are_written_as_spanish_writes_them():
    for clip in design(seed=0):
        assert clip.text == unicodedata.normalize("NFC", clip.text)
        assert clip.text[0].isupper()
        assert clip.text.endswith(".")
        assert " de el " not in clip.text
        assert "  " not in clip.text
    assert demo_corpus.sentence("Ayer supe lo de", "el robo", "del hotel") == "Ayer supe lo del robo del hotel."


@given(st.integers(0, 2**32), st.sampled_from(design(seed=1, clips=72)))
@settings(max_examples=examples(50))
def test_the_markup_holds_the_sentence_with_volumes_espeak_accepts(seed: int, clip: Clip):
    sentence = ElementTree.fromstring(ssml(clip, np.random.default_rng(seed)))
    assert "".join(sentence.itertext()) == clip.text
    assert sentence.get("range") == f"{clip.pitch_range}%"
    assert all(0 < int(word.get("volume", "")) <= 120 for word in sentence)


def test_without_espeak_the_command_says_so_and_leaves_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert main([str(tmp_path / "corpus"), "--clips", "72"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "espeak-ng is not installed" in printed.err
    assert not (tmp_path / "corpus").exists()


def test_a_wrong_number_of_clips_is_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "corpus"), "--clips", "100"]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.count("\n") == 1
    assert "100 clips" in printed.err


@speaks
def test_a_clip_is_speech_at_16_khz_and_the_same_every_time():
    clip = design(seed=3, clips=72)[0]
    speech = render(clip)
    assert speech.dtype == np.float32
    assert speech.ndim == 1
    assert 1.5 * 16_000 < len(speech) < 9 * 16_000
    assert np.isfinite(speech).all()
    assert 0.05 < np.abs(speech).max() <= 1
    np.testing.assert_array_equal(speech, render(clip))
    assert not np.array_equal(speech, render(replace(clip, seed=clip.seed + 1)))


@speaks
def test_deliveries_of_one_sentence_differ_in_pace_and_in_the_course_of_the_volume():
    pairs = defaultdict(dict)
    for clip in design(seed=4, clips=72)[:24]:
        pairs[clip.text, clip.voice][clip.delivery] = render(clip)
    assert len(pairs) == 12
    for deliveries in pairs.values():
        longest_first = sorted(deliveries, key=lambda delivery: -len(deliveries[delivery]))
        assert longest_first == [delivery for delivery in ("drawn", "forceful", "level") if delivery in deliveries]

    def fade(speech: np.ndarray) -> float:
        """How much louder the first third is than the last, as a ratio of mean squares."""
        power = [np.mean(np.square(third)) for third in np.array_split(speech, 3)]
        return float(power[0] / power[2])

    fades = defaultdict(list)
    for deliveries in pairs.values():
        for delivery, speech in deliveries.items():
            fades[delivery].append(fade(speech))
    assert np.median(fades["drawn"]) > 2 * np.median(fades["level"])
    assert np.median(fades["drawn"]) > 2 * np.median(fades["forceful"])


@speaks
def test_a_voice_espeak_lacks_is_refused_and_not_replaced(tmp_path, monkeypatch):
    monkeypatch.setitem(demo_corpus.VARIANTS, "test", ("f5", "nobody"))
    with pytest.raises(UnreadableInput, match="lacks the voices nobody"):
        demo_corpus.write(design(seed=0, clips=72), tmp_path / "corpus")
    assert not (tmp_path / "corpus").exists()


@speaks
def test_the_command_writes_clips_and_a_manifest(tmp_path: Path, capsys):
    assert main([str(tmp_path), "--clips", "72", "--seed", "5"]) == 0
    assert capsys.readouterr().out == ""
    with (tmp_path / "manifest.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["filename", "label", "transcription", "split", "voice"]
    designed = [(f"{clip.name}.wav", clip.label, clip.text, clip.split, clip.voice) for clip in design(5, 72)]
    assert [tuple(row.values()) for row in rows] == designed
    assert {path.name for path in tmp_path.glob("*.wav")} == {row["filename"] for row in rows}
    for row in rows:
        about = soundfile.info(tmp_path / row["filename"])
        assert (about.samplerate, about.channels, about.subtype) == (16_000, 1, "PCM_16")
