"""The Pallas kernel of relative-key attention as its callers meet it, interpreted on a CPU."""

from collections.abc import Callable
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from speech_emotion_jax.errors import InvalidInput
from speech_emotion_jax.models.attention import attend as relative
from speech_emotion_jax.models.kernels import attention_tpu
from speech_emotion_jax.models.kernels.attention_xla import attend_in_blocks
from speech_emotion_jax.models.kernels.pallas import SWITCH

from .support.attention_definition import EXACT, FLOAT32, by_rows, drawn

Attend = Callable[..., jax.Array]  # of queries, keys, values, a mask and the vectors of 73 distances, 64 before


@pytest.fixture
def attend(monkeypatch: pytest.MonkeyPatch) -> Attend:
    for name, size in {"ROWS": 128, "COLUMNS": 256 * 4}.items():  # several blocks of 600 frames
        monkeypatch.setattr(attention_tpu, name, size)
    interpreted = partial(attention_tpu.pl.pallas_call, interpret=True)
    monkeypatch.setattr(attention_tpu.pl, "pallas_call", interpreted)
    return lambda *arrays: attention_tpu.attend_tpu(*map(jnp.asarray, arrays), dtype=FLOAT32, left=64)


@pytest.mark.parametrize("time", [5, 600])
def test_what_is_masked_has_no_weight_and_a_clip_of_padding_alone_is_as_elsewhere(attend: Attend, time: int) -> None:
    query, key, value, mask, distances = drawn(time)
    mask[0], mask[1] = np.arange(time) < time - 3, False
    out = np.asarray(attend(query, key, value, mask, distances))
    key[0, -3:], value[0, -3:] = 50.0, 1e6
    again = np.asarray(attend(query, key, value, mask, distances))
    np.testing.assert_array_equal(out[0], again[0])
    elsewhere = attend_in_blocks(*map(jnp.asarray, (query, key, value, mask, distances)), dtype=FLOAT32, left=64)
    assert np.abs(out[1] - elsewhere[1]).max() < EXACT


def test_scores_far_from_zero(attend: Attend) -> None:
    query, key, value, mask, distances = drawn(300)
    for offset in (-300.0, 300.0):  # exp of either is no float32
        distances[:, 0] = offset
        query[..., 0] = 8.0
        out = attend(query, key, value, mask, distances)
        expected = by_rows(query, key, value, mask, distances, left=64)
        assert np.abs(out - expected).max() < 30 * EXACT  # a score of 300 is rounded by 1.5e-5


def test_under_vmap_and_jit(attend: Attend) -> None:
    several = [drawn(140, batch=1, seed=seed) for seed in range(3)]
    *stacked, distances = (jnp.stack(parts) for parts in zip(*several, strict=True))

    out = jax.jit(jax.vmap(attend))(*stacked, distances)
    shared = jax.jit(jax.vmap(attend, in_axes=(0, 0, 0, 0, None)))(*stacked, distances[0])
    for index, (*arrays, own) in enumerate(several):
        assert np.abs(out[index] - by_rows(*arrays, own, left=64)).max() < EXACT
        assert np.abs(shared[index] - by_rows(*arrays, several[0][-1], left=64)).max() < EXACT


def test_the_environment_can_leave_them_out(monkeypatch: pytest.MonkeyPatch) -> None:
    arrays = [jnp.asarray(array) for array in drawn(140)]

    def calls_one() -> bool:
        attention = jax.jit(lambda *arrays: relative(*arrays[:4], distances=arrays[4], dtype=FLOAT32, left=64))
        return "tpu_custom_call" in attention.trace(*arrays).lower(lowering_platforms=("tpu",)).as_text()

    assert calls_one()
    monkeypatch.setenv(SWITCH, "off")
    assert not calls_one()
    monkeypatch.setenv(SWITCH, "no")
    with pytest.raises(InvalidInput, match="set it to on or off"):
        calls_one()


def test_with_a_mesh_in_use_and_within_shard_map(attend: Attend) -> None:
    *arrays, mask, distances = map(jnp.asarray, drawn(140))
    expected = by_rows(*map(np.asarray, (*arrays, mask, distances)), left=64)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]).reshape(1, 1), ("data", "fsdp"))
    clips, whole = jax.sharding.PartitionSpec(("data", "fsdp")), jax.sharding.PartitionSpec()

    with jax.set_mesh(mesh):
        assert "shard_map" in str(jax.make_jaxpr(attend)(*arrays, mask, distances))
        assert np.abs(jax.jit(attend)(*arrays, mask, distances) - expected).max() < EXACT
    divided = jax.shard_map(attend, mesh=mesh, in_specs=(*[clips] * 4, whole), out_specs=clips, check_vma=False)
    assert np.abs(jax.jit(divided)(*arrays, mask, distances) - expected).max() < EXACT
