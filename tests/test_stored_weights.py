"""What a converted checkpoint's parameters are read from: files that Orbax wrote, mapped."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jax.sharding import SingleDeviceSharding
from orbax.checkpoint import v1 as ocp

from speech_emotion_jax.errors import UnreadableInput
from speech_emotion_jax.runtime.orbax_arrays import load_parameters, quiet_orbax, save_parameters

from .support.examples import examples
from .support.folders import refusal


@given(
    shape=st.lists(st.integers(1, 5), max_size=4).map(tuple),
    stored=st.sampled_from(("float32", "float16", "bfloat16", "int32")),
    asked=st.sampled_from(("float32", "bfloat16")),
    transposed=st.booleans(),
)
@settings(max_examples=examples(20))
def test_arrays_are_read_as_orbax_reads_them(shape: tuple[int, ...], stored: str, asked: str, transposed: bool) -> None:
    array = np.random.default_rng(0).normal(scale=100, size=shape).astype(jnp.dtype(stored))
    array = array.T if transposed else array
    wanted = {"a.b": jax.ShapeDtypeStruct(array.shape, asked, sharding=SingleDeviceSharding(jax.devices()[0]))}
    with tempfile.TemporaryDirectory() as folder:
        save_parameters(Path(folder), {"a.b": array})
        ours = load_parameters(Path(folder), wanted)["a.b"]
        with quiet_orbax():
            theirs = ocp.load(f"{folder}/weights", {"a": {"b": wanted["a.b"]}})["a"]["b"]
    assert (ours.dtype, ours.sharding) == (theirs.dtype, theirs.sharding)
    assert np.array_equal(np.asarray(ours), np.asarray(theirs))
    assert np.array_equal(np.asarray(ours), array.astype(jnp.dtype(asked)))


def test_a_cpu_copies_no_weights(tmp_path: Path) -> None:
    """And what is done to them there, by a program that gets them for good, too, leaves the files alone."""
    save_parameters(tmp_path, {"a": np.ones((2048, 2048), np.float32)})
    wanted = {"a": jax.ShapeDtypeStruct((2048, 2048), np.float32, sharding=SingleDeviceSharding(jax.devices()[0]))}
    one, other = (load_parameters(tmp_path, wanted)["a"] for _ in range(2))
    pages = Path("/proc/self/maps").read_text().splitlines() if Path("/proc/self/maps").exists() else None
    if pages is not None:
        spans = [[int(end, 16) for end in line.split()[0].split("-")] for line in pages if str(tmp_path) in line]
        for array in (one, other):
            assert any(start == array.unsafe_buffer_pointer() < end for start, end in spans)
    jax.block_until_ready(jax.jit(lambda x: x * 2, donate_argnums=0)(one))
    assert np.all(np.asarray(other) == 1)
    assert np.all(np.asarray(load_parameters(tmp_path, wanted)["a"]) == 1)


@pytest.mark.parametrize(
    ("file", "spoil"),
    [
        ("zarr.json", lambda content: b" " * len(content)),
        ("zarr.json", lambda content: content.replace(b"[6,24]", b"[24,6]")),
        ("zarr.json", lambda content: content.replace(b"float32", b"quarter")),
        ("zarr.json", lambda content: content.replace(b"little", b"bigger")),
        ("c/0/0", lambda content: content[:-20] + b"\xff" * 20),  # as Zarr says that nothing was written
        ("c/0/0", lambda content: content[:-12]),
        ("c/0/0", lambda content: b""),
    ],
)
def test_weights_that_can_not_be_read(tmp_path: Path, file: str, spoil: Callable[[bytes], bytes]) -> None:
    save_parameters(tmp_path, {"a.b": np.ones((6, 24), np.float32)})
    folder = tmp_path / "weights/state/a.b"
    whole = (folder / file).read_bytes()
    (folder / file).write_bytes(spoil(whole))
    assert (folder / file).read_bytes() != whole
    wanted = {"a.b": jax.ShapeDtypeStruct((6, 24), np.float32, sharding=SingleDeviceSharding(jax.devices()[0]))}
    assert f"{folder} can't be read" in refusal(lambda: load_parameters(tmp_path, wanted), UnreadableInput)


@pytest.mark.parametrize("ocdbt", [False, True])
@pytest.mark.parametrize("compression", [False, True])
def test_other_layouts_of_orbax_are_read_too(tmp_path: Path, ocdbt: bool, compression: bool) -> None:
    """Each with the values, dtypes and shardings of ocp.load, a part of the parameters alone as well."""
    arrays = {"a.b": np.arange(144, dtype=np.float32).reshape(6, 24), "a.c": np.ones(3, np.float32)}
    context = ocp.Context()
    context.array.saving.use_ocdbt = ocdbt
    context.array.saving.use_compression = compression
    with context, quiet_orbax():
        ocp.save(tmp_path / "weights", {"a": {"b": arrays["a.b"], "c": arrays["a.c"]}})
    sharding = SingleDeviceSharding(jax.devices()[0])
    wanted = {
        path: jax.ShapeDtypeStruct(array.shape, jnp.bfloat16, sharding=sharding) for path, array in arrays.items()
    }
    with quiet_orbax():
        theirs = ocp.load(tmp_path / "weights", {"a": {"b": wanted["a.b"], "c": wanted["a.c"]}})["a"]
    for asked in (wanted, {"a.c": wanted["a.c"]}):
        ours = load_parameters(tmp_path, asked)
        assert ours.keys() == asked.keys()
        for path, array in ours.items():
            expected = theirs[path.removeprefix("a.")]
            assert (array.dtype, array.sharding) == (expected.dtype, expected.sharding)
            assert np.array_equal(np.asarray(array), np.asarray(expected))
