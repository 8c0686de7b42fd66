"""Compile one program for chips that this machine does not have, in a process of its own, and count what it does.

JAX reads the target from environment variables when it is imported, so `compile_for_chips` starts a child process. The
child reads a job from stdin and prints its answer, each as one line of JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from importlib.util import find_spec
from typing import Any

from ..errors import InvalidInput
from ..runtime.compat import GPU_COMPILER_ENVIRONMENT, TPU_COMPILER_ENVIRONMENT, chip_topology, memory_shortage
from .chips import Topology

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
        env={**os.environ, **(GPU_COMPILER_ENVIRONMENT if gpu else TPU_COMPILER_ENVIRONMENT)},
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
    from jax.sharding import Mesh

    from ..config import EmotionConfig
    from ..runtime.sharding import BATCH
    from .hlo import COLLECTIVES, Costs, costs
    from .kernels import KERNELS
    from .programs import bucketed_frames, inference, training

    topology = Topology.parse(job["topology"])
    if topology.chip.name == "h100":
        machine = {"topology": f"1x1x{topology.chips}", "target_config": H100}  # slices x hosts x GPUs per host
        described = chip_topology("cuda", topology.name, **machine)
    else:
        alone = {"chips_per_host_bounds": [1, 1, 1]} if topology.chips == 1 else {}
        described = chip_topology("tpu", topology.name, **alone)
    config = EmotionConfig.published(job["language"], job["mode"])
    mesh = Mesh(np.array(described.devices).reshape(1, -1), BATCH)
    build = training if job["train"] else inference
    program, inputs = build(config, mesh, job["clips"], job["seconds"], job["tokens"], job["precision"])
    begun = time.perf_counter()
    try:
        with jax.set_mesh(mesh):
            done = program.lower(*inputs).compile()
    except jax.errors.JaxRuntimeError as error:
        if (shortage := memory_shortage(error)) is None:
            raise
        return {"refused": shortage}
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
