"""Encoders as programs: a layer at a time they give what one program gives, from the same memory."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from speech_emotion_jax import EmotionConfig
from speech_emotion_jax.encoders import encoder_steps
from speech_emotion_jax.models.emotion import EmotionModel
from speech_emotion_jax.models.parameters import parameters_of

INPUTS = {
    "audio": (jax.random.normal(jax.random.key(0), (2, 40, 160)), jnp.arange(40)[None] < jnp.array([[40], [25]])),
    "text": (jnp.arange(14).reshape(2, 7), jnp.arange(7)[None] < jnp.array([[7], [5]])),
}


def last(model: EmotionModel, states) -> jax.Array:
    return states.last


def run(model: EmotionModel, kind: str, platform: str) -> np.ndarray:
    x, mask = INPUTS[kind]
    for step in encoder_steps(model, kind, last, platform):
        x = jax.jit(step.function)(step.parameters, x, mask)
    return np.asarray(x)


@pytest.mark.parametrize("kind", ["audio", "text"])
@pytest.mark.parametrize("language", ["es", "en"])
def test_layers_one_by_one_give_what_a_scan_gives(language: str, kind: str):
    model = EmotionModel(EmotionConfig.tiny(language, "concat"), rngs=nnx.Rngs(0))
    assert len(encoder_steps(model, kind, last, "tpu")) == 1
    names = [step.name for step in encoder_steps(model, kind, last, "cpu")]
    assert len(names) == 4
    assert len(set(names)) == 3
    np.testing.assert_allclose(run(model, kind, "cpu"), run(model, kind, "tpu"), atol=1e-5)


@pytest.mark.parametrize("kind", ["audio", "text"])
def test_layers_are_in_the_memory_of_the_stack(kind: str):
    model = EmotionModel(EmotionConfig.tiny("es", "concat"), rngs=nnx.Rngs(0))
    encoder = model.audio_encoder if kind == "audio" else model.text_encoder
    stack = parameters_of(encoder.layers)
    _, *layers, _ = encoder_steps(model, kind, last, "cpu")
    for number, step in enumerate(layers):
        flat = {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(step.parameters)}
        assert flat.keys() == stack.keys()
        for path, array in flat.items():
            if path.endswith("dense.kernel"):  # small arrays don't start where XLA wants them to
                place = array.unsafe_buffer_pointer() - stack[path].unsafe_buffer_pointer()
                assert place == number * array.nbytes, path
    assert jax.tree.leaves(nnx.state(encoder.layers)), "the model is left as it was"


def test_layers_that_are_weighed_are_run_together():
    config = EmotionConfig.tiny("es", "audio")
    weighing = replace(config, audio=replace(config.audio, use_weighted_layer_sum=True))
    model = EmotionModel(weighing, rngs=nnx.Rngs(0))
    assert len(encoder_steps(model, "audio", lambda model, states: model.pool(states), "cpu")) == 1
