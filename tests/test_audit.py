"""The audit against figures worked out by hand, and, where the corpus is, against those known of it."""

import json
import os
from collections import Counter
from dataclasses import astuple
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.corpus.manifest_files import read_manifest
from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.evaluation.audit_text import render_audit
from speech_emotion_jax.evaluation.group_split import render_split, split_by_group
from speech_emotion_jax.evaluation.leakage import SplitOverlap, SubsetScores, audit

from .support.examples import examples

# (video, label, split). Video a: sadness and joy tie in training, so the rule says joy. Of d only the test has clips.
CLIPS = [
    ("a", "sadness", "train"),
    ("a", "joy", "train"),
    ("b", "anger", "train"),
    ("b", "anger", "train"),
    ("c", "joy", "train"),
    ("a", "sadness", "test"),
    ("b", "anger", "test"),
    ("b", "anger", "test"),
    ("d", "anger", "test"),
    ("e", "joy", "dev"),
    ("c", "joy", "dev"),
]


def write(folder: Path, clips: list[tuple[str, str, str]]) -> str:
    path = folder / "m.csv"
    lines = ["id,video,label,split", *(f"c{n},{','.join(clip)}" for n, clip in enumerate(clips))]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def write_run(folder: Path, top: dict[str, str | None], truth: dict[str, str]) -> str:
    """A finished run with the top label of each id, None for one that could not be scored."""
    folder.mkdir()
    labels = ["anger", "joy", "sadness"]
    record: dict[str, Any] = {"schema": 1, "labels": labels, "columns": {"id": "id", "label": "label"}, "label_map": {}}
    (folder / "run.json").write_text(json.dumps(record | {"settings": {}}))
    table = {
        "id": list(top),
        "label": [truth[id] for id in top],
        "top_label": pa.array(list(top.values()), pa.string()),
        **{
            f"score_{label}": [None if each is None else float(each == label) for each in top.values()]
            for label in labels
        },
        "error": pa.array(["broken" if each is None else None for each in top.values()], pa.string()),
    }
    pq.write_table(pa.table(table), folder / "predictions.parquet")
    return str(folder)


def test_figures_worked_out_by_hand(tmp_path: Path):
    found = audit(write(tmp_path, CLIPS), group_by="video")
    assert found.shared == [
        SplitOverlap(("train", "test"), 2, (3, 3), (4, 3), (5, 4)),
        SplitOverlap(("train", "dev"), 1, (3, 2), (1, 1), (5, 2)),
        SplitOverlap(("test", "dev"), 0, (3, 2), (0, 0), (4, 2)),
    ]
    # anger and joy tie in training: what is not in training is anger. Test: a gets joy, b anger twice, d anger.
    assert found.fallback == "anger"
    assert found.rule is not None
    assert found.rule["all"] == SubsetScores(4, 0.75, 0.5)  # anger F1 1, sadness 0
    assert astuple(found.rule["shared"]) == pytest.approx((3, 2 / 3, 0.5))
    assert found.rule["unshared"] == SubsetScores(1, 1.0, 1.0)
    # Groups of two or more: a (3 clips, mixed), b (4, pure), c (2, pure). Labels: anger 5, joy 4, sadness 2 of 11.
    three, four, two = (60 + 24) / 990, (120 + 24) / 7920, (20 + 12 + 2) / 110
    assert (found.repeated, found.pure) == (3, 2)
    assert found.pure_by_chance == pytest.approx(three + four + two)
    assert [(each.label, each.clips, each.groups, each.largest) for each in found.sources] == [
        ("anger", 5, 2, 4),
        ("joy", 4, 3, 2),
        ("sadness", 2, 1, 2),
    ]
    assert found.sources[0].effective == pytest.approx(1 / (0.8**2 + 0.2**2))
    text = render_audit(found)
    assert "2 of 3 test groups are also in train (66.7 %)" in text
    assert "3 of 4 test clips are in these groups (75.0 %), and 4 of 5 train clips (80.0 %)" in text
    assert "else anger" in text


def test_a_model_beside_the_rule(tmp_path: Path):
    path = write(tmp_path, CLIPS)
    truth = {f"c{number}": label for number, (_, label, _) in enumerate(CLIPS)}
    top = {"c8": "joy", "c7": None, "c5": "sadness", "c6": "anger", "c0": "joy", "other": "joy"}
    run = write_run(tmp_path / "run", top, truth | {"other": "joy"})
    beside = audit(path, group_by="video", predictions=run).beside
    assert beside is not None
    assert astuple(beside.model["all"]) == pytest.approx((3, 2 / 3, (2 / 3 + 1) / 2))
    assert beside.model["shared"] == SubsetScores(2, 1.0, 1.0)
    assert beside.model["unshared"] == SubsetScores(1, 0.0, 0.0)
    assert astuple(beside.rule["all"])[:2] == pytest.approx((3, 2 / 3))
    assert astuple(beside.rule["shared"])[:2] == (2, 0.5)
    assert beside.rule["unshared"] == SubsetScores(1, 1.0, 1.0)
    assert "model accuracy" in render_audit(audit(path, group_by="video", predictions=run))


def test_a_run_of_other_clips_is_refused(tmp_path: Path):
    path = write(tmp_path, CLIPS)
    with pytest.raises(InvalidInput, match="none of the test clips"):
        audit(path, group_by="video", predictions=write_run(tmp_path / "a", {"x": "joy"}, {"x": "joy"}))
    with pytest.raises(InvalidInput, match="'joy' for c8, the manifest 'anger'"):
        audit(path, group_by="video", predictions=write_run(tmp_path / "b", {"c8": "joy"}, {"c8": "joy"}))
    with pytest.raises(UnreadableInput, match="no finished run"):
        audit(path, group_by="video", predictions=str(tmp_path))


def test_what_can_not_be_audited(tmp_path: Path):
    path = write(tmp_path, CLIPS)
    with pytest.raises(InvalidInput, match="no column 'speaker'; group by one of id, video, label, split"):
        audit(path, group_by="speaker")
    with pytest.raises(
        InvalidInput, match="no split 'eval'; name the training and test splits; the manifest has dev, test, train"
    ):
        audit(path, group_by="video", test="eval")
    with pytest.raises(InvalidInput, match="no labels"):
        audit(write(tmp_path, [("a", "", "train"), ("b", "", "test")]), group_by="video")


def test_without_splits_the_sources_are_audited_alone(tmp_path: Path):
    found = audit(write(tmp_path, [(video, label, "") for video, label, _ in CLIPS]), group_by="video")
    assert (found.rule, found.shared, found.pure) == (None, [], 2)
    assert "There are no splits" in render_audit(found)


def test_clips_without_a_group_or_a_label(tmp_path: Path):
    clips = [("", "joy", "train"), ("", "anger", "test"), ("a", "", "train"), ("a", "joy", "test"), ("a", "", "test")]
    found = audit(write(tmp_path, clips), group_by="video")
    assert found.groups == 3
    assert found.shared == [SplitOverlap(("train", "test"), 1, (2, 2), (1, 2), (2, 3))]
    assert found.rule is not None
    assert astuple(found.rule["all"]) == pytest.approx((2, 0.5, 1 / 3))


def test_the_label_is_told_by_the_group_or_not(tmp_path: Path):
    told = [(str(n % 4), ("joy", "anger")[n % 2], "") for n in range(40)]
    untold = [(str(n % 4), ("joy", "anger")[n // 4 % 2], "") for n in range(40)]
    assert audit(write(tmp_path, told), group_by="video").told == pytest.approx(1)
    assert audit(write(tmp_path, untold), group_by="video").told < 0.05


CORPUS = st.lists(
    st.tuples(st.sampled_from([*"abcdefghijkl", ""]), st.sampled_from(["joy", "anger", ""]), st.sampled_from("xyz")),
    min_size=3,
    max_size=60,
)


@settings(max_examples=examples(50))
@given(clips=CORPUS, seed=st.integers(0, 3))
def test_a_new_split_shares_no_group(clips: list[tuple[str, str, str]], seed: int, tmp_path_factory: Any):
    folder = tmp_path_factory.mktemp("split")
    groups = len({video for video, _, _ in clips if video}) + sum(not video for video, _, _ in clips)
    path = write(folder, clips)
    if groups < len({split for _, _, split in clips}):
        with pytest.raises(InvalidInput, match="groups can't be divided"):
            split_by_group(path, group_by="video", seed=seed)
        return
    output = str(folder / "new.csv")
    found = split_by_group(path, group_by="video", output=output, seed=seed)
    again = read_manifest(output).table
    assert again.equals(found.table.cast(again.schema))
    assert again.drop_columns(["split", "split_before"]).equals(read_manifest(path).table.drop_columns(["split"]))
    assert again.column("split_before").to_pylist() == [split for _, _, split in clips]
    homes: dict[str, set[str]] = {}
    for row in again.to_pylist():
        if row["video"]:
            homes.setdefault(row["video"], set()).add(row["split"])
    assert all(len(splits) == 1 for splits in homes.values())
    assert split_by_group(path, group_by="video", seed=seed).table.equals(found.table)


def test_a_new_split_keeps_its_shares(tmp_path: Path):
    clips = [
        (f"v{n // 3}", ("joy", "anger", "joy", "fear")[n // 3 % 4], ("train", "test")[n % 5 == 0]) for n in range(600)
    ]
    path = write(tmp_path, clips)
    for size, expected in ((None, 120), (0.3, 180)):
        found = split_by_group(path, group_by="video", test_size=size)
        assert Counter(found.table.column("split").to_pylist())["test"] == pytest.approx(expected, abs=3)
        for split, counts in found.after.items():
            clips_of_split = sum(counts.values())
            assert counts["joy"] / clips_of_split == pytest.approx(0.5, abs=0.03), split
            assert counts["fear"] / clips_of_split == pytest.approx(0.25, abs=0.03), split
    text = render_split(found)
    assert "Labels before" in text
    assert "Labels after" in text
    assert not split_by_group(path, group_by="video", seed=1).table.equals(split_by_group(path, group_by="video").table)


def test_a_first_split(tmp_path: Path):
    path = write(tmp_path, [(str(n), "joy", "") for n in range(10)])
    with pytest.raises(InvalidInput, match="--test-size"):
        split_by_group(path, group_by="video")
    found = split_by_group(path, group_by="video", test_size=0.2)
    assert Counter(found.table.column("split").to_pylist()) == {"train": 8, "test": 2}
    with pytest.raises(InvalidInput, match="no fraction"):
        split_by_group(path, group_by="video", test_size=20.0)


@pytest.mark.skipif("MEACORPUS" not in os.environ, reason="MEACORPUS names no folder with the corpus's list")
def test_meacorpus(tmp_path: Path):
    path = str(Path(os.environ["MEACORPUS"], "dataset-with-video-keys.csv"))
    text = render_audit(audit(path, group_by="youtube_key"))
    assert "436 of 877 test groups" in text
    assert "551 of 1,027 test clips" in text
    assert "else neutral" in text
    [line] = [line for line in text.splitlines() if line.startswith("all ")]
    assert line.split() == ["all", "1,027", "85.0", "%", "82.8"]
    output = str(tmp_path / "new.csv")
    split_by_group(path, group_by="youtube_key", output=output)
    assert audit(output, group_by="youtube_key").shared[0].groups == 0
