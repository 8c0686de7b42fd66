"""The pure functions: what the modules compute, under every transformation, inside programs of others."""

import inspect
import os
import subprocess
import sys
import typing
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import AbstractArray, Array, Float

from speech_emotion_jax import EmotionConfig, EmotionPipeline, InvalidInput, functional, models
from speech_emotion_jax.audio import fbank as front_end
from speech_emotion_jax.audio.waveform import load as read
from speech_emotion_jax.cli.main import main
from speech_emotion_jax.models import emotion
from speech_emotion_jax.models.parameters import parameters_of

DEMO = Path("speech_emotion_jax/demo_data")
TEXTS = ["No me lo puedo creer", "Tengo miedo de la noche"]
SAME = 2e-6  # two programs of the same formula


@pytest.fixture(scope="module")
def demo() -> functional.Loaded:
    return functional.load(str(DEMO / "checkpoint"), "concat", "es", device="cpu")


@pytest.fixture(scope="module")
def clips() -> tuple[jax.Array, jax.Array]:
    return functional.padded([read(DEMO / f"{name}.flac")[:30_000] for name in ("joy", "fear")])


@pytest.fixture(scope="module")
def inputs(demo, clips):
    """Features with their mask, and tokens with theirs, of two clips."""
    assert demo.tokens is not None
    return (*functional.features(*clips), *demo.tokens(TEXTS))


def logits(parameters, config, x, mask, ids, token_mask) -> jax.Array:
    heard = functional.encode_audio(parameters, config, x, mask)
    words = functional.encode_text(parameters, config, ids, token_mask)
    return functional.classify(parameters, config, heard.pooled, words.pooled)


@pytest.fixture(scope="module")
def expected(demo, inputs) -> np.ndarray:
    return np.asarray(jax.jit(partial(logits, demo.parameters, demo.config))(*inputs))


def assert_same(found: jax.Array, wanted: np.ndarray | jax.Array) -> None:
    wanted = np.asarray(wanted)
    assert found.shape == wanted.shape
    assert np.abs(np.asarray(found) - wanted).max() <= SAME * max(1, np.abs(wanted).max())


def test_what_the_pipeline_says(demo, inputs, expected):
    pipeline = EmotionPipeline.from_pretrained(str(DEMO / "checkpoint"), mode="concat", language="es", device="cpu")
    recordings = [read(DEMO / f"{name}.flac")[:30_000] for name in ("joy", "fear")]
    predicted = pipeline.predict(
        [
            {"audio": {"array": each, "sampling_rate": 16_000}, "text": text}
            for each, text in zip(recordings, TEXTS, strict=True)
        ]
    )
    scores = jax.nn.softmax(jnp.asarray(expected))
    for row, prediction in zip(scores, predicted, strict=True):
        assert np.abs(np.asarray(row) - list(prediction["scores"].values())).max() < 1e-5


def test_one_clip_a_batch_and_batches_of_batches(demo, clips, inputs):
    x, mask, ids, token_mask = inputs
    one = jax.jit(partial(functional.encode_audio, demo.parameters, demo.config))
    batch = one(x, mask)
    alone = one(x[0], mask[0])
    assert_same(alone.pooled, batch.pooled[0])
    twice = one(jnp.stack([x, x]), jnp.stack([mask, mask]))
    assert_same(twice.pooled[1], batch.pooled)
    assert twice.last.shape == (2, *x.shape[:2], demo.config.audio.hidden_size)
    waveforms, lengths = clips
    assert_same(functional.features(waveforms[0], lengths[0])[0], x[0])
    whole, real = functional.features(waveforms[0, : int(lengths[0])])  # no lengths: all of it
    assert_same(whole[real], x[0][mask[0]])
    words = functional.encode_text(demo.parameters, demo.config, ids[0], token_mask[0])
    assert_same(words.pooled, functional.encode_text(demo.parameters, demo.config, ids, token_mask).pooled[0])


def test_every_hidden_layer_in_one_call(demo, inputs):
    x, mask, ids, token_mask = inputs
    heard = functional.encode_audio(demo.parameters, demo.config, x, mask, hidden_states=True)
    assert heard.hidden_states.shape == (demo.config.audio.num_hidden_layers + 1, *heard.last.shape)
    assert_same(heard.hidden_states[-1], heard.last)
    words = functional.encode_text(demo.parameters, demo.config, ids, token_mask, hidden_states=True)
    assert words.hidden_states.shape == (demo.config.text.num_hidden_layers + 1, *words.last.shape)
    assert_same(words.hidden_states[-1, :, 0], words.pooled)
    assert functional.encode_audio(demo.parameters, demo.config, x, mask).hidden_states is None


def test_jit_with_a_static_configuration(demo, inputs, expected):
    assert_same(jax.jit(logits, static_argnums=1)(demo.parameters, demo.config, *inputs), expected)


def test_vmap(demo, inputs, expected):
    assert_same(jax.jit(jax.vmap(partial(logits, demo.parameters, demo.config)))(*inputs), expected)


@pytest.mark.slow
def test_the_gradient_of_a_waveform(demo, clips):
    """Through the front end, which multiplies in slices that are rounded: not zero, and the slope that is measured."""
    waveforms, lengths = clips

    @jax.jit
    def score(waveforms):
        heard = functional.encode_audio(demo.parameters, demo.config, *functional.features(waveforms, lengths))
        return (heard.pooled**2).sum()

    gradient = jax.jit(jax.grad(score))(waveforms)
    way = gradient / jnp.linalg.norm(gradient)
    step = 1e-3
    slope = float(score(waveforms + step * way) - score(waveforms - step * way)) / (2 * step)
    assert slope == pytest.approx(float(jnp.vdot(gradient, way)), rel=0.05)
    assert slope > 0


@pytest.mark.slow
def test_features_under_vmap(clips):
    waveforms, lengths = clips
    x, mask = functional.features(waveforms, lengths)
    mapped, mapped_mask = jax.vmap(functional.features)(waveforms, lengths)
    assert_same(jnp.where(mask[..., None], mapped, 0), jnp.where(mask[..., None], x, 0))
    assert (np.asarray(mapped_mask) == np.asarray(mask)).all()


def test_grad(demo, inputs):
    """Along a random direction it is the slope that is measured, and it reaches every parameter that is used."""
    labels = jnp.array([0, 1])

    @jax.jit
    def loss(parameters):
        scores = logits(parameters, demo.config, *inputs) / 10
        return optax.softmax_cross_entropy_with_integer_labels(scores, labels).mean()

    gradient = jax.jit(jax.grad(loss))(demo.parameters)
    assert jax.tree.structure(gradient) == jax.tree.structure(demo.parameters)
    rng = np.random.default_rng(0)
    way = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape) * 1e-4, jnp.float32), demo.parameters)
    ahead, behind = (
        loss(jax.tree.map(lambda leaf, step, sign=sign: leaf + sign * step, demo.parameters, way)) for sign in (1, -1)
    )
    slope = sum(jnp.vdot(a, b) for a, b in zip(jax.tree.leaves(gradient), jax.tree.leaves(way), strict=True))
    assert float(ahead - behind) / 2 == pytest.approx(float(slope), rel=0.05)


@pytest.mark.slow
def test_shard_map_and_pmap_of_others(demo, inputs, expected):
    """With their settings as they are by default, on the devices there are."""
    devices = jax.devices()[:2]
    ours = partial(logits, demo.parameters, demo.config)
    if len(devices) == 2:
        by_clip = PartitionSpec("clips")
        mesh = Mesh(np.array(devices), ("clips",))
        mapped = jax.shard_map(ours, mesh=mesh, in_specs=by_clip, out_specs=by_clip)
        assert_same(jax.jit(mapped)(*inputs), expected)

        def total(parameters, *inputs):
            return (logits(parameters, demo.config, *inputs) ** 2).sum()

        def shared(parameters, *inputs):  # the parameters are on all devices, the clips divided over them
            return jax.lax.psum(total(parameters, *inputs), "clips")

        whole = PartitionSpec()
        divided = jax.shard_map(shared, mesh=mesh, in_specs=(whole, *[by_clip] * 4), out_specs=whole)
        everywhere = jax.device_put(demo.parameters, NamedSharding(mesh, whole))
        found = jax.jit(jax.grad(divided))(everywhere, *inputs)
        wanted = jax.jit(jax.grad(total))(demo.parameters, *inputs)
        for ours_, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(wanted), strict=True):
            assert np.abs(np.asarray(ours_) - np.asarray(theirs)).max() <= 1e-4 * max(
                1, np.abs(np.asarray(theirs)).max()
            )
    per_device = [jnp.stack(jnp.split(each, len(devices))) for each in inputs]
    assert_same(jax.pmap(ours, devices=devices)(*per_device).reshape(expected.shape), expected)


@pytest.mark.process
def test_on_several_devices():
    """The test above, where there are two."""
    alone = ("-n", "0", "-m", "", "-p", "no:cacheprovider")
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *alone, __file__, "-k", "shard_map"],
        env={**os.environ, "XLA_FLAGS": "--xla_force_host_platform_device_count=2"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:]


@pytest.mark.slow
def test_a_train_loop_of_somebody_else(demo, inputs):
    """Plain optax on the plain tree: the loss falls, and the frozen encoders stay as they are."""
    x, mask, ids, token_mask = inputs
    optimizer = optax.multi_transform(
        {"learns": optax.adam(1e-2), "frozen": optax.set_to_zero()},
        lambda tree: {name: "learns" if name == "classifier" else "frozen" for name in tree},
    )
    parameters = functional.random_parameters(demo.config, jax.random.key(0))

    @jax.jit
    def step(parameters, state):
        def loss(parameters):
            scores = logits(parameters, demo.config, x, mask, ids, token_mask)
            return optax.softmax_cross_entropy_with_integer_labels(scores, jnp.array([0, 1])).mean()

        value, gradient = jax.value_and_grad(loss)(parameters)
        updates, state = optimizer.update(gradient, state, parameters)
        return optax.apply_updates(parameters, updates), state, value

    state, losses, before = optimizer.init(parameters), [], parameters
    for _ in range(20):
        parameters, state, value = step(parameters, state)
        losses.append(float(value))
    assert losses[-1] < 0.2 * losses[0]
    for name in ("audio_encoder", "text_encoder"):
        same = jax.tree.map(lambda a, b: bool((a == b).all()), before[name], parameters[name])
        assert all(jax.tree.leaves(same))


def test_a_second_call_outside_of_jit_compiles_nothing(demo, inputs):
    x, mask, ids, token_mask = inputs
    logits(demo.parameters, demo.config, *inputs)
    with jax.no_tracing():
        heard = functional.encode_audio(demo.parameters, demo.config, x, mask)
        words = functional.encode_text(demo.parameters, demo.config, ids, token_mask)
        functional.classify(demo.parameters, demo.config, heard.pooled, words.pooled)


@pytest.mark.slow
def test_several_sets_of_parameters_at_once(demo, inputs):
    """`vmap` over the tree, as for an ensemble."""
    both = jax.tree.map(lambda leaf: jnp.stack([leaf, 1.1 * leaf]), demo.parameters)
    ours = jax.jit(jax.vmap(lambda parameters: logits(parameters, demo.config, *inputs)))
    for row, factor in zip(ours(both), (1, 1.1), strict=True):
        alone = jax.tree.map(lambda leaf, factor=factor: factor * leaf, demo.parameters)
        assert_same(row, jax.jit(logits, static_argnums=1)(alone, demo.config, *inputs))


@pytest.mark.slow
@pytest.mark.parametrize("setting", [partial(jax.enable_x64, True), partial(jax.numpy_dtype_promotion, "strict")])
def test_in_programs_with_settings_of_their_own(demo, inputs, expected, setting):
    with setting():
        found = jax.jit(logits, static_argnums=1)(demo.parameters, demo.config, *inputs)
        assert found.dtype == jnp.float32
        assert_same(found, expected)


def test_shapes_that_don_t_fit_are_refused(demo, inputs):
    """Most would be broadcast, or reshaped, to numbers that mean nothing."""
    x, mask, ids, token_mask = inputs
    names = ("features", "encode_audio", "encode_text", "classify")
    features, *models = (inspect.unwrap(getattr(functional, name)) for name in names)  # jaxtyping, too, would refuse
    hear, read, classify = (partial(each, demo.parameters, demo.config) for each in models)
    two = jnp.ones((2, 1000))
    for call, said in (
        (lambda: features(two[:, :559]), "559 samples are too few"),
        (lambda: features(two, jnp.array([1000])), "don't fit together"),
        (lambda: hear(x[0], mask), "don't fit together"),
        (lambda: hear(x[:1], mask), "don't fit together"),
        (lambda: hear(x[..., :80], mask), "width 80"),
        (lambda: read(ids[0], token_mask), "don't fit together"),
        (lambda: read(jnp.ones((1, 513), jnp.int32), jnp.ones((1, 513), bool)), "513 tokens are too many"),
        (lambda: classify(two[:1], two), "don't fit together"),
        (lambda: features(two[:0]), "has no clips"),
        (lambda: hear(x[:0], mask[:0]), "has no clips"),
        (lambda: read(ids[:0], token_mask[:0]), "has no clips"),
        (lambda: classify(two[:0], two[:0]), "has no clips"),
        (lambda: functional.padded([]), "no waveforms"),
        (lambda: demo.tokens([]), "no texts"),
    ):
        with pytest.raises(InvalidInput, match=said):
            call()


def test_the_tree_has_the_model_s_parameters():
    config = EmotionConfig.tiny("es", "multihead")
    tree = functional.random_parameters(config, jax.random.key(0))
    model = emotion.EmotionModel(config, rngs=nnx.Rngs(0))
    paths = {".".join(part.key for part in path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)}
    assert paths == set(parameters_of(model))
    assert tree["audio_encoder"]["layers"]["ffn1"]["output_dense"]["kernel"].ndim == 3


def test_the_table(demo):
    whole = functional.table(demo.parameters)
    assert "audio_encoder.layers.ffn1.output_dense.kernel" in whole
    short = functional.table(demo.parameters, depth=1).splitlines()
    assert [line.split()[0] for line in short] == [*demo.parameters, "together"]
    count = sum(leaf.size for leaf in jax.tree.leaves(demo.parameters))
    assert f"{count:,}" in short[-1]
    assert f"{count * 4 / 1e6:,.3f} MB" in short[-1]


def test_the_table_of_a_converted_folder(tmp_path, capsys):
    converted = str(tmp_path / "converted")
    convert = ["convert", str(DEMO / "checkpoint"), converted, "--mode", "concat", "--language", "es"]
    assert main(convert) == 0
    capsys.readouterr()
    assert main(["info", converted, "--parameters", "1"]) == 0
    shown = capsys.readouterr().out
    assert "audio_encoder" in shown
    assert "together" in shown
    assert main(["info", str(DEMO / "checkpoint"), "--parameters", "1"]) == 2
    assert "convert it" in capsys.readouterr().err


def test_a_function_takes_the_branches_that_it_uses(demo, inputs, expected):
    parameters, config = demo.parameters, demo.config
    x, mask, ids, token_mask = inputs
    audio = functional.encode_audio(
        {name: parameters[name] for name in ("audio_encoder", "projector")}, config, x, mask
    )
    text = functional.encode_text({"text_encoder": parameters["text_encoder"]}, config, ids, token_mask)
    head = {"classifier": parameters["classifier"]}
    np.testing.assert_array_equal(
        functional.classify(head, config, audio.pooled, text.pooled),
        functional.classify(parameters, config, audio.pooled, text.pooled),
    )
    np.testing.assert_array_equal(audio.pooled, functional.encode_audio(parameters, config, x, mask).pooled)
    with pytest.raises(KeyError, match=r"missing or unknown: \['projector\.bias', 'projector\.kernel'\]"):
        functional.encode_audio({"audio_encoder": parameters["audio_encoder"]}, config, x, mask)
    with pytest.raises(KeyError, match=r"missing or unknown: \['audio\.bias'\]"):
        functional.encode_text(parameters | {"audio": {"bias": audio.pooled}}, config, ids, token_mask)


def test_the_functions_keep_their_types():
    hints = typing.get_type_hints(functional.encode_audio, include_extras=True)
    assert hints["return"] is functional.Heard
    assert hints["config"] is EmotionConfig
    assert typing.get_type_hints(functional._jit)["return"] == Callable[[functional.Function], functional.Function]


def test_what_a_mode_lacks_is_said():
    config = EmotionConfig.tiny("es", "audio")
    parameters = functional.random_parameters(config, jax.random.key(0))
    with pytest.raises(TypeError, match="no text encoder"):
        functional.encode_text(parameters, config, jnp.ones((1, 3), jnp.int32), jnp.ones((1, 3), bool))
    with pytest.raises(TypeError, match="takes audio, no more and no less"):
        functional.classify(parameters, config, None, jnp.ones((1, 3)))


# Shapes on every public function


def public(module) -> list[tuple[str, object]]:
    """Functions of a module, and the calls and methods of its classes, that have a public name."""
    found = []
    for name, value in vars(module).items():
        if name.startswith("_") or getattr(value, "__module__", None) != module.__name__:
            continue
        if inspect.isfunction(inspect.unwrap(value)) or hasattr(value, "lower"):
            found.append((name, inspect.unwrap(value)))
        elif inspect.isclass(value):
            for method, function in vars(value).items():
                if (not method.startswith("_") or method == "__call__") and inspect.isfunction(function):
                    found.append((f"{name}.{method}", inspect.unwrap(function)))
    return found


MODELS = [import_module(f"{models.__name__}.{each.name}") for each in iter_modules(models.__path__)]
MODULES = (functional, front_end, *MODELS)
FUNCTIONS = {
    f"{module.__name__.rpartition('.')[2]}.{name}": function for module in MODULES for name, function in public(module)
}


def bare_arrays(hint: object) -> bool:
    """Whether a type has an array of no shape in it."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return False
    if hint in (jax.Array, np.ndarray):
        return True
    inside = hint if isinstance(hint, list) else typing.get_args(hint)  # a list: what a Callable takes
    return any(bare_arrays(each) for each in inside)


@pytest.mark.parametrize("name", sorted(FUNCTIONS))
def test_arrays_have_shapes(name: str):
    function = FUNCTIONS[name]
    hints = typing.get_type_hints(function)
    assert "return" in hints or name.endswith("__init__"), f"{name} does not say what it returns"
    assert not [argument for argument, hint in hints.items() if bare_arrays(hint)]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_everything_public_is_described(module):
    """Functions and classes; a call is described by its class. A NamedTuple writes a description that says nothing."""
    own = {name: value for name, value in vars(module).items() if getattr(value, "__module__", "") == module.__name__}
    for name, value in own.items():
        if not name.startswith("_") and (inspect.isclass(value) or name in dict(public(module))):
            described = (value.__doc__ or "").strip()
            assert described, name
            assert not described.startswith(f"{name}("), name


@pytest.mark.parametrize(
    ("hint", "bare"),
    [
        (jax.Array, True),
        (tuple[int, np.ndarray], True),
        (Callable[[int], jax.Array | None], True),
        (Callable[[jax.Array], int], True),
        (tuple[Float[Array, "batch"], None], False),
        (dict[str, Float[np.ndarray, "*any"]], False),
    ],
)
def test_an_array_without_a_shape_is_seen(hint: object, bare: bool):
    assert bare_arrays(hint) == bare
