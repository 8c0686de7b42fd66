"""What differs in a model while it learns: dropout, LayerDrop, frozen layers, layers computed twice."""

from collections.abc import Iterator
from dataclasses import fields, replace
from itertools import combinations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from speech_emotion_jax import EmotionConfig
from speech_emotion_jax.config import BertConfig, Wav2Vec2BertConfig
from speech_emotion_jax.models.attention import QUERY_BLOCK, attend
from speech_emotion_jax.models.bert import Bert
from speech_emotion_jax.models.fusion import MULTIHEAD_DROPOUT, ClassificationHead, Multihead
from speech_emotion_jax.models.layers import Learning, Linear, dropout, scan_layers, stacked
from speech_emotion_jax.models.parameters import parameter_shapes, with_parameters
from speech_emotion_jax.models.wav2vec2_bert import Wav2Vec2Bert

TINY = EmotionConfig.tiny("es", "concat")
FRAMES = 40
LENGTHS = np.array([40, 25, 11])
MASK = jnp.asarray(np.arange(FRAMES)[None] < LENGTHS[:, None])
KEY = jax.random.key(0)

Encoder = Wav2Vec2Bert | Bert


@pytest.fixture(autouse=True, scope="module")
def _compiled_cheaply() -> Iterator[None]:
    """Each program runs a few times at most, and compiling it is what takes time."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def settings_of(kind: str, **rates: float) -> Wav2Vec2BertConfig | BertConfig:
    """A tiny encoder of three layers, in which nothing is dropped or masked but by these rates."""
    config = TINY.audio if kind == "audio" else TINY.text
    assert config is not None
    off = {each.name: 0.0 for each in fields(config) if "drop" in each.name or each.name.endswith("_prob")}
    taps = {"conv_depthwise_kernel_size": 5} if kind == "audio" else {}  # which compile faster
    return replace(config, num_hidden_layers=3, **taps, **{**off, **rates})


def encoder_of(kind: str, **rates: float) -> Encoder:
    config = settings_of(kind, **rates)
    return (Wav2Vec2Bert if isinstance(config, Wav2Vec2BertConfig) else Bert)(config, rngs=nnx.Rngs(1))


def inputs_of(kind: str) -> jax.Array:
    if kind == "audio":
        return normal(3, FRAMES, 160)
    return jnp.asarray(np.random.default_rng(0).integers(300, size=(3, FRAMES)))


ALL_RATES = {
    "audio": {
        "feat_proj_dropout": 0.1,
        "hidden_dropout": 0.1,
        "activation_dropout": 0.1,
        "attention_dropout": 0.1,
        "conformer_conv_dropout": 0.1,
        "layerdrop": 0.4,
        "mask_time_prob": 0.2,
        "mask_feature_prob": 0.4,
    },
    "text": {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1},
}
EACH_RATE = [(kind, rate) for kind, rates in ALL_RATES.items() for rate in rates]


@nnx.jit
def infer(encoder: Encoder, inputs: jax.Array) -> jax.Array:
    """All hidden states."""
    return encoder(inputs, MASK, hidden_states=True).hidden_states


@nnx.jit(static_argnames="frozen")
def learn(encoder: Encoder, inputs: jax.Array, key: jax.Array | None, *, frozen: int = 0) -> jax.Array:
    return encoder(inputs, MASK, hidden_states=True, learning=Learning(key, frozen=frozen)).hidden_states


@pytest.mark.parametrize("kind", ["audio", "text"])
def test_without_a_key_nothing_is_drawn(kind):
    """Bit for bit the result of inference, whatever the rates."""
    encoder, inputs = encoder_of(kind, **ALL_RATES[kind]), inputs_of(kind)
    assert (infer(encoder, inputs) == learn(encoder, inputs, None)).all()


@pytest.mark.parametrize("kind", ["audio", "text"])
def test_rates_of_zero_drop_nothing(kind):
    encoder, inputs = encoder_of(kind), inputs_of(kind)
    assert jnp.abs(infer(encoder, inputs) - learn(encoder, inputs, KEY)).max() < 1e-6


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "rate"), EACH_RATE)
def test_each_rate_has_its_effect(kind, rate):
    """A key is a draw: the same gives the same, another another, and none what inference gives."""
    encoder, inputs = encoder_of(kind, **{rate: ALL_RATES[kind][rate]}), inputs_of(kind)
    quiet = infer(encoder_of(kind), inputs)
    drawn = [learn(encoder, inputs, jax.random.key(seed)) for seed in range(3)]
    assert (drawn[0] == learn(encoder, inputs, KEY)).all()
    assert all(jnp.abs(one - other)[:, MASK].max() > 1e-3 for one, other in combinations([quiet, *drawn], 2))
    assert all(jnp.isfinite(each).all() for each in drawn)


def test_spec_augment_is_switched_off_as_a_whole():
    quiet = replace(settings_of("audio", mask_time_prob=0.2, mask_feature_prob=0.2), apply_spec_augment=False)
    encoder, inputs = Wav2Vec2Bert(quiet, rngs=nnx.Rngs(1)), inputs_of("audio")
    assert jnp.abs(infer(encoder, inputs) - learn(encoder, inputs, KEY)).max() < 1e-6


def test_masked_frames_hold_the_learned_vector():
    """The first state shows what SpecAugment did: the vector or the projection, whole frames, spans of ten."""
    encoder = encoder_of("audio", mask_time_prob=0.4)
    projected = infer(encoder, inputs_of("audio"))[0]
    states = learn(encoder, inputs_of("audio"), KEY)[0]
    masked = (states == encoder.masked_spec_embed[...][None, None]).all(axis=-1)
    assert masked.any()
    assert ((states == projected).all(axis=-1) | masked).all()
    assert not masked[~MASK].any()  # padding is zero
    assert masked[0].sum() >= 10


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_dropout_keeps_the_mean(rate):
    x = normal(200, 500) + 3
    dropped = dropout(x, rate, KEY)
    kept = dropped != 0
    np.testing.assert_allclose(dropped[kept], x[kept] / (1 - rate), rtol=1e-6)
    count = x.size
    assert abs(kept.mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / count)
    assert abs(dropped.mean() - x.mean()) < 5 * dropped.std() / np.sqrt(count)
    assert dropout(x, rate, None) is x
    assert dropout(x, 0.0, KEY) is x


def by_path(gradient: nnx.State) -> dict[str, jax.Array]:
    return {".".join(map(str, path)): leaf.get_value() for path, leaf in nnx.to_flat_state(gradient)}


# LayerDrop, frozen layers


def test_a_dropped_layer_leaves_its_input():
    encoder = encoder_of("audio", layerdrop=1 - 1e-6)
    states = learn(encoder, inputs_of("audio"), KEY)
    assert (states == states[:1]).all()


@pytest.mark.slow
def test_layers_are_dropped_one_by_one_at_the_rate():
    """Layers of which layer i adds 2^i: the sum tells which ran, and nothing is scaled up for it."""
    layers, draws, rate = 6, 4000, 0.3
    stack = stacked(lambda rngs: Linear(1, 1, rngs=rngs), layers, rngs=nnx.Rngs(0))
    stack.bias.set_value(2.0 ** jnp.arange(layers)[:, None])

    def ran(key: jax.Array) -> jax.Array:
        out, _ = scan_layers(
            stack,
            lambda layer, x, key: x + layer.bias[...][None, None],
            jnp.zeros((1, 1, 1)),
            hidden_states=False,
            learning=Learning(key),
            layerdrop=rate,
        )
        return out[0, 0, 0].astype(int)

    codes = np.asarray(jax.jit(jax.vmap(ran))(jax.random.split(KEY, draws)))
    left_out = 1 - (codes[:, None] >> np.arange(layers) & 1)
    error = np.sqrt(rate * (1 - rate) / draws)
    assert (np.abs(left_out.mean(axis=0) - rate) < 5 * error).all()
    together = np.corrcoef(left_out.T) - np.eye(layers)
    assert np.abs(together).max() < 5 / np.sqrt(draws)  # each by its own draw


@nnx.jit(static_argnames=("remat", "frozen"))
def loss_and_gradient(
    encoder: Encoder, inputs: jax.Array, key: jax.Array | None = None, *, remat: bool = False, frozen: int = 0
) -> tuple[jax.Array, dict[str, jax.Array]]:
    def loss(encoder: Encoder) -> jax.Array:
        last = encoder(inputs, MASK, learning=Learning(key, remat, frozen)).last
        return (jnp.where(MASK[..., None], last, 0.0)[..., ::3] ** 2).mean()

    value, gradient = nnx.value_and_grad(loss)(encoder)
    return value, by_path(gradient)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["audio", "text"])
def test_remat_changes_nothing(kind):
    """With all noise on: the second computation draws what the first one drew."""
    encoder, inputs = encoder_of(kind, **ALL_RATES[kind]), inputs_of(kind)
    loss, gradient = loss_and_gradient(encoder, inputs, KEY)
    again, gradient_again = loss_and_gradient(encoder, inputs, KEY, remat=True)
    assert abs(loss - again) < 1e-6
    largest = max(jnp.abs(each).max() for each in gradient.values())
    assert largest > 1e-2
    assert all(jnp.abs(gradient[path] - gradient_again[path]).max() <= 1e-6 * max(largest, 1) for path in gradient)


@pytest.mark.slow
@pytest.mark.parametrize("frozen", [1, 3])
@pytest.mark.parametrize("kind", ["audio", "text"])
def test_frozen_layers_have_no_gradient(kind, frozen):
    """And all others theirs, those under the frozen ones too."""
    encoder, inputs = encoder_of(kind), inputs_of(kind)
    loss, whole = loss_and_gradient(encoder, inputs)
    same, gradient = loss_and_gradient(encoder, inputs, frozen=frozen)
    assert abs(loss - same) < 1e-6
    for path, each in gradient.items():
        if path.startswith("layers."):
            assert not each[:frozen].any()
            np.testing.assert_allclose(each[frozen:], whole[path][frozen:], atol=1e-6)
            assert path.endswith(("key.bias", "linear_k.bias")) or whole[path][:frozen].any()
        else:
            np.testing.assert_allclose(each, whole[path], atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "rate", "value"),
    [
        ("audio", "layerdrop", 0.999),
        ("audio", "activation_dropout", 0.5),
        ("text", "attention_probs_dropout_prob", 0.5),
    ],
)
def test_frozen_layers_drop_nothing(kind, rate, value):
    """They run as in inference, and the highest, which learns, does not."""
    encoder, inputs = encoder_of(kind, **{rate: value}), inputs_of(kind)
    quiet, noisy = infer(encoder, inputs), learn(encoder, inputs, KEY, frozen=2)
    assert quiet.shape == noisy.shape
    assert jnp.abs(noisy - quiet)[:3].max() < 1e-5
    assert jnp.abs(noisy - quiet)[3].max() > 1e-3
    assert jnp.abs(learn(encoder, inputs, KEY, frozen=3) - quiet).max() < 1e-5


# A batch


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["audio", "text"])
def test_a_clip_learns_alone_as_in_a_batch(kind):
    """Padding, whatever is in it, adds nothing to the gradient."""
    encoder, inputs = encoder_of(kind), inputs_of(kind)

    @nnx.jit
    def gradient(
        encoder: Encoder, inputs: jax.Array, mask: jax.Array, row: jax.Array
    ) -> tuple[jax.Array, dict[str, jax.Array]]:
        def loss(encoder: Encoder) -> jax.Array:
            last = encoder(inputs, mask, learning=Learning()).last[row]
            return (jnp.where(mask[row][:, None], last, 0.0)[..., ::3] ** 2).mean() * len(last)

        value, found = nnx.value_and_grad(loss)(encoder)
        return value, by_path(found)

    row, length = 1, int(LENGTHS[1])
    together, padded = gradient(encoder, inputs, MASK, jnp.array(row))
    loss, alone = gradient(encoder, inputs[row : row + 1, :length], jnp.ones((1, length), bool), jnp.array(0))
    np.testing.assert_allclose(loss, together, rtol=1e-5)
    largest = max(float(jnp.abs(each).max()) for each in alone.values())
    for path, each in alone.items():
        assert jnp.abs(padded[path] - each).max() < 1e-5 * largest


# Attention


def attention_inputs(time: int, width: int) -> tuple[list[jax.Array], jax.Array]:
    """Queries, keys, values and distances, and a mask of two clips."""
    arrays = [normal(2, time, 2, width, seed=seed) for seed in range(3)]
    return [*arrays, normal(7, width, seed=3)], jnp.arange(time)[None] < jnp.array([[time], [time - time // 3]])


@jax.jit(static_argnames="drop")
def ours(arrays: list[jax.Array], mask: jax.Array, drop: float = 0.0, key: jax.Array | None = None) -> jax.Array:
    query, keys, value, distances = arrays
    return attend(
        query, keys, value, mask, dtype=jnp.dtype("float32"), distances=distances, left=4, drop=drop, drop_key=key
    )


def dropped_weights(arrays: list[jax.Array], mask: jax.Array, drop: float, key: jax.Array | None) -> jax.Array:
    """The weights (batch, heads, queries, keys), read off by values that are one at a key each, `width` at a time."""
    query, keys, value, distances = arrays
    time, width = value.shape[1], value.shape[3]
    shown = [
        ours(
            [query, keys, jnp.broadcast_to(jnp.eye(time, width, -first)[None, :, None], value.shape), distances],
            mask,
            drop,
            key,
        )
        for first in range(0, time, width)
    ]
    return jnp.concatenate(shown, axis=-1)[..., :time].transpose(0, 2, 1, 3)


@pytest.mark.slow
@pytest.mark.parametrize("time", [QUERY_BLOCK - 3, 2 * QUERY_BLOCK + 5])
def test_attention_weights_are_dropped(time):
    arrays, mask = attention_inputs(time, 32)
    whole, dropped = (dropped_weights(arrays, mask, 0.25, key) for key in (None, KEY))
    kept = dropped > 0
    np.testing.assert_allclose(dropped[kept], whole[kept] / 0.75, rtol=1e-5)
    real = np.asarray(whole > 1e-20)
    assert abs(kept[real].mean() - 0.75) < 5 * np.sqrt(0.25 * 0.75 / real.sum())
    first, second = kept[0, 0, : time // 2, : time // 2], kept[0, 1, : time // 2, : time // 2]
    assert (first != second).any()  # heads
    if time > 2 * QUERY_BLOCK:  # blocks
        assert (kept[0, 0, :QUERY_BLOCK] != kept[0, 0, QUERY_BLOCK : 2 * QUERY_BLOCK]).any()


@pytest.mark.slow
@pytest.mark.parametrize("drop", [0.0, 0.3])
@pytest.mark.parametrize("time", [QUERY_BLOCK - 3, 2 * QUERY_BLOCK + 5])
def test_gradient_of_attention_is_that_of_its_formula(time, drop):
    """In one piece, with a (time, time, width) table; what was dropped in the blocks is dropped here too."""
    arrays, mask = attention_inputs(time, 32)
    key = KEY if drop else None
    scale = jnp.where(dropped_weights(arrays, mask, drop, key) > 0, 1 / (1 - drop), 0.0)
    towards = normal(2, time, 2, 32, seed=9)

    def dense(arrays: list[jax.Array]) -> jax.Array:
        query, keys, value, distances = arrays
        distance = np.clip(np.arange(time)[None] - np.arange(time)[:, None], -4, 2) + 4
        scores = jnp.einsum("bqhd,bkhd->bhqk", query, keys) + jnp.einsum("bqhd,qkd->bhqk", query, distances[distance])
        weights = jax.nn.softmax(scores / np.sqrt(32), axis=-1, where=mask[:, None, None])
        return jnp.einsum("bhqk,bkhd->bqhd", weights * scale, value)

    def gradient(attention, arrays: list[jax.Array]) -> tuple[jax.Array, list[jax.Array]]:
        return jax.jit(jax.value_and_grad(lambda arrays: (attention(arrays) * towards).sum()))(arrays)

    value, blocks = gradient(lambda arrays: ours(arrays, mask, drop, key), arrays)
    expected_value, expected = gradient(dense, arrays)
    np.testing.assert_allclose(value, expected_value, rtol=1e-4)
    for found, formula in zip(blocks, expected, strict=True):
        assert jnp.abs(found - formula).max() <= 1e-5 * jnp.abs(formula).max()


# Heads


def test_the_head_drops_before_each_layer():
    head = ClassificationHead(24, 6, drop=0.5, rngs=nnx.Rngs(0))
    x = normal(4, 24)
    assert (head(x, KEY) == head(x, KEY)).all()
    assert jnp.abs(head(x, KEY) - head(x)).max() > 1e-2
    assert (ClassificationHead(24, 6, rngs=nnx.Rngs(0))(x, KEY) == head(x)).all()
    # Before out_proj: a mean of linear draws is what is without them. Before dense: tanh(0) where all is zero.
    silent = ClassificationHead(24, 6, drop=0.5, rngs=nnx.Rngs(0))
    silent.dense.kernel.set_value(jnp.zeros((24, 24)))
    silent.dense.bias.set_value(jnp.ones(24))
    draws = jax.jit(jax.vmap(lambda key: silent(x, key)))(jax.random.split(KEY, 4000))
    assert_mean(draws, silent(x))


@pytest.mark.slow
@pytest.mark.parametrize("across_batch", [False, True])
def test_multihead_dropout_keeps_the_mean(across_batch):
    """All that is dropped enters linearly, so the mean of many draws is what is without them."""
    fusion = Multihead(3, 8, rngs=nnx.Rngs(0))
    audio, text = normal(4, 8), normal(4, 8, seed=1)
    quiet = fusion(audio, text, across_batch=across_batch)
    draw = jax.jit(jax.vmap(lambda key: fusion(audio, text, across_batch=across_batch, key=key)))
    draws = draw(jax.random.split(KEY, 4000))
    assert_mean(draws, quiet)
    assert abs((draws == 0).mean() - MULTIHEAD_DROPOUT) < 5 * np.sqrt(0.3 * 0.7 / 4000)  # rows of a draw are related
    kept = draws != 0
    assert jnp.abs(draws * (1 - MULTIHEAD_DROPOUT) - quiet[None])[kept].max() > 1e-2  # the attention's weights too


def assert_mean(draws: jax.Array, mean: jax.Array) -> None:
    """Of every element, within five standard errors, and there is something to average."""
    assert (draws.std(axis=0) > 1e-3).all()
    assert (jnp.abs(draws.mean(axis=0) - mean) <= 5 * draws.std(axis=0) / np.sqrt(len(draws)) + 1e-6).all()


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "head_rate"), [("concat", 0.1), ("multihead", 0.0)])
def test_the_models_key_reaches_fusion_and_head(mode, head_rate):
    config = EmotionConfig.tiny("es", mode)
    assert config.audio is not None
    config = replace(config, audio=replace(config.audio, final_dropout=head_rate))
    shapes = parameter_shapes(config).items()
    model = with_parameters(config, {path: 0.2 * normal(*shape, seed=len(path)) for path, shape in shapes})
    audio, text = normal(4, 24), normal(4, 24, seed=1)
    classify = jax.jit(lambda key: model.classify(audio, text, key=key))
    logits = [classify(key) for key in (KEY, jax.random.key(1), None)]
    assert (logits[0] == classify(KEY)).all()
    assert all(jnp.abs(one - other).max() > 1e-3 for one, other in combinations(logits, 2))
