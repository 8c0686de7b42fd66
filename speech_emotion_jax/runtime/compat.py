"""Hold all uses of other packages beyond their stable public interfaces.

Each item says why no public interface does the same. It was tried with the oldest and the newest releases that
pyproject.toml allows. tests/test_compat.py fails if one of them changes, or if another module does the like.
Pallas (`jax.experimental.pallas`) is the one exception: a kernel can't be written without it, and models/kernels holds
all uses of it.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
from jax.core import Tracer

# JAX documents this module and promises no stability for it. Nothing else gathers values from all hosts.
from jax.experimental import multihost_utils

# jax.extend is JAX's interface for those who rewrite programs; it may change with each release.
from jax.extend.core import ClosedJaxpr, Jaxpr, JaxprEqn, Var, jaxpr_as_fun, new_jaxpr_eqn
from jax.extend.core.primitives import dot_general_p, reduce_precision_p

__all__ = [
    "GPU_COMPILER_ENVIRONMENT",
    "TPU_COMPILER_ENVIRONMENT",
    "ClosedJaxpr",
    "Jaxpr",
    "JaxprEqn",
    "TensorBoardProtocol",
    "Var",
    "array_record_reader",
    "array_record_writer",
    "as_os_error",
    "chip_topology",
    "dot_general_p",
    "hub_ref",
    "is_traced",
    "jaxpr_as_fun",
    "memory_shortage",
    "multihost_utils",
    "new_jaxpr_eqn",
    "reduce_precision_p",
    "reset_compile_cache",
    "safetensors_metadata",
    "shape_like",
    "tensorboard_protocol",
    "varying_axes",
    "whisper_language_codes",
    "whisper_language_names",
]


# JAX


def varying_axes(x: jax.Array) -> frozenset[str]:
    """Return the mesh axes of the surrounding `shard_map` over which an array differs.

    `jax.lax.pcast` is public and takes these axes. Only the array's type tells which it has already; the attribute had
    another name before JAX 0.10.
    """
    return jax.typeof(x).manual_axis_type.varying


def shape_like(x: jax.Array) -> jax.ShapeDtypeStruct:
    """Return an array's shape, dtype and varying axes, as `pallas_call` inside a `shard_map` needs them."""
    return jax.ShapeDtypeStruct(x.shape, x.dtype, manual_axis_type=jax.typeof(x).mat)


def is_traced(x: Any) -> bool:
    """Return whether a value stands for one in a program that is being traced. jax.core is not a stable module."""
    return isinstance(x, Tracer)


def reset_compile_cache() -> None:
    """Close JAX's persistent compilation cache, so that its settings are read again. No public function does."""
    from jax.experimental.compilation_cache import compilation_cache

    compilation_cache.reset_cache()


# Compiling for chips that are not there. The compilers read these variables; only libtpu's release notes name them.

TPU_COMPILER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LIBRARY_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
GPU_COMPILER_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}


def chip_topology(platform: str, name: str, **options: Any) -> Any:
    """Return the described devices of a topology: "cuda" or "tpu", and a name such as "v5e:2x4"."""
    from jax.experimental import topologies

    return topologies.get_topology_desc(platform=platform, topology_name=name, **options)


def memory_shortage(error: Exception) -> str | None:
    """Return what a compiler says of a program that does not fit into a chip's memory; None for another error.

    XLA has one type for all its errors, so the text must tell.
    """
    if "RESOURCE_EXHAUSTED" not in str(error):
        return None
    used = re.search(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM])", str(error))
    return f"needs {used[1]} {used[2]}iB of {used[3]} {used[4]}iB" if used else "does not fit"


# Files


def as_os_error(error: Exception) -> Exception:
    """Return the operating system's error that Orbax hides in the text of its own; any other error as it is."""
    code = re.search(r"os_error_code='(\d+)'", str(error))
    return error if code is None else OSError(int(code[1]), os.strerror(int(code[1])))


def safetensors_metadata(data: bytes) -> dict[str, str]:
    """Return the metadata of a safetensors file in memory. The library reads those of a file on a disk alone."""
    length = int.from_bytes(data[:8], "little")
    return json.loads(data[8 : 8 + length])["__metadata__"]


def array_record_reader(*arguments: Any, **options: Any) -> Any:
    """Open an ArrayRecord file. Grain's own data source reads ahead, and leaves open every file it has read."""
    from array_record.python.array_record_module import ArrayRecordReader

    return ArrayRecordReader(*arguments, **options)


def array_record_writer(*arguments: Any) -> Any:
    """Create an ArrayRecord file. Only this deep module exports the class."""
    from array_record.python.array_record_module import ArrayRecordWriter

    return ArrayRecordWriter(*arguments)


def hub_ref(repository: Path, revision: str) -> Path:
    """Return the file in the hub's cache that names a revision's commit.

    huggingface_hub documents the layout of its cache; it has no function to write a ref.

    Args:
        repository: The folder models--OWNER--NAME.
        revision: A branch or tag.
    """
    return repository / "refs" / revision


class TensorBoardProtocol(NamedTuple):
    """TensorBoard's messages, and the checksum of a record.

    Attributes:
        Event: The class of an event.
        SessionLog: The class of a start.
        Summary: The class of the values of an event.
        checksum: The masked CRC-32C of bytes.
    """

    Event: Any
    SessionLog: Any
    Summary: Any
    checksum: Callable[[bytes], int]


def tensorboard_protocol() -> TensorBoardProtocol:
    """Return TensorBoard's protocol without TensorFlow.

    tensorboardX's public SummaryWriter hands events to a thread and a queue of processes. Its `flush` does not wait for
    them, so a run that is killed loses steps that it had flushed.
    """
    from tensorboardX.proto import event_pb2, summary_pb2  # takes a second
    from tensorboardX.record_writer import masked_crc32c

    messages: tuple[Any, Any] = event_pb2, summary_pb2  # their classes are made at import, unseen by type checkers
    return TensorBoardProtocol(messages[0].Event, messages[0].SessionLog, messages[1].Summary, masked_crc32c)


# Whisper's languages. transformers has both tables in no public module.


def whisper_language_codes() -> tuple[str, ...]:
    """Return the codes of Whisper's languages in the order of their tokens."""
    from transformers.models.whisper.tokenization_whisper import LANGUAGES

    return tuple(LANGUAGES)


def whisper_language_names() -> dict[str, str]:
    """Return {English name in lower case: code} of Whisper's languages."""
    from transformers.models.whisper.tokenization_whisper import TO_LANGUAGE_CODE

    return dict(TO_LANGUAGE_CODE)
