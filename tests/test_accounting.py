"""Every tensor is used once or on the list of the unused, and every fault is named at once."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, RobertaConfig, RobertaForSequenceClassification

from speech_emotion_jax import EmotionPipeline
from speech_emotion_jax.config import EmotionConfig
from speech_emotion_jax.convert.engine import convert
from speech_emotion_jax.convert.layouts import bert, fusion, roberta
from speech_emotion_jax.convert.published import MODEL, TEXT_ENCODER, tables_of
from speech_emotion_jax.convert.rules import Layout, Rule, TensorInfo, UnusedTensors, match
from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.models.parameters import parameter_shapes
from speech_emotion_jax.registry import FUSION_MODES, LABELS, LANGUAGES, MODES

from .support.checkpoints import FULL, audio_config, audio_shapes, shapes_of
from .support.examples import examples
from .support.folders import (
    WEIGHTS,
    Folders,
    Tensors,
    copied,
    opened,
    refusal,
    rewrite,
    rewrite_json,
)

# The same few programs run for many checkpoints.


# Every tensor is accounted for


def remove(tensors: Tensors, name: str) -> set[str]:
    del tensors[name]
    return {name}


def rename(tensors: Tensors, name: str) -> set[str]:
    tensors[f"{name}.old"] = tensors.pop(name)
    return {name, f"{name}.old"}


def add_unknown(tensors: Tensors, name: str) -> set[str]:
    tensors[f"extra.{name}"] = tensors[name].clone()
    return {f"extra.{name}"}


def lengthen(axis: int) -> Callable[[Tensors, str], set[str]]:
    def change(tensors: Tensors, name: str) -> set[str]:
        tensor = tensors[name]
        tensors[name] = torch.cat([tensor, tensor.narrow(axis, 0, 1)], axis)
        return {name}

    return change


def make_scalar(tensors: Tensors, name: str) -> set[str]:
    tensors[name] = torch.tensor(0.5)
    return {name}


def make_integer(tensors: Tensors, name: str) -> set[str]:
    tensors[name] = tensors[name].to(torch.int32)
    return {name}


def make_double(tensors: Tensors, name: str) -> set[str]:
    tensors[name] = tensors[name].double()
    return {name}


def set_value(value: float) -> Callable[[Tensors, str], set[str]]:
    def change(tensors: Tensors, name: str) -> set[str]:
        tensors[name].view(-1)[-1] = value
        return {name}

    return change


SHAPES = {"longer": lengthen(0), "wider": lengthen(-1), "scalar": make_scalar}
VALUES = {"NaN": set_value(float("nan")), "inf": set_value(float("-inf"))}
FAULTS = {
    "removed": remove,
    "renamed": rename,
    "unknown": add_unknown,
    "integer": make_integer,
    "double": make_double,
    **SHAPES,
    **VALUES,
}


def named_in(message: str) -> set[str]:
    """The tensors that a refusal names: each phrase begins with one."""
    _, phrases = message.split(" do not fit the model: ")
    return {phrase.split()[0] for phrase in phrases.split("; ")}


def spoilt(folder: Path, faults: dict[str, str]) -> set[str]:
    """Apply {tensor: fault} to the weights of a folder; returns the names that must be complained of."""
    wrong: set[str] = set()

    def change(tensors: Tensors) -> None:
        for name, fault in faults.items():
            wrong.update(FAULTS[fault](tensors, name))

    rewrite(folder, change)
    return wrong


UNUSED = {"classifier.layernorm.weight", "classifier.layernorm.bias"}
MASKED = "wav2vec2_bert.masked_spec_embed"
OUTPUTS = ["classifier.out_proj.weight", "classifier.out_proj.bias"]
WIDTHS = ["projector.weight", "projector.bias", "classifier.dense.weight", "classifier.dense.bias", *OUTPUTS]


@settings(max_examples=examples(12), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_all_faults_are_named_at_once(
    published: Folders, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    mode = data.draw(st.sampled_from(MODES))
    model = copied(published(mode, "es"), tmp_path_factory.mktemp("spoilt") / "model")
    names = sorted(load_file(model / WEIGHTS))
    faults = data.draw(st.dictionaries(st.sampled_from(names), st.sampled_from(sorted(FAULTS)), min_size=1, max_size=4))
    for name in faults.keys() & UNUSED:
        faults[name] = data.draw(st.sampled_from(sorted(VALUES)))  # other things don't matter there
    if faults.get(MASKED) in ("removed", "renamed"):
        del faults[MASKED]  # it need not be there
        assume(faults)
    assume(len(faults.keys() & set(WIDTHS)) < 2)  # else nothing tells the width
    text = published("text_encoder", "es") if mode in FUSION_MODES else None
    wrong = spoilt(model, faults)
    destination = model.with_name("converted")
    assert named_in(refusal(lambda: convert(opened(model, mode, "es", text), destination))) == wrong
    assert list(model.parent.iterdir()) == [model]


@pytest.mark.parametrize(
    ("mode", "name"),
    [("text", name) for name in OUTPUTS] + [(mode, name) for mode in ("audio", "concat") for name in WIDTHS],
)
def test_a_tensor_that_tells_a_width_is_not_believed_alone(
    published: Folders, tmp_path: Path, mode: str, name: str
) -> None:
    text = published("text_encoder", "es") if mode in FUSION_MODES else None
    for fault in ("removed", *SHAPES):
        model = copied(published(mode, "es"), tmp_path / fault)
        wrong = spoilt(model, {name: fault})
        assert named_in(refusal(lambda model=model: opened(model, mode, "es", text))) == wrong


@settings(max_examples=examples(8), suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_faults_of_the_text_encoder(
    published: Folders, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    text = copied(published("text_encoder", "es"), tmp_path_factory.mktemp("spoilt") / "text")
    names = st.sampled_from(sorted(load_file(text / WEIGHTS)))
    wrong = spoilt(text, data.draw(st.dictionaries(names, st.sampled_from(sorted(FAULTS)), min_size=1, max_size=4)))
    message = refusal(lambda: convert(opened(published("mean", "es"), "mean", "es", text), text / "converted"))
    assert str(text) in message
    assert named_in(message) == wrong
    assert not (text / "converted").exists()


def duplicate(folder: Path, form: str) -> str:
    """Add a second copy of a tensor under a name that means the same; returns the name complained of."""
    if form == "in two shards":
        name = "embeddings.LayerNorm.weight"
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
        save_file(tensors, folder / "a.safetensors")
        save_file({name: tensors[name]}, folder / "b.safetensors")
        index = {"weight_map": dict.fromkeys(tensors, "a.safetensors") | {name: "b.safetensors"}}
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        return name
    old, new = {
        "with and without prefix": ("encoder.layer.1.output.dense.bias", "bert.encoder.layer.1.output.dense.bias"),
        "gamma and weight": ("embeddings.LayerNorm.weight", "embeddings.LayerNorm.gamma"),
        "unused": ("pooler.dense.bias", "bert.pooler.dense.bias"),
    }[form]

    def add(tensors: Tensors) -> None:
        tensors[new] = tensors.setdefault(old, torch.ones(3)).clone()

    rewrite(folder, add)
    return max(old, new)  # the file is read in the order of the names


@pytest.mark.parametrize("form", ["in two shards", "with and without prefix", "gamma and weight", "unused"])
def test_duplicates(published: Folders, tmp_path: Path, form: str) -> None:
    text = copied(published("text_encoder", "es"), tmp_path / "text")
    also_wrong = spoilt(text, {"encoder.layer.0.output.dense.weight": "integer"})
    twice = duplicate(text, form)
    message = refusal(lambda: opened(published("mean", "es"), "mean", "es", text))
    assert len(named_in(message)) == 2
    assert also_wrong < named_in(message)
    assert twice in message


def test_a_tensor_that_is_not_finite_stops_the_conversion(published: Folders, tmp_path: Path) -> None:
    """Where nothing else is wrong it is found while writing; then, too, all are named and nothing stays."""
    model = copied(published("audio", "es"), tmp_path / "model")
    names = dict.fromkeys(["projector.bias", MASKED, "classifier.layernorm.bias"], "NaN")
    wrong = spoilt(model, names | {"wav2vec2_bert.encoder.layers.1.ffn2.output_dense.bias": "inf"})
    assert named_in(refusal(lambda: convert(opened(model, "audio"), tmp_path / "converted"))) == wrong
    with pytest.raises(InvalidInput, match="is not finite"):
        EmotionPipeline.from_pretrained(str(model), mode="audio", language="es")
    assert list(tmp_path.iterdir()) == [model]


def test_an_unused_tensor_that_can_not_be_carried(published: Folders, tmp_path: Path) -> None:
    text = copied(published("text_encoder", "es"), tmp_path / "text")
    rewrite(text, lambda tensors: tensors.update({"cls.bias": torch.ones(3).to(torch.float8_e4m3fn)}))
    message = refusal(lambda: opened(published("mean", "es"), "mean", "es", text))
    assert "cls.bias has dtype F8_E4M3" in message


def test_layers_beyond_the_configuration(published: Folders, tmp_path: Path) -> None:
    model = copied(published("audio", "es"), tmp_path / "model")
    rewrite_json(model / "config.json", num_hidden_layers=1)
    message = refusal(lambda: opened(model, "audio"))
    second = {name for name in load_file(model / WEIGHTS) if name.startswith("wav2vec2_bert.encoder.layers.1.")}
    *listed, more = message.partition("model: ")[2].split("; ")
    assert {phrase.split()[0] for phrase in listed} < second
    assert more == f"and {len(second) - len(listed)} more"


def test_a_whole_head_that_is_missing(published: Folders, tmp_path: Path) -> None:
    model = copied(published("multihead", "es"), tmp_path / "model")
    gone = [name for name in load_file(model / WEIGHTS) if name.startswith("mult_attn_model.heads.3.")]
    rewrite(model, lambda tensors: [tensors.pop(name) for name in gone])
    message = refusal(lambda: opened(model, "multihead", "es", published("text_encoder", "es")))
    assert "mult_attn_model.heads.3.Wq.weight is missing" in message


# The tables


def test_match_reports_what_its_table_lacks() -> None:
    layout = Layout(
        (Rule("a", "x"), Rule("layers.{i}.b", "y"), Rule("layers.0.b", "z")), (UnusedTensors("skip.*", "why"),)
    )
    tensors = dict.fromkeys(["a", "layers.0.b", "layers.1.b", "layers.01.b", "skip.me"], TensorInfo("F32", (2,)))
    _, problems = match(layout, tensors, {"x": (2,), "y": (2, 2), "z": (2,), "w": (1,)})
    assert sorted(problems) == [
        "layers.0.b fits 2 rules",
        "layers.0.b is missing",
        "layers.0.b is missing",
        "layers.01.b is unknown",
        "the model's w has no rule",
    ]


def published_shapes(mode: str, language: str) -> Mapping[str, tuple[int, ...]]:
    return parameter_shapes(EmotionConfig.published(language, mode))


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("mode", MODES)
def test_every_parameter_has_one_rule(mode: str, language: str) -> None:
    tables = tables_of(EmotionConfig.published(language, mode))
    assert tables.keys() == ({MODEL, TEXT_ENCODER} if mode in FUSION_MODES else {MODEL})
    for table in tables.values():
        targets = Counter(rule.target for rule in table.layout.rules)
        assert {path: targets[path] for path in table.shapes} == dict.fromkeys(table.shapes, 1)
    paths = [path for table in tables.values() for path in table.shapes]
    assert Counter(paths) == Counter(published_shapes(mode, language).keys())


def test_every_rule_has_a_parameter() -> None:
    audio = EmotionConfig.published("es", "audio")
    assert audio.audio is not None
    variants = [
        {"use_weighted_layer_sum": True},
        {"add_adapter": True, "output_hidden_size": 512, "use_intermediate_ffn_before_adapter": True},
    ]
    paths = {path for mode in MODES for path in published_shapes(mode, "es")}
    for changes in variants:
        encoder = dataclasses.replace(audio.audio, **changes)
        paths |= parameter_shapes(dataclasses.replace(audio, audio=encoder)).keys()
    rules = [rule for layout in (fusion.LAYOUT, roberta.LAYOUT, bert.LAYOUT) for rule in layout.rules]
    assert {rule.target for rule in rules} == paths
    for layout in (fusion.LAYOUT, roberta.LAYOUT, bert.LAYOUT):
        assert max(Counter(rule.source for rule in layout.rules).values()) == 1


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize(
    ("mode", "tensors", "millions"),
    [("audio", 781, 581.88), ("concat", 781, 583.65), ("mean", 781, 581.88), ("multihead", 911, 624.40)],
)
def test_full_size_audio_checkpoints(mode: str, language: str, tensors: int, millions: float) -> None:
    shapes = audio_shapes(audio_config(mode, language, FULL), mode, 768)
    assert len(shapes) == tensors
    # An English head has a label more.
    assert sum(map(prod, shapes.values())) / 1e6 == pytest.approx(millions, abs=0.005 if language == "es" else 0.02)
    layer = "wav2vec2_bert.encoder.layers.23."
    assert shapes["wav2vec2_bert.masked_spec_embed"] == (1024,)
    assert shapes[f"{layer}self_attn.distance_embedding.weight"] == (73, 64)
    assert shapes[f"{layer}conv_module.depthwise_conv.weight"] == (1024, 1, 31)
    assert shapes["classifier.out_proj.weight"] == (len(LABELS[language]), 1536 if mode == "concat" else 768)
    table = tables_of(EmotionConfig.published(language, mode))[MODEL]
    infos = {name: TensorInfo("F32", shape) for name, shape in shapes.items()}
    matching, problems = match(table.layout, infos, table.shapes)
    assert problems == []
    assert matching.unused.keys() == UNUSED


@pytest.mark.parametrize("language", LANGUAGES)
def test_full_size_text_models(language: str) -> None:
    roberta_size = 50262 if language == "es" else 50265
    with torch.device("meta"):
        classifier = RobertaForSequenceClassification(
            RobertaConfig(
                vocab_size=roberta_size,
                max_position_embeddings=514,
                type_vocab_size=1,
                id2label=dict(enumerate(LABELS[language])),
            )
        )
        encoder = BertModel(BertConfig(vocab_size=31002 if language == "es" else 30522))
    for part, mode, model in ((MODEL, "text", classifier), (TEXT_ENCODER, "mean", encoder)):
        infos = {name: TensorInfo("F32", shape) for name, shape in shapes_of(model).items()}
        table = tables_of(EmotionConfig.published(language, mode))[part]
        matching, problems = match(table.layout, infos, table.shapes)
        assert problems == []
        assert all("pooler" in name for name in matching.unused)
