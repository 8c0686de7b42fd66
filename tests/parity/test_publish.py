"""What we publish, in the original's classes: no tensor missing or unknown, and the same logits."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import nnx
from safetensors.torch import load_file
from transformers import BertModel, RobertaForSequenceClassification, Wav2Vec2BertModel

from speech_emotion_jax.config import EmotionConfig
from speech_emotion_jax.convert.publication import publish
from speech_emotion_jax.models.emotion import EmotionModel
from speech_emotion_jax.models.parameters import parameters_of
from speech_emotion_jax.parity.original import TorchOriginal
from speech_emotion_jax.registry import MODES
from speech_emotion_jax.text.word_vocabulary import write_word_tokenizer

from ..support.budgets import LOGIT_BUDGET
from ..support.marks import rest_slow

TEXT = "estoy muy triste hoy"


def written(folder: Path, config: EmotionConfig) -> EmotionModel:
    """A published folder of a model with random weights, norms and biases too."""
    model = EmotionModel(config, rngs=nnx.Rngs(0))
    rng = np.random.default_rng(0)
    state = nnx.state(model, nnx.Param)
    nnx.update(model, nnx.map_state(lambda _, leaf: leaf + 0.1 * rng.normal(size=leaf.shape).astype(np.float32), state))
    write_word_tokenizer([TEXT, "qué feliz"], folder.with_name("words"))
    words = None if config.text is None else folder.with_name("words")
    publish(
        config, {path: np.asarray(array) for path, array in parameters_of(model).items()}, folder, text_assets=words
    )
    return model


def assert_same_logits(folder: Path, model: EmotionModel) -> None:
    mode = model.config.mode
    original = TorchOriginal(folder, mode, None if mode in ("text", "audio") else folder / "text_encoder")  # strict
    x, mask = np.random.default_rng(1).normal(size=(1, 75, 160)).astype(np.float32), np.ones((1, 75), bool)
    audio: dict[str, Any] = {} if mode == "text" else {"features": x, "mask": mask}
    words: dict[str, Any] = {}
    if mode != "audio":
        ids, token_mask = original.tokens(TEXT)
        words = {"ids": ids.numpy().astype(np.int32), "token_mask": token_mask.numpy().astype(bool)}
        assert len(set(ids[0].tolist())) == 6  # [CLS], four words, [SEP]: none unknown
    inputs = audio | words
    integers = {name: array.astype(np.int64) for name, array in inputs.items() if name != "features"}
    tensors: dict[str, Any] = {name: torch.tensor(array) for name, array in (inputs | integers).items()}
    theirs = original.logits(**tensors)
    ours = model(**{"frame_mask" if name == "mask" else name: jnp.asarray(array) for name, array in inputs.items()})
    assert np.abs(np.asarray(ours) - theirs.detach().numpy()).max() <= LOGIT_BUDGET


@pytest.mark.parametrize("language", rest_slow(["es", "en"]))
@pytest.mark.parametrize("mode", MODES)
def test_logits(tmp_path: Path, mode: str, language: str) -> None:
    assert_same_logits(tmp_path / "out", written(tmp_path / "out", EmotionConfig.tiny(language, mode)))


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"mask_embedding": False},
        {"mask_time_prob": 0.0},
        {"use_weighted_layer_sum": True},
        {"add_adapter": True, "output_hidden_size": 48, "use_intermediate_ffn_before_adapter": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_variants_of_the_audio_encoder(tmp_path: Path, changes: dict[str, Any]) -> None:
    config = EmotionConfig.tiny("es", "audio")
    assert config.audio is not None
    config = dataclasses.replace(config, audio=dataclasses.replace(config.audio, **changes))
    assert_same_logits(tmp_path / "out", written(tmp_path / "out", config))


def test_a_roberta_without_a_tokenizer_of_its_own(tmp_path: Path) -> None:
    """Trained from scratch: the word tokenizer pads with 0, and RoBERTa counts positions from the padding's id."""
    config = EmotionConfig.tiny("es", "text")
    assert config.text is not None
    config = dataclasses.replace(config, text=dataclasses.replace(config.text, pad_token_id=0))
    assert_same_logits(tmp_path / "out", written(tmp_path / "out", config))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "place", "kind"), [("text", "", RobertaForSequenceClassification), ("mean", "text_encoder", BertModel)]
)
def test_transformers_finds_every_tensor(tmp_path: Path, mode: str, place: str, kind: type[Any]) -> None:
    written(tmp_path / "out", EmotionConfig.tiny("es", mode))
    _, found = kind.from_pretrained(tmp_path / "out" / place, output_loading_info=True)
    assert not found["missing_keys"]
    assert not found["unexpected_keys"]
    assert not found["mismatched_keys"]


def test_the_vector_for_masked_frames_is_the_trained_one(tmp_path: Path) -> None:
    model = written(tmp_path / "out", EmotionConfig.tiny("es", "audio"))
    trained = np.asarray(parameters_of(model)["audio_encoder.masked_spec_embed"])
    np.testing.assert_array_equal(
        load_file(tmp_path / "out" / "model.safetensors")["wav2vec2_bert.masked_spec_embed"], trained
    )
    theirs = Wav2Vec2BertModel.from_pretrained(tmp_path / "out")
    np.testing.assert_array_equal(theirs.masked_spec_embed.detach().numpy(), trained)
