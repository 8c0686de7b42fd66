"""Published folders to converted ones and back: bit for bit, every tensor accounted for, all or nothing."""

from __future__ import annotations

import dataclasses
import filecmp
import json
import os
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Mapping
from math import prod
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from transformers import BertConfig, BertModel, RobertaConfig, RobertaForSequenceClassification

from speech_emotion_jax import EmotionPipeline
from speech_emotion_jax.checkpoints import Request, load_checkpoint
from speech_emotion_jax.config import EmotionConfig
from speech_emotion_jax.convert.engine import convert, export
from speech_emotion_jax.convert.layouts import bert, fusion, roberta
from speech_emotion_jax.convert.published import (
    MODEL,
    TEXT_ENCODER,
    TOKENIZER_FILES,
    Origin,
    Published,
    layout_of,
    open_published,
)
from speech_emotion_jax.convert.rules import Layout, Rule, TensorInfo, Unused, match
from speech_emotion_jax.errors import InvalidInput, UnreadableInput
from speech_emotion_jax.models.parameters import parameter_shapes, parameters_of
from speech_emotion_jax.registry import FUSION_MODES, LABELS, LANGUAGES, MODES
from speech_emotion_jax.runtime.checkpoint import is_converted, read_record

from .checkpoints import FULL, TINY, audio_config, audio_shapes, shapes_of, write_audio_checkpoint, write_bert
from .parity.reference import TorchOriginal

Folders = Callable[[str, str], Path]
Tensors = dict[str, torch.Tensor]

WEIGHTS = "model.safetensors"
CLIP = {"array": np.random.default_rng(0).normal(size=4800).astype(np.float32), "sampling_rate": 16_000}
EXAMPLE = {"audio": CLIP, "text": "¡Qué alegría, no me lo puedo creer!"}

# The same few programs run for many checkpoints.
pytestmark = pytest.mark.usefixtures("compiled_once")


def opened(model: Path, mode: str, language: str = "es", text: Path | None = None, **options: Any) -> Published:
    text_encoder = None if text is None else Origin.local(text)
    return open_published(Origin.local(model), mode, language, text_encoder=text_encoder, **options)


def refusal(act: Callable[[], object], error: type[Exception] = InvalidInput) -> str:
    """The message with which something is refused; one sentence."""
    with pytest.raises(error) as caught:
        act()
    message = str(caught.value)
    assert "\n" not in message
    assert not message.endswith(".")
    return message


def copied(folder: Path, destination: Path) -> Path:
    """A copy of a published folder, to be spoilt."""
    return shutil.copytree(folder, destination)


def rewrite(folder: Path, change: Callable[[Tensors], object]) -> None:
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, folder / WEIGHTS, {"format": "pt"})


def rewrite_json(path: Path, **values: Any) -> None:
    """Set (None: remove) values of a JSON file."""
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({name: value for name, value in content.items() if value is not None}))


def pickled(folder: Path, name: str, tensors: dict[str, Any] | None = None, *, archive: bool = True) -> None:
    """Write a torch state dict, by default the folder's own weights in place of its safetensors."""
    if tensors is None:
        tensors = load_file(folder / WEIGHTS)
        (folder / WEIGHTS).unlink()
    torch.save(tensors, folder / name, _use_new_zipfile_serialization=archive)


def round_trip(model: Path, mode: str, text: Path | None, home: Path, language: str = "es") -> tuple[Path, Path]:
    """The converted folder and the exported one."""
    convert(opened(model, mode, language, text), home / "converted")
    export(home / "converted", home / "exported")
    return home / "converted", home / "exported"


def assert_same(one: Path, other: Path) -> None:
    assert filecmp.cmp(one, other, shallow=False), f"{one} and {other} differ"


def predict(folder: Path, **options: Any) -> dict[str, float]:
    pipeline = EmotionPipeline.from_pretrained(str(folder), batch_size=1, **options)
    [prediction] = pipeline.predict([EXAMPLE])
    return prediction["scores"]


# There and back


@pytest.mark.parametrize("language", LANGUAGES)
@pytest.mark.parametrize("mode", MODES)
def test_round_trip(published: Folders, tmp_path: Path, mode: str, language: str) -> None:
    model = published(mode, language)
    text = published("text_encoder", language) if mode in FUSION_MODES else None
    converted, exported = round_trip(model, mode, text, tmp_path, language)

    for source, place in ((model, exported), (text, exported / "text_encoder")):
        if source is not None:
            kept = {WEIGHTS, "config.json", "preprocessor_config.json", *TOKENIZER_FILES}
            expected = {path.name for path in source.iterdir()} & kept
            assert {path.name for path in place.iterdir() if path.is_file()} == expected
            for name in expected:
                assert_same(source / name, place / name)
    assert (exported / "text_encoder").exists() == (text is not None)
    TorchOriginal(exported, mode, None if text is None else exported / "text_encoder")  # strict

    scores = predict(model, mode=mode, language=language, text_encoder=text)
    assert tuple(scores) == LABELS[language]
    assert predict(converted) == scores
    assert predict(exported, mode=mode, language=language) == scores  # knows its text encoder


def test_bfloat16_is_rounded_alike_from_both_forms(published: Folders, tmp_path: Path) -> None:
    model = published("audio", "es")
    convert(opened(model, "audio"), tmp_path / "converted")
    published_form, converted_form = (
        load_checkpoint(request, jax.devices()[0], "bfloat16").model
        for request in (Request(str(model), "audio", "es"), Request(str(tmp_path / "converted")))
    )
    ours = parameters_of(converted_form)
    assert "bfloat16" in {str(array.dtype) for array in ours.values()}
    for path, array in parameters_of(published_form).items():
        assert array.dtype == ours[path].dtype
        assert np.asarray(array).tobytes() == np.asarray(ours[path]).tobytes()


def make_mixed(tensors: Tensors) -> None:
    """The layers of a stack in three dtypes, with values that only a conversion by way of a wider one keeps."""
    for index, (name, tensor) in enumerate(tensors.items()):
        tensors[name] = tensor.to((torch.float32, torch.float16, torch.bfloat16)[index % 3])
    tensors["classifier.dense.weight"][0, :3] = torch.tensor([-0.0, 2.0**-24, 1.0])


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "mixed"])
def test_dtypes(tmp_path: Path, dtype: str) -> None:
    stored = "float32" if dtype == "mixed" else dtype
    model = write_audio_checkpoint(tmp_path / "model", "concat", "es", dtype=stored)
    text = write_bert(tmp_path / "text", "es", dtype=stored, extra_heads=True)
    if dtype == "mixed":
        rewrite(model, make_mixed)
    converted, exported = round_trip(model, "concat", text, tmp_path)
    assert_same(model / WEIGHTS, exported / WEIGHTS)
    assert_same(text / WEIGHTS, exported / "text_encoder" / WEIGHTS)
    if dtype != "mixed":  # not widened in the Orbax folder either
        arrays = (json.loads(path.read_text()) for path in (converted / "weights").rglob("zarr.json"))
        assert {array["data_type"] for array in arrays} == {dtype}


@pytest.mark.parametrize("shards", [2, 3])
def test_shards(published: Folders, tmp_path: Path, shards: int) -> None:
    sharded = write_audio_checkpoint(tmp_path / "sharded", "audio", "es", seed=5, shards=shards)
    converted, exported = round_trip(sharded, "audio", None, tmp_path)
    assert_same(published("audio", "es") / WEIGHTS, exported / WEIGHTS)
    assert len(read_record(converted).parts[MODEL].sha256) == shards


@pytest.mark.parametrize("archive", [True, False], ids=["archive", "legacy"])
@pytest.mark.parametrize("name", ["model.bin", "pytorch_model.bin"])
def test_torch_pickles(published: Folders, tmp_path: Path, name: str, archive: bool) -> None:
    model = copied(published("concat", "es"), tmp_path / "model")
    rewrite(model, make_mixed)
    expected = load_file(model / WEIGHTS)
    pickled(model, name, archive=archive)
    text = write_bert(tmp_path / "text", "es", extra_heads=True)
    shutil.copy(text / WEIGHTS, tmp_path / "text.safetensors")
    pickled(text, "pytorch_model.bin", archive=archive)
    _, exported = round_trip(model, "concat", text, tmp_path)
    save_file(expected, tmp_path / WEIGHTS, {"format": "pt"})
    assert_same(tmp_path / WEIGHTS, exported / WEIGHTS)
    assert_same(tmp_path / "text.safetensors", exported / "text_encoder" / WEIGHTS)


@pytest.mark.parametrize(
    "form",
    [
        {"prefix": "bert."},
        {"old_names": True},
        {"extra_heads": True},
        {"prefix": "bert.", "old_names": True, "extra_heads": True},
    ],
    ids=lambda form: " ".join(form),
)
def test_forms_of_bert(published: Folders, tmp_path: Path, form: dict[str, Any]) -> None:
    """The same encoder under other names: the same parameters, and every tensor back as it came."""
    text = write_bert(tmp_path / "text", "es", seed=4, **form)
    _, exported = round_trip(published("mean", "es"), "mean", text, tmp_path)
    assert_same(text / WEIGHTS, exported / "text_encoder" / WEIGHTS)
    plain = dict(opened(published("mean", "es"), "mean", "es", published("text_encoder", "es")).parameters())
    if not form.get("extra_heads"):  # which change what the seed gives
        for path, array in opened(published("mean", "es"), "mean", "es", text).parameters():
            np.testing.assert_array_equal(array, plain[path])
    if form.get("extra_heads"):
        back = load_file(exported / "text_encoder" / WEIGHTS)
        assert back[f"{form.get('prefix', '')}embeddings.position_ids"].dtype == torch.int64
        assert "cls.predictions.bias" in back


def test_unused_tensors_of_any_dtype(published: Folders, tmp_path: Path) -> None:
    def add(tensors: Tensors) -> None:
        for dtype in ("float64", "float16", "int32", "uint8", "bool"):
            tensors[f"cls.{dtype}"] = torch.ones(2, 3).to(getattr(torch, dtype))
        tensors |= {"cls.scalar": torch.tensor(7), "cls.empty": torch.ones(0, 4)}

    text = copied(published("text_encoder", "es"), tmp_path / "text")
    rewrite(text, add)
    _, exported = round_trip(published("mean", "es"), "mean", text, tmp_path)
    assert_same(text / WEIGHTS, exported / "text_encoder" / WEIGHTS)


@pytest.mark.parametrize(
    "overrides",
    [
        {"use_weighted_layer_sum": True},
        {"add_adapter": True, "num_adapter_layers": 2},
        {"add_adapter": True, "output_hidden_size": 48, "use_intermediate_ffn_before_adapter": True},
        {"mask_time_prob": 0.0, "mask_feature_prob": 0.0},  # no masked_spec_embed then
    ],
    ids=lambda overrides: next(iter(overrides)),
)
def test_variants_of_the_audio_encoder(tmp_path: Path, overrides: dict[str, Any]) -> None:
    model = write_audio_checkpoint(tmp_path / "model", "audio", "en", config_overrides=overrides)
    _, exported = round_trip(model, "audio", None, tmp_path, "en")
    assert_same(model / WEIGHTS, exported / WEIGHTS)
    TorchOriginal(exported, "audio")


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


UNUSED = {"wav2vec2_bert.masked_spec_embed", "classifier.layernorm.weight", "classifier.layernorm.bias"}
OUTPUTS = ["classifier.out_proj.weight", "classifier.out_proj.bias"]
WIDTHS = ["projector.weight", "projector.bias", "classifier.dense.weight", "classifier.dense.bias", *OUTPUTS]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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


@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
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
    names = dict.fromkeys(["projector.bias", "wav2vec2_bert.masked_spec_embed"], "NaN")
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
    assert named_in(message) == second


def test_a_whole_head_that_is_missing(published: Folders, tmp_path: Path) -> None:
    model = copied(published("multihead", "es"), tmp_path / "model")
    gone = [name for name in load_file(model / WEIGHTS) if name.startswith("mult_attn_model.heads.3.")]
    rewrite(model, lambda tensors: [tensors.pop(name) for name in gone])
    message = refusal(lambda: opened(model, "multihead", "es", published("text_encoder", "es")))
    assert "mult_attn_model.heads.3.Wq.weight is missing" in message


# The tables


def test_match_reports_what_its_table_lacks() -> None:
    layout = Layout((Rule("a", "x"), Rule("layers.{i}.b", "y"), Rule("layers.0.b", "z")), (Unused("skip.*", "why"),))
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
    parts = (MODEL, TEXT_ENCODER) if mode in FUSION_MODES else (MODEL,)
    targets = Counter(rule.target for part in parts for rule in layout_of(part, mode).rules)
    assert {path: targets[path] for path in published_shapes(mode, language)} == dict.fromkeys(
        published_shapes(mode, language), 1
    )


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
    assert sum(map(prod, shapes.values())) / 1e6 == pytest.approx(millions, abs=0.02)
    own = {path: s for path, s in published_shapes(mode, language).items() if not path.startswith("text_encoder.")}
    matching, problems = match(layout_of(MODEL, mode), {n: TensorInfo("F32", s) for n, s in shapes.items()}, own)
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
    frozen = {path: s for path, s in published_shapes("mean", language).items() if path.startswith("text_encoder.")}
    for part, mode, model, parameters in (
        (MODEL, "text", classifier, published_shapes("text", language)),
        (TEXT_ENCODER, "mean", encoder, frozen),
    ):
        infos = {name: TensorInfo("F32", shape) for name, shape in shapes_of(model).items()}
        matching, problems = match(layout_of(part, mode), infos, parameters)
        assert problems == []
        assert all("pooler" in name for name in matching.unused)


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
        assert "is no emotion checkpoint" in message


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
        ("config.json", {"num_attention_heads": 5}, "num_attention_heads 5"),
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
        (lambda tensors: make_double(tensors, "projector.bias"), "projector.bias has another shape or dtype"),
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


# All or nothing


@pytest.mark.parametrize("there", ["a file", "an empty folder", "a folder", "a broken link"])
def test_a_destination_that_exists_is_left_alone(published: Folders, tmp_path: Path, there: str) -> None:
    converted, exported, destination = tmp_path / "converted", tmp_path / "exported", tmp_path / "there"
    source = opened(published("audio", "es"), "audio")
    convert(source, converted)
    match there:
        case "a file":
            destination.write_text("mine")
        case "a broken link":
            destination.symlink_to("nowhere")
        case _:
            destination.mkdir()
    if there == "a folder":
        (destination / "mine").write_text("mine")
    before = destination.lstat()
    for act in (lambda: convert(source, destination), lambda: export(converted, destination)):
        assert f"{destination} exists already" in refusal(act)
    assert destination.lstat() == before
    assert sorted(tmp_path.iterdir()) == [converted, destination]
    assert not exported.exists()


def test_a_destination_that_can_not_be_made(published: Folders, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    source = opened(published("audio", "es"), "audio")
    message = refusal(lambda: convert(source, tmp_path / "file" / "converted"), UnreadableInput)
    assert str(tmp_path / "file" / "converted") in message


@pytest.mark.parametrize("damage", ["an array is cut off", "an array is gone", "no weights", "no tokenizer"])
def test_a_converted_folder_that_is_not_whole_does_not_load(published: Folders, tmp_path: Path, damage: str) -> None:
    """A copy that broke off, say."""
    folder = tmp_path / "converted"
    convert(opened(published("text", "es"), "text"), folder)
    chunk = folder / "weights/state/classifier.dense.kernel/c/0/0"
    match damage:
        case "an array is cut off":
            os.truncate(chunk, chunk.stat().st_size - 1)
        case "an array is gone":
            chunk.unlink()
        case "no weights":
            shutil.rmtree(folder / "weights")
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
    named = {"no weights": " more)", "no tokenizer": "(tokenizer.json)"}.get(damage, "classifier.dense.kernel/c/0/0)")
    for act in (
        lambda: load_checkpoint(Request(str(folder)), jax.devices()[0], "float32"),
        lambda: export(folder, tmp_path / "exported"),
    ):
        message = refusal(act, UnreadableInput)
        assert f"{folder} is not whole" in message
        assert named in message
    assert list(tmp_path.iterdir()) == [folder]


def test_weights_that_orbax_can_not_read(published: Folders, tmp_path: Path) -> None:
    convert(opened(published("text", "es"), "text"), tmp_path / "converted")
    file = tmp_path / "converted" / "weights/state/_METADATA"
    file.write_text(" " * file.stat().st_size)
    message = refusal(
        lambda: load_checkpoint(Request(str(tmp_path / "converted")), jax.devices()[0], "float32"), UnreadableInput
    )
    assert f"{tmp_path / 'converted' / 'weights'} can't be read" in message


# Converts in one child process after the other, each killed at the first event of sys.addaudithook that fits a
# pattern.
KILLED = """
import os, re, signal, sys
from pathlib import Path
from speech_emotion_jax.convert.engine import convert
from speech_emotion_jax.convert.published import Origin, open_published

model, *points = sys.argv[1:]
for index, point in enumerate(points):
    if os.fork() == 0:
        def watch(event, details):
            if re.match(point, f"{event} {details[0] if details else None}"):
                os.kill(os.getpid(), signal.SIGKILL)

        published = open_published(Origin.local(Path(model)), "audio", "es")
        sys.addaudithook(watch)
        convert(published, Path(str(index), "converted"))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]))
"""
POINTS = {
    "the folder is made": r"os.chmod .*unfinished",
    "the first array is written": r"os.mkdir .*/weights.orbax-checkpoint-tmp/state$",
    "the weights are nearly whole": r"open .*/commit_success.txt",
    "the weights are whole": r"shutil.copyfile .*/config.json",
    "before the record": r"open .*/record.json",
    "before the end": r"os.rename .*unfinished-\w+$",
    "afterwards": r"no such event",
}


def test_a_killed_conversion_leaves_nothing_that_loads(published: Folders, tmp_path: Path) -> None:
    command = [sys.executable, "-c", KILLED, str(published("audio", "es")), *POINTS.values()]
    result = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert [int(line) for line in result.stdout.split()] == [-signal.SIGKILL] * (len(POINTS) - 1) + [0], result.stderr
    left = {point: tmp_path / str(index) for index, point in enumerate(POINTS)}
    whole = left.pop("afterwards") / "converted"
    export(whole, tmp_path / "exported")
    convert(opened(published("audio", "es"), "audio"), tmp_path / "0" / "converted")  # what is left is not in the way
    shutil.rmtree(tmp_path / "0" / "converted")
    for point, home in left.items():
        [unfinished] = home.iterdir()
        assert "unfinished" in unfinished.name
        assert is_converted(unfinished) == (point == "before the end")
        if is_converted(unfinished):  # all is there but the name
            export(unfinished, tmp_path / "exported again")
            assert_same(tmp_path / "exported" / WEIGHTS, tmp_path / "exported again" / WEIGHTS)
        else:
            refusal(lambda folder=unfinished: read_record(folder), UnreadableInput)


def limited(script: str, *arguments: str, size: int = 20_000) -> subprocess.CompletedProcess[str]:
    """Run a script where no file can grow beyond `size` bytes: it stands for a full disk, see test_hub."""
    limit = f"import resource; resource.setrlimit(resource.RLIMIT_FSIZE, ({size}, {size}))\n"
    command = [sys.executable, "-c", limit + script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True)


def test_no_room(published: Folders, tmp_path: Path) -> None:
    model, converted, destination = published("audio", "es"), tmp_path / "converted", tmp_path / "destination"
    convert(opened(model, "audio"), converted)
    script = (
        "import sys; from speech_emotion_jax.cli import main; sys.exit({main(a.split()) for a in sys.argv[1:]} != {2})"
    )
    result = limited(
        script,
        f"convert {model} {destination} --mode audio --language es",
        f"convert {converted} {destination} --to safetensors",
    )
    assert result.stdout == ""
    assert "Traceback" not in result.stderr
    refusals = [line for line in result.stderr.splitlines() if line.startswith("speech-emotion-jax: ")]
    assert len(refusals) == 2
    for line in refusals:
        assert f"{destination} can't be written" in line
        assert "File too large" in line
    assert list(tmp_path.iterdir()) == [converted]


def test_no_room_for_what_orbax_writes(tmp_path: Path) -> None:
    """Where the room vanishes after it was asked for, the writers that are still at work leave nothing either."""
    script = """
import sys
from pathlib import Path
import numpy as np
from speech_emotion_jax.errors import UnreadableInput
from speech_emotion_jax.runtime.checkpoint import save_parameters, whole_folder
try:
    with whole_folder(Path(sys.argv[1])) as folder:
        save_parameters(folder, {f"layers.{index}": np.ones((300, 300), np.float32) for index in range(30)})
except UnreadableInput as error:
    print(error)
"""
    result = limited(script, str(tmp_path / "destination"))
    assert "can't be written (File too large)" in result.stdout
    assert list(tmp_path.iterdir()) == []
