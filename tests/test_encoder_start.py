"""Pretrained encoders as starting points: every form their files come in, and every fault."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from safetensors.torch import load_file
from transformers import (
    BertForMaskedLM,
    BertForSequenceClassification,
    RobertaForMaskedLM,
    RobertaModel,
    SeamlessM4TFeatureExtractor,
    Wav2Vec2BertForCTC,
    Wav2Vec2BertForSequenceClassification,
    Wav2Vec2BertModel,
)

from speech_emotion_jax.checkpoints import load_encoder
from speech_emotion_jax.config import BertConfig, EmotionConfig, Wav2Vec2BertConfig
from speech_emotion_jax.convert.encoder import Encoder, open_encoder
from speech_emotion_jax.convert.engine import convert, write_safetensors
from speech_emotion_jax.convert.published import Origin
from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.models.parameters import parameter_shapes
from speech_emotion_jax.registry import MODES

from .support.checkpoints import write_bert, write_roberta
from .support.folders import WEIGHTS, Folders, Tensors, copied, opened, pickled, refusal, rewrite, rewrite_json
from .support.loopback_hub import LoopbackHub, loopback_hub

AUDIO_SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 80,
    "classifier_proj_size": 24,
    "vocab_size": 30,
}


def write_audio(folder: Path, kind: type[Any] = Wav2Vec2BertModel, **overrides: Any) -> Path:
    torch.manual_seed(0)
    kind(transformers.Wav2Vec2BertConfig(**AUDIO_SIZES, **overrides)).save_pretrained(folder)
    SeamlessM4TFeatureExtractor(padding_value=1).save_pretrained(folder)
    return folder


def write_text(folder: Path, kind: type[Any]) -> Path:
    """The tokenizer and sizes of the tests' own text encoders, with transformers' weights."""
    write = write_roberta if kind.config_class is transformers.RobertaConfig else write_bert
    config = kind.config_class.from_pretrained(write(folder, "es"))
    (folder / WEIGHTS).unlink()
    torch.manual_seed(0)
    kind(config).save_pretrained(folder)
    return folder


def read(folder: Path, kind: str) -> tuple[Encoder, dict[str, np.ndarray]]:
    encoder = open_encoder(Origin.local(folder), kind)
    return encoder, dict(encoder.parameters())


def shapes_of_encoder(config: Wav2Vec2BertConfig | BertConfig) -> dict[str, tuple[int, ...]]:
    if isinstance(config, BertConfig):
        model = EmotionConfig("text", ("x",), None, config, None, head_width=config.hidden_size)
    else:
        model = EmotionConfig("audio", ("x",), config, None)
    return {path: shape for path, shape in parameter_shapes(model).items() if "_encoder." in path}


def equal(ours: dict[str, np.ndarray], others: dict[str, np.ndarray]) -> None:
    assert ours.keys() == others.keys()
    for path, array in ours.items():
        np.testing.assert_array_equal(array, others[path])


# Forms of the audio encoder


def test_a_bare_audio_encoder(tmp_path: Path) -> None:
    folder = write_audio(tmp_path / "w2v")
    encoder, parameters = read(folder, "audio")
    assert {path: array.shape for path, array in parameters.items()} == shapes_of_encoder(encoder.config)
    assert isinstance(encoder.config, Wav2Vec2BertConfig)
    assert encoder.config.mask_embedding
    assert encoder.folder == folder
    assert encoder.sha256().keys() == {WEIGHTS}
    tensors = load_file(folder / WEIGHTS)
    assert not any(name.startswith("wav2vec2_bert.") for name in tensors)
    np.testing.assert_array_equal(parameters["audio_encoder.masked_spec_embed"], tensors["masked_spec_embed"])
    np.testing.assert_array_equal(
        parameters["audio_encoder.layers.ffn1.output_dense.kernel"][1],
        tensors["encoder.layers.1.ffn1.output_dense.weight"].T,
    )


@pytest.mark.parametrize(
    ("kind", "overrides", "more"),
    [
        (Wav2Vec2BertForCTC, {}, set()),
        (Wav2Vec2BertForCTC, {"add_adapter": True}, set()),
        (Wav2Vec2BertForSequenceClassification, {}, {"projector.kernel", "projector.bias"}),
        (
            Wav2Vec2BertForSequenceClassification,
            {"use_weighted_layer_sum": True},
            {"projector.kernel", "projector.bias", "layer_weights"},
        ),
    ],
)
def test_an_audio_encoder_inside_a_model(
    tmp_path: Path, kind: type[Any], overrides: dict[str, Any], more: set[str]
) -> None:
    folder = write_audio(tmp_path / "inside", kind, **overrides)
    encoder, parameters = read(folder, "audio")
    assert parameters.keys() == shapes_of_encoder(encoder.config).keys() | more
    tensors = load_file(folder / WEIGHTS)
    for ours, theirs in (
        ("audio_encoder.feature_projection.bias", "wav2vec2_bert.feature_projection.projection.bias"),
        ("projector.bias", "projector.bias"),
        ("layer_weights", "layer_weights"),
    ):
        if ours in parameters:
            np.testing.assert_array_equal(parameters[ours], tensors[theirs])


def test_no_vector_for_masked_frames(tmp_path: Path) -> None:
    encoder, parameters = read(write_audio(tmp_path / "w2v", mask_time_prob=0.0), "audio")
    assert isinstance(encoder.config, Wav2Vec2BertConfig)
    assert not encoder.config.mask_embedding
    assert "audio_encoder.masked_spec_embed" not in parameters


def test_no_preprocessor_is_no_fault_and_another_one_is(tmp_path: Path) -> None:
    folder = write_audio(tmp_path / "w2v")
    rewrite_json(folder / "preprocessor_config.json", stride=1)
    assert "stride 1" in refusal(lambda: open_encoder(Origin.local(folder), "audio"))
    (folder / "preprocessor_config.json").unlink()
    open_encoder(Origin.local(folder), "audio")


# Forms of the text encoder


@pytest.mark.parametrize(
    "kind", [BertForMaskedLM, BertForSequenceClassification, RobertaForMaskedLM, RobertaModel], ids=lambda k: k.__name__
)
def test_a_text_encoder(tmp_path: Path, kind: type[Any]) -> None:
    folder = write_text(tmp_path / "text", kind)
    encoder, parameters = read(folder, "text")
    assert {path: array.shape for path, array in parameters.items()} == shapes_of_encoder(encoder.config)
    tensors = load_file(folder / WEIGHTS)
    [name] = [name for name in tensors if name.endswith("encoder.layer.1.intermediate.dense.weight")]
    assert name.startswith("encoder.") == (kind is RobertaModel)
    np.testing.assert_array_equal(parameters["text_encoder.layers.intermediate.kernel"][1], tensors[name].T)
    assert isinstance(encoder.config, BertConfig)
    assert encoder.config.model_type == kind.config_class.model_type


@pytest.mark.parametrize(
    "form", [{"prefix": "bert."}, {"old_names": True}, {"prefix": "bert.", "old_names": True}], ids=" ".join
)
def test_forms_of_bert_give_the_same_encoder(tmp_path: Path, form: dict[str, Any]) -> None:
    equal(
        read(write_bert(tmp_path / "plain", "es"), "text")[1],
        read(write_bert(tmp_path / "form", "es", **form), "text")[1],
    )


def test_heads_of_the_pretraining_and_a_torch_file(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "beto", "es", prefix="bert.", old_names=True, extra_heads=True)
    _, before = read(folder, "text")
    pickled(folder, "pytorch_model.bin")
    equal(read(folder, "text")[1], before)


def test_a_text_encoder_needs_its_tokenizer(tmp_path: Path) -> None:
    folder = write_bert(tmp_path / "beto", "es")
    for name in ("tokenizer.json", "vocab.txt"):
        (folder / name).unlink()
    assert "no tokenizer" in refusal(lambda: open_encoder(Origin.local(folder), "text"), UnreadableInput)


# Faults


def spoil_audio(tensors: Tensors) -> None:
    tensors["feature_projection.projection.bias"] = torch.ones(3)
    tensors["encoder.layers.7.ffn1.output_dense.bias"] = torch.ones(32)
    tensors["quantizer.codevectors"] = torch.ones(3)
    del tensors["encoder.layers.1.ffn2_layer_norm.weight"]
    tensors["encoder.layers.0.final_layer_norm.bias"][3] = torch.nan


def spoil_text(tensors: Tensors) -> None:
    tensors["roberta.embeddings.LayerNorm.bias"] = torch.ones(3)
    tensors["roberta.encoder.layer.7.output.dense.bias"] = torch.ones(24)
    tensors["quantizer.codevectors"] = torch.ones(3)
    del tensors["roberta.encoder.layer.1.output.LayerNorm.weight"]
    tensors["roberta.encoder.layer.0.output.dense.bias"][3] = torch.nan


@pytest.mark.parametrize("kind", ["audio", "text"])
def test_all_faults_are_named_at_once(tmp_path: Path, kind: str) -> None:
    folder = tmp_path / "model"
    if kind == "audio":
        rewrite(write_audio(folder), spoil_audio)
    else:
        rewrite(write_text(folder, RobertaForMaskedLM), spoil_text)
    message = refusal(lambda: open_encoder(Origin.local(folder), kind))
    assert message.count(";") == 4
    for fault in ("has shape (3,)", "is unknown", "is missing", "is beyond the model's 2 layers", "is not finite"):
        assert fault in message


@pytest.mark.parametrize("name", ["projector.weight", "projector.bias"])
def test_half_a_projector(tmp_path: Path, name: str) -> None:
    folder = write_audio(tmp_path / "inside", Wav2Vec2BertForSequenceClassification)
    rewrite(folder, lambda tensors: tensors.pop(name))
    assert f"{name} is missing" in refusal(lambda: open_encoder(Origin.local(folder), "audio"))


def test_a_value_that_is_not_finite_stops_the_reading(tmp_path: Path) -> None:
    folder = write_audio(tmp_path / "w2v")
    rewrite(folder, lambda tensors: tensors["masked_spec_embed"].fill_(torch.inf))
    assert "masked_spec_embed is not finite" in refusal(lambda: load_encoder(str(folder), "audio"))


# By name: any of the three kinds of folder, and hub ids


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_what_is_read_is_float32(tmp_path: Path, dtype: str) -> None:
    folder = write_bert(tmp_path / "text", "es", dtype=dtype)
    config, parameters, place = load_encoder(str(folder), "text")
    assert {array.dtype for array in parameters.values()} == {np.dtype(np.float32)}
    assert place == folder
    assert config == BertConfig.from_json(json.loads((folder / "config.json").read_text()))
    equal(parameters, {path: array.astype(np.float32) for path, array in read(folder, "text")[1].items()})


@pytest.mark.slow
@pytest.mark.parametrize("form", ["published", "converted", "exported"])
@pytest.mark.parametrize("mode", MODES)
def test_the_encoders_of_an_emotion_checkpoint(published: Folders, tmp_path: Path, mode: str, form: str) -> None:
    text = published("text_encoder", "es") if mode not in ("text", "audio") else None
    whole = dict(opened(published(mode, "es"), mode, "es", text).parameters())
    folder = published(mode, "es")
    if form != "published":
        convert(opened(folder, mode, "es", text), tmp_path / "converted")
        write_safetensors(tmp_path / "converted", tmp_path / "exported")
        folder = tmp_path / form
    fused = {"audio"} if form == "published" else {"audio", "text"}  # whose text encoder is published elsewhere
    held = {mode} if text is None else fused
    taken = {"audio": ("audio_encoder.", "projector."), "text": ("text_encoder.",)}
    for kind in ("audio", "text"):
        if kind not in held:
            message = refusal(lambda kind=kind: load_encoder(str(folder), kind))
            assert str(folder) in message
            continue
        start = load_encoder(str(folder), kind)
        equal(start.parameters, {path: array for path, array in whole.items() if path.startswith(taken[kind])})
        inside = kind == "text" and mode != "text"
        assert start.folder == (folder / "text_encoder" if inside else folder)


@pytest.mark.parametrize("kind", ["audio", "text"])
def test_a_whisper_is_refused(whisper_tiny: Path, kind: str) -> None:
    message = refusal(lambda: load_encoder(str(whisper_tiny), kind))
    assert "'whisper'" in message
    assert "name one such as" in message


def test_an_encoder_of_the_other_kind_is_refused(tmp_path: Path) -> None:
    audio = write_audio(tmp_path / "w2v")
    message = refusal(lambda: load_encoder(str(write_bert(tmp_path / "beto", "es")), "audio"))
    assert "of model_type 'bert', and the encoder of audio has to be wav2vec2-bert" in message
    assert "holds no text encoder" in refusal(lambda: load_encoder(str(audio), "text"))


def test_a_path_that_does_not_exist() -> None:
    assert "./nowhere does not exist" in refusal(lambda: load_encoder("./nowhere", "audio"), UnreadableInput)


@pytest.fixture
def hub(published: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", str(tmp_path / "cache"))
    convert(opened(published("mean", "es"), "mean", "es", published("text_encoder", "es")), tmp_path / "converted")
    write_safetensors(tmp_path / "converted", tmp_path / "exported")
    folders = {"facebook/w2v": write_audio(tmp_path / "w2v"), "someone/mean": tmp_path / "exported"}
    with loopback_hub(folders, home=tmp_path / "home") as server:
        yield server


def test_a_hub_id(hub: LoopbackHub, tmp_path: Path) -> None:
    start = load_encoder("facebook/w2v", "audio")
    equal(start.parameters, read(tmp_path / "w2v", "audio")[1])
    assert (start.folder / "preprocessor_config.json").is_file()
    sent = hub.files_sent()
    assert sent.count("model.safetensors") == 1
    hub.stop()
    equal(load_encoder("facebook/w2v", "audio").parameters, start.parameters)
    assert hub.files_sent() == sent
    assert not (tmp_path / "cache").exists()


def test_the_text_encoder_inside_a_repository(hub: LoopbackHub, published: Folders) -> None:
    start = load_encoder("someone/mean", "text")
    equal(start.parameters, read(published("text_encoder", "es"), "text")[1])
    assert start.folder.name == "text_encoder"


def test_nothing_large_is_downloaded_of_the_wrong_kind(hub: LoopbackHub, tmp_path: Path) -> None:
    hub.commit("someone/bert", write_bert(tmp_path / "bert", "es"))
    with pytest.raises(InvalidInput, match="someone/bert is of model_type 'bert'"):
        load_encoder("someone/bert", "audio")
    assert hub.files_sent() == ["config.json"]


def test_a_converted_whisper_is_refused(whisper_tiny: Path, tmp_path: Path) -> None:
    from speech_emotion_jax.convert.whisper import open_whisper

    convert(open_whisper(Origin.local(copied(whisper_tiny, tmp_path / "whisper"))), tmp_path / "converted")
    assert "is a Whisper checkpoint" in refusal(lambda: load_encoder(str(tmp_path / "converted"), "audio"))
