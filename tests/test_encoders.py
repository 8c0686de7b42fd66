"""Encoders as programs: a few layers at a time they give what one program gives, from the same memory."""

from dataclasses import replace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from speech_emotion_jax import EmotionConfig
from speech_emotion_jax.inference.encoder_programs import encoder_steps
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


def model_of(layers: int, language: str = "es") -> EmotionModel:
    tiny = EmotionConfig.tiny(language, "concat")
    assert tiny.audio is not None
    assert tiny.text is not None
    audio, text = (replace(encoder, num_hidden_layers=layers) for encoder in (tiny.audio, tiny.text))
    return EmotionModel(replace(tiny, audio=audio, text=text), rngs=nnx.Rngs(0))


@pytest.mark.parametrize("kind", ["audio", "text"])
@pytest.mark.parametrize(
    ("language", "layers", "groups"), [pytest.param("es", 10, [4, 4, 2], marks=pytest.mark.slow), ("en", 2, [2])]
)
def test_some_layers_after_others_give_what_a_scan_gives(language: str, layers: int, groups: list[int], kind: str):
    model = model_of(layers, language)
    assert len(encoder_steps(model, kind, last, "tpu")) == 1
    name = f"the {kind} encoder"
    names = [step.name for step in encoder_steps(model, kind, last, "cpu")]
    assert names == [f"{name}'s input", *(f"{count} layers of {name}" for count in groups), f"{name}'s output"]
    np.testing.assert_allclose(run(model, kind, "cpu"), run(model, kind, "tpu"), atol=1e-5)


@pytest.mark.parametrize("kind", ["audio", "text"])
def test_layers_are_in_the_memory_of_the_stack(kind: str):
    model = model_of(6)
    encoder = model.audio_encoder if kind == "audio" else model.text_encoder
    assert encoder is not None
    stack = parameters_of(encoder.layers)
    _, *steps, _ = encoder_steps(model, kind, last, "cpu")
    layers = [layer for step in steps for layer in step.parameters.values()]
    assert len(layers) == 6
    for number, layer in enumerate(layers):
        flat = {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(layer)}
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
