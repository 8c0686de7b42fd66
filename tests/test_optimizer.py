"""The rules of the optimizer, each by itself; against torch they are in parity/test_training_math.py."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_emotion_jax import InvalidInput
from speech_emotion_jax.config import EmotionConfig, Wav2Vec2BertConfig
from speech_emotion_jax.models.parameters import parameter_shapes
from speech_emotion_jax.training.optimizer import (
    frozen_layers,
    has_weight_decay,
    layer_count,
    learning_rates,
    make_optimizer,
    schedule,
    trainable_paths,
)
from speech_emotion_jax.training.recipe import OptimizerConfig

MULTIHEAD = EmotionConfig.tiny("es", "multihead")
assert MULTIHEAD.audio is not None
SHAPES = parameter_shapes(replace(MULTIHEAD, audio=replace(MULTIHEAD.audio, num_hidden_layers=4)))
KERNEL = "audio_encoder.layers.ffn1.output_dense.kernel"
FLAT = OptimizerConfig(learning_rate=0.1, warmup=0.0, schedule="constant", clip_norm=None, weight_decay=0.0)


def steps_of(
    settings: OptimizerConfig, shapes: Mapping[str, Any], gradients: list[dict[str, Any]]
) -> list[dict[str, Any]]:
    """The updates of one step after the other, of parameters that start at 1."""
    optimizer = make_optimizer(settings, shapes, len(gradients))
    parameters = {path: jnp.ones(shapes[path]) for path in trainable_paths(shapes, settings.freeze)}
    state: Any = optimizer.init(parameters)
    step, updates = jax.jit(optimizer.update), []
    for gradient in gradients:
        update: Any
        update, state = step({path: gradient[path] for path in parameters}, state, parameters)
        parameters = {path: parameters[path] + update[path] for path in parameters}
        updates.append(update)
    return updates


def gradients_of(shapes: Mapping[str, Any], seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {path: jnp.asarray(rng.standard_normal(shape), jnp.float32) for path, shape in shapes.items()}


def test_encoder_and_head_have_rates_of_their_own() -> None:
    found = learning_rates(OptimizerConfig(learning_rate=1e-5, head_learning_rate=1e-3), SHAPES)
    assert found.keys() == SHAPES.keys()
    for path, rate in found.items():
        np.testing.assert_allclose(rate, 1e-5 if path.split(".")[0].endswith("_encoder") else 1e-3, rtol=1e-6)
    assert {float(rate.max()) for rate in learning_rates(OptimizerConfig(learning_rate=0.5), SHAPES).values()} == {0.5}


def test_rates_fall_from_the_highest_layer_to_what_is_under_the_lowest() -> None:
    found = learning_rates(OptimizerConfig(learning_rate=1.0, layer_decay=0.5, head_learning_rate=3.0), SHAPES)
    np.testing.assert_allclose(found[KERNEL], [1 / 8, 1 / 4, 1 / 2, 1])
    np.testing.assert_allclose(found["text_encoder.layers.query.bias"], [1 / 2, 1])
    assert found["audio_encoder.feature_projection.kernel"] == 1 / 16
    assert found["audio_encoder.feature_layer_norm.scale"] == 1 / 16
    assert found["text_encoder.embeddings.word"] == 1 / 4
    assert found["fusion.heads.key.kernel"] == found["projector.bias"] == found["classifier.dense.kernel"] == 3


def test_an_adapter_stands_above_the_layers() -> None:
    audio = EmotionConfig.tiny("es", "audio")
    assert isinstance(audio.audio, Wav2Vec2BertConfig)
    shapes = parameter_shapes(replace(audio, audio=replace(audio.audio, add_adapter=True)))
    found = learning_rates(OptimizerConfig(learning_rate=1.0, layer_decay=0.5), shapes)
    assert {float(rate) for path, rate in found.items() if path.startswith("audio_encoder.adapter.")} == {1.0}


def test_norms_and_biases_do_not_decay() -> None:
    zero = {path: jnp.zeros(shape) for path, shape in SHAPES.items()}
    (updates,) = steps_of(replace(FLAT, weight_decay=0.25), SHAPES, [zero])
    for path, update in updates.items():
        free = "norm" in path or path.endswith(".bias")
        assert has_weight_decay(path) != free
        np.testing.assert_allclose(update, 0 if free else -0.1 * 0.25, rtol=1e-6)
    assert has_weight_decay("audio_encoder.layers.self_attn.distance_embedding")


@pytest.mark.parametrize(
    ("freeze", "frozen", "free"),
    [
        ("text_encoder", "text_encoder.", "audio_encoder."),
        ("audio_encoder.feature_projection", "audio_encoder.feature_projection.", "audio_encoder.feature_layer_norm."),
        ("audio_encoder.layers[:4]", "audio_encoder.layers.", "audio_encoder.feature"),
        ("audio_encoder.layers", "audio_encoder.layers.", "audio_encoder.feature"),
        ("projector.bias", "projector.bias", "projector.kernel"),
    ],
)
def test_what_is_frozen_has_nothing_to_learn(freeze: str, frozen: str, free: str) -> None:
    learning = trainable_paths(SHAPES, [freeze])
    assert SHAPES.keys() - learning == {path for path in SHAPES if path.startswith(frozen)}
    assert any(path.startswith(free) for path in learning)
    assert steps_of(replace(FLAT, freeze=(freeze,)), SHAPES, [gradients_of(SHAPES)])[0].keys() == learning


def test_lower_layers_of_a_stack_stay_as_they_are() -> None:
    settings = replace(FLAT, weight_decay=0.5, clip_norm=1.0, freeze=("audio_encoder.layers[:3]",))
    gradients = [gradients_of(SHAPES, seed) for seed in range(3)]
    for updates in steps_of(settings, SHAPES, gradients):
        for path, update in updates.items():
            if path.startswith("audio_encoder.layers."):
                assert not np.asarray(update[:3]).any()
                assert np.asarray(update[3]).any()
            else:
                assert np.asarray(update).any()
    assert trainable_paths(SHAPES, settings.freeze) == SHAPES.keys()


def test_gradients_of_frozen_layers_do_not_count_in_the_norm() -> None:
    shapes = {KERNEL: (4, 2, 2), "classifier.out_proj.kernel": (2, 2)}
    huge = {KERNEL: jnp.zeros((4, 2, 2)).at[:2].set(1e6), "classifier.out_proj.kernel": jnp.full((2, 2), 0.1)}
    # With an epsilon far above the gradient Adam keeps its size, so that clipping shows.
    settings = replace(FLAT, clip_norm=1.0, epsilon=1e3, freeze=("audio_encoder.layers[:2]",))
    free = replace(settings, freeze=())
    small = steps_of(settings, shapes, [huge])[0]["classifier.out_proj.kernel"]
    np.testing.assert_allclose(small, -0.1 * 0.1 / 1e3, rtol=1e-3)
    assert np.abs(steps_of(free, shapes, [huge])[0]["classifier.out_proj.kernel"]).max() < 1e-9


def test_how_many_layers_are_frozen() -> None:
    def count(*freeze: str) -> int:
        return frozen_layers(SHAPES, freeze, "audio_encoder")

    assert layer_count(SHAPES, "audio_encoder") == 4
    assert count() == count("text_encoder") == count("audio_encoder.layers.ffn1") == 0
    assert count("audio_encoder.layers[:1]", "audio_encoder.layers[:3]", "text_encoder.layers[:2]") == 3
    assert count("audio_encoder.layers[:2]", "audio_encoder") == count("audio_encoder.layers") == 4


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("text_encodr", "'text_encoder'"),
        ("text", "'text_encoder'"),
        ("audio_encoder.feature_projector", "'audio_encoder.feature_projection'"),
        ("audio_encoder.layer[:2]", "'audio_encoder.layers'"),
        ("audio_encoder.layers[:5]", "4 layers"),
        ("audio_encoder.layers[:0]", "4 layers"),
        ("audio_encoder.layers[2:]", "'audio_encoder.layers'"),
        ("fusion.heads[:2]", "'fusion.heads'"),
    ],
)
def test_a_pattern_that_matches_nothing_is_refused(pattern: str, words: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        trainable_paths(SHAPES, ["projector", pattern])
    assert repr(pattern) in str(caught.value)
    assert words in str(caught.value)


def test_something_must_be_left_to_learn() -> None:
    with pytest.raises(InvalidInput, match="nothing to train"):
        trainable_paths(SHAPES, ["audio_encoder", "text_encoder", "fusion", "projector", "classifier"])


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("linear", [0, 0.5, 1, 7 / 8, 6 / 8, 5 / 8, 4 / 8, 3 / 8, 2 / 8, 1 / 8, 0]),
        ("cosine", [0, 0.5, *(0.5 * (1 + np.cos(np.pi * np.arange(9) / 8)))]),
        ("constant", [0, 0.5, *[1] * 9]),
    ],
)
def test_schedules_rise_and_fall(kind: str, expected: list[float]) -> None:
    factor = schedule(OptimizerConfig(warmup=0.2, schedule=kind), 10)  # type: ignore[arg-type]
    np.testing.assert_allclose([np.asarray(factor(step)) for step in range(11)], expected, atol=1e-6)
    without = schedule(OptimizerConfig(warmup=0.0, schedule=kind), 10)  # type: ignore[arg-type]
    assert without(0) == 1
    whole = schedule(OptimizerConfig(warmup=1.0, schedule=kind), 10)  # type: ignore[arg-type]
    assert whole(5) == pytest.approx(0.5)


def test_the_state_is_arrays_and_moments_have_the_parameters_shapes() -> None:
    settings = OptimizerConfig(freeze=("text_encoder", "audio_encoder.layers[:2]"))
    learning = trainable_paths(SHAPES, settings.freeze)
    parameters = {path: jnp.ones(SHAPES[path]) for path in learning}
    state = make_optimizer(settings, SHAPES, 10).init(parameters)
    moments = [
        (path[-1].key, leaf.shape)
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if isinstance(path[-1], jax.tree_util.DictKey)
    ]
    assert sorted(moments) == sorted(2 * [(path, SHAPES[path]) for path in learning])
    others = [leaf for leaf in jax.tree.leaves(state) if leaf.ndim == 0]
    assert len(others) + len(moments) == len(jax.tree.leaves(state))
