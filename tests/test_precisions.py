"""The study of precisions: what is changed in a program's products, and what the table says."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_emotion_jax.checkpoints import Request
from speech_emotion_jax.cli.main import main
from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.parity.precisions import (
    EXACT,
    PrecisionsConfig,
    measure_precisions,
    precisions_as_dict,
    render_precisions,
)
from speech_emotion_jax.parity.products import JAX_PRECISIONS, ROUNDED_BITS, change_products

DEMO = Path("speech_emotion_jax/demo_data")
RECORDINGS = tuple(str(DEMO / f"{name}.flac") for name in ("joy", "fear", "anger"))
TEXT = "No me lo puedo creer"


def arrays(*shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape).astype(np.float32)) for shape in shapes]


def rounded(x: np.ndarray, bits: int) -> np.ndarray:
    """To so many bits after the leading one, ties to even."""
    mantissa, exponent = np.frexp(x.astype(np.float64))
    return np.ldexp(np.round(mantissa * 2 ** (bits + 1)) / 2 ** (bits + 1), exponent)


@pytest.mark.parametrize("how", ROUNDED_BITS)
def test_both_operands_are_rounded(how: str):
    a, b = arrays((5, 64), (64, 3))
    expected = rounded(np.asarray(a), ROUNDED_BITS[how]) @ rounded(np.asarray(b), ROUNDED_BITS[how])
    found = change_products(lambda a, b: jnp.dot(a, b, precision="highest"), how)(a, b)
    assert np.abs(np.asarray(found) - expected).max() < 1e-5
    assert np.abs(np.asarray(a @ b) - expected).max() > 1e-4


def test_products_inside_of_loops_branches_and_programs_are_changed():
    a, stack = arrays((4, 4), (3, 4, 4))

    @jax.jit
    def nested(a: jax.Array, stack: jax.Array) -> jax.Array:
        def step(x: jax.Array, each: jax.Array) -> tuple[jax.Array, None]:
            return jax.lax.platform_dependent(x, each, cpu=lambda x, y: x @ y, default=lambda x, y: x @ y), None

        return jax.lax.scan(step, a, stack)[0]

    expected = np.asarray(a, np.float64)
    for each in np.asarray(stack):
        expected = rounded(rounded(expected.astype(np.float32), 7) @ rounded(each, 7), 23)
    found = jax.jit(change_products(nested, "rounded to bfloat16"))(a, stack)
    assert np.abs(np.asarray(found) - expected).max() < 1e-4 * np.abs(expected).max()
    assert np.abs(np.asarray(nested(a, stack)) - expected).max() > 1e-3 * np.abs(expected).max()


def test_settings_reach_the_program_and_bfloat16_is_left_alone():
    a, b = arrays((4, 4), (4, 4))
    for how, setting in JAX_PRECISIONS.items():
        assert str(setting) in str(jax.make_jaxpr(change_products(jnp.dot, how))(a, b))
    low = [each.astype(jnp.bfloat16) for each in (a, b)]
    for how in (*JAX_PRECISIONS, *ROUNDED_BITS):
        assert "reduce_precision" not in str(jax.make_jaxpr(change_products(jnp.dot, how))(*low))


def test_pytrees_go_in_and_out():
    a, b = arrays((2, 3), (3, 2))
    found = change_products(lambda pair, none: {"product": pair[0] @ pair[1], "none": none}, "highest")((a, b), None)
    assert found["none"] is None
    assert np.array_equal(np.asarray(found["product"]), np.asarray(jnp.dot(a, b, precision="highest")))


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    request = Request(str(DEMO / "checkpoint"), "concat", "es")
    return measure_precisions(PrecisionsConfig(request, RECORDINGS, (TEXT,), "cpu", str(folder))), folder


@pytest.mark.slow
def test_the_table_of_the_demo(demo):
    result, _ = demo
    rows = {each.name: each for each in result.variants}
    assert list(rows) == [
        EXACT,
        "float32, high",
        "float32, default",
        "float32, rounded to TF32",
        "float32, rounded to bfloat16",
        "bfloat16",
    ]
    for name in (EXACT, "float32, high", "float32, default"):  # one program, on a CPU
        assert max(rows[name].drift.values()) == 0
        assert rows[name].divergence == rows[name].largest == 0
    exact, low, lower = (rows[name] for name in (EXACT, "float32, rounded to TF32", "float32, rounded to bfloat16"))
    for stage in exact.drift:
        if stage not in ("embeddings", "probabilities"):  # without products, and saturated
            assert 0 < low.drift[stage] < lower.drift[stage] < 0.1
    assert low.divergence <= lower.divergence
    assert all(each.same == result.recordings == 3 for each in result.variants)
    assert "A CPU multiplies float32 in full" in result.why


@pytest.mark.slow
def test_what_is_written_and_shown(demo):
    result, folder = demo
    assert json.loads((folder / "precision.json").read_text()) == json.loads(json.dumps(precisions_as_dict(result)))
    assert (folder / "precision.png").read_bytes().startswith(b"\x89PNG")
    text = render_precisions(result)
    assert "same label" in text
    assert "3 of 3" in text


@pytest.mark.slow
def test_the_command(capsys):
    arguments = ["precision", "--model-id", str(DEMO / "checkpoint"), "--mode", "concat", "--language", "es", "--json"]
    assert main([*arguments, "--audio", RECORDINGS[0], "--text", TEXT]) == 0
    assert json.loads(capsys.readouterr().out)["recordings"] == 1
    assert main([*arguments, "--audio", *RECORDINGS, "--text", "a", "b"]) == 2
    assert "3 recordings and 2 texts cannot be paired" in capsys.readouterr().err


def test_whisper_has_no_emotions_to_study(whisper_tiny):
    with pytest.raises(InvalidInput, match="Whisper"):
        measure_precisions(PrecisionsConfig(Request(str(whisper_tiny)), RECORDINGS))
