"""large-v3-turbo, the published toolkit's transcriber, at its real size: random weights, one window, three tokens."""

from math import prod

import jax
import numpy as np
import pytest
from flax import nnx

from speech_emotion_jax.audio.log_mel import WINDOW_SAMPLES, whisper_log_mel
from speech_emotion_jax.config import WHISPER_SIZES, WhisperConfig
from speech_emotion_jax.models.parameters import abstract_model, parameters_of
from speech_emotion_jax.models.whisper import Whisper
from speech_emotion_jax.runtime.devices import select_mesh
from speech_emotion_jax.whisper.programs import WhisperPrograms
from speech_emotion_jax.whisper.rules import TokenRules

TURBO_PARAMETERS = 808_878_080


@pytest.mark.parametrize("size", WHISPER_SIZES)
def test_every_size_hears_30_seconds(size: str):
    config = WhisperConfig.openai(size)
    features = jax.eval_shape(
        lambda waveform: whisper_log_mel(waveform, bins=config.num_mel_bins),
        jax.ShapeDtypeStruct((2, WINDOW_SAMPLES), np.float32),
    )
    encoded = nnx.eval_shape(lambda x: Whisper(config, rngs=nnx.Rngs(0)).encoder(x), features)
    assert features.shape == (2, 2 * config.max_source_positions, config.num_mel_bins)
    assert encoded.shape == (2, config.max_source_positions, config.d_model)


@pytest.mark.full_size
def test_turbo_transcribes_with_random_weights():
    config = WhisperConfig.openai("large-v3-turbo")
    shapes = parameters_of(abstract_model(config)).values()
    assert sum(prod(each.shape) for each in shapes) == TURBO_PARAMETERS
    model = nnx.jit(lambda: Whisper(config, rngs=nnx.Rngs(0)))()
    programs = WhisperPrograms(model, select_mesh("cpu"))
    waveform = np.random.default_rng(0).normal(0, 0.1, 16_000).astype(np.float32)
    heard = programs.encode(programs.features([waveform]))
    assert len(heard.keys) == config.decoder_layers
    assert heard.keys[0].shape == (1, config.decoder_attention_heads, 64, config.max_source_positions)
    rules = TokenRules(50257, 50363, 50365, (), (220, 50257), timestamps=False, latest_start=None)
    found = programs.search(heard, [(50258, 50262, 50360, 50364)], start=4, rules=rules, limit=3)
    assert found.tokens.shape == (1, 3)
    assert np.isfinite(found.log_probability).all()
    assert 0 < found.no_speech[0] < 1
