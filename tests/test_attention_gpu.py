"""The GPU kernel of relative-key attention, interpreted on a CPU and, by the extra `chips`, compiled for one."""

import importlib.util
import os
import subprocess
import sys
from functools import partial
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from speech_emotion_jax.models.kernels import attention_gpu
from speech_emotion_jax.models.kernels.attention_gpu import attend_gpu, can_be_made, work
from speech_emotion_jax.models.kernels.pallas import Work

from .support.attention_definition import EXACT, by_rows, drawn, flops
from .support.examples import examples

PLUGIN = importlib.util.find_spec("jax_cuda12_plugin") is not None  # JAX's compiler for NVIDIA GPUs
ROUNDED = 0.03  # of bfloat16: scores of some 4 are off by up to 2^-7, values and weights by 2^-9


@pytest.fixture(autouse=True)
def _interpreted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_gpu.pl, "pallas_call", partial(attention_gpu.pl.pallas_call, interpret=True))


def attended(*arrays: Any, left: int, dtype: Any = jnp.float32) -> np.ndarray:
    """What the kernel makes of queries, keys, values, a mask and the vectors of the distances."""
    call = partial(attend_gpu, dtype=jnp.dtype(dtype), left=left)
    return np.asarray(jax.jit(call)(*map(jnp.asarray, arrays)))


@pytest.mark.slow
@pytest.mark.parametrize("time", [1, 2, 63, 64, 65, 129, 500, 1000, 2000])
def test_what_the_definition_gives_at_any_length(time: int) -> None:
    *arrays, mask, distances = drawn(time)
    out = attended(*arrays, mask, distances, left=64)
    assert out.dtype == jnp.float32
    assert np.abs(out - by_rows(*arrays, mask, distances, left=64)).max() < EXACT


@pytest.mark.slow
@pytest.mark.parametrize(
    ("positions", "left", "rows"), [(73, 64, 32), (73, 64, 128), (73, 0, 64), (73, 72, 64), (1, 0, 64), (300, 200, 64)]
)
def test_blocks_before_within_and_after_the_band(
    monkeypatch: pytest.MonkeyPatch, positions: int, left: int, rows: int
) -> None:
    monkeypatch.setattr(attention_gpu, "ROWS", 2 * rows)  # that of bfloat16; of float32 half as many
    *arrays, mask, distances = drawn(640, batch=1, positions=positions)
    out = attended(*arrays, mask, distances, left=left)
    assert np.abs(out - by_rows(*arrays, mask, distances, left=left)).max() < EXACT


@pytest.mark.slow
@settings(max_examples=examples(6))
@given(time=st.integers(1, 200), positions=st.integers(1, 140), seed=st.integers(0, 1000), data=st.data())
def test_any_distances_and_masks(time: int, positions: int, seed: int, data: st.DataObject) -> None:
    left = data.draw(st.integers(0, positions - 1))
    *arrays, mask, distances = drawn(time, batch=1, positions=positions, seed=seed)
    out = attended(*arrays, mask, distances, left=left)
    assert np.abs(out - by_rows(*arrays, mask, distances, left=left)).max() < EXACT


@pytest.mark.slow
@pytest.mark.parametrize("time", [65, 600, 1000])
def test_bfloat16_products_are_accumulated_in_float32(time: int) -> None:
    *arrays, mask, distances = drawn(time)
    out = attended(*arrays, mask, distances, left=64, dtype=jnp.bfloat16)
    assert np.abs(out - by_rows(*arrays, mask, distances, left=64)).max() < ROUNDED
    # From values that bfloat16 holds, queries once they are scaled, only the weights and what comes out are rounded.
    unit = np.log2(np.e) / 8
    arrays = [np.asarray(jnp.asarray(x, jnp.bfloat16), np.float32) for x in (arrays[0] * unit, *arrays[1:])]
    arrays[0] /= unit
    distances = np.asarray(jnp.asarray(distances, jnp.bfloat16), np.float32)
    out = attended(*arrays, mask, distances, left=64, dtype=jnp.bfloat16)
    expected = by_rows(*arrays, mask, distances, left=64)
    rounding = 2**-8 * (by_rows(*arrays[:2], np.abs(arrays[2]), mask, distances, left=64) + np.abs(expected))
    assert (np.abs(out - expected) <= 1.02 * rounding + EXACT).all()


@pytest.mark.slow
@pytest.mark.parametrize(("heads", "width"), [(3, 64), (4, 32), (2, 4), (1, 80)])
def test_heads_of_any_number_and_width(heads: int, width: int) -> None:
    *arrays, mask, distances = drawn(140, heads=heads, width=width)
    out = attended(*arrays, mask, distances, left=64)
    assert np.abs(out - by_rows(*arrays, mask, distances, left=64)).max() < EXACT


@pytest.mark.parametrize(
    ("capabilities", "known"), [(["7.5"], False), (["8.0"], True), (["9.0", "9.0"], True), (["12.0"], True)]
)
def test_gpus_that_triton_refuses(monkeypatch: pytest.MonkeyPatch, capabilities: list[str], known: bool) -> None:
    gpus = [SimpleNamespace(platform="gpu", compute_capability=capability) for capability in capabilities]
    monkeypatch.setattr(jax, "local_devices", lambda: gpus)
    assert can_be_made() == known


def test_without_a_gpu_it_takes_the_plugin_that_compiles_for_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    if not PLUGIN:
        assert not can_be_made()
    (tmp_path / "jax_plugins" / "xla_cuda99").mkdir(parents=True)
    (tmp_path / "jax_plugins" / "xla_cuda99" / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    assert can_be_made()


NO_GPU = """
import sys, jax, jax.numpy as jnp
from speech_emotion_jax.models.attention import attend

array, mask = jnp.ones((1, 100, 2, 16)), jnp.ones((1, 100), bool)
jax.jit(lambda x: attend(x, x, x, mask, dtype=x.dtype, distances=array[0, :73, 0], left=64))(array)
print([name for name in sys.modules if "triton" in name and "pallas" in name])
"""


@pytest.mark.process
@pytest.mark.skipif(PLUGIN, reason="is for machines without JAX's plugin for CUDA")
def test_triton_is_not_even_imported_where_nothing_is_compiled_for_gpus() -> None:
    ran = subprocess.run([sys.executable, "-c", NO_GPU], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "[]"


def test_work_is_that_of_the_grid() -> None:
    # 300 frames are 320, five blocks of 64 queries; 2 clips x 4 heads. Each multiplies 64 queries by 320 keys, and the
    # weights by 320 values. Nothing is read twice: queries, keys, values and what comes out; projections of 80; masks.
    arrays = 2 * 320 * 4 * (4 * 64 * 2 + 80 * 4)
    assert work(2, 300, 4, 64, 73, 2) == Work(flops=2 * 4 * 5 * 2 * 64 * 2 * 320 * 64, bytes=arrays + 2 * 320 * 4)


def test_work_changes_with_the_order_of_the_grid(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = work(2, 1536, 4, 64, 73, 2)
    taken = attention_gpu._blocks

    def keys_read_again(*sizes: int) -> attention_gpu._Blocks:
        blocks = taken(*sizes)
        rows, heads, clips = blocks.grid
        specs = {name: swapped(getattr(blocks, name)) for name in ("mask", "queries", "keys", "projected")}
        return blocks._replace(grid=(heads, rows, clips), **specs)

    def swapped(spec: Any) -> Any:
        return type(spec)(spec.block_shape, lambda head, block, clip: spec.index_map(block, head, clip))

    # With the heads innermost, the keys and values of each are read for each of the 12 blocks of queries.
    monkeypatch.setattr(attention_gpu, "_blocks", keys_read_again)
    assert work(2, 1536, 4, 64, 73, 2) == Work(whole.flops, whole.bytes + 11 * 2 * 2 * 1536 * 4 * 64 * 2)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
def test_work_counts_the_products_of_the_kernel(dtype: Any) -> None:
    """The kernel's own text: the products of its loops, once for each block of keys that one of the three takes."""
    *arrays, mask, distances = map(jnp.asarray, drawn(1100, heads=4))
    text = jax.make_jaxpr(partial(attend_gpu, dtype=jnp.dtype(dtype), left=64))(*arrays, mask, distances)
    calls = [equation for equation in text.eqns if equation.primitive.name == "pallas_call"]
    assert len(calls) == 1
    grid, kernel = calls[0].params["grid_mapping"].grid, calls[0].params["jaxpr"]

    loops = [each.params["body_jaxpr"].jaxpr for each in kernel.eqns if each.primitive.name == "while"]
    before, within, after = map(flops, loops)  # half as many keys at once, twice as often, within the band
    assert (flops(kernel), before, 2 * within) == (0, after, after)
    itemsize = jnp.dtype(dtype).itemsize
    blocks = 1152 // (64 if itemsize == 2 else 32)
    assert work(2, 1100, 4, 64, 73, itemsize).flops == prod(grid) * blocks * before


COMPILED = """
import jax, jax.numpy as jnp, numpy as np
from functools import partial
from jax.experimental import topologies
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from speech_emotion_jax.models.attention import attend
from speech_emotion_jax.models.kernels.attention_gpu import work
from speech_emotion_jax.planning.compile import H100
from speech_emotion_jax.planning.hlo import costs
from speech_emotion_jax.planning.kernels import KERNELS

for gpus in (1, 2):
    machine = {"topology": f"1x1x{gpus}", "target_config": H100}
    topology = topologies.get_topology_desc(platform="cuda", topology_name="h100", **machine)
    mesh = Mesh(np.array(topology.devices), ("data",))
    clips, whole = (NamedSharding(mesh, PartitionSpec(*axes)) for axes in (("data",), ()))
    for dtype, time in [(jnp.bfloat16, 512), (jnp.bfloat16, 1500), (jnp.float32, 8000)]:
        arrays = [jax.ShapeDtypeStruct((4, time, 16, 64), dtype, sharding=clips)] * 3
        mask = jax.ShapeDtypeStruct((4, time), jnp.bool_, sharding=clips)
        table = jax.ShapeDtypeStruct((73, 64), dtype, sharding=whole)

        def ours(query, key, value, mask, table):
            return attend(query, key, value, mask, dtype=jnp.dtype(dtype), distances=table, left=64).astype(dtype)

        with jax.set_mesh(mesh):
            text = jax.jit(ours).lower(*arrays, mask, table).compile().as_text()
        kernels = text.count('custom_call_target="__gpu$xla.gpu.triton"')
        counted = costs(text, KERNELS).kinds["relative_attention"]
        expected = work(4 // gpus, time, 16, 64, 73, jnp.dtype(dtype).itemsize).bytes
        collectives = "all-gather", "all-reduce", "all-to-all", "collective-permute"
        print("h100", kernels, counted == expected, any(each in text for each in collectives))
"""


@pytest.mark.chips
def test_compiled_for_gpus_counted_and_without_traffic_between_them() -> None:
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1"}
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", COMPILED], env=environment, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr[-3000:]
    printed = [line for line in ran.stdout.splitlines() if line.startswith("h100")]
    assert len(printed) == 6
    assert set(printed) == {"h100 1 True False"}
