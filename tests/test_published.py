"""What a published folder may be: its mode, files, labels and weights."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from speech_emotion_jax.convert.engine import convert
from speech_emotion_jax.convert.published import MODEL, TEXT_ENCODER
from speech_emotion_jax.convert.record import read_record
from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.registry import FUSION_MODES, LABELS, MODES

from .support.checkpoints import TINY, write_bert
from .support.folders import (
    WEIGHTS,
    Folders,
    Tensors,
    copied,
    opened,
    pickled,
    predict,
    refusal,
    rewrite_json,
)

# The same few programs run for many checkpoints.


# Mode, text encoder, and the files of a folder


@pytest.mark.parametrize("asked", MODES)
@pytest.mark.parametrize("mode", MODES)
def test_weights_of_another_mode(published: Folders, mode: str, asked: str) -> None:
    model, text = published(mode, "es"), published("text_encoder", "es")
    if mode == asked or {mode, asked} == {"audio", "mean"}:  # these two hold the same tensors
        assert opened(model, asked, "es", text).config.mode == asked
        return
    message = refusal(lambda: opened(model, asked, "es", text))
    named = "audio or mean" if mode in ("audio", "mean") else mode
    assert f"{model} holds weights of mode {named}, not {asked}" in message


def test_no_emotion_checkpoint(published: Folders) -> None:
    for mode in MODES:
        message = refusal(lambda mode=mode: opened(published("text_encoder", "es"), mode))
        assert "is not an emotion checkpoint" in message


def test_unknown_mode_and_language(published: Folders) -> None:
    assert "the mode 'video' is unknown" in refusal(lambda: opened(published("audio", "es"), "video"))
    assert "the language 'fr' is unknown" in refusal(lambda: opened(published("audio", "es"), "audio", "fr"))


def test_a_fusion_mode_needs_a_text_encoder(published: Folders) -> None:
    assert "--text-encoder" in refusal(lambda: opened(published("concat", "es"), "concat"))


@pytest.mark.parametrize("mode", FUSION_MODES)
def test_a_text_encoder_of_another_width(published: Folders, tmp_path: Path, mode: str) -> None:
    text = write_bert(tmp_path / "text", "es", size=dataclasses.replace(TINY, text_width=30))
    message = refusal(lambda: opened(published(mode, "es"), mode, "es", text))
    assert "text vectors 24 wide, and the text encoder gives 30" in message


def test_a_text_encoder_that_is_no_bert(published: Folders, tmp_path: Path) -> None:
    model = published("mean", "es")
    message = refusal(lambda: opened(model, "mean", "es", published("text", "es")))
    assert "'roberta' where 'bert' is needed" in message
    other = copied(published("text_encoder", "es"), tmp_path / "other")
    rewrite_json(other / "config.json", model_type="distilbert")
    assert "'distilbert'" in refusal(lambda: opened(model, "mean", "es", other))
    rewrite_json(other / "config.json", model_type="bert", position_embedding_type="relative_key")
    assert "'relative_key'" in refusal(lambda: opened(model, "mean", "es", other))


@pytest.mark.parametrize(
    ("mode", "part", "name", "said"),
    [
        ("audio", MODEL, "config.json", "no config.json"),
        ("audio", MODEL, "preprocessor_config.json", "no preprocessor_config.json"),
        ("audio", MODEL, WEIGHTS, "no weights"),
        ("text", MODEL, "config.json", "no config.json"),
        ("text", MODEL, "tokenizer.json vocab.json", "no tokenizer"),
        ("mean", TEXT_ENCODER, "config.json", "no config.json"),
        ("mean", TEXT_ENCODER, "tokenizer.json vocab.txt", "no tokenizer"),
        ("mean", TEXT_ENCODER, WEIGHTS, "no weights"),
    ],
)
def test_a_file_is_missing(published: Folders, tmp_path: Path, mode: str, part: str, name: str, said: str) -> None:
    model = copied(published(mode, "es"), tmp_path / "model")
    text = copied(published("text_encoder", "es"), tmp_path / "text") if mode == "mean" else None
    place = model if part == MODEL else tmp_path / "text"
    for each in name.split():
        (place / each).unlink()
    message = refusal(lambda: opened(model, mode, "es", text), UnreadableInput)
    assert said in message
    assert str(place) in message


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b"[" * 100_000, b"\xff{}"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json"])
def test_broken_json(published: Folders, tmp_path: Path, name: str, content: bytes) -> None:
    model = copied(published("audio", "es"), tmp_path / "model")
    (model / name).write_bytes(content)
    error = UnreadableInput if content[:1] == b"\xff" else InvalidInput
    assert str(model / name) in refusal(lambda: opened(model, "audio"), error)


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("config.json", {"position_embeddings_type": "rotary"}, "'rotary'"),
        ("config.json", {"position_embeddings_type": "relative"}, "'relative'"),
        (
            "config.json",
            {"add_adapter": True, "use_weighted_layer_sum": True},
            "add_adapter and use_weighted_layer_sum",
        ),
        ("config.json", {"num_attention_heads": 5}, "5 attention heads"),
        ("preprocessor_config.json", {"stride": 1}, "stride 1"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate 8000"),
        ("preprocessor_config.json", {"padding_value": "1"}, "padding_value '1'"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    published: Folders, tmp_path: Path, file: str, values: dict[str, Any], said: str
) -> None:
    model = copied(published("audio", "es"), tmp_path / "model")
    rewrite_json(model / file, **values)
    assert said in refusal(lambda: opened(model, "audio"))


# Labels


def with_labels(folder: Path, id2label: object) -> Path:
    rewrite_json(folder / "config.json", id2label=id2label, label2id=None)
    return folder


def numbered(labels: Any) -> dict[str, str]:
    return {str(index): label for index, label in enumerate(labels)}


@pytest.fixture
def audio(published: Folders, tmp_path: Path) -> Path:
    """An audio checkpoint of six outputs, to be changed."""
    return copied(published("audio", "es"), tmp_path / "model")


@pytest.mark.parametrize("order", [1, -1])
def test_the_order_of_labels_is_the_checkpoints(audio: Path, order: int) -> None:
    labels = LABELS["es"][::order]
    assert opened(with_labels(audio, numbered(labels)), "audio").config.labels == labels


def test_the_order_in_the_file_is_by_number(audio: Path) -> None:
    backwards = dict(reversed(numbered(LABELS["es"]).items()))
    assert opened(with_labels(audio, backwards), "audio").config.labels == LABELS["es"]


@pytest.mark.parametrize("id2label", [None, {}, numbered(f"LABEL_{index}" for index in range(6))])
def test_no_labels_mean_the_published_order(audio: Path, id2label: object) -> None:
    with pytest.warns(UserWarning, match="published order: anger, disgust") as caught:
        assert opened(with_labels(audio, id2label), "audio").config.labels == LABELS["es"]
    assert len(caught) == 1


@pytest.mark.parametrize(
    "id2label",
    [
        numbered(LABELS["es"][:5]),
        numbered([*LABELS["es"], "surprise"]),
        numbered([*LABELS["es"][:5], "boredom"]),
        numbered([*LABELS["es"][:5], "anger"]),
        numbered([*LABELS["es"][:5], "LABEL_5"]),
        numbered(LABELS["en"]),
        {str(index + 1): label for index, label in enumerate(LABELS["es"])},
        {"a": "anger"},
        ["anger"],
        "anger",
    ],
    ids=str,
)
def test_other_labels_are_refused(audio: Path, id2label: object) -> None:
    message = refusal(lambda: opened(with_labels(audio, id2label), "audio"))
    assert "--labels" in message
    assert str(audio) in message


def test_seven_outputs_with_a_name_twice(published: Folders, tmp_path: Path) -> None:
    model = copied(published("audio", "en"), tmp_path / "model")
    with_labels(model, numbered([*LABELS["es"], "anger"]))
    assert "7 outputs" in refusal(lambda: opened(model, "audio", "es"))


def test_the_language_must_fit(published: Folders, tmp_path: Path) -> None:
    for mode in ("text", "audio"):
        for language, other in (("es", "en"), ("en", "es")):
            model = published(mode, language)
            message = refusal(lambda model=model, mode=mode, other=other: opened(model, mode, other))
            assert "--language" in message
    nameless = with_labels(copied(published("audio", "es"), tmp_path / "model"), None)
    assert "no label names" in refusal(lambda: opened(nameless, "audio", "en"))


def test_labels_given_replace_those_of_the_file(audio: Path, tmp_path: Path) -> None:
    given = ("calm", "tense", "glad", "low", "flat", "odd")
    convert(opened(audio, "audio", labels=given), tmp_path / "converted")
    assert read_record(tmp_path / "converted").config.labels == given
    assert tuple(predict(tmp_path / "converted")) == given


@pytest.mark.parametrize("given", [(), ("a", "b"), tuple("abcdefg"), tuple("abcdea"), ("a", "b", "c", "d", "e", "")])
def test_labels_given_must_fit_the_outputs(audio: Path, given: tuple[str, ...]) -> None:
    assert "6 outputs" in refusal(lambda: opened(audio, "audio", labels=given))


# Which weights, and broken ones


@pytest.mark.parametrize("name", ["model.bin", "pytorch_model.bin"])
def test_equal_weights_in_two_files(published: Folders, tmp_path: Path, name: str) -> None:
    model = copied(published("text", "es"), tmp_path / "model")
    pickled(model, name, load_file(model / WEIGHTS))
    for weights, used in ((None, WEIGHTS), ("safetensors", WEIGHTS), ("bin", name)):
        [file] = opened(model, "text", weights=weights).parts[MODEL].source.files
        assert file.name == used


@pytest.mark.parametrize("name", ["model.bin", "pytorch_model.bin"])
def test_different_weights_in_two_files(published: Folders, tmp_path: Path, name: str) -> None:
    model = copied(published("text", "es"), tmp_path / "model")
    tensors = load_file(model / WEIGHTS)
    tensors["classifier.out_proj.bias"] += torch.arange(6)
    pickled(model, name, tensors)
    message = refusal(lambda: opened(model, "text"))
    assert "in classifier.out_proj.bias" in message
    assert "--weights" in message
    ours = predict(published("text", "es"), mode="text", language="es")
    assert predict(model, mode="text", language="es", weights="safetensors") == ours
    other = predict(model, mode="text", language="es", weights="bin")
    assert other["sadness"] > 2 * ours["sadness"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda tensors: tensors.pop("projector.bias"), "only one of them has projector.bias"),
        (lambda tensors: tensors.update({"x": torch.ones(1)}), "only one of them has x"),
        (lambda tensors: tensors.update({"projector.bias": torch.ones(2)}), "projector.bias has another shape"),
        (lambda tensors: tensors.update({"projector.bias": torch.ones(24).double()}), "another shape or dtype"),
    ],
)
def test_how_two_files_differ(audio: Path, change: Callable[[Tensors], object], said: str) -> None:
    tensors = load_file(audio / WEIGHTS)
    change(tensors)
    pickled(audio, "model.bin", tensors)
    assert said in refusal(lambda: opened(audio, "audio"))


def test_a_text_encoders_other_weights_are_left_alone(published: Folders, tmp_path: Path) -> None:
    """The original lets transformers load it, which takes the safetensors."""
    text = copied(published("text_encoder", "es"), tmp_path / "text")
    pickled(text, "pytorch_model.bin", {"other": torch.ones(1)})
    parts = opened(published("mean", "es"), "mean", "es", text).parts
    assert [file.name for file in parts[TEXT_ENCODER].source.files] == [WEIGHTS]


@pytest.mark.parametrize(("weights", "left"), [("bin", WEIGHTS), ("safetensors", "model.bin")])
def test_weights_chosen_that_are_not_there(audio: Path, weights: str, left: str) -> None:
    if left == "model.bin":
        pickled(audio, left)
    assert str(audio) in refusal(lambda: opened(audio, "audio", weights=weights), UnreadableInput)


def test_unknown_choice_of_weights(audio: Path) -> None:
    assert "'onnx'" in refusal(lambda: opened(audio, "audio", weights="onnx"))


class Malicious:
    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.mark}",)


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
@pytest.mark.parametrize("beside", [True, False], ids=["beside safetensors", "alone"])
def test_a_pickle_runs_nothing(audio: Path, tmp_path: Path, beside: bool, archive: bool) -> None:
    tensors = load_file(audio / WEIGHTS)
    if not beside:
        (audio / WEIGHTS).unlink()
    pickled(audio, "model.bin", tensors | {"evil": Malicious(tmp_path / "mark")}, archive=archive)
    error = InvalidInput if beside else UnreadableInput
    message = refusal(lambda: opened(audio, "audio"), error)
    assert str(audio) in message
    assert ("--weights safetensors" in message) == beside
    assert not (tmp_path / "mark").exists()
    if beside:
        opened(audio, "audio", weights="safetensors")


def test_the_malicious_pickle_is_one(tmp_path: Path) -> None:
    torch.save({"evil": Malicious(tmp_path / "mark")}, tmp_path / "model.bin")
    torch.load(tmp_path / "model.bin", weights_only=False)
    assert (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "content",
    [[torch.ones(1)], {"state_dict": {"a": torch.ones(1)}}, {1: torch.ones(1)}, {"a": torch.ones(2).to_sparse()}],
    ids=["list", "nested", "numbered", "sparse"],
)
def test_a_pickle_of_something_else(audio: Path, content: Any) -> None:
    (audio / WEIGHTS).unlink()
    pickled(audio, "model.bin", content)
    assert str(audio / "model.bin") in refusal(lambda: opened(audio, "audio"))


@pytest.mark.parametrize("keep", [0, 1, 7, 5000, -1])
@pytest.mark.parametrize("form", ["safetensors", "archive", "legacy"])
def test_truncated_weights(audio: Path, form: str, keep: int) -> None:
    file = audio / WEIGHTS
    if form != "safetensors":
        pickled(audio, "model.bin", archive=form == "archive")
        file = audio / "model.bin"
    os.truncate(file, keep if keep >= 0 else file.stat().st_size + keep)
    assert str(file) in refusal(lambda: opened(audio, "audio"), UnreadableInput)


@pytest.mark.parametrize(
    ("weight_map", "error", "said"),
    [
        ({"a": "../x.safetensors"}, InvalidInput, "'../x.safetensors'"),
        ({"a": "/etc/passwd"}, InvalidInput, "'/etc/passwd'"),
        ({"a": ".."}, InvalidInput, "'..'"),
        ({"a": ""}, InvalidInput, "''"),
        ({"a": 3}, InvalidInput, "no weight_map"),
        (["a"], InvalidInput, "no weight_map"),
        (None, InvalidInput, "no weight_map"),
        ({}, UnreadableInput, "no weights"),
        ({"a": "b.safetensors", "c": "d.safetensors"}, UnreadableInput, "lacks b.safetensors, d.safetensors"),
        ({"a": "config.json"}, UnreadableInput, "not a whole safetensors file"),
    ],
)
def test_an_index_that_leads_astray(audio: Path, weight_map: object, error: type[Exception], said: str) -> None:
    (audio / WEIGHTS).unlink()
    (audio / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
    shutil.copy(audio / "config.json", audio.parent / "x.safetensors")
    assert said in refusal(lambda: opened(audio, "audio"), error)
