"""The table of Whisper's tensors against transformers' class: all sizes by shape, a tiny one by its logits."""

from __future__ import annotations

import dataclasses
from collections import Counter
from math import prod
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from jax.sharding import SingleDeviceSharding
from transformers import WhisperConfig as TorchWhisperConfig
from transformers import WhisperForConditionalGeneration

from speech_emotion_jax.checkpoints import load_whisper
from speech_emotion_jax.config import WHISPER_SIZES, WhisperConfig
from speech_emotion_jax.convert.layouts import whisper
from speech_emotion_jax.convert.published import MODEL, tables_of
from speech_emotion_jax.convert.rules import TensorInfo, match

from ..support.budgets import LAYER_BUDGET, LOGIT_BUDGET
from ..support.checkpoints import shapes_of

# As OpenAI names them, in millions, the positions of the encoder included; and exactly, from transformers' class.
PUBLISHED = {
    "tiny": (39, 37_760_640, 167),
    "base": (74, 72_593_920, 245),
    "small": (244, 241_734_912, 479),
    "medium": (769, 763_857_920, 947),
    "large": (1550, 1_543_304_960, 1259),
    "large-v2": (1550, 1_543_304_960, 1259),
    "large-v3": (1550, 1_543_490_560, 1259),
    "large-v3-turbo": (809, 808_878_080, 587),
}


@pytest.mark.parametrize("size", WHISPER_SIZES)
def test_every_size_has_the_published_tensors(size: str) -> None:
    config = WhisperConfig.openai(size)
    with torch.device("meta"):
        original = WhisperForConditionalGeneration(TorchWhisperConfig(**dataclasses.asdict(config)))
    infos = {name: TensorInfo("F16", shape) for name, shape in shapes_of(original).items()}
    table = tables_of(config)[MODEL]
    matching, problems = match(table.layout, infos, table.shapes)
    assert problems == []
    assert list(matching.unused) == ["proj_out.weight"]  # tied, and not in the published files
    count = sum(map(prod, table.shapes.values()))
    assert count == sum(parameter.numel() for parameter in original.parameters())
    if size in PUBLISHED:
        millions, parameters, tensors = PUBLISHED[size]
        assert (count, sum(len(assignment.names) for assignment in matching.assignments)) == (parameters, tensors)
        assert count / 1e6 == pytest.approx(millions, rel=0.04)
    else:  # English only: one token less
        multilingual = tables_of(WhisperConfig.openai(size.removesuffix(".en")))[MODEL]
        assert count == sum(map(prod, multilingual.shapes.values())) - config.d_model


def test_every_rule_has_a_parameter() -> None:
    rules, paths = whisper.LAYOUT.rules, tables_of(WhisperConfig())[MODEL].shapes.keys()
    assert Counter(rule.target for rule in rules) == Counter(paths)
    assert max(Counter(rule.source for rule in rules).values()) == 1


def test_a_tiny_one_computes_the_same(whisper_tiny: Path) -> None:
    """Two tensors in each other's place would show here."""
    original = WhisperForConditionalGeneration.from_pretrained(whisper_tiny, attn_implementation="eager").eval()
    log_mel = np.random.default_rng(0).normal(size=(2, 80, 3000)).astype(np.float32)
    tokens = np.random.default_rng(1).integers(0, original.config.vocab_size, (2, 7)).astype(np.int32)
    with torch.no_grad():
        theirs = original(torch.tensor(log_mel), decoder_input_ids=torch.tensor(tokens).long())
    model = load_whisper(str(whisper_tiny), SingleDeviceSharding(jax.devices()[0]), "float32").model
    encoded = model.encoder(jnp.asarray(log_mel.transpose(0, 2, 1)))
    decoder = model.decoder
    decoder.unstack()
    decoded = decoder(
        jnp.asarray(tokens),
        0,
        jnp.zeros(2, jnp.int32),
        decoder.empty_cache(2, 16),
        model.cross_kv(encoded),
    )
    expected = theirs.encoder_last_hidden_state.numpy()
    assert np.abs(encoded - expected).max() <= LAYER_BUDGET * np.abs(expected).max()
    expected = theirs.logits.numpy()
    assert np.abs(decoder.logits(decoded.states) - expected).max() <= LOGIT_BUDGET
