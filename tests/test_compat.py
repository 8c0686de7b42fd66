"""What is used of other packages beyond their public interfaces stands in runtime/compat.py, and is as it was."""

import ast
import json
from pathlib import Path

import jax
import numpy as np
import pytest
from huggingface_hub import scan_cache_dir
from jax.sharding import PartitionSpec
from safetensors import safe_open
from safetensors.numpy import save_file

from speech_emotion_jax.runtime import compat

from .test_imports import MODULES, ROOT

COMPAT = "speech_emotion_jax.runtime.compat"
# Modules that their packages call internal, experimental or unstable, or that are not documented.
UNSTABLE = (
    "jax.core",
    "jax.experimental",
    "jax.extend",
    "jax.interpreters",
    "jaxlib",
    "transformers.models",
    "array_record",
    "tensorboardX.proto",
    "tensorboardX.record_writer",
)
PALLAS = "jax.experimental.pallas"
OF_NAMED_TUPLES = {"_replace", "_asdict", "_fields", "_make"}
SCRIPTS = {f"scripts.{path.stem}": path for path in (ROOT / "scripts").glob("*.py")}


def is_private(dotted: str) -> bool:
    return any(part.startswith("_") and not part.startswith("__") for part in dotted.split("."))


def unstable_uses(name: str, source: str) -> list[str]:
    """List what a module uses of others that is private or unstable."""
    found = []
    tree = ast.parse(source)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            imported = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and not node.level:
            imported = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            imported = []
        for each in imported:
            if each.startswith(("__future__", "speech_emotion_jax")):
                continue
            if each.startswith(PALLAS) and name.startswith("speech_emotion_jax.models.kernels."):
                continue
            if is_private(each) or any(each == module or each.startswith(f"{module}.") for module in UNSTABLE):
                found.append(each)
        if isinstance(node, ast.Attribute):
            if is_private(node.attr) and node.attr not in OF_NAMED_TUPLES and node.attr not in defined(tree):
                found.append(f"….{node.attr}")
            if (dotted := ast.unparse(node)).startswith(("jax.core.", "jax.extend.", "jax.interpreters.")):
                found.append(dotted)
    return found


def defined(tree: ast.AST) -> set[str]:
    """Return the private names that a file itself gives to functions, methods and attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.attr)
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            found.add(node.target.id)
    return found


@pytest.mark.parametrize("name", sorted((MODULES | SCRIPTS).keys() - {COMPAT}))
def test_only_one_module_uses_what_is_not_public(name: str):
    assert unstable_uses(name, (MODULES | SCRIPTS)[name].read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "from jax._src import core",
        "import jax.experimental.multihost_utils",
        "from jax.core import Tracer",
        "x = jax.core.Tracer",
        "model._get_feature_vector_attention_mask(1, 2)",
        "from transformers.models.whisper.tokenization_whisper import LANGUAGES",
    ],
)
def test_the_test_itself_sees_such_uses(source: str):
    assert unstable_uses("speech_emotion_jax.functional", source)


def test_every_item_is_used():
    used = {
        node.attr if isinstance(node, ast.Attribute) else node.name
        for name, path in MODULES.items()
        if name != COMPAT
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute | ast.alias)
    }
    assert set(compat.__all__) - used - {"TensorBoardProtocol"} == set()


def test_varying_axes():
    mesh = jax.make_mesh((1,), ("clips",), axis_types=(jax.sharding.AxisType.Auto,))
    seen = []

    def program(x: jax.Array, y: jax.Array) -> jax.Array:
        seen.extend([compat.varying_axes(x), compat.varying_axes(y), compat.shape_like(x)])
        assert compat.is_traced(x)
        return x + y

    specs = (PartitionSpec("clips"), PartitionSpec())
    x, y = np.ones(2, np.float32), np.ones(2, np.float32)
    jax.shard_map(program, mesh=mesh, in_specs=specs, out_specs=PartitionSpec("clips"))(x, y)
    assert seen[:2] == [{"clips"}, set()]
    assert (seen[2].shape, seen[2].dtype) == ((2,), np.float32)
    assert not compat.is_traced(jax.numpy.ones(1))


def test_programs_can_be_rewritten():
    program = jax.make_jaxpr(lambda x: x @ x)(np.eye(2, dtype=np.float32))
    assert isinstance(program, compat.ClosedJaxpr)
    assert isinstance(program.jaxpr, compat.Jaxpr)
    assert [equation.primitive for equation in program.eqns] == [compat.dot_general_p]
    np.testing.assert_array_equal(compat.jaxpr_as_fun(program)(np.eye(2, dtype=np.float32))[0], np.eye(2))


def test_hosts_exchange_values():
    assert compat.multihost_utils.process_allgather(np.array([3])).ravel().tolist() == [3]
    assert int(compat.multihost_utils.broadcast_one_to_all(np.uint32(7))) == 7
    assert callable(compat.multihost_utils.reached_preemption_sync_point)


def test_the_compile_cache_can_be_closed():
    compat.reset_compile_cache()


@pytest.mark.parametrize(
    ("text", "shortage"),
    [
        ("RESOURCE_EXHAUSTED: Used 21.50G of 15.75G hbm.", "needs 21.50 GiB of 15.75 GiB"),
        ("RESOURCE_EXHAUSTED: no", "does not fit"),
        ("INTERNAL: Used 21.50G of 15.75G", None),
    ],
)
def test_memory_shortage(text: str, shortage: str | None):
    assert compat.memory_shortage(RuntimeError(text)) == shortage


def test_the_error_inside_orbaxs():
    found = compat.as_os_error(ValueError("… [os_error_code='28']"))
    assert isinstance(found, OSError)
    assert found.errno == 28
    other = ValueError("anything else")
    assert compat.as_os_error(other) is other


def test_safetensors_metadata(tmp_path: Path):
    path = tmp_path / "x.safetensors"
    save_file({"a": np.ones(3, np.float32)}, path, {"about": json.dumps({"é": 1})})
    with safe_open(path, "numpy") as file:
        assert compat.safetensors_metadata(path.read_bytes()) == file.metadata()


def test_array_records(tmp_path: Path):
    path = str(tmp_path / "x.array_record")
    writer = compat.array_record_writer(path, "group_size:1,uncompressed")
    writer.write(b"one")
    writer.write(b"two")
    writer.close()
    reader = compat.array_record_reader(path, "readahead_buffer_size:0,max_parallelism:0")
    assert reader.read([1, 0]) == [b"two", b"one"]
    reader.close()


def test_the_hub_finds_a_ref(tmp_path: Path):
    repository, commit = tmp_path / "models--a--b", "0" * 40
    (repository / "snapshots" / commit).mkdir(parents=True)
    (repository / "snapshots" / commit / "config.json").write_text("{}")
    ref = compat.hub_ref(repository, "main")
    ref.parent.mkdir()
    ref.write_text(commit)
    (found,) = scan_cache_dir(tmp_path).repos
    assert set(found.refs) == {"main"}


def test_tensorboards_protocol():
    protocol = compat.tensorboard_protocol()
    event = protocol.Event(step=3, summary=protocol.Summary(value=[protocol.Summary.Value(tag="a", simple_value=0.5)]))
    assert protocol.Event.FromString(event.SerializeToString()).summary.value[0].simple_value == 0.5
    assert protocol.Event(session_log=protocol.SessionLog(status=protocol.SessionLog.START)).session_log.status == 1
    crc = 0xE3069283  # the check value of CRC-32C
    assert protocol.checksum(b"123456789") == (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32


def test_whispers_languages():
    codes, names = compat.whisper_language_codes(), compat.whisper_language_names()
    assert codes[:3] == ("en", "zh", "de")
    assert names["spanish"] == "es"
    assert set(names.values()) <= set(codes)
