"""Which clips are learned from: roles by split, parts that share no group, and the labels of the model."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from speech_emotion_jax.corpus.manifest import FIELDS, Manifest
from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.training.corpus import (
    Corpus,
    add_validation,
    assign_roles,
    choose_labels,
    rows_by_group,
    split_into_folds,
)
from speech_emotion_jax.training.recipe import DataConfig

LABELS = st.sampled_from(["anger", "disgust", "fear", "joy", "neutral", "sadness"])
SEEDS = st.integers(0, 5)


def manifest(
    label: Sequence[str | None], label_map: dict[str, str] | None = None, **columns: Sequence[Any]
) -> Manifest:
    """A manifest of those labels with other columns beside them."""
    cells = {"id": [f"clip {number}" for number in range(len(label))], "label": label, **columns}
    table = pa.table({name: pa.array(cell, FIELDS.get(name, pa.string())) for name, cell in cells.items()})
    held = {field: field for field in FIELDS if field in cells}
    return Manifest("m.csv", table, held, "", label_map or {}, "s", np.arange(1, len(label) + 1), (), False)


def counts(labels: Sequence[str | None], rows: Sequence[int]) -> Counter[str | None]:
    return Counter(labels[row] for row in rows)


# Parts


@given(st.lists(LABELS, min_size=2, max_size=60), st.integers(2, 10), SEEDS)
def test_folds_of_rows_have_each_label_in_proportion(labels: list[str], count: int, seed: int):
    count = min(count, len(labels))
    parts = split_into_folds(manifest(labels), range(len(labels)), count, None, seed)
    assert sorted(row for part in parts for row in part) == list(range(len(labels)))
    assert all(part == sorted(part) for part in parts)
    sizes = [len(part) for part in parts]
    assert max(sizes) - min(sizes) <= 1
    for label in set(labels):
        shares = [counts(labels, part)[label] for part in parts]
        assert max(shares) - min(shares) <= 1


@given(st.lists(st.tuples(LABELS, st.integers(0, 12)), min_size=2, max_size=60), st.integers(2, 10), SEEDS)
def test_folds_share_no_group_and_none_is_empty(clips: list[tuple[str, int]], count: int, seed: int):
    """However few the groups, however rare and however tied to a group the labels are. Group 0 is no group."""
    labels = [label for label, _ in clips]
    speakers = [f"s{group}" if group else "" for _, group in clips]
    found = manifest(labels, speaker=speakers)
    groups = [speaker or row for row, speaker in enumerate(speakers)]
    if len(set(groups)) < count:
        with pytest.raises(InvalidInput, match=f"fewer than {count} folds"):
            split_into_folds(found, range(len(labels)), count, "speaker", seed)
        return
    parts = split_into_folds(found, range(len(labels)), count, "speaker", seed)
    assert sorted(row for part in parts for row in part) == list(range(len(labels)))
    assert all(len(part) for part in parts)
    held = [{groups[row] for row in part} for part in parts]
    assert sum(map(len, held)) == len(set(groups))


def test_folds_of_even_speakers_are_even():
    """Ten speakers who say each label as often: five folds have two of them each."""
    labels = ["anger", "joy", "fear"] * 40
    speakers = [f"s{row // 12}" for row in range(120)]
    for seed in range(5):
        parts = split_into_folds(manifest(labels, speaker=speakers), range(120), 5, "speaker", seed)
        assert [len({speakers[row] for row in part}) for part in parts] == [2] * 5


def test_a_rare_label_does_not_end_the_proportions_of_the_others():
    labels = ["joy"] * 60 + ["anger"] * 20 + ["fear"] * 2
    for part in split_into_folds(manifest(labels), range(82), 10, None, 0):
        found = counts(labels, part)
        assert (found["joy"], found["anger"]) == (6, 2)
        assert found["fear"] <= 1


def test_folds_follow_the_seed_alone():
    found = manifest(["joy", "anger"] * 20)
    first, again, other = (split_into_folds(found, range(40), 4, None, seed) for seed in (0, 0, 1))
    assert first == again
    assert first != other


def test_folds_are_of_the_rows_asked_for():
    labels = ["joy", None] * 10
    parts = split_into_folds(manifest(labels), range(0, 20, 2), 5, None, 0)
    assert sorted(row for part in parts for row in part) == list(range(0, 20, 2))


def test_groups_are_in_the_order_of_the_manifest_and_of_every_row():
    found = manifest(["joy"] * 5, speaker=["b", "a", "b", "10", None])
    assert rows_by_group(found, [0, 1, 2, 3], "speaker") == {"b": [0, 2], "a": [1], "10": [3]}
    with pytest.raises(InvalidInput, match=r"row 5 of m.csv has nothing in 'speaker'"):
        rows_by_group(found, range(5), "speaker")


# Roles


@given(
    st.lists(st.tuples(LABELS, st.integers(0, 8)), min_size=1, max_size=60),
    st.sampled_from([0.01, 0.1, 0.25, 0.4, 0.7, 0.99]),
    SEEDS,
)
def test_the_validation_shares_no_group_with_the_training(clips: list[tuple[str, int]], share: float, seed: int):
    labels, speakers = [label for label, _ in clips], [f"s{group}" for _, group in clips]
    data = DataConfig(valid_share=share, group_by="speaker")
    found = manifest(labels, speaker=speakers)
    if len(set(speakers)) == 1:
        with pytest.raises(InvalidInput, match="no second group in 'speaker'"):
            assign_roles(found, data, seed)
        return
    corpus = assign_roles(found, data, seed)
    train, valid = ({speakers[row] for row in corpus.rows(role)} for role in ("train", "valid"))
    assert train
    assert valid
    assert not train & valid
    assert train | valid == set(speakers)


@pytest.mark.parametrize("share", [0.05, 0.1, 0.25, 0.4, 0.7, 0.9])
def test_the_validation_is_as_large_as_asked_for(share: float):
    labels = ["joy"] * 200 + ["anger"] * 100 + ["fear"] * 20
    corpus = assign_roles(manifest(labels), DataConfig(valid_share=share), 0)
    for label, clips in counts(labels, corpus.rows("valid")).items():
        assert clips == pytest.approx(share * labels.count(str(label)), abs=1)


def test_splits_decide_and_what_has_no_label_or_no_split_has_no_role():
    found = manifest(
        ["joy", "joy", "anger", "calm", None, "anger", "joy", "joy"],
        {"calm": ""},
        split=["train", "dev", "test", "train", "train", None, "", "other"],
    )
    corpus = assign_roles(found, DataConfig(valid="dev"), 0)
    assert corpus.roles == ("train", "valid", "test", None, None, None, None, None)
    assert corpus.used().table.column("id").to_pylist() == ["clip 0", "clip 1", "clip 2"]
    assert corpus.used().file_rows.tolist() == [1, 2, 3]
    assert assign_roles(found, DataConfig(valid="dev", test=None), 0).rows("test") == []


@pytest.mark.parametrize("data", [DataConfig(), DataConfig(test=None), DataConfig(valid="dev", test=None)])
def test_rows_without_a_split_are_in_no_role(data: DataConfig):
    """Not even in that of a split that the recipe does not name."""
    found = manifest(["joy", "anger"] * 10, split=["train"] * 12 + ["dev"] * 4 + [None] * 4)
    assert assign_roles(found, data, 0).roles[16:] == (None,) * 4


def test_without_splits_all_is_for_training():
    corpus = assign_roles(manifest(["joy", "anger"] * 10), DataConfig(), 0)
    assert (len(corpus.rows("train")), len(corpus.rows("valid")), len(corpus.rows("test"))) == (18, 2, 0)


@pytest.mark.parametrize(
    ("data", "sentence"),
    [
        (DataConfig(train="learn"), "no labelled rows of the split 'learn'; there are dev, test, train"),
        (DataConfig(valid="test", test=None), "no labelled rows of the split 'test'"),
        (DataConfig(valid="train"), "are train, train, test; name each split once"),
        (DataConfig(test="train"), "name each split once"),
        (DataConfig(train="dev"), "no second row to learn from"),
        (DataConfig(group_by="nobody"), "no column 'nobody' to group by; there are id, label, split"),
    ],
)
def test_splits_that_cannot_be_used(data: DataConfig, sentence: str):
    found = manifest(["joy", "anger", "joy", None], split=["train", "train", "dev", "test"])
    with pytest.raises(InvalidInput, match=sentence):
        assign_roles(found, data, 0)


def test_a_role_stands_beside_the_manifest_and_takes_the_place_of_an_earlier_one():
    found = manifest(["joy", "anger"] * 5, role=["test"] * 10)
    corpus = Corpus(found, ("train",) * 9 + (None,))
    table = corpus.table()
    assert table.column_names == ["id", "label", "role"]
    assert table.column("role").to_pylist() == list(corpus.roles)
    assert corpus.columns() == {"id": "id", "label": "label", "split": "role"}


def test_a_validation_leaves_the_other_roles_alone():
    corpus = Corpus(manifest(["joy"] * 12), ("train",) * 8 + ("test",) * 3 + (None,))
    divided = add_validation(corpus, DataConfig(valid_share=0.25), 0)
    assert divided.roles[8:] == corpus.roles[8:]
    assert Counter(divided.roles[:8]) == {"train": 6, "valid": 2}


# Labels


def labels_of(
    own: Sequence[str | None],
    *,
    named: tuple[str, ...] = (),
    checkpoint: Sequence[str] | None = None,
    keep_head: bool = False,
) -> tuple[str, ...]:
    corpus = Corpus(manifest(own), ("train",) * len(own))
    return choose_labels(corpus, replace(DataConfig(), labels=named), checkpoint, keep_head=keep_head)


def test_the_labels_are_the_corpus_own_sorted():
    """Those of all clips that have a role: few clips may leave a label to the validation alone."""
    assert labels_of(["joy", "anger", None, "joy"]) == ("anger", "joy")
    corpus = Corpus(manifest(["joy", "anger", "fear", "disgust"]), ("train", "train", "valid", None))
    assert choose_labels(corpus, DataConfig(), None, keep_head=False) == ("anger", "fear", "joy")


def test_the_labels_are_those_of_a_checkpoint_that_has_them():
    assert labels_of(["joy", "anger"], checkpoint=["joy", "fear", "anger"]) == ("joy", "fear", "anger")
    assert labels_of(["joy", "anger"], checkpoint=["joy", "fear"]) == ("anger", "joy")
    assert labels_of(["joy", "anger"], checkpoint=["joy", "fear"], keep_head=True) == ("joy", "fear")


def test_the_labels_are_those_the_recipe_names():
    named = ("joy", "fear", "anger")
    assert labels_of(["joy", "anger"], named=named, checkpoint=["joy", "anger"]) == named
    assert labels_of(["joy", "anger"], named=named, checkpoint=named, keep_head=True) == named
    with pytest.raises(InvalidInput, match=r"leave data.labels out, or start with a fresh head"):
        labels_of(["joy", "anger"], named=named, checkpoint=["joy", "anger"], keep_head=True)


def test_one_label_is_nothing_to_learn():
    with pytest.raises(InvalidInput, match="has one label to learn, joy; two are needed"):
        labels_of(["joy", "joy"])
