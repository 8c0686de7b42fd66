"""Compile one program for chips that this machine does not have, in a process of its own, and count what it does.

JAX reads the target from environment variables when it is imported, so `compile_for_chips` starts a child process. The
child reads a job from stdin and prints its answer, each as one line of JSON.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from ..errors import InvalidInput
from .chips import Topology

TPU = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-4",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
    "TPU_LIBRARY_LOG_LEVEL": "3",
    "TF_CPP_MIN_LOG_LEVEL": "3",
}
GPU = {"JAX_PLATFORMS": "cpu", "JAX_SKIP_CUDA_CONSTRAINTS_CHECK": "1", "TF_CPP_MIN_LOG_LEVEL": "3"}
# XLA asks the driver for a GPU's properties. Without a GPU it takes them from this text protocol buffer: an H100 SXM.
H100 = """
gpu_device_info {
  cuda_compute_capability { major: 9 minor: 0 }
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 3352320000000 l2_cache_size: 52428800 clock_rate_ghz: 1.98
  device_memory_size: 84929347584 shared_memory_per_block_optin: 232448 registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
platform_name: "CUDA"
dnn_version_info { major: 9 minor: 8 }
runtime_version { major: 12 minor: 8 }
device_description_str: "NVIDIA H100 80GB HBM3"
"""

Answer = dict[str, Any]


def compile_for_chips(job: Mapping[str, Any]) -> Answer:
    """Compile a program for chips and count what it does on one of them.

    Args:
        job: topology, mode, language, clips (of all chips together), seconds, tokens, precision, train.

    Returns:
        {"seconds", "memory": {...}, "flops", "bytes", ...}; or {"refused": reason} if the program does not fit.

    Raises:
        InvalidInput: if the compiler for these chips is not installed, or the chips are not wired in that shape.
    """
    topology = Topology.parse(job["topology"])
    gpu = topology.chip.name == "h100"
    needed = "jax_plugins.xla_cuda12" if gpu else "libtpu"
    if not _is_installed(needed):
        jax = version("jax")  # the compiler's version must match
        package = f"jax-cuda12-plugin=={jax} jax-cuda12-pjrt=={jax}" if gpu else f"'jax[tpu]=={jax}'"
        raise InvalidInput(
            f"the compiler for {topology.chip.name} is not installed (it needs no such chip); in a separate "
            f"environment, pip install {package}, or this package with its extra chips"
        )
    done = subprocess.run(
        [sys.executable, "-m", __name__],
        input=json.dumps(dict(job)),
        capture_output=True,
        text=True,
        env={**os.environ, **(GPU if gpu else TPU)},
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("{")]
    if done.returncode or not lines:
        messages = [line for line in done.stderr.splitlines() if line.strip()] or ["the compiler gave no message"]
        if "Topology layout" in messages[-1]:
            raise InvalidInput(f"there is no {topology.name}: these chips are not wired in that shape; name another")
        raise InvalidInput(f"{topology.name} could not be compiled for: {messages[-1][:300]}")
    return json.loads(lines[-1])


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False


def _compile(job: Mapping[str, Any]) -> Answer:
    """Answer a job; runs in the child process."""
    import jax
    import numpy as np
    from jax.experimental import topologies
    from jax.sharding import Mesh

    from ..config import EmotionConfig
    from ..runtime.sharding import BATCH
    from .hlo import COLLECTIVES, Costs, costs
    from .kernels import KERNELS
    from .programs import bucketed_frames, inference, training

    topology = Topology.parse(job["topology"])
    if topology.chip.name == "h100":
        machine = {"topology": f"1x1x{topology.chips}", "target_config": H100}  # slices x hosts x GPUs per host
        described = topologies.get_topology_desc(platform="cuda", topology_name=topology.name, **machine)
    else:
        alone = {"chips_per_host_bounds": [1, 1, 1]} if topology.chips == 1 else {}
        described = topologies.get_topology_desc(platform="tpu", topology_name=topology.name, **alone)
    config = EmotionConfig.published(job["language"], job["mode"])
    mesh = Mesh(np.array(described.devices).reshape(1, -1), BATCH)
    build = training if job["train"] else inference
    program, inputs = build(config, mesh, job["clips"], job["seconds"], job["tokens"], job["precision"])
    begun = time.perf_counter()
    try:
        with jax.set_mesh(mesh):
            done = program.lower(*inputs).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used = re.search(r"Used ([\d.]+)([GM]) of ([\d.]+)([GM])", str(error))
        return {"refused": f"needs {used[1]} {used[2]}iB of {used[3]} {used[4]}iB" if used else "does not fit"}
    memory = done.memory_analysis()
    counted = Costs()
    cores = mesh.size // topology.chips  # a v4 has two cores, and each counts as a device here
    counted.add(costs(done.as_text(), KERNELS), cores)
    weights = sum(
        int(np.prod(leaf.sharding.shard_shape(leaf.shape))) * leaf.dtype.itemsize for leaf in jax.tree.leaves(inputs[0])
    )
    return {
        "seconds": time.perf_counter() - begun,
        "frames": bucketed_frames(job["seconds"]) if config.audio is not None else None,
        "memory": {
            part: cores * size
            for part, size in (
                ("state" if job["train"] else "weights", weights),
                ("arguments", memory.argument_size_in_bytes),
                ("results", memory.output_size_in_bytes - memory.alias_size_in_bytes),
                ("temporaries", memory.temp_size_in_bytes),
                ("program", memory.generated_code_size_in_bytes),
            )
        },
        "flops": counted.flops,
        "bytes": counted.bytes,
        "bytes_by_kind": dict(counted.kinds.most_common()),
        "collectives": {
            kind: {"count": counted.collectives[kind], "bytes": counted.received[kind]}
            for kind in COLLECTIVES
            if counted.collectives[kind]
        },
        "largest_received": counted.largest_received,
        "unknown_loops": counted.unknown_loops,
    }


if __name__ == "__main__":
    print(json.dumps(_compile(json.load(sys.stdin))))
