"""Recipes: what a TOML file and its overrides may say, and that everything wrong is said at once."""

import contextlib
import json
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import speech_emotion_jax
from speech_emotion_jax import EmotionConfig, InvalidInput
from speech_emotion_jax.errors import UnreadableInput
from speech_emotion_jax.models import parameter_shapes
from speech_emotion_jax.registry import LANGUAGES, MODES, PUBLISHED
from speech_emotion_jax.training import find_recipe, trainable_paths
from speech_emotion_jax.training.recipe import (
    AugmentConfig,
    DataConfig,
    LoopConfig,
    LossConfig,
    OptimizerConfig,
    Recipe,
    read_recipe,
)

CONFIGS = Path(__file__).parent.parent / "configs"
SMALLEST = """
[start]
audio = "encoder"
text = "words"
[model]
mode = "concat"
language = "es"
"""


@pytest.fixture
def write(tmp_path: Path):
    """A function that writes a recipe, by default one with nothing but what it must have."""

    def written(text: str = SMALLEST) -> Path:
        path = tmp_path / "recipe.toml"
        path.write_text(text, encoding="utf-8")
        return path

    return written


def refusal(path: Path, *overrides: str) -> str:
    with pytest.raises(InvalidInput) as caught:
        read_recipe(path, overrides)
    return str(caught.value)


def test_what_a_recipe_leaves_out_has_its_default(write) -> None:
    recipe = read_recipe(write())
    assert (recipe.data, recipe.optimizer, recipe.loss) == (DataConfig(), OptimizerConfig(), LossConfig())
    assert (recipe.augment, recipe.training) == (AugmentConfig(), LoopConfig())
    assert (recipe.start.init, recipe.start.audio, recipe.start.checkpoint) == ("pretrained", "encoder", None)
    assert (recipe.model.mode, recipe.model.encoders, recipe.model.audio) == ("concat", {}, {})


def test_overrides_are_toml_and_bare_words_are_texts(write) -> None:
    recipe = read_recipe(
        write(),
        [
            "model.mode=mean",
            "model.num_hidden_layers=2",
            "model.audio.layerdrop=0",
            "model.text.vocab_size = 40",
            "optimizer.learning_rate=1",
            'optimizer.freeze=["text_encoder", "audio_encoder.layers[:12]"]',
            "data.valid=dev set",
            "data.balanced=true",
            "training.seed=1",
            "training.seed=2",
            "start.audio=models/a#b",
        ],
    )
    assert recipe.model.mode == "mean"
    assert recipe.model.encoders == {"num_hidden_layers": 2}
    assert recipe.model.audio == {"layerdrop": 0.0}
    assert isinstance(recipe.model.audio["layerdrop"], float)
    assert recipe.model.text == {"vocab_size": 40}
    assert isinstance(recipe.optimizer.learning_rate, float)
    assert recipe.optimizer.freeze == ("text_encoder", "audio_encoder.layers[:12]")
    assert (recipe.data.valid, recipe.data.balanced, recipe.training.seed) == ("dev set", True, 2)
    assert recipe.start.audio == "models/a#b"


def test_none_takes_an_optional_field_away(write) -> None:
    recipe = read_recipe(write(), ["optimizer.clip_norm=none", "data.test=none", "loss.class_weights=none"])
    assert recipe.optimizer.clip_norm is None
    assert recipe.data.test is None
    assert recipe.loss.class_weights == "none"
    assert "training.seed" in refusal(write(), "training.seed=none")


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("optimizer.lerning_rate=1e-4", ["optimizer.lerning_rate", "optimizer.learning_rate", "--set"]),
        ("training.learning_rate=1e-4", ["training.learning_rate", "nearest is optimizer.learning_rate"]),
        ("optimiser.learning_rate=1e-4", ["nearest is optimizer.learning_rate"]),
        ("model.hiden_size=32", ["nearest is model.hidden_size"]),
        ("model.audio.vocab_size=32", ["nearest is model.vocab_size"]),
        ("model.encoders=3", ["model.encoders", "unknown"]),
        ("model.audio=3", ["is a table"]),
        ("training=3", ["must be table.field=VALUE"]),
        ("training.epochs", ["must be table.field=VALUE"]),
        ("training.epochs=0", ["training.epochs = 0", "1 or more"]),
        ("training.epochs=2.5", ["a whole number"]),
        ("training.epochs=true", ["a whole number"]),
        ("training.ema=1", ["below 1"]),
        ("training.precision=float16", ["'float32' or 'bfloat16'"]),
        ("training.metric=accuracy", ["'macro_f1' or 'uar'"]),
        ("training.accumulation=5", ["batch_size 32", "5 equal parts"]),
        ("training.across_batch=true", ["mode 'multihead'", "'concat'"]),
        ("optimizer.learning_rate=nan", ["a finite number"]),
        ("optimizer.learning_rate=0", ["above 0"]),
        ("optimizer.learning_rate=fast", ['"fast"', "a finite number"]),
        ("optimizer.learning_rate=true", ["a finite number"]),
        ("optimizer.warmup=1.5", ["from 0 to 1"]),
        ("optimizer.schedule=cosin", ["'cosine'"]),
        ("optimizer.freeze=text_encoder", ["a list"]),
        ("optimizer.freeze=[1]", ["a text"]),
        ("optimizer.freeze=['']", ["not empty"]),
        ("loss.class_weights=equal", ["'balanced'"]),
        ("augment.speed=1", ["from 0 to 0.5"]),
        ("augment.snr_low=40", ["snr_low 40.0", "snr_high 30.0"]),
        ("data.labels=['joy']", ["two labels"]),
        ("data.labels=['joy', 'joy']", ["each once"]),
        ("data.max_seconds=0.01", ["0.035 s"]),
        ("data.valid_share=1", ["below 1"]),
        ("model.mode=sum", ["'sum'", "concat"]),
        ("model.language=fr", ["'fr'", "es"]),
        ("model.hidden_size=0", ["1 or more"]),
        ("model.audio.layerdrop=1", ["below 1"]),
        ("model.audio.use_weighted_layer_sum=1", ["true or false"]),
        ("start.init=random", ["'scratch'"]),
        ("start.head=kept", ["start.checkpoint"]),
        ("start.init=scratch", ["start.audio is not for", "start.text is not for"]),
        ("start.audio=none", ["audio encoder", "start.checkpoint"]),
        ("model.mode=audio", ["start.text", "no text encoder"]),
    ],
)
def test_what_can_not_be_is_refused_and_named(write, override: str, words: list[str]) -> None:
    message = refusal(write(), override)
    for word in words:
        assert word in message


def test_all_that_is_wrong_is_said_at_once_with_its_place(write) -> None:
    path = write(SMALLEST + "[optimzer]\nx = 1\ny = 2\n[augment]\nspeed = 2\n[unheard_of]\n[model.text]\n")
    lines = refusal(path, "training.epochs=0", "training.accumulation=7", "data.blanced=true").splitlines()
    assert len(lines) == 7
    assert sum(str(path) in line for line in lines) == 5
    assert sum("--set" in line for line in lines) == 2


def test_a_field_that_is_wrong_itself_contradicts_nothing(write) -> None:
    assert len(refusal(write(), "training.accumulation=0").splitlines()) == 1
    assert len(refusal(write(), "model.mode=sum", "model.text.vocab_size=3").splitlines()) == 1


def test_fields_of_an_encoder_that_the_mode_has_not(write) -> None:
    path = write('[start]\ninit = "scratch"\n[model]\nmode = "text"\nlanguage = "en"\n')
    assert read_recipe(path, ["model.hidden_size=8"]).model.encoders == {"hidden_size": 8}
    assert "no encoder of mode 'text'" in refusal(path, "model.layerdrop=0.1")
    assert "no audio encoder" in refusal(path, "model.audio.layerdrop=0.1")


def test_where_a_recipe_may_start(write) -> None:
    kept = write('[start]\ncheckpoint = "c"\nhead = "kept"\n[model]\nmode = "multihead"\nlanguage = "en"\n')
    assert read_recipe(kept, ["training.across_batch=true", "start.text=words"]).start.checkpoint == "c"
    assert read_recipe(write(), ["start.text=none"]).start.text is None  # the published encoder of the language
    text = write('[start]\ntext = "t"\n[model]\nmode = "text"\nlanguage = "en"\n')
    assert "text encoder" in refusal(text, "start.text=none")
    assert "is not for" in refusal(kept, "start.init=scratch")


def test_a_checkpoint_stands_for_its_parts(write) -> None:
    start = read_recipe(write(), ["start.checkpoint=c"]).start
    assert (start.checkpoint, start.audio, start.text) == ("c", None, None)
    start = read_recipe(write(), ["start.text=other", "start.checkpoint=c"]).start
    assert (start.audio, start.text) == (None, "other")
    assert read_recipe(write(), ["start.checkpoint=none"]).start.audio == "encoder"
    both = write(SMALLEST.replace("[start]", '[start]\ncheckpoint = "c"'))
    assert "start.audio is also in start.checkpoint" in refusal(both)


def test_mode_and_language_are_needed(write) -> None:
    message = refusal(write(""))
    assert "model.mode is missing" in message
    assert "model.language is missing" in message


def test_a_file_that_is_no_recipe(write, tmp_path: Path) -> None:
    with pytest.raises(UnreadableInput, match=r"absent\.toml"):
        read_recipe(tmp_path / "absent.toml")
    assert "line 1" in refusal(write("[model\n"))
    path = write()
    path.write_bytes(b"# \xff\n")
    assert "no TOML" in refusal(path)


@given(st.text(max_size=30))
def test_any_override_is_taken_or_refused(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    path = tmp_path_factory.getbasetemp() / "any.toml"
    path.write_text(SMALLEST, encoding="utf-8")
    for override in (text, f"data.train={text}", f"training.{text}=1"):
        with contextlib.suppress(InvalidInput):
            assert isinstance(read_recipe(path, [override]), Recipe)


def test_settings_are_what_json_gives_back(write) -> None:
    settings = read_recipe(write(), ["optimizer.freeze=['text_encoder']", "model.audio.layerdrop=0"]).settings()
    assert json.loads(json.dumps(settings)) == settings
    assert settings["optimizer"]["freeze"] == ["text_encoder"]
    assert settings["model"]["audio"] == {"layerdrop": 0.0}
    assert settings["start"]["checkpoint"] is None


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.toml")), ids=lambda path: path.stem)
def test_a_recipe_reads_and_says_how_to_run_it(path: Path) -> None:
    recipe = read_recipe(path)
    assert path.stem in ("finetune-small", f"{recipe.model.language}-{recipe.model.mode}")
    text = path.read_text(encoding="utf-8")
    assert f"speech-emotion-jax train configs/{path.name} --manifest M" in text
    assert "Nothing was measured here" in text
    given = {(table, name) for table, inner in tomllib.loads(text).items() for name in inner}
    settings = recipe.settings()
    assert all(name in settings[table] for table, name in given)


def test_there_is_a_recipe_of_every_published_system() -> None:
    published = {f"{lang}-{mode}" for lang in LANGUAGES for mode in MODES}
    assert {path.stem for path in CONFIGS.glob("*.toml")} == published | {"finetune-small"}


def test_the_small_recipe_leaves_the_encoders_of_a_published_model_as_they_are() -> None:
    recipe = read_recipe(CONFIGS / "finetune-small.toml")
    assert recipe.start.checkpoint == PUBLISHED.model_id(recipe.model.language, recipe.model.mode)
    assert recipe.start.head == "kept"
    learning = trainable_paths(parameter_shapes(EmotionConfig.tiny("es", "concat")), recipe.optimizer.freeze)
    assert {path.split(".")[0] for path in learning} == {"projector", "classifier"}


def test_recipes_are_found_by_name_or_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    configs = Path(speech_emotion_jax.__file__).parent / "configs"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "es-text").mkdir()  # an output folder of that name is no recipe
    for name in ("es-text", "es-text.toml", "demo/concat"):
        assert find_recipe(name) == configs / f"{name.removesuffix('.toml')}.toml"
    (tmp_path / "es-text.toml").write_text("")
    assert find_recipe("es-text.toml") == Path("es-text.toml")
    assert find_recipe("absent.toml") == Path("absent.toml")  # reading it says that it is absent
    with pytest.raises(
        InvalidInput, match=r"no recipe 'es-txt'; name a TOML file or one of demo/audio, .*finetune-small$"
    ):
        find_recipe("es-txt")
