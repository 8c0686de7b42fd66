"""Attention with relative keys, by each of its implementations, against its formula."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import Mesh, PartitionSpec

from speech_emotion_jax.models.attention import attend
from speech_emotion_jax.models.kernels.attention_cpu import QUERIES, attend_cpu
from speech_emotion_jax.models.kernels.attention_xla import QUERY_BLOCK, attend_in_blocks, attention_gradients

from .support.examples import examples

FLOAT32 = jnp.dtype("float32")


def plainly(query, key, value, mask, distances, *, dtype, left):
    return attend(query, key, value, mask, dtype=dtype, distances=distances, left=left)


def in_small_blocks(*arrays, dtype, left):
    return attend_in_blocks(*arrays, dtype=dtype, left=left, scores=0)


IMPLEMENTATIONS = (plainly, attend_in_blocks, in_small_blocks, attend_cpu)


def normal(*shape: int, seed: int = 0) -> jax.Array:
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape).astype(np.float32))


def inputs(
    time: int, left: int, right: int, seed: int, heads: int = 2, width: int = 4, batch: int = 2
) -> list[jax.Array]:
    """Queries, keys, values, a mask with holes, vectors of distances."""
    mask = np.random.default_rng(seed).random((batch, time)) < 0.7
    mask[:, 0] = True
    arrays = [normal(batch, time, heads, width, seed=seed + each) for each in range(3)]
    return [*arrays, jnp.asarray(mask), normal(left + right + 1, width, seed=seed + 3)]


def in_float64(query, key, value, mask, distances, left):
    """The formula, one head and 500 queries of a clip at a time."""
    query, key, value, distances = (np.asarray(each, np.float64) for each in (query, key, value, distances))
    mask, time, right = np.asarray(mask), query.shape[1], len(distances) - 1 - left
    out = np.empty_like(query)
    for clip in range(len(query)):
        for head in range(query.shape[2]):
            for start in range(0, time, 500):
                rows = slice(start, min(start + 500, time))
                own = query[clip, rows, head]
                place = np.clip(np.arange(time)[None] - np.arange(time)[rows, None], -left, right) + left
                scores = own @ key[clip, :, head].T + np.take_along_axis(own @ distances.T, place, axis=1)
                scores = np.where(mask[clip], scores / np.sqrt(query.shape[-1]), -np.inf)
                weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
                out[clip, rows, head] = weights / weights.sum(axis=-1, keepdims=True) @ value[clip, :, head]
    return out


@settings(max_examples=examples(12))
@given(
    time=st.one_of(st.integers(1, 20), st.integers(QUERY_BLOCK - 2, 3 * QUERY_BLOCK + 2)),
    left=st.integers(0, 64),
    right=st.integers(0, 8),
    seed=st.integers(0, 99),
)
@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
def test_attention_is_its_formula(attention, time, left, right, seed):
    arrays = inputs(time, left, right, seed)
    ours = jax.jit(lambda *arrays: attention(*arrays, dtype=FLOAT32, left=left))(*arrays)
    assert np.abs(np.asarray(ours) - in_float64(*arrays, left)).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
@pytest.mark.parametrize("time", [QUERIES - 1, QUERIES, QUERIES + 1, 1000, 2000])
def test_attention_over_many_frames(attention, time):
    arrays = inputs(time, 64, 8, time, heads=3)
    ours = jax.jit(lambda *arrays: attention(*arrays, dtype=FLOAT32, left=64))(*arrays)
    assert np.abs(np.asarray(ours) - in_float64(*arrays, 64)).max() < 1e-5


@pytest.mark.slow
def test_attention_over_a_clip_of_160_s():
    """8,000 frames; the largest array of the program is far under time x time x heads."""
    arrays = inputs(8_000, 64, 8, 0, heads=16, width=64, batch=1)
    program = jax.jit(lambda *arrays: plainly(*arrays, dtype=FLOAT32, left=64)).lower(*arrays).compile()
    assert program.memory_analysis().temp_size_in_bytes < 600e6  # a (heads, time, time) array alone has 4.1e9
    query, key, value, mask, distances = arrays
    ours = np.asarray(program(*arrays))
    for head in (0, 15):
        own = slice(head, head + 1)
        theirs = in_float64(query[:, :, own], key[:, :, own], value[:, :, own], mask, distances, 64)
        assert np.abs(ours[:, :, own] - theirs).max() < 1e-5


@pytest.mark.slow
@pytest.mark.parametrize("time", [1, 2, QUERY_BLOCK, QUERY_BLOCK + 1, 300, 2000])
def test_gradient_of_attention_is_that_of_its_formula(time):
    left, right, width = 64, 8, 4
    query, key, value, mask, distances = inputs(time, left, right, time, width=width)
    towards = normal(*query.shape, seed=9)

    def ours(query, key, value, distances):
        return (plainly(query, key, value, mask, distances, dtype=FLOAT32, left=left) * towards).sum()

    wide = [torch.tensor(np.asarray(each), dtype=torch.float64, requires_grad=True) for each in (query, key, value)]
    table = torch.tensor(np.asarray(distances), dtype=torch.float64, requires_grad=True)
    place = torch.tensor(np.clip(np.arange(time)[None] - np.arange(time)[:, None], -left, right) + left)
    projected = torch.einsum("bqhd,pd->bhqp", wide[0], table)
    scores = torch.einsum("bqhd,bkhd->bhqk", *wide[:2]) + projected.gather(
        -1, place.expand(*projected.shape[:2], -1, -1)
    )
    hidden = torch.tensor(~np.asarray(mask))[:, None, None]
    weights = (scores / np.sqrt(width)).masked_fill(hidden, -torch.inf).softmax(dim=-1)
    loss = (torch.einsum("bhqk,bkhd->bqhd", weights, wide[2]) * torch.tensor(np.asarray(towards))).sum()
    loss.backward()
    gradients = jax.jit(jax.grad(ours, argnums=(0, 1, 2, 3)))(query, key, value, distances)
    for gradient, theirs in zip(gradients, (*wide, table), strict=True):
        assert theirs.grad is not None
        difference = np.abs(np.asarray(gradient) - theirs.grad.numpy()).max()
        assert difference < 1e-5 * max(1.0, float(theirs.grad.abs().max()))


def dense(query, key, value, mask, distances, left):
    """The formula in one piece, for JAX to derive."""
    time, right = query.shape[1], len(distances) - 1 - left
    place = (jnp.clip(jnp.arange(time)[None] - jnp.arange(time)[:, None], -left, right) + left)[None, None]
    projected = jnp.einsum("bqhd,pd->bhqp", query, distances)
    scores = jnp.einsum("bqhd,bkhd->bhqk", query, key)
    scores = (scores + jnp.take_along_axis(projected, jnp.broadcast_to(place, scores.shape), -1)) / np.sqrt(
        query.shape[-1]
    )
    scores = jnp.where(mask[:, None, None], scores, jnp.finfo(jnp.float32).min)
    return jnp.einsum("bhqk,bkhd->bqhd", jax.nn.softmax(scores, axis=-1), value)


@pytest.mark.slow
@settings(max_examples=examples(8))
@given(
    time=st.integers(1, 4 * QUERY_BLOCK),
    left=st.integers(0, 140),
    right=st.integers(0, 140),
    blocks=st.integers(1, 4),
    seed=st.integers(0, 99),
)
def test_gradients_in_blocks_of_any_size(time, left, right, blocks, seed):
    """Clips shorter than the band, of padding alone too, and blocks that do not divide the frames."""
    query, key, value, mask, distances = inputs(time, left, right, seed)
    mask = mask.at[1].set(seed % 3 > 0)
    towards = normal(*query.shape, seed=9)

    def plain(*learning):
        return dense(*learning[:3], mask, learning[3], left)

    expected = jax.vjp(plain, query, key, value, distances)[1](towards)
    of_blocks = jax.jit(
        lambda *arrays: attention_gradients(*arrays, dtype=FLOAT32, left=left, scores=2 * 2 * time * -(-time // blocks))
    )
    found = of_blocks(query, key, value, mask, distances, towards)
    for gradient, formula in zip(found, expected, strict=True):
        assert jnp.abs(gradient - formula).max() < 1e-5 * max(1.0, float(jnp.abs(formula).max()))


def test_gradients_where_integers_have_64_bits():
    query, key, value, mask, distances = inputs(150, 64, 8, 0)
    towards = normal(*query.shape, seed=9)
    expected = attention_gradients(query, key, value, mask, distances, towards, dtype=FLOAT32, left=64)
    with jax.enable_x64(True):
        found = attention_gradients(query, key, value, mask, distances, towards, dtype=FLOAT32, left=64)
    for gradient, before in zip(found, expected, strict=True):
        np.testing.assert_array_equal(gradient, before)


def test_gradients_of_bfloat16_products():
    """The products round their inputs to bfloat16, by 2^-9 each; sums of many are off by no more."""
    query, key, value, mask, distances = inputs(300, 64, 8, 0, width=64)
    towards = normal(*query.shape, seed=9)

    def gradients(dtype):
        def ours(*learning):
            return plainly(*learning[:3], mask, learning[3], dtype=jnp.dtype(dtype), left=64)

        return jax.jit(lambda *arrays: jax.vjp(ours, *arrays)[1](towards))(query, key, value, distances)

    for rounded, exact in zip(gradients("bfloat16"), gradients("float32"), strict=True):
        assert jnp.linalg.norm(rounded - exact) < 2**-7 * jnp.linalg.norm(exact)


def test_the_gradient_needs_no_array_of_all_scores():
    """Compiled for 1 clip of 80 s: all scores are 1 GB in float32, and a block holds two such arrays of its own."""
    arrays = inputs(4_000, 64, 8, 0, heads=16, width=64, batch=1)
    program = jax.jit(partial(attention_gradients, dtype=FLOAT32, left=64, scores=0))
    memory = program.lower(*arrays, arrays[0]).compile().memory_analysis()
    assert memory.temp_size_in_bytes < 0.25 * 4 * 16 * 4_000**2


def test_attention_can_be_derived_and_mapped():
    query, key, value, mask, distances = inputs(70, 5, 3, 0)

    def ours(query):
        return plainly(query, key, value, mask, distances, dtype=FLOAT32, left=5)

    direction, towards = normal(*query.shape, seed=5), normal(*query.shape, seed=6)
    [gradient] = jax.vjp(ours, query)[1](towards)
    step = 1e-2
    numeric = (ours(query + step * direction) - ours(query - step * direction)) / (2 * step)
    assert abs(float((gradient * direction).sum() - (numeric * towards).sum())) < 1e-2
    many = jnp.stack([query, direction])
    assert np.abs(np.asarray(jax.vmap(ours)(many)) - np.stack([ours(each) for each in many])).max() < 1e-5


@pytest.mark.parametrize("attention", IMPLEMENTATIONS)
def test_a_clip_without_frames_stays_finite(attention):
    arrays = inputs(100, 64, 8, 0)
    arrays[3] = jnp.zeros_like(arrays[3])
    assert np.isfinite(np.asarray(attention(*arrays, dtype=FLOAT32, left=64))).all()


def test_attention_inside_the_programs_of_others():
    """`shard_map` as it is by default, and `pmap`, trace what each platform would run."""
    arrays = inputs(140, 64, 8, 0, width=64)
    *clips, distances = arrays
    expected = in_float64(*arrays, 64)

    def ours(*clips):
        return plainly(*clips, distances, dtype=FLOAT32, left=64)

    mesh, rows = Mesh(np.array(jax.devices()[:1]), ("data",)), PartitionSpec("data")
    divided = jax.jit(jax.shard_map(ours, mesh=mesh, in_specs=rows, out_specs=rows))
    assert np.abs(np.asarray(divided(*clips)) - expected).max() < 1e-5
    mapped = jax.pmap(ours)(*(each[None] for each in clips))
    assert np.abs(np.asarray(mapped)[0] - expected).max() < 1e-5
    with jax.set_mesh(mesh):
        assert np.abs(np.asarray(jax.jit(ours)(*clips)) - expected).max() < 1e-5


def test_the_gradient_inside_a_shard_map_is_summed_over_the_devices():
    *clips, mask, distances = inputs(140, 64, 8, 0, width=16)

    def loss(clips, mask, distances):
        return (plainly(*clips, mask, distances, dtype=FLOAT32, left=64) ** 2).sum()

    mesh, rows = Mesh(np.array(jax.devices()[:1]), ("data",)), PartitionSpec("data")

    def divided(clips, mask, distances):
        each = jax.shard_map(
            lambda *arrays: jax.lax.psum(loss(*arrays), "data"),
            mesh=mesh,
            in_specs=(rows, rows, PartitionSpec()),
            out_specs=PartitionSpec(),
        )
        return each(clips, mask, distances)

    found, expected = (jax.jit(jax.grad(of, argnums=(0, 2)))(clips, mask, distances) for of in (divided, loss))
    for ours, theirs in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert jnp.abs(ours - theirs).max() < 1e-5 * jnp.abs(theirs).max()
