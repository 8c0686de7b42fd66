"""The TPU kernel of relative-key attention, interpreted on a CPU and, by the extra `chips`, compiled for TPUs."""

import os
import subprocess
import sys
from functools import partial
from math import prod
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.experimental.pallas import tpu as pltpu

from speech_emotion_jax.models.kernels import attention_tpu
from speech_emotion_jax.models.kernels.attention_tpu import Work, attend_tpu, work

from .support.attention_definition import EXACT, by_rows, drawn, flops
from .support.examples import examples

ROUNDED = (
    0.03  # of bfloat16: scores of some 4 are off by up to 2^-7 before, values and weights by 2^-9 after the softmax
)


SIZES = attention_tpu.ROWS, attention_tpu.COLUMNS


def take_blocks(monkeypatch: pytest.MonkeyPatch, rows: int, columns: int) -> None:
    monkeypatch.setattr(attention_tpu, "ROWS", rows)
    monkeypatch.setattr(attention_tpu, "COLUMNS", columns)


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    """The kernel is interpreted, in small blocks, so that there are several of them."""
    take_blocks(monkeypatch, 128, 256 * 4)
    monkeypatch.setattr(attention_tpu.pl, "pallas_call", partial(attention_tpu.pl.pallas_call, interpret=True))


def attended(*arrays: Any, left: int, dtype: Any = jnp.float32) -> np.ndarray:
    """What the kernel makes of queries, keys, values, a mask and the vectors of the distances."""
    query, key, value, mask = map(jnp.asarray, arrays[:4])
    distances = None if arrays[4] is None else jnp.asarray(arrays[4])
    return np.asarray(attend_tpu(query, key, value, mask, distances, dtype=jnp.dtype(dtype), left=left))


def by_table(*arrays: np.ndarray, left: int) -> np.ndarray:
    """The definition with its (time, time, width) table of vectors, as Wav2Vec2-BERT has it."""
    query, key, value, mask, distances = arrays
    time, width = query.shape[1], query.shape[3]
    apart = np.clip(np.arange(time)[None] - np.arange(time)[:, None], -left, len(distances) - 1 - left)
    scores = np.einsum("bqhd,bkhd->bhqk", query, key) + np.einsum("bqhd,qkd->bhqk", query, distances[apart + left])
    weights = np.exp(scores / np.sqrt(width)) * mask[:, None, None]
    return np.einsum("bhqk,bkhd->bqhd", weights / weights.sum(axis=-1, keepdims=True), value)


@pytest.mark.slow
@pytest.mark.parametrize("time", [1, 2, 63, 64, 65, 127, 128, 129, 300, 500, 512, 1000, 2000])
def test_what_the_definition_gives_at_any_length(time: int) -> None:
    *arrays, mask, distances = drawn(time)
    out = attended(*arrays, mask, distances, left=64)
    assert out.dtype == jnp.float32
    assert np.abs(out - by_rows(*arrays, mask, distances, left=64)).max() < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("time", [640, 1500])
def test_blocks_as_large_as_they_are_taken(monkeypatch: pytest.MonkeyPatch, time: int) -> None:
    take_blocks(monkeypatch, *SIZES)
    *arrays, mask, distances = drawn(time, batch=1)
    out = attended(*arrays, mask, distances, left=64)
    assert np.abs(out - by_rows(*arrays, mask, distances, left=64)).max() < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("time", [65, 600])
def test_nothing_is_read_that_was_not_written(time: int) -> None:
    """In the interpreter of a TPU's memory, where that is NaN, and reading out of bounds an error."""
    *arrays, mask, distances = drawn(time)
    with pltpu.force_tpu_interpret_mode():
        out = attended(*arrays, mask, distances, left=64)
    assert np.abs(out - by_rows(*arrays, mask, distances, left=64)).max() < EXACT


def test_both_references_agree() -> None:
    *arrays, mask, distances = drawn(150)
    table, rows = (each(*arrays, mask, distances, left=64) for each in (by_table, by_rows))
    assert np.abs(table - rows).max() < EXACT


@pytest.mark.slow
@pytest.mark.parametrize(("positions", "left"), [(73, 64), (73, 0), (73, 72), (1, 0), (128, 5), (300, 200)])
def test_blocks_before_within_and_after_the_band(positions: int, left: int) -> None:
    *arrays, mask, distances = drawn(700, batch=1, positions=positions)
    out = attended(*arrays, mask, distances, left=left)
    assert np.abs(out - by_rows(*arrays, mask, distances, left=left)).max() < EXACT


@pytest.mark.slow
@settings(max_examples=examples(6))
@given(time=st.integers(1, 90), positions=st.integers(1, 140), seed=st.integers(0, 1000), data=st.data())
def test_what_the_table_gives_for_any_distances_and_masks(time: int, positions: int, seed: int, data: st.DataObject):
    left = data.draw(st.integers(0, positions - 1))
    *arrays, mask, distances = drawn(time, batch=1, positions=positions, seed=seed)
    out = attended(*arrays, mask, distances, left=left)
    assert np.abs(out - by_table(*arrays, mask, distances, left=left)).max() < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("time", [65, 600])
def test_bfloat16_products_are_accumulated_in_float32(time: int) -> None:
    *arrays, mask, distances = drawn(time)
    out = attended(*arrays, mask, distances, left=64, dtype=jnp.bfloat16)
    assert np.abs(out - by_rows(*arrays, mask, distances, left=64)).max() < ROUNDED
    # From values that bfloat16 holds, only the weights and what comes out are rounded, each by 2^-8 at most.
    arrays = [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in arrays]
    distances = np.asarray(jnp.asarray(distances, jnp.bfloat16), np.float32)
    out = attended(*arrays, mask, distances, left=64, dtype=jnp.bfloat16)
    expected = by_rows(*arrays, mask, distances, left=64)
    rounding = 2**-8 * (by_rows(*arrays[:2], np.abs(arrays[2]), mask, distances, left=64) + np.abs(expected))
    assert (np.abs(out - expected) <= 1.02 * rounding + EXACT).all()


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "width"), [(3, 64), (4, 32), (2, 128)])
def test_heads_of_any_number_and_width(heads: int, width: int) -> None:
    *arrays, mask, distances = drawn(140, heads=heads, width=width)
    out = attended(*arrays, mask, distances, left=64)
    assert np.abs(out - by_rows(*arrays, mask, distances, left=64)).max() < EXACT


@pytest.mark.parametrize("time", [7, 600])
def test_no_positions(time: int) -> None:
    *arrays, mask, _ = drawn(time)
    out = attended(*arrays, mask, None, left=0)
    assert np.abs(out - by_rows(*arrays, mask, None, left=0)).max() < EXACT


def test_work_is_that_of_the_grid() -> None:
    # 300 frames are 384, one block of queries; 2 clips x 2 pairs of heads. Each step multiplies, for 2 heads, 384
    # queries by 384 keys and by 128 columns of positions, and the weights by 384 values. Nothing is read twice.
    items = 2 * 384 * 4 * 64
    assert work(2, 300, 4, 64, 73, 2) == Work(
        flops=4 * 2 * 2 * 384 * (384 + 384 + 128) * 64, bytes=4 * items * 2 + 2 * 384 * 4 + 128 * 64 * 2
    )
    # Without positions there is one product less.
    assert work(2, 300, 4, 64, 0, 2).flops == 4 * 2 * 2 * 384 * (384 + 384) * 64


def test_work_changes_with_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    take_blocks(monkeypatch, 512, 512)
    whole = work(2, 1536, 4, 64, 73, 2)
    take_blocks(monkeypatch, 128, 512)
    assert work(2, 1536, 4, 64, 73, 2) == whole  # twelve blocks in place of three, but of the same keys, held meanwhile
    taken = attention_tpu._blocks

    def keys_read_again(*sizes: int) -> attention_tpu._Blocks:
        blocks = taken(*sizes)
        clips, groups, rows = blocks.grid
        specs = {name: swapped(getattr(blocks, name)) for name in ("mask", "queries", "keys", "distances")}
        return blocks._replace(grid=(clips, rows, groups), **specs)

    def swapped(spec: Any) -> Any:
        return type(spec)(spec.block_shape, lambda clip, block, group: spec.index_map(clip, group, block))

    # With the groups of heads innermost, the keys and values of each are read for each block of queries.
    monkeypatch.setattr(attention_tpu, "_blocks", keys_read_again)
    assert work(2, 1536, 4, 64, 73, 2) == Work(whole.flops, whole.bytes + 11 * 2 * 2 * 1536 * 4 * 64 * 2)


@pytest.mark.parametrize("positions", [73, 0])
def test_work_counts_the_products_of_the_kernel(monkeypatch: pytest.MonkeyPatch, positions: int) -> None:
    """The kernel's own text: what it multiplies outside its loops once, inside them once for each block of keys."""
    take_blocks(monkeypatch, 384, 128 * 2)
    *arrays, mask, distances = map(jnp.asarray, drawn(1100, heads=4))
    table = distances if positions else None
    attend = partial(attend_tpu, distances=table, dtype=jnp.dtype(jnp.bfloat16), left=64)
    text = jax.make_jaxpr(attend)(*arrays, mask)
    calls = [equation for equation in text.eqns if equation.primitive.name == "pallas_call"]
    assert len(calls) == 1
    grid, kernel = calls[0].params["grid_mapping"].grid, calls[0].params["jaxpr"]

    heads, blocks = 2, 9  # of a step; of 128 of the 1,152 keys
    loops = [each.params for each in kernel.eqns if each.primitive.name == "scan"]
    assert [loop["length"] for loop in loops] == heads * [blocks]
    within = sum(loop["length"] * flops(loop["jaxpr"].jaxpr) for loop in loops)
    assert work(2, 1100, 4, 64, positions, 2).flops == prod(grid) * (flops(kernel) + within)


COMPILED = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from speech_emotion_jax.models.kernels.attention_xla import attend_in_blocks
from speech_emotion_jax.models.kernels.attention_tpu import attend_tpu

for name, chips in [("v5e:2x2", 4), ("v4:2x2x1", 1), ("v5p:2x2x1", 1), ("v6e:2x2", 1)]:
    topology = topologies.get_topology_desc(platform="tpu", topology_name=name)
    mesh = Mesh(np.array(topology.devices)[:chips], ("data",))
    clips, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    for dtype, time in [(jnp.bfloat16, 512), (jnp.bfloat16, 1500), (jnp.float32, 8000)][chips == 1 :]:
        arrays = [jax.ShapeDtypeStruct((4, time, 1024), dtype, sharding=clips)] * 3
        mask = jax.ShapeDtypeStruct((4, time), jnp.bool_, sharding=clips)
        table = jax.ShapeDtypeStruct((73, 64), dtype, sharding=whole)

        def attend(query, key, value, mask, table):
            kernel, plain = (partial(each, dtype=jnp.dtype(dtype), left=64) for each in (attend_tpu, attend_in_blocks))
            heads = [x.reshape(4, time, 16, 64) for x in (query, key, value)]
            out = jax.lax.platform_dependent(*heads, mask, table, tpu=kernel, default=plain)
            return out.reshape(4, time, 1024).astype(dtype)

        with jax.set_mesh(mesh):
            text = jax.jit(attend).lower(*arrays, mask, table).compile().as_text()
        print(
            name,
            text.count('custom_call_target="tpu_custom_call"') == 1 and "%relative_attention" in text,
            any(each in text for each in ("all-gather", "all-reduce", "all-to-all", "collective-permute")),
            " transpose(" in text,
        )
"""


@pytest.mark.chips
def test_compiled_for_tpus_without_traffic_between_them() -> None:
    environment = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-4",
        "TPU_WORKER_HOSTNAMES": "localhost",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    printed = [line for line in ran.stdout.splitlines() if line.startswith("v")]
    assert len(printed) == 9
    assert {line.split(" ", 1)[1] for line in printed} == {"True False False"}
