"""The modules as a JAX researcher meets them: alone, under jit, grad and vmap, at any length. No torch here."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import nnx
from jax.sharding import Mesh, PartitionSpec

from speech_emotion_jax import EmotionConfig, EmotionModel
from speech_emotion_jax.config import BertConfig, Wav2Vec2BertConfig
from speech_emotion_jax.models import layers
from speech_emotion_jax.models.bert import Bert
from speech_emotion_jax.models.parameters import parameter_shapes, parameters_of, with_parameters
from speech_emotion_jax.models.wav2vec2_bert import Wav2Vec2Bert
from speech_emotion_jax.runtime.precision import parameter_dtype

AUDIO = EmotionConfig.tiny("es", "audio").audio
TEXT = EmotionConfig.tiny("es", "concat").text


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


@pytest.mark.parametrize("make", [lambda: Wav2Vec2Bert(AUDIO, rngs=nnx.Rngs(0)), lambda: Bert(TEXT, rngs=nnx.Rngs(0))])
def test_an_encoder_alone(make):
    encoder = make()
    speech = isinstance(encoder, Wav2Vec2Bert)
    inputs = normal(2, 40, 160) if speech else jnp.arange(80).reshape(2, 40)
    mask = jnp.arange(40)[None] < jnp.array([[40], [25]])
    states = nnx.jit(lambda encoder, x: encoder(x, mask, hidden_states=True))(encoder, inputs)
    layers = AUDIO.num_hidden_layers if speech else TEXT.num_hidden_layers
    assert states.hidden_states.shape == (layers + 1, *states.last.shape)
    assert (states.hidden_states[-1] == states.last).all()
    assert encoder(inputs, mask).hidden_states is None

    gradient = nnx.grad(lambda encoder: (encoder(inputs, mask).last[mask] ** 2).sum())(encoder)
    norms = {path: float(jnp.linalg.norm(leaf)) for path, leaf in parameters_of_state(gradient).items()}
    assert all(np.isfinite(norm) for norm in norms.values())
    silent = {path for path, norm in norms.items() if norm == 0}
    assert silent == ({"masked_spec_embed"} if speech else set())  # of training alone


def parameters_of_state(state: nnx.State) -> dict[str, jax.Array]:
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(state)}


def test_masked_frames_reach_nothing():
    encoder = Wav2Vec2Bert(AUDIO, rngs=nnx.Rngs(0))
    x, mask = normal(1, 60, 160), jnp.arange(60)[None] < 37
    states = encoder(x, mask)
    disturbed = encoder(jnp.where(mask[..., None], x, 100.0), mask)
    assert jnp.abs(states.last - disturbed.last)[mask].max() == 0


def test_vmap_over_clips():
    model = EmotionModel(EmotionConfig.tiny("en", "audio"), rngs=nnx.Rngs(0))
    x, mask = normal(3, 30, 160), jnp.ones((3, 30), bool)
    one_by_one = jax.vmap(lambda x, mask: model(x[None], mask[None])[0])(x, mask)
    assert jnp.abs(one_by_one - model(x, mask)).max() < 1e-5


@pytest.mark.parametrize("language", ["es", "en"])
@pytest.mark.parametrize("mode", ["text", "audio", "concat", "mean", "multihead"])
def test_every_preset_builds(mode, language):
    published, tiny = (parameter_shapes(make(language, mode)) for make in (EmotionConfig.published, EmotionConfig.tiny))
    assert published.keys() == tiny.keys()
    assert published["classifier.out_proj.kernel"][1] == {"es": 6, "en": 7}[language]


@pytest.mark.parametrize("mode", ["text", "audio", "concat", "mean", "multihead"])
def test_wrong_modalities_are_refused(mode):
    model = EmotionModel(EmotionConfig.tiny("es", mode), rngs=nnx.Rngs(0))
    vector = normal(1, 24)
    wanted = {"text": (None, vector), "audio": (vector, None)}.get(mode, (vector, vector))
    assert model.classify(*wanted).shape == (1, 6)
    for given_vectors in {(True, True), (True, False), (False, True), (False, False)}:
        if given_vectors != tuple(each is not None for each in wanted):
            with pytest.raises(TypeError, match="takes"):
                model.classify(*(vector if present else None for present in given_vectors))


def test_parameters_round_trip():
    config = EmotionConfig.tiny("es", "multihead")
    model = EmotionModel(config, rngs=nnx.Rngs(1))
    again = with_parameters(config, parameters_of(model))
    audio, text = normal(2, 24), normal(2, 24, seed=1)
    assert (again.classify(audio, text) == model.classify(audio, text)).all()
    arrays = parameters_of(model)
    with pytest.raises(KeyError, match=r"projector\.bias"):
        with_parameters(config, {path: array for path, array in arrays.items() if path != "projector.bias"})
    with pytest.raises(ValueError, match=r"projector\.bias"):
        with_parameters(config, arrays | {"projector.bias": jnp.zeros(25)})


def test_bfloat16_is_a_property_of_the_matrices():
    config = EmotionConfig.tiny("es", "concat")
    full = parameters_of(EmotionModel(config, rngs=nnx.Rngs(0)))
    lower = {path: array.astype(parameter_dtype(path, "bfloat16")) for path, array in full.items()}
    assert {path.rsplit(".", 1)[1] for path, array in lower.items() if array.dtype == jnp.bfloat16} == {
        "kernel",
        "distance_embedding",
    }
    inputs = (normal(1, 50, 160), jnp.ones((1, 50), bool), jnp.arange(9)[None], jnp.ones((1, 9), bool))
    logits = [with_parameters(config, arrays)(*inputs) for arrays in (full, lower)]
    assert all(each.dtype == jnp.float32 for each in logits)
    assert 0 < jnp.abs(logits[0] - logits[1]).max() < 0.05


@pytest.mark.parametrize("kind", ["rotary", "relative", None])
def test_other_positions_are_refused_by_name(kind):
    with pytest.raises(ValueError, match=str(kind)):
        Wav2Vec2BertConfig.from_json({"position_embeddings_type": kind})


@pytest.mark.parametrize(
    "setting",
    [
        {"hidden_size": "1024"},
        {"hidden_size": 1023},
        {"hidden_act": "mish"},
        {"num_attention_heads": 0},
        {"num_hidden_layers": -1},
    ],
)
def test_settings_that_make_no_model(setting):
    with pytest.raises(ValueError, match=str(next(iter(setting.values())))):
        Wav2Vec2BertConfig.from_json(setting)


def test_roberta_counts_positions_from_its_padding():
    assert BertConfig.from_json({"model_type": "roberta", "max_position_embeddings": 514}).position_offset == 2
    assert BertConfig.from_json({"model_type": "bert"}).position_offset == 0


@pytest.mark.parametrize(("positions", "tokens"), [(512, 510), (514, 512), (128, 126), (8194, 512)])
def test_most_tokens_of_a_text(positions, tokens):
    settings = {"model_type": "roberta", "max_position_embeddings": positions}
    assert BertConfig.from_json(settings).max_tokens == tokens


def test_other_text_encoders_are_refused_by_name():
    with pytest.raises(ValueError, match="electra"):
        BertConfig(model_type="electra")
    with pytest.raises(ValueError, match="relative_key_query"):
        BertConfig.from_json({"position_embedding_type": "relative_key_query"})


def test_the_gradient_of_gelu_in_a_shard_map():
    """JAX 0.12 refuses there what it computes the derivative of its own erfc by."""
    mesh, by_item = Mesh(np.array(jax.devices()[:1]), ("items",)), PartitionSpec("items")
    x = jnp.linspace(-6, 6, 97)
    gradient = jax.vmap(jax.grad(layers.ACTIVATIONS["gelu"]))
    mapped = jax.shard_map(gradient, mesh=mesh, in_specs=by_item, out_specs=by_item)
    wide = np.asarray(x, np.float64)
    wanted = scipy.stats.norm.cdf(wide) + wide * scipy.stats.norm.pdf(wide)
    np.testing.assert_allclose(jax.jit(mapped)(x), wanted, atol=1e-6)
    np.testing.assert_allclose(gradient(x), wanted, atol=1e-6)
